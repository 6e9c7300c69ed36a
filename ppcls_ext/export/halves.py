"""A Paddle model cut before its head, as `predict/evidence` cuts an exported file, for class activation maps."""

from __future__ import annotations

import numpy as np
import paddle

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.predict.evidence import Halves


def split_model(model: Backbone) -> Halves:
    """Returns the two halves of a model, which is put in eval mode; fused or not, they compute the same.

    Raises:
        PpclsExtError: it has no classifier.
    """
    if not isinstance(getattr(model, model.classifier, None), paddle.nn.Linear):
        raise PpclsExtError(f"this {type(model).__name__} has no classifier, and so no evidence for a class")
    model.eval()

    @paddle.no_grad()
    def body(images: np.ndarray) -> np.ndarray:
        return model.forward_features(paddle.to_tensor(images)).numpy()

    @paddle.no_grad()
    def head(means: np.ndarray) -> np.ndarray:
        return model.forward_head(paddle.to_tensor(means)).numpy()

    return Halves(body, head, head_is_linear=not model.head_layers)
