"""A training in two parts is the same training."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import ppcls_ext
from tests.training.conftest import Noted, arrays

RECIPE = {
    "ema": {"decay": 0.9},
    "weight_decay": {"start": 0.2, "end": 0.05},
    "head_learning_rate": 3,
    "progressive": [{"epoch": 1, "size": 32}, {"epoch": 2, "size": 64}],
}


def stop(epoch):
    raise KeyboardInterrupt


@pytest.mark.parametrize("unfuse", [None, {"pictures": 8}])
def test_resuming_continues_everything(engine, config, fresh_process, tmp_path, unfuse):
    whole_picture = {"RandCropImage": {"size": 32, "scale": [1.0, 1.0], "ratio": [1.0, 1.0]}}
    config["DataLoader"]["Train"]["dataset"]["transform_ops"].insert(1, whole_picture)
    if unfuse:
        model = ppcls_ext.reparameterize(ppcls_ext.build("FasterNet_T0", class_num=2))
        paddle.save(model.state_dict(), str(tmp_path / "fused.pdparams"))
        config["Global"]["pretrained_model"] = str(tmp_path / "fused.pdparams")
    config["Global"].update(epochs=2, output_dir="whole")
    with fresh_process():
        engine(**RECIPE, unfuse=unfuse).train()

    config["Global"].update(output_dir="parts")
    with fresh_process():
        interrupted = engine(**RECIPE, unfuse=unfuse)
        interrupted.observers.append(Noted(stop))
        with pytest.raises(KeyboardInterrupt):
            interrupted.train()
    config["Global"].update(checkpoints="parts/FasterNet_T0/latest", pretrained_model=None)
    with fresh_process():
        engine(**RECIPE).train()

    for name in ("latest", "latest.ema"):
        whole, parts = (arrays(paddle.load(f"{folder}/FasterNet_T0/{name}.pdparams")) for folder in ("whole", "parts"))
        assert set(whole) == set(parts)
        for key, value in whole.items():
            np.testing.assert_allclose(parts[key], value, atol=1e-6, err_msg=f"{name} {key}")
