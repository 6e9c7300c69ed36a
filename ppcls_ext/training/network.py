"""A network in Paddle that classifies as the runtimes of exported files do."""

from __future__ import annotations

import numpy as np
import paddle

from ppcls_ext.models.backbone import Backbone
from ppcls_ext.onednn.bfloat16 import mixed_precision
from ppcls_ext.predict.metadata import Metadata


class Network:
    """See `ppcls_ext.predict.runtimes.ExportedModel`.

    Args:
        model: put into eval mode.
        metadata: of the file that it would be exported to.
        mixed: whether it computes in mixed precision.
    """

    batch: int | None = None
    ends_in_logits: bool = True

    def __init__(self, model: Backbone, metadata: Metadata, mixed: bool) -> None:
        self._model, self.metadata, self._mixed = model, metadata, mixed
        width, height = metadata.preprocessing.image_size
        self.image_shape = [metadata.preprocessing.channels, height, width]
        model.eval()

    def run(self, images: np.ndarray) -> np.ndarray:
        """(N, classes) of prepared images (N, C, H, W)."""
        with paddle.no_grad(), mixed_precision(self._mixed):
            return self._model(paddle.to_tensor(images)).astype("float32").numpy()
