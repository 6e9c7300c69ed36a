"""Adaptations are applied where PaddleClas fails, and only there."""

from __future__ import annotations

import random
import re
import sys
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from ppcls_ext.host import adaptations
from ppcls_ext.host.locate import activate


def test_each_paddleclas_gets_what_it_needs(fresh):
    root = activate(need_engine=True).path / "ppcls"
    # what they answer, read from the source: newer versions take float(tensor)
    files = [root / "engine/train/utils.py", root / "utils/misc.py"]
    old = [bool(re.search(r"\.numpy\(\)\[0\]", file.read_text(encoding="utf-8"))) for file in files]
    assert old in ([True, True], [False, False])
    *names, device = [adaptation.name for adaptation in adaptations.ADAPTATIONS]
    if sys.version_info < (3, 11):  # which had getargspec
        names.remove("SGD")
    newer = [] if paddle.is_compiled_with_cuda() else [device]
    assert fresh.says["adaptations"] == [names if all(old) else newer, []], "and a second call does nothing"


def test_losses_metrics_and_averages_work_on_0_d_tensors():
    adaptations.apply()
    from ppcls.engine.train.utils import update_loss, update_metric
    from ppcls.loss import CombinedLoss
    from ppcls.metric import CombinedMetrics
    from ppcls.utils.misc import AverageMeter

    logits = paddle.to_tensor([[2.0, 0.0], [2.0, 0.0]])
    logits.stop_gradient = False
    labels = paddle.to_tensor([[0], [1]])
    trainer = SimpleNamespace(output_info={}, train_metric_func=CombinedMetrics([{"TopkAcc": {"topk": [1]}}]))
    losses = CombinedLoss([{"CELoss": {"weight": 1.0}}])(logits, labels)
    losses["loss"].backward()
    update_loss(trainer, losses, 2)
    update_metric(trainer, logits, [labels], 2)
    assert trainer.output_info["top1"].avg == pytest.approx(0.5)
    assert trainer.output_info["loss"].avg == pytest.approx(1.126928, abs=1e-5)
    assert float(logits.grad.abs().sum()) == pytest.approx(1.0, abs=1e-5)

    meter = AverageMeter("top1")
    meter.update(paddle.to_tensor(1.0), 3)
    meter.update(paddle.to_tensor(0.0), 1)
    assert meter.avg_info == "top1: 0.75000"


def test_auto_augment_and_sgd_work():
    adaptations.apply()
    from ppcls.data.preprocess import AutoAugment
    from ppcls.optimizer.optimizer import SGD

    random.seed(0)
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    augment = AutoAugment()
    assert all(augment(picture).shape == picture.shape for _ in range(50))
    layer = paddle.nn.Linear(1, 1)
    weight = layer.weight.item()
    optimizer = SGD(learning_rate=0.5)([layer])
    layer(paddle.ones([1, 1])).backward()
    optimizer.step()
    assert layer.weight.item() == pytest.approx(weight - 0.5)
