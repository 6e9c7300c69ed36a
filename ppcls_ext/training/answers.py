"""What a network answers to each picture of an evaluation, kept for a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle.distributed as dist

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.packages import require
from ppcls_ext.predict.classifier import softmax
from ppcls_ext.report.predictions import Predictions
from ppcls_ext.training.strict_data import is_image_list

OUT_OF_ORDER = (
    "--report needs the pictures in the order of their list, and DataLoader.Eval shuffles them: set its "
    "sampler.shuffle to false"
)


class Answers:
    """Stands in the place of an engine's metric and keeps what that is called with; else it is that metric.

    Args:
        engine: ours, built, in its mode "train" or "eval".

    Raises:
        PpclsExtError: the evaluation is of another kind than a list of pictures with one class each, in its order, or
            matplotlib, which draws reports, is missing.
    """

    def __init__(self, engine: Any) -> None:
        require("matplotlib")  # before the work, not behind it
        dataset = getattr(engine.eval_dataloader, "dataset", None)
        if engine.eval_mode != "classification" or not is_image_list(dataset) or dist.get_world_size() > 1:
            raise PpclsExtError(
                "--report needs an evaluation on a plain list of pictures (ImageNetDataset, Global.eval_mode "
                "classification) in one process"
            )
        if getattr(getattr(engine.eval_dataloader, "batch_sampler", None), "shuffle", False):
            raise PpclsExtError(OUT_OF_ORDER)
        self._dataset, self._metric = dataset, engine.eval_metric_func
        engine.eval_metric_func = self
        self.clear()

    def clear(self) -> None:
        """Forgets all answers, before another evaluation."""
        self._logits: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def __call__(self, outputs: Any, labels: Any, *args: Any) -> Any:
        """What the metric gives."""
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        self._logits.append(logits.numpy().astype(np.float32))
        self._labels.append(labels.numpy().reshape(-1))
        return self._metric(outputs, labels, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._metric, name)

    def evaluation(self, names: list[str] | None) -> Predictions:
        """All answers since `clear`.

        Args:
            names: of the classes; None where they have none.

        Raises:
            PpclsExtError: the pictures were not evaluated in the order of their list.
        """
        labels = np.concatenate(self._labels)
        if not np.array_equal(labels, np.asarray(self._dataset.labels)[: len(labels)]):
            raise PpclsExtError(OUT_OF_ORDER)
        paths = [str(path) for path in self._dataset.images[: len(labels)]]
        return Predictions(paths, labels, softmax(np.concatenate(self._logits)), names).check()
