"""Converting weight files: any naming, layout and format in.

Out come .pdparams in this project's names and Paddle's layouts, or .npz and .safetensors in the official PyTorch names
and layouts, which the official code reads too.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
import paddle
from paddle import nn

from ppcls_ext import build, reparameterize
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write
from ppcls_ext.weights.files import read_weights
from ppcls_ext.weights.loading import LoadReport, load_weights
from ppcls_ext.weights.naming import to_model_names, to_torch_names

FORMATS = (".pdparams", ".npz", ".safetensors")


def load_model(source: str | Path, arch: str, class_num: int | None = None) -> tuple[nn.Layer, LoadReport]:
    """The model that a weights file is for: fused or not, with the file's number of classes.

    Args:
        source: see `load_weights`.
        arch: the factory's name.
        class_num: classes of the model; the file's where None. Where the file's number differs, the head starts afresh.

    Raises:
        PpclsExtError: unknown architecture, or the file does not fit it.
    """
    arrays = read_weights(source)
    fused = not any(name.endswith(("._variance", ".running_var")) for name in arrays)
    model = build(arch, fused=fused)
    in_file = _classes(arrays, model)
    if (class_num or in_file or 1000) != 1000:
        model = build(arch, fused=fused, class_num=class_num or in_file)
    return model, load_weights(model, source, allow_other_classes=class_num not in (None, in_file))


def _classes(arrays: dict[str, np.ndarray], model: nn.Layer) -> int | None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    named = to_model_names(arrays, expected, model.timm_names, paddle_layout=True).tensors
    bias = named.get(f"{model.classifier}.bias")
    return None if bias is None else int(bias.size)


def save_weights(model: nn.Layer, path: str | Path) -> None:
    """Writes a model's state dict, atomically; the suffix decides the format (`FORMATS`)."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise PpclsExtError(
            f"cannot write {path}: the suffix decides the format and must be one of {', '.join(FORMATS)}"
        )
    state = to_torch_names({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    with atomic_write(path) as stream:
        if path.suffix == ".npz":
            np.savez(stream, **state)
        elif path.suffix == ".safetensors":
            from safetensors.numpy import save

            stream.write(save(state))
        else:
            buffer = io.BytesIO()  # paddle.save takes no other stream
            paddle.save(model.state_dict(), buffer)
            stream.write(buffer.getbuffer())


def main(argv: list[str] | None = None) -> None:
    """The command line of tools/convert_weights.py."""
    parser = argparse.ArgumentParser(
        description="Converts published or trained weights; names, layouts and form of the source are recognised.",
        epilog="""examples:
  python tools/convert_weights.py mobileone_s0_unfused.pth.tar MobileOne_S0.pdparams --arch MobileOne_S0
  python tools/convert_weights.py output/RepVGG_A0/best_model.pdparams RepVGG_A0_fused.npz --arch RepVGG_A0 --fuse""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", help="a .pdparams, .pth, .pth.tar, .pt, .safetensors or .npz file")
    parser.add_argument("destination", help=f"the file to write: {', '.join(FORMATS)}")
    parser.add_argument("--arch", required=True, help="the model's name, e.g. MobileOne_S0")
    parser.add_argument("--fuse", action="store_true", help="write the fused form")
    parser.add_argument("--class-num", type=int, help="classes of the written file (default: the source's)")
    args = parser.parse_args(argv)
    if Path(args.destination).suffix not in FORMATS:
        parser.error(f"DST must end in one of {', '.join(FORMATS)}")
    model, _ = load_model(args.source, args.arch, args.class_num)
    if args.fuse:
        model = reparameterize(model)
    save_weights(model, args.destination)
    form = "fused" if next(layer.is_repped for layer in model.sublayers() if hasattr(layer, "is_repped")) else "unfused"
    print(f"{args.destination}: {args.arch}, {form}, {len(model.state_dict())} tensors")
