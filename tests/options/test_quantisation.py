"""PACT: a network quantised while it trains infers, and is exported in the old program format."""

from __future__ import annotations

import numpy as np
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
    pictures = np.random.default_rng(0).uniform(-1, 1, (3, 3, 32, 32)).astype("float32")
    scores = predict(tmp_path / "inference", pictures)
    assert scores.shape == (3, 2)
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def predict(folder, pictures: np.ndarray) -> np.ndarray:
    """What Paddle Inference answers, which reads the old format, too."""
    from paddle import inference

    config = inference.Config(str(folder / "inference_int8.pdmodel"), str(folder / "inference_int8.pdiparams"))
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(pictures)
    predictor.run()
    return predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
