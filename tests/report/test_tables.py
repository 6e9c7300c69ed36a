"""metrics.csv keeps one row an epoch, whatever is resumed."""

from __future__ import annotations

import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report.tables import add_metrics, read_metrics


def test_rows_are_added_and_replaced(tmp_path):
    path = tmp_path / "metrics.csv"
    for epoch in (1, 2, 3):
        add_metrics(path, {"epoch": epoch, "train_loss": 1 / epoch, "eval_top1": None})
    rows = add_metrics(path, {"epoch": 2, "train_loss": 0.25, "eval_loss": 7.0, "eval_top1": 0.5})
    assert [row["epoch"] for row in rows] == [1, 2]
    assert read_metrics(path)[1]["train_loss"] == 0.25
    header = path.read_text().splitlines()[0]
    assert header == "epoch,step,learning_rate,images_per_second,train_loss,eval_loss,eval_top1"


def test_damaged_file(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step\n1,x\n")
    with pytest.raises(PpclsExtError, match="move it away"):
        read_metrics(path)
