"""Writes ppcls_ext/models/figures.py: parameters and multiply-adds of every model, counted on the models themselves.

Example: python benchmarks/model_figures.py            # all 25, about two minutes
         python benchmarks/model_figures.py RepVGG_A0  # print one row
"""

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import paddle
from paddle import nn

from ppcls_ext import build, list_models, reparameterize
from ppcls_ext.files import atomic_write
from ppcls_ext.models.figures import SIZE, Figures

TABLE = ROOT / "ppcls_ext" / "models" / "figures.py"


def multiply_adds(model: nn.Layer, size: int) -> int:
    """Multiply-adds of the convolutions and linear layers for one square image of `size` px."""
    total = 0

    def count(layer: nn.Layer, inputs: tuple, output: paddle.Tensor) -> None:
        nonlocal total
        weight = layer.weight
        total += output.size * (weight.shape[0] if isinstance(layer, nn.Linear) else int(weight[0].size))

    hooks = [
        layer.register_forward_post_hook(count)
        for layer in model.sublayers()
        if isinstance(layer, (nn.Conv2D, nn.Linear))
    ]
    with paddle.no_grad():
        model(paddle.zeros([1, 3, size, size]))
    for hook in hooks:
        hook.remove()
    return total


def count(name: str) -> Figures:
    """The figures of one model with 1000 classes."""
    model = build(name)
    unfused = sum(tensor.size for tensor in model.parameters() if tensor.trainable)
    fused = reparameterize(model)
    return Figures(unfused, sum(tensor.size for tensor in fused.parameters()), multiply_adds(fused, SIZE))


def main() -> None:
    """Prints the rows asked for, or writes all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="print only these")
    names = parser.parse_args().models
    rows = ""
    for name in names or list_models():
        rows += f'    "{name}": Figures({", ".join(f"{value:_}" for value in count(name))}),\n'
        print(rows.splitlines()[-1].strip(), flush=True)
    if names:
        return
    text = TABLE.read_text(encoding="utf-8")
    text = re.sub(r"(?<=\nFIGURES = \{\n).*?(?=\}\n)", rows, text, flags=re.DOTALL)
    with atomic_write(TABLE, "w", encoding="utf-8") as stream:
        stream.write(text)


if __name__ == "__main__":
    main()
