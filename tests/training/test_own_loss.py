"""A loss that the user gives in the place of the configuration's."""

from __future__ import annotations

import paddle
import pytest

from ppcls_ext.errors import PpclsExtError


def test_a_loss_of_ones_own(engine, config):
    config["Global"]["epochs"] = 1
    built, calls = engine(), []

    def loss(outputs, labels):
        calls.append((outputs.shape, labels.shape))
        return (outputs.square()).mean()

    built.use_loss(loss)
    before = {name: tensor.numpy() for name, tensor in built.model.state_dict().items()}
    built.train()
    assert len(calls) == len(built.train_dataloader)
    assert any((tensor.numpy() != before[name]).any() for name, tensor in built.model.state_dict().items())


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda outputs, labels: outputs, r"returns a tensor \[\d+, 2\]: expected a tensor of one number"),
        (lambda outputs, labels: 1.0, "returns a float: expected a tensor of one number"),
        (lambda outputs, labels: (outputs * float("nan")).mean(), "the loss is nan"),
    ],
)
def test_a_loss_of_ones_own_that_is_none(engine, config, loss, said):
    built = engine()
    built.use_loss(loss)
    with pytest.raises(PpclsExtError, match=said):
        built.train()


def test_a_loss_that_would_have_to_be_trained(engine):
    with pytest.raises(PpclsExtError, match="has parameters, which no optimizer would train"):
        engine().use_loss(paddle.nn.Linear(2, 1))
    with pytest.raises(PpclsExtError, match="class_weights weighs CELoss"):
        engine(class_weights="balanced").use_loss(lambda outputs, labels: outputs.mean())
