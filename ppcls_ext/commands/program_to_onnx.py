"""The command that makes an ONNX file of a program that PaddleDetection or PaddleSeg exported."""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.commands.options import command_parser
from ppcls_ext.data.image_files import decode, find_images, read_image
from ppcls_ext.errors import printable_lines
from ppcls_ext.export.opset import DEFAULT_OPSET

SAMPLES = 8  # images to compare on


def main(argv: list[str] | None = None) -> None:
    """Command line of `ppcls-ext program-to-onnx`."""
    parser = command_parser(
        "program-to-onnx",
        "program-to-onnx output_inference/picodet_mobileone_s0 --samples dataset/shapes/images/val",
        description="The file appears once onnxruntime's outputs equal Paddle's.",
    )
    parser.add_argument("program", type=Path, help="the folder that the export wrote, or its model.json")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: PROGRAM.onnx")
    parser.add_argument("--opset", type=int, default=DEFAULT_OPSET, help="default: %(default)s")
    parser.add_argument("--samples", type=Path, metavar="DIR", help=f"images to compare on, {SAMPLES} at most")
    args = parser.parse_args(argv)
    from ppcls_ext.export.program import find_prefix, program_to_onnx  # loads Paddle

    prefix = find_prefix(args.program)
    output = args.output or prefix.with_suffix(".onnx")
    files = find_images([str(args.samples)])[:SAMPLES] if args.samples else []
    images = [decode(read_image(file)) for file in files]
    print(printable_lines(program_to_onnx(prefix, output, opset=args.opset, images=images)))
