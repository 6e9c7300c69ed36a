"""`AMP` on a CPU: trainings in bfloat16, where the processor has it, and what is said where it has not."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

import numpy as np
import paddle
import pytest

import ppcls_ext
from ppcls_ext.commands.evaluate import main as evaluate
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.onednn import bfloat16, find
from ppcls_ext.run import Run, open_training
from ppcls_ext.training.precision import Precision
from ppcls_ext.weights.paddle_file import read_paddle_file
from tests.helpers import build_engine, prepared

pytestmark = pytest.mark.skipif(find.library() is None, reason="this Paddle has no oneDNN that can be called")
AMP = {"use_amp": True, "level": "O1", "dtype": "bfloat16"}


@pytest.fixture
def anywhere(monkeypatch):
    """Mixed precision on any processor."""
    monkeypatch.setattr(bfloat16, "lacking", lambda: None)


@pytest.fixture
def nowhere(monkeypatch):
    monkeypatch.setattr(find.library(), "has_bfloat16", False)
    monkeypatch.setattr(bfloat16, "has_primitives", lambda: False)


@pytest.fixture
def train(config, tmp_path, monkeypatch, registered):
    """Trains FasterNet_T0 for some epochs, in `tmp_path`/FOLDER."""
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"

    def run(folder: str, epochs: int = 2, amp: dict | None = AMP, checkpoint: str | None = None, **fields) -> Path:
        config["Global"].update(output_dir=folder, epochs=epochs, checkpoints=checkpoint, **fields)
        config["AMP"] = amp
        with paddle.utils.unique_name.guard():
            build_engine(config, "train").train()
        return Path(folder, "FasterNet_T0")

    return run


def weights(folder: Path) -> dict[str, np.ndarray]:
    found = read_paddle_file(folder / "latest.pdparams")
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def test_a_training(train, anywhere):
    seen = []
    before = bfloat16.to_bfloat16
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bfloat16, "to_bfloat16", lambda x: seen.append(bfloat16.is_on()) or before(x))
        folder = train("mixed")
    assert any(seen), "some maps were rounded"
    assert json.loads((folder / "run.json").read_text())["precision"] == "mixed precision in bfloat16"
    mixed, float32 = weights(folder), weights(train("float32", amp=None))
    assert json.loads((Path("float32/FasterNet_T0/run.json")).read_text())["precision"] == "float32"
    assert {value.dtype for value in mixed.values()} == {value.dtype for value in float32.values()}
    assert any((mixed[name] != float32[name]).any() for name in mixed)
    assert all(np.isfinite(value).all() for value in mixed.values())


@pytest.mark.parametrize(("asked", "mixed"), [(False, False), (True, True)])
def test_evaluations_are_in_float32_unless_asked(config, tmp_path, monkeypatch, registered, anywhere, asked, mixed):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"], config["AMP"] = "FasterNet_T0", {**AMP, "use_fp16_test": asked}
    with build_engine(config, "train").precision.cast(evaluating=True):
        assert bfloat16.is_on() is mixed
    with build_engine(config, "train").precision.cast():
        assert bfloat16.is_on()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "the processor has no bfloat16 instructions (AVX-512 BF16 or AMX): all is computed in float32"),
        ({"arch": "ResNet18"}, "on a CPU only this project's models have mixed precision, and Arch.name is ResNet18"),
        ({"to_static": True}, "Global.to_static leaves Paddle's own operations only"),
        ({"train_mode": "progressive"}, "Global.train_mode trains by PaddleClas's own functions"),
    ],
)
def test_one_line_says_that_float32_is_used(config, registered, nowhere, caplog, change, said):
    config["Arch"]["name"], config["AMP"] = change.get("arch", "FasterNet_T0"), AMP
    fields = {name: value for name, value in change.items() if name != "arch"}
    config["Global"].update(fields, device="cpu")
    with caplog.at_level(logging.WARNING, "ppcls_ext"):
        prepared(config, "train")
    lines = [record.getMessage() for record in caplog.records if "float32" in record.getMessage()]
    assert len(lines) == 1
    assert lines[0].startswith("AMP is given, and ")
    assert said in lines[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"level": "O2"}, ["AMP.level is O2, and mixed precision in bfloat16 keeps its weights in float32 (O1)"]),
        ({"dtype": "float16"}, ["AMP.dtype is float16, and mixed precision on a CPU is in bfloat16: that is used"]),
        ({"dtype": None}, []),
    ],
)
def test_what_a_cpu_has_not(config, registered, anywhere, caplog, fields, said):
    config["Arch"]["name"], config["AMP"] = "FasterNet_T0", {**AMP, **fields}
    with caplog.at_level(logging.WARNING, "ppcls_ext"):
        prepared(config, "train")
    assert [record.getMessage() for record in caplog.records if "AMP" in record.getMessage()] == said


def test_another_kind_of_numbers_is_refused(config, registered):
    config["AMP"] = {**AMP, "dtype": "float8"}
    with pytest.raises(PpclsExtError, match=r"AMP\.dtype is 'float8': expected bfloat16 or float16"):
        prepared(config, "train")


def test_the_option_and_the_argument():
    config = open_training("FasterNet_T0", bf16=True).settings.config
    assert config["AMP"] == {"dtype": "bfloat16", "use_amp": True}
    assert "AMP" not in open_training("FasterNet_T0").settings.config


def test_on_a_gpu_it_is_paddles(monkeypatch):
    class Engine:
        config, on_gpu = {"Global": {"device": "gpu"}}, True

    precision = Precision(Engine(), {**AMP, "use_fp16_test": False})
    assert str(precision) == "mixed precision in bfloat16"
    asked = []

    def auto_cast(**options):
        asked.append(options)
        return contextlib.nullcontext()

    monkeypatch.setattr(paddle.amp, "auto_cast", auto_cast)
    monkeypatch.setattr(paddle.device, "get_device", lambda: "gpu:0")
    for evaluating in (False, True):
        with precision.cast(evaluating):
            pass
    assert asked == [{"enable": True, "dtype": "bfloat16"}, {"enable": False, "dtype": "bfloat16"}]


def test_eval_measures_both(tiny_run, dataset, anywhere, capsys):
    evaluate([str(tiny_run), "--bf16"])
    said = capsys.readouterr().out
    assert "best_model" in said
    assert "best_model.pdparams, in bfloat16" in said
    found = ppcls_ext.evaluate(tiny_run, bf16=True)
    assert found.model.endswith(", in bfloat16")


def test_a_classifier_of_a_run(tiny_run, dataset, anywhere):
    images = np.random.RandomState(0).randn(4, 3, 32, 32).astype("float32")
    run = Run(tiny_run)
    expected, got = run.classifier().probabilities(images), run.in_bfloat16().classifier().probabilities(images)
    assert 0 < np.abs(got - expected).max() < 0.05


def test_an_evaluation_says_what_it_was_computed_in(tiny_run, dataset, monkeypatch):
    asked = ["AMP.use_amp=True", "AMP.use_fp16_test=True"]
    monkeypatch.setattr(bfloat16, "lacking", lambda: "nothing can")
    assert ", in bfloat16" not in Run(tiny_run, asked).evaluate().model
    monkeypatch.setattr(bfloat16, "lacking", lambda: None)
    assert Run(tiny_run, asked).evaluate().model.endswith(", in bfloat16")


def test_a_machine_without_it_refuses_to_evaluate_in_it(tiny_run, nowhere):
    with pytest.raises(PpclsExtError, match=r"^bf16: the processor has no bfloat16 .*; leave it out$"):
        Run(tiny_run).in_bfloat16()
