"""PaddleClas's options of training, with a network of each family.

Options that have nothing to do with each other share a run, an optimizer, a schedule and what is done to the pictures:
each is met with every network.
"""

from __future__ import annotations

import itertools

import pytest

from ppcls_ext.onednn.bfloat16 import lacking
from tests.options.table import AMP, ENGINE, MODELS, NEWER_SCHEDULES, OPTIMIZERS, PICTURES, SCHEDULES, picture, setting

pytestmark = pytest.mark.slow
EVERY_SCHEDULE = {**SCHEDULES, **NEWER_SCHEDULES}
RUNS = list(zip(EVERY_SCHEDULE, itertools.cycle(OPTIMIZERS), itertools.cycle(PICTURES)))


def test_every_option_is_in_a_run():
    assert {option for run in RUNS for option in run} == {*EVERY_SCHEDULE, *OPTIMIZERS, *PICTURES}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("schedule", "optimizer", "pictures"), RUNS)
def test_recipes(run, config, schedules, model, schedule, optimizer, pictures):
    config["Arch"]["name"] = model
    config["Global"]["eval_during_train"] = False
    # older versions refuse the newer ones: see test_refused
    EVERY_SCHEDULE[schedule if schedule in {*SCHEDULES, *schedules} else "Constant"](config)
    OPTIMIZERS[optimizer](config)
    PICTURES[pictures](config)
    run(config)


@pytest.mark.parametrize("model", MODELS)
def test_engine(run, config, is_old, tmp_path, caplog, model):
    """All at once: synchronised normalisation, AMP, VisualDL, and where PaddleClas has them EMA and update_freq."""
    config["Arch"]["name"] = model
    for name in ("sync BN", "AMP O1", "VisualDL", "EMA", "update_freq"):
        ENGINE[name](config)
    run(config)
    assert list((tmp_path / "output").rglob("vdlrecords.*"))
    averages = [*(tmp_path / "output").rglob("*.pdema"), *(tmp_path / "output").rglob("*.ema.pdparams")]  # develop, 2.5
    assert bool(averages) != is_old
    said = [record.getMessage() for record in caplog.records if record.name == "ppcls_ext"]
    lack = lacking()
    assert [line for line in said if "AMP" in line] == (
        [] if lack is None else [f"AMP is given, and {lack}: all is computed in float32"]
    )
    assert [line for line in said if "use_sync_bn" in line]
    left_out = [line.split(" is left out")[0] for line in said if "is left out" in line]
    assert left_out == (["EMA", "Global.update_freq"] if is_old else [])


def test_a_training_with_an_average_resumes(run, config, is_old, tmp_path):
    if is_old:
        pytest.skip("this PaddleClas has no EMA")
    config["Arch"]["name"] = "FasterNet_T0"
    ENGINE["EMA"](config)
    run(config)
    config["Global"].update(epochs=2, checkpoints=str(tmp_path / "output" / "FasterNet_T0" / "latest"))
    run(config)


def test_an_epoch_of_paddleclas_own(run, config, is_old):
    """`Global.train_mode`, whose functions for an epoch are called as they are."""
    if is_old:
        pytest.skip("this PaddleClas has no Global.train_mode")
    config["Arch"]["name"] = "FasterNet_T0"
    config["Global"]["train_mode"] = "progressive"
    picture(1, RandCropImage={"size": 32, "progress_size": [24, 32, 32, 32]})(config)
    picture(2, RandFlipImage={"flip_code": 1})(config)
    picture(3, RandAugmentV2={"num_layers": 2, "magnitude": 5, "progress_magnitude": [3, 5, 7, 9]})(config)
    run(config)


@pytest.mark.parametrize("model", MODELS)
def test_amp_o2(run, config, model):
    config["Arch"]["name"] = model
    setting("AMP", {**AMP, "level": "O2"})(config)
    run(config)


@pytest.mark.parametrize("model", MODELS)
def test_to_static(run, config, model):
    config["Arch"]["name"] = model
    config["Global"]["to_static"] = True
    run(config)
