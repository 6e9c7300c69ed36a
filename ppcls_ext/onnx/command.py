"""Command line of tools/export_onnx.py."""

from __future__ import annotations

import argparse
import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ppcls_ext
from ppcls_ext.engine.config import add_config_arguments, load_config
from ppcls_ext.engine.threads import use_all_cores
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.onnx.infer import find_images, positive
from ppcls_ext.onnx.metadata import Metadata, Preprocessing, read_class_names
from ppcls_ext.onnx.packages import require
from ppcls_ext.onnx.preprocessing import prepare

if TYPE_CHECKING:
    from paddle import nn

logger = logging.getLogger("ppcls_ext")


def main(argv: Sequence[str] | None = None) -> None:
    """Exports the model of a configuration to ONNX and prints the report."""
    args = _parse(argv)
    config = load_config(args.config, args.override)
    use_all_cores()  # before anything imports Paddle
    metadata = describe(config)
    rule = metadata.preprocessing
    samples = np.stack([prepare(path, rule) for path in find_images(args.samples)]) if args.samples else None
    require("paddle2onnx", "onnx", "onnxslim", "onnxruntime")
    import paddle

    from ppcls_ext.onnx.export import export_onnx

    paddle.set_device("cpu")  # what onnxruntime is compared with must not round differently on every machine
    width, height = rule.image_size
    report = export_onnx(
        build(config),
        args.output or f"{metadata.architecture}.onnx",
        image_shape=_section(config, "Global").get("image_shape") or (3, height, width),
        opset=args.opset,
        batch=args.batch,
        softmax=not args.no_softmax,
        metadata=metadata.to_properties(),
        samples=samples,
    )
    print(report)


def describe(config: dict) -> Metadata:
    """What the ONNX file will say about the model of this configuration.

    The preprocessing is `Infer.transforms`, or else that of the evaluation dataset.

    Raises:
        PpclsExtError: there are no transforms, or some that cannot be described; or damaged class names.
    """
    infer = _section(config, "Infer")
    transforms = infer.get("transforms")
    if not transforms:
        dataset = ((_section(config, "DataLoader").get("Eval") or {}).get("dataset")) or {}
        # PaddleClas's datasets put the channels first themselves
        transforms = [*(dataset.get("transform_ops") or []), "ToCHWImage"]
    if not isinstance(transforms, list) or len(transforms) < 2:
        raise PpclsExtError("the configuration has no Infer.transforms: an ONNX file must say how images are prepared")
    return Metadata(_architecture(config), Preprocessing.from_transforms(transforms), _class_names(infer))


def build(config: dict) -> nn.Layer:
    """The model of this configuration with its weights; without any, they are random, which is logged.

    Raises:
        PpclsExtError: the architecture is not this project's, or the weights do not fit it exactly.
    """
    settings = copy.deepcopy(_section(config, "Arch"))
    name = _architecture(config)
    # what PaddleClas takes for itself before it calls the factory
    for field in ("name", "use_sync_bn", "infer_add_softmax"):
        settings.pop(field, None)
    pretrained = settings.pop("pretrained", None)
    weights = _section(config, "Global").get("pretrained_model") or pretrained
    if weights is True:
        return ppcls_ext.build(name, pretrained=True, **settings)
    model = ppcls_ext.build(name, **settings)
    if weights:
        ppcls_ext.load_weights(model, weights)
    else:
        logger.warning("no Global.pretrained_model: the weights are random")
    return model


def _architecture(config: dict) -> str:
    name = _section(config, "Arch").get("name")
    if name not in ppcls_ext.list_models():
        raise PpclsExtError(f"Arch.name is {name!r}: ONNX export is for {', '.join(ppcls_ext.list_models())}")
    return name


def _section(config: dict, name: str) -> dict[str, Any]:
    section = config.get(name) or {}
    if not isinstance(section, dict):
        raise PpclsExtError(f"the configuration's {name} is {section!r}: expected a section with fields")
    return section


def _class_names(infer: dict) -> tuple[str, ...] | None:
    """The names in `Infer.PostProcess`'s file; None, which is logged, where there is no such file."""
    post_process = infer.get("PostProcess") or {}
    file = post_process.get("class_id_map_file")
    if not file:
        return None
    from ppcls_ext.host.locate import activate

    # PaddleClas's own configurations name a file inside PaddleClas
    for path in (Path(file), activate().path / file):
        if path.exists():
            return read_class_names(path, post_process.get("delimiter") or " ")
    logger.warning("no %s (Infer.PostProcess.class_id_map_file): the ONNX file will hold no class names", file)
    return None


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fuses a model, converts it to ONNX, proves the file equal to the model and writes it.",
        epilog="example:\n  python tools/export_onnx.py -c configs/MobileOne_S0.yml "
        "-o Global.pretrained_model=output/MobileOne_S0/best_model --output MobileOne_S0.onnx",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_config_arguments(parser)
    parser.add_argument("--output", metavar="FILE", help="file to write (default: the architecture's name + .onnx)")
    parser.add_argument("--opset", type=int, default=17, metavar="N", help="ONNX opset, 11 to 20 (default: 17)")
    parser.add_argument("--batch", type=positive, metavar="N", help="fix the batch size (default: any)")
    parser.add_argument("--no-softmax", action="store_true", help="end in logits instead of probabilities")
    parser.add_argument(
        "--samples", nargs="+", metavar="IMAGE", help="images, folders or patterns to compare on, beside random input"
    )
    return parser.parse_args(argv)
