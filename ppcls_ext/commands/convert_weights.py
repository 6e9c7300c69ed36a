"""Converting weight files: any naming, layout and format in.

Out come .pdparams in this project's names and Paddle's layouts, or .npz and .safetensors in the official PyTorch names
and layouts, which the official code reads too.
"""

from __future__ import annotations

from pathlib import Path

from ppcls_ext.commands.options import command_parser
from ppcls_ext.errors import printable
from ppcls_ext.weights.loading import FORMATS, save_weights


def main(argv: list[str] | None = None) -> None:
    """`ppcls-ext convert-weights`."""
    parser = command_parser(
        "convert-weights",
        "convert-weights mobileone_s0_unfused.pth.tar MobileOne_S0.pdparams --arch MobileOne_S0",
        "convert-weights output/RepVGG_A0/best_model.pdparams RepVGG_A0_fused.npz --arch RepVGG_A0 --fuse",
        description="Names, layouts and form of the source are recognised.",
    )
    parser.add_argument("source", help="a .pdparams, .pth, .pth.tar, .pt, .safetensors or .npz file")
    parser.add_argument("destination", help=f"the file to write: {', '.join(FORMATS)}")
    parser.add_argument("--arch", required=True, help="the model's name, e.g. MobileOne_S0")
    parser.add_argument("--fuse", action="store_true", help="write the fused form")
    parser.add_argument("--class-num", type=int, help="classes of the written file (default: the source's)")
    args = parser.parse_args(argv)
    if Path(args.destination).suffix not in FORMATS:
        parser.error(f"destination must end in one of {', '.join(FORMATS)}")
    from ppcls_ext.models.factories import load_model
    from ppcls_ext.reparam.fuse import reparameterize
    from ppcls_ext.weights.checkpoint_sets import intact

    model, _ = load_model(intact(Path(args.source)), args.arch, args.class_num)
    if args.fuse:
        model = reparameterize(model)
    save_weights(model, args.destination)
    form = "fused" if next(layer.is_repped for layer in model.sublayers() if hasattr(layer, "is_repped")) else "unfused"
    print(f"{printable(args.destination)}: {args.arch}, {form}, {len(model.state_dict())} tensors")
