"""PACT: a network quantised while it trains infers, and is exported in the old program format."""

from __future__ import annotations

import paddle
import pytest

from tests.options.table import MODELS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", MODELS)
def test_pact(run, config, tmp_path, model):
    pytest.importorskip("paddleslim", reason="needs paddleslim, which no extra brings: its pins fit no current Python")
    config["Arch"]["name"] = model
    config["Slim"] = {"quant": {"name": "pact"}}
    run(config)
    config["Global"]["pretrained_model"] = str(tmp_path / "output" / model / "best_model")
    run(config, "eval")
    run(config, "infer")
    run(config, "export")
    program = paddle.jit.load(str(tmp_path / "inference" / "inference_int8"))
    assert program(paddle.ones([1, 3, 32, 32])).shape == [1, 2]
