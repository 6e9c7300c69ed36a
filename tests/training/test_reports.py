"""What a training and an evaluation draw, on PaddleClas's real engine; a failure to draw ends no training."""

from __future__ import annotations

import hashlib
import re
import sys
import time

import numpy as np
import paddle
import pytest
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report.page import Page
from ppcls_ext.report.tables import read_metrics
from ppcls_ext.training import reports
from ppcls_ext.training.reports import EvaluationReport, require_reportable
from ppcls_ext.weights.checkpoint_sets import read_set
from tests.helpers import build_engine
from tests.training.conftest import Noted

pytestmark = pytest.mark.usefixtures("registered")
WHAT = ["date", "evaluated on", "images", "macro F1", "duration", "machine", "versions"]
REPORT = {"confusion.png", "reliability.png", "per_class.csv", "confused_pairs.csv", "report.html"}


@pytest.fixture
def make_engine(config, tmp_path):
    """Builds an engine of FasterNet_T0, with fields of `Global`."""

    def make(mode="train", **fields):
        config["Arch"]["name"] = "FasterNet_T0"
        config["Global"].update(output_dir=str(tmp_path), save_interval=0, **fields)
        return build_engine(config, mode)

    return make


def is_drawn(path) -> bool:
    with Image.open(path) as image:
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 8


@pytest.mark.parametrize("mixed", [False, True])
def test_a_training_shows_what_it_reads_and_how_it_goes(mixed, make_engine, config, tmp_path):
    if mixed:
        config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] = [{"MixupOperator": {"alpha": 0.5}}]
        config["Metric"]["Train"] = None
    make_engine(epochs=2, report=True).train()
    folder = tmp_path / "FasterNet_T0"
    assert all(is_drawn(folder / name) for name in ("batch.png", "data.png", "curves.png"))
    rows = read_metrics(folder / "metrics.csv")
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 3), (2, 6)]
    assert all(row["eval_top1"] is not None and row["images_per_second"] > 0 for row in rows)
    assert {path.name for path in (folder / "report").iterdir()} - {"mistakes.png"} == REPORT
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    best = max(row["eval_top1"] for row in rows)
    assert f"<td>{best:.4f}</td>" in page, "the report's accuracy is the engine's own"
    assert "red" in page, "classes by their names"
    digest = hashlib.sha256((folder / "best_model.pdparams").read_bytes()).hexdigest()
    assert f'title="SHA-256 {digest}"' in page
    names = re.findall(r"<tr><th>(.*?)</th>", page)
    assert names[:3] == ["date", "weights", "best by"]
    assert names[-3:] == ["duration", "machine", "versions"]
    assert f"paddlepaddle {paddle.__version__}" in page


def test_a_failure_to_draw_ends_no_training(make_engine, tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("no ink")

    monkeypatch.setattr(reports, "draw_class_counts", fail)
    make_engine(epochs=1).train()
    assert [record.getMessage() for record in caplog.records if "no ink" in record.getMessage()] == [
        "no further images of this training are drawn: no ink"
    ]
    assert (tmp_path / "FasterNet_T0" / "latest.pdparams").is_file()
    assert read_metrics(tmp_path / "FasterNet_T0" / "metrics.csv")


def test_drawing_the_first_batch_is_no_time_of_the_training(make_engine, monkeypatch):
    engine, noted = make_engine(epochs=1), Noted()
    monkeypatch.setattr(reports, "draw_sheet", lambda *_: time.sleep(30))
    monkeypatch.setattr(time, "sleep", lambda seconds: monkeypatch.setattr(time, "monotonic", late(seconds)))
    engine.observers.append(noted)
    engine.train()
    assert noted.epochs[0].seconds < 15


def late(seconds: float):
    monotonic = time.monotonic
    return lambda: monotonic() + seconds


def test_a_damaged_file_of_metrics_ends_no_training(make_engine, tmp_path, caplog):
    folder = tmp_path / "FasterNet_T0"
    with paddle.utils.unique_name.guard():
        make_engine(epochs=1).train()
    (folder / "metrics.csv").write_text("epoch,step\n0,none\n")
    with paddle.utils.unique_name.guard():
        make_engine(epochs=2, checkpoints="latest").train()
    (line,) = [record.getMessage() for record in caplog.records if "metrics.csv" in record.getMessage()]
    assert line.startswith("no further rows are added to metrics.csv: cannot read ")
    assert read_set(folder / "latest").state["epoch"] == 2
    assert (folder / "metrics.csv").read_text() == "epoch,step\n0,none\n"


def test_drawing_keeps_to_its_share(make_engine, tmp_path, monkeypatch):
    """Curves are drawn while a training is long for it, and once more at its end."""
    drawn = []
    monkeypatch.setattr(reports, "draw_curves", lambda rows, *_: drawn.append(len(rows)))
    monkeypatch.setattr(reports, "SHARE", 0.0)
    make_engine(epochs=3).train()
    assert drawn == [3]


def test_an_evaluation_writes_its_report(make_engine, tmp_path):
    engine = make_engine("eval")
    mine = tmp_path / "FasterNet_T0" / "report" / "report.html"
    mine.parent.mkdir(parents=True)
    mine.write_text("the training's")
    for target, folder in ((tmp_path / "out", tmp_path / "out"), (True, mine.parent.with_name("report-eval"))):
        report = EvaluationReport(engine, target)
        first = engine.eval()
        page = report.write()
        assert page == folder / "report.html"
        assert {path.name for path in folder.iterdir()} - {"mistakes.png"} == REPORT
        text = page.read_text(encoding="utf-8")
        assert f"<td>{first:.4f}</td>" in text
        names = re.findall(r"<tr><th>(.*?)</th>", text)
        assert [name for name in names if name in WHAT] == WHAT
    assert mine.read_text() == "the training's"


def test_a_report_says_what_was_evaluated_and_replaces_nothing_else(make_engine, dataset, tmp_path):
    engine = make_engine("eval")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    with pytest.raises(PpclsExtError, match=r"notes holds a\.txt, which belongs to no report: choose a folder of its"):
        EvaluationReport(engine, tmp_path / "notes")
    report = EvaluationReport(engine, True, dataset / "val_list.txt")
    engine.eval()
    assert f"<td>{dataset / 'val_list.txt'} (--data)</td>" in report.write().read_text(encoding="utf-8")


def test_a_report_that_fails_leaves_the_one_before(make_engine, tmp_path, monkeypatch):
    engine = make_engine("eval")

    def write():
        report = EvaluationReport(engine, tmp_path / "out")
        engine.eval()
        report.write()

    write()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(Page, "write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write()
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"out", "FasterNet_T0"}


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_what_a_report_lacks_is_said_before_the_work(make_engine, config, tmp_path, monkeypatch, mode):
    def start():
        engine = make_engine(mode, report=True)
        engine.train() if mode == "train" else EvaluationReport(engine, True)

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        with pytest.raises(PpclsExtError, match=r'matplotlib.*pip install "ppcls-ext\['):
            start()
    config["DataLoader"]["Eval"]["sampler"]["shuffle"] = True
    with pytest.raises(PpclsExtError, match=r"in the order of their list, .* set its sampler\.shuffle to false"):
        start()
    assert not list(tmp_path.rglob("*.pdparams"))


def test_evaluations_without_a_report(make_engine):
    engine = make_engine("eval")
    engine.eval_mode = "retrieval"
    with pytest.raises(PpclsExtError, match="--report needs an evaluation on a list of images"):
        require_reportable(engine)
