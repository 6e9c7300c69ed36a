"""Weights of models that PaddleSlim quantises while training (PaddleClas's `Slim.quant`)."""

from __future__ import annotations

import numpy as np

from ppcls_ext.weights.files import read_weights

#: PACT's clipping bounds, which the inferring and the exported model do not have: the scales learnt behind them stay.
TRAINING_ONLY = "._act_preprocess.alpha"


def without_training_only(path: str) -> dict[str, np.ndarray]:
    """The weights at `path` but for those that only training and evaluation use.

    Raises:
        PpclsExtError: the file cannot be read.
    """
    return {name: array for name, array in read_weights(path).items() if not name.endswith(TRAINING_ONLY)}
