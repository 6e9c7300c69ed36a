"""Labels that PaddleClas gives in another form than its losses take.

CutmixOperator multiplies labels by a NumPy scalar, which makes them float64 since NumPy 2, and cross entropy refuses
those beside float32 logits. MultiLabelDataset of 2.4 asks for an attribute that it sets only with `label_ratio`, and
tries one picture after the other without end.
"""

from __future__ import annotations

import functools
import os
from typing import Any

from ppcls_ext.hosts.adaptation import Adaptation


def _mixed_labels_are_float64() -> bool:
    import numpy as np
    from ppcls.data.preprocess.batch_ops.batch_operators import CutmixOperator

    label = np.zeros(1, np.int64)
    return CutmixOperator(class_num=2)._mix_target(label, label, np.float64(0.5)).dtype != np.float32


def _label_ratio_is_missing() -> bool:
    from ppcls.data import MultiLabelDataset

    # a data set of nothing: its list is empty
    return not hasattr(MultiLabelDataset(os.sep, os.devnull, []), "label_ratio")


def _mixed_labels_as_float32() -> None:
    from ppcls.data.preprocess.batch_ops.batch_operators import BatchOperator

    mix = BatchOperator._mix_target

    @functools.wraps(mix)
    def mix_in_float32(*args: Any, **kwargs: Any) -> Any:
        return mix(*args, **kwargs).astype("float32")

    BatchOperator._mix_target = mix_in_float32


def _label_ratio_of_none() -> None:
    from ppcls.data import MultiLabelDataset

    MultiLabelDataset.label_ratio = None


_BATCH, _MULTI = "ppcls/data/preprocess/batch_ops/batch_operators.py", "ppcls/data/dataloader/multilabel_dataset.py"
ADAPTATIONS = (
    Adaptation("mixed labels", f"{_BATCH}, CutmixOperator", _mixed_labels_are_float64, _mixed_labels_as_float32),
    Adaptation("label ratio", f"{_MULTI}, __getitem__", _label_ratio_is_missing, _label_ratio_of_none),
)
