"""PaddleClas's cross entropy with a weight for each class."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from ppcls_ext.hosts.paddleclas.losses import weigh_classes

CLASSES = 5
LABELS = {
    "hard": paddle.to_tensor([[0], [4], [4], [1]]),
    "mixed": paddle.to_tensor(np.float32([[0.3, 0.7, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0.5, 0, 0, 0.5], [1, 0, 0, 0, 0]])),
}


@pytest.fixture
def logits():
    paddle.seed(0)
    return paddle.randn([4, CLASSES])


def losses(epsilon, weights=None):
    from ppcls.loss import CombinedLoss

    built = CombinedLoss([{"CELoss": {"weight": 1.0, "epsilon": epsilon}}])
    if weights is not None:
        weigh_classes(built, weights)
    return built


@pytest.mark.parametrize("labels", list(LABELS))
@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_weights_of_one_change_nothing(registered, logits, labels, epsilon):
    plain, weighed = (losses(epsilon, weights)(logits, LABELS[labels]) for weights in (None, np.ones(CLASSES)))
    assert weighed["loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-6)
    assert set(weighed) == {"CELoss", "loss"}


@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_the_formula(registered, logits, epsilon):
    weights = np.array([0.2, 3.0, 1.0, 0.0, 0.8])
    found = losses(epsilon, weights)({"logits": logits}, LABELS["hard"])
    shares = np.eye(CLASSES)[LABELS["hard"].numpy()[:, 0]]
    shares = shares if epsilon is None else shares * (1 - epsilon) + epsilon / CLASSES
    scores = logits.numpy().astype("float64")
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    assert found["loss"].item() == pytest.approx(-(weights * shares * logs).sum(axis=1).mean(), rel=1e-6)


def test_gradients_follow_the_weights(registered, logits):
    logits.stop_gradient = False
    losses(None, np.array([0.0, 1, 1, 1, 2]))(logits, LABELS["hard"])["loss"].backward()
    gradient = np.abs(logits.grad.numpy()).sum(axis=1)
    assert gradient[0] == 0, "an image of a class with the weight 0"
    assert (gradient[1:] > 0).all()
