"""The command export-onnx."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence

import numpy as np

from ppcls_ext.commands.interruption import interrupt_on_sigterm
from ppcls_ext.commands.options import command_parser, positive
from ppcls_ext.commands.reduced import add_reduced_arguments, reduction
from ppcls_ext.commands.source import add_source_arguments, read_source
from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import network_input
from ppcls_ext.export.configured import build, describe, read_section
from ppcls_ext.export.opset import DEFAULT_OPSET, INT8_OPSET
from ppcls_ext.hosts.threads import use_all_cores
from ppcls_ext.packages import require

logger = logging.getLogger("ppcls_ext")


def main(argv: Sequence[str] | None = None) -> None:
    """Exports the model of a configuration to ONNX and prints the report."""
    parser = _parser()
    args = parser.parse_args(argv)
    if not args.int8 and (args.calibration or args.allow):
        parser.error("--calibration and --allow belong to --int8")
    source = read_source(parser, args)
    config = source.config
    use_all_cores()  # before anything imports Paddle
    metadata = describe(config)
    rule = metadata.preprocessing
    samples = np.stack([network_input(path, rule) for path in find_images(args.samples)]) if args.samples else None
    require("paddle2onnx", "onnx", "onnxslim", "onnxruntime")
    reduce = reduction(args, config, rule)
    import paddle

    interrupt_on_sigterm()
    from ppcls_ext.export.pipeline import export_onnx

    paddle.set_device("cpu")  # what onnxruntime is compared with must not round differently on every machine
    width, height = rule.image_size
    name = f"{metadata.architecture}.onnx"
    output = args.output or (source.folder / name if source.folder else name)
    report = export_onnx(
        build(config),
        output,
        image_shape=read_section(config, "Global").get("image_shape") or (3, height, width),
        opset=args.opset or (INT8_OPSET if args.int8 else DEFAULT_OPSET),
        batch=args.batch,
        softmax=not args.no_softmax,
        metadata=metadata.to_properties(),
        samples=samples,
        reduce=reduce,
    )
    print(report)
    print(f"next:\n  ppcls-ext predict {output} PICTURE…")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "export-onnx",
        "export-onnx output/MobileOne_S0",
        "export-onnx -c MobileOne_S0 -o Global.pretrained_model=output/MobileOne_S0/best_model "
        "--output MobileOne_S0.onnx",
    )
    add_source_arguments(parser)
    parser.add_argument(
        "--output", metavar="FILE", help="file to write (default: ARCH.onnx, in the run's folder where RUN is given)"
    )
    parser.add_argument("--opset", type=int, metavar="N", help="ONNX opset, 11 to 20 (default: 17; 20 for int8)")
    parser.add_argument("--batch", type=positive, metavar="N", help="fix the batch size (default: any)")
    parser.add_argument("--no-softmax", action="store_true", help="end in logits instead of probabilities")
    parser.add_argument(
        "--samples", nargs="+", metavar="IMAGE", help="images, folders or patterns to compare on, beside random input"
    )
    add_reduced_arguments(parser)
    return parser
