"""Outputs of the official PyTorch implementations in float64 on deterministic weights.

`reference_fill.fill` draws the tensors from the official names and shapes (`shapes.json`); `NAME.npz` holds what the
official code gave: "eval" and "train" logits, the input gradient, parameter-gradient norms, parameter counts, RepVGG's
custom L2 and FasterNet's four maps. Computed at apple/ml-mobileone b7f4e6d, DingXiaoH/RepVGG eae7c52 and
JierunChen/FasterNet e8fba44.
"""

import json
from pathlib import Path

import numpy as np

from tests.reference.reference_fill import fill

FOLDER = Path(__file__).parent
SHAPES = json.loads((FOLDER / "shapes.json").read_text())


def reference(name):
    """The arrays of one model."""
    with np.load(FOLDER / f"{name}.npz") as file:
        return dict(file)


def official_weights(name):
    """Official names → arrays in PyTorch's layouts."""
    gain = float(reference(name)["gain"])
    return {key: fill(key, tuple(shape), gain) for key, shape in SHAPES[name].items()}
