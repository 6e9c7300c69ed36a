"""Arguments of what PaddleClas builds: the path in the YAML, the nearest name, a number where one belongs."""

from __future__ import annotations

import copy

import pytest

from ppcls_ext.config.load import load_config
from ppcls_ext.errors import PpclsExtError
from tests.helpers import prepared

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def refused(config_file, tmp_path, monkeypatch):
    """The message with which overrides of the tiny configuration are refused; nothing is left behind."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, mode: str = "train") -> str:
        with pytest.raises(PpclsExtError) as caught:
            prepared(load_config(config_file, ["Arch.name=FasterNet_T0", *overrides]), mode)
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.iterdir())
        return str(caught.value)

    return run


TRAIN = "DataLoader.Train"


@pytest.mark.parametrize(
    ("override", "near"),
    [
        (f"{TRAIN}.dataset.image_rot=x", f"{TRAIN}.dataset.image_root"),
        (f"{TRAIN}.dataset.cls_labelpath=x", f"{TRAIN}.dataset.cls_label_path"),
        (f"{TRAIN}.sampler.batchsize=8", f"{TRAIN}.sampler.batch_size"),
        (f"{TRAIN}.sampler.dropp_last=True", f"{TRAIN}.sampler.drop_last"),
        (
            f"{TRAIN}.dataset.transform_ops.0.DecodeImage.to_rbg=True",
            f"{TRAIN}.dataset.transform_ops.0.DecodeImage.to_rgb",
        ),
        ("Loss.Train.0.CELoss.epsilom=0.1", "Loss.Train.0.CELoss.epsilon"),
        ("Metric.Train.0.TopkAcc.topkk=[1]", "Metric.Train.0.TopkAcc.topk"),
        ("Optimizer.momentun=0.9", "Optimizer.momentum"),
        ("Optimizer.lr.warmup_epochs=3", "Optimizer.lr.warmup_epoch"),
        ("Optimizer.lr.leaning_rate=3", "Optimizer.lr.learning_rate"),
    ],
)
def test_misspelt_arguments(refused, override, near):
    assert f" is unknown: did you mean {near}?" in refused(override)


def test_misspelt_below_infer(refused):
    message = refused("Infer.PostProcess.class_id_map_fil=x", mode="infer")
    assert "did you mean Infer.PostProcess.class_id_map_file?" in message
    message = refused("Infer.transforms.1.NormalizeImage.meen=[0]", mode="infer")
    assert "did you mean Infer.transforms.1.NormalizeImage.mean?" in message


def test_arguments_without_a_near_one(refused):
    message = refused("DataLoader.Train.sampler.colour=red")
    assert message.startswith("DataLoader.Train.sampler.colour is unknown: DistributedBatchSampler takes batch_size")


def test_missing_arguments(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, message in (
        (("DataLoader", "Train", "sampler", "batch_size"), "DataLoader.Train.sampler has no batch_size, which Distri"),
        (("Loss", "Train", 0, "CELoss", "weight"), "Loss.Train.0.CELoss has no weight"),
    ):
        changed = copy.deepcopy(config)
        node = changed
        for part in path[:-1]:
            node = node[part]
        del node[path[-1]]
        with pytest.raises(PpclsExtError) as caught:
            prepared(changed, "train")
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Global.epochs=.inf", "Global.epochs is '.inf': expected a whole"),
        ("Global.epochs=1e999", "Global.epochs is inf: expected a finite number"),
        ("Global.epochs=0", "Global.epochs is 0: expected a whole number from 1"),
        ("Global.epochs=-1", "Global.epochs is -1: expected a whole number from 1"),
        ("Global.epochs=1.5", "Global.epochs is 1.5: expected a whole number"),
        ("Global.epochs=many", "Global.epochs is 'many': expected a whole number"),
        ("Global.epochs=True", "Global.epochs is True: expected a whole number"),
        ("Global.seed=-1", "Global.seed is -1: expected a whole number from 0"),
        ("Global.seed=1e30", "Global.seed is 1e+30: expected a whole number"),
        ("Global.seed=10**30", "Global.seed is "),
        ("Global.print_batch_step=0", "Global.print_batch_step is 0"),
        ("Global.save_interval=-2", "Global.save_interval is -2"),
        ("Global.eval_interval=0", "Global.eval_interval is 0"),
        ("Global.eval_during_train=flase", "Global.eval_during_train is 'flase': expected true or false"),
        ("DataLoader.Train.sampler.batch_size=0", "DataLoader.Train.sampler.batch_size is 0"),
        ("DataLoader.Train.sampler.batch_size=-8", "DataLoader.Train.sampler.batch_size is -8"),
        ("DataLoader.Train.sampler.batch_size=eight", "DataLoader.Train.sampler.batch_size is 'eight'"),
        ("DataLoader.Train.sampler.shuffle=yes please", "DataLoader.Train.sampler.shuffle is 'yes please'"),
        ("DataLoader.Train.loader.num_workers=-1", "DataLoader.Train.loader.num_workers is -1"),
        ("Arch.class_num=100000000000", "Arch.class_num is 100000000000: expected a whole number from 0 to"),
        ("Arch.class_num=-2", "Arch.class_num is -2"),
        ("Arch.class_num=two", "Arch.class_num is 'two'"),
        ("Optimizer.lr.learning_rate=nan", "Optimizer.lr.learning_rate is 'nan': expected a number from 0"),
        ("Optimizer.lr.learning_rate=-1", "Optimizer.lr.learning_rate is -1: expected a number from 0"),
        ("Optimizer.lr.learning_rate=fast", "Optimizer.lr.learning_rate is 'fast': expected a number"),
        ("Optimizer.lr.warmup_epoch=some", "Optimizer.lr.warmup_epoch is 'some': expected a number"),
        ("Optimizer.momentum=much", "Optimizer.momentum is 'much': expected a number from 0"),
        ("Loss.Train.0.CELoss.weight=heavy", "Loss.Train.0.CELoss.weight is 'heavy': expected a number"),
        ("Loss.Train.0.CELoss.weight=1e999", "Loss.Train.0.CELoss.weight is inf: expected a finite number"),
        ("Optimizer.lr.learning_rate=1" + "0" * 40, "Optimizer.lr.learning_rate is too large a number"),
    ],
)
def test_numbers(refused, override, message):
    assert refused(override).startswith(message)


@pytest.mark.parametrize("mode", ["eval", "infer"])
def test_numbers_of_other_modes(refused, mode):
    override = "Infer.batch_size=0" if mode == "infer" else "DataLoader.Eval.sampler.batch_size=0"
    assert "is 0: expected a whole number from 1" in refused(override, mode=mode)


@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "!!float nan"])
def test_numbers_of_a_file(config_file, tmp_path, registered, text):
    path = tmp_path / "x.yml"
    path.write_text(config_file.read_text().replace("learning_rate: 0.01", f"learning_rate: {text}"))
    with pytest.raises(PpclsExtError, match=r"Optimizer\.lr\.learning_rate is -?(inf|nan): expected a finite number"):
        prepared(load_config(path), "train")


def test_integer_keys(config, registered):
    for section in ("Global", "Arch", "Optimizer"):
        changed = copy.deepcopy(config)
        changed[section][7] = 1
        with pytest.raises(PpclsExtError, match=rf"{section}\.7 is a field named by a int"):
            prepared(changed, "train")


def test_numbers_as_paddleclas_reads_them(config_file, tmp_path, monkeypatch):
    """To YAML 1e-3 is a text, to PaddleClas a number."""
    monkeypatch.chdir(tmp_path)
    config = load_config(config_file)
    config["Optimizer"]["lr"]["learning_rate"] = "1e-3"
    config["Optimizer"]["momentum"] = "0.8"
    assert prepared(config, "train")["Optimizer"]["lr"]["learning_rate"] == 1e-3
