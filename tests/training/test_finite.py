"""NaN and infinity end a training, an evaluation, an inference; nothing of them is saved as the best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_ext.errors import PpclsExtError
from tests.helpers import build_engine

pytestmark = pytest.mark.usefixtures("registered")
FOLDER = Path("output/FasterNet_T0")


@pytest.fixture
def engine(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"

    def build(mode: str):

        return build_engine(config, mode)

    return build


@pytest.fixture
def names_from_0():
    """Optimizers know parameters by names that a process counts."""
    with paddle.utils.unique_name.guard():
        yield


@pytest.mark.parametrize("arch", ["FasterNet_T0", "ResNet18"])
def test_a_loss_that_is_no_number_ends_the_training(engine, config, arch):
    config["Arch"]["name"] = arch
    config["Optimizer"]["lr"] = {"name": "Constant", "learning_rate": 1e30}
    # PaddleClas's ResNet gives a finite loss from weights that are NaN
    message = r"epoch 1(, batch \d: the loss is (nan|inf);|: the weights,).* try a lower Optimizer\.lr\.learning_rate"
    with pytest.raises(PpclsExtError, match=message):
        engine("train").train()
    assert not list(Path("output").rglob("*.pdparams"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_infinite_losses_with_the_recipe_too(engine, config, value):
    config["Arch"]["name"] = "RepVGG_A0"
    config["Recipe"] = {"custom_l2": 1e-4, "ema": {"decay": 0.9}}
    built = engine("train")
    built.model.linear.bias.set_value(np.full(2, value, "float32"))
    with pytest.raises(PpclsExtError, match="epoch 1, batch 1: the loss is "):
        built.train()
    assert not list(Path("output").rglob("*.pdparams"))


@pytest.mark.usefixtures("names_from_0")
def test_the_last_step_may_break_the_weights_too(engine, config):
    """The loss of the last batch is finite, what the step makes of the weights is not."""
    with paddle.utils.unique_name.guard():
        engine("train").train()
    before = {path.name: path.read_bytes() for path in FOLDER.glob("*.pd*")}
    config["Global"].update(epochs=2, checkpoints="latest")
    built = engine("train")
    step, left = built.optimizer[0].step, 3

    def break_last():
        nonlocal left
        step()
        left -= 1
        if left == 0:
            weight = next(iter(built.model.parameters()))
            weight.set_value(np.full(weight.shape, np.inf, "float32"))

    built.optimizer[0].step = break_last
    built.config["Global"]["eval_during_train"] = False
    with pytest.raises(PpclsExtError, match=r"epoch 2: the weights, which are not saved, are not finite: \S+"):
        built.train()
    assert {path.name: path.read_bytes() for path in FOLDER.glob("*.pd*")} == before


@pytest.mark.parametrize("arch", ["FasterNet_T0", "ResNet18"])
@pytest.mark.parametrize("mode", ["eval", "infer", "export"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(engine, config, tmp_path, arch, mode, value):
    config["Arch"]["name"] = arch
    model = engine("infer").model
    last = list(model.parameters())[-1]
    last.set_value(np.full(last.shape, value, "float32"))
    paddle.save(model.state_dict(), "w.pdparams")
    config["Global"]["pretrained_model"] = "w"
    with pytest.raises(PpclsExtError, match=r"weights are not finite: \S+ hold NaN or infinity"):
        engine(mode)
    assert not Path("inference").exists()


@pytest.mark.parametrize("arch", ["FasterNet_T0", "ResNet18"])
def test_outputs_that_overflow(engine, config, arch):
    """The weights are numbers, the sums of their products are none."""
    config["Arch"]["name"] = arch
    config["Infer"]["save_dir"] = "results.json"
    loss = config["Loss"]["Eval"]
    for mode, config["Loss"]["Eval"] in (("eval", loss), ("eval", None), ("infer", None)):
        built = engine(mode)
        # in ResNet18, ReLU would make 0 of NaN
        parameters, value = built.model.parameters(), 1e20
        for parameter in parameters[-2:] if arch == "ResNet18" else parameters:
            parameter.set_value(np.full(parameter.shape, value if parameter.ndim == 4 else 3e38, "float32"))
        with pytest.raises(PpclsExtError, match="the network's outputs hold NaN or infinity"):
            getattr(built, mode)()
    assert not Path("results.json").exists(), "no invalid JSON"


@pytest.mark.parametrize("fields", [{"stop_after": "flatten"}, {"stop_after": "stages"}])
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_network_without_its_classifier(engine, config, mode, fields):
    config["Arch"].update(fields)
    built = engine(mode)
    with pytest.raises(
        PpclsExtError, match=r"the network gives \[.*\] numbers per image, and .* needs Arch\.class_num"
    ):
        getattr(built, mode)()
    assert not list(Path("output").rglob("*.pdparams"))
