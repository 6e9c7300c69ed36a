"""The section `Recipe`, observed in the updates of real trainings: each part does what it promises, and resumes."""

from __future__ import annotations

import math
import random

import numpy as np
import paddle
import pytest

import ppcls_ext
from ppcls_ext.config.recipe import Stage
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.repvgg import custom_l2
from ppcls_ext.training.recipe import Curriculum
from tests.training.conftest import Noted, arrays

OUTPUT = "output/FasterNet_T0"


def by_hand(records: list[dict], start: dict, decays: list[float]) -> dict[str, np.ndarray]:
    average = {name: array.astype("float64") for name, array in start.items()}
    for record, decay in zip(records, decays):
        for name, array in record["after"].items():
            average[name] = decay * average[name] + (1 - decay) * array
    return average


def assert_same(state: dict, expected: dict, atol: float = 2e-6) -> None:
    assert set(state) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(np.asarray(state[name]), value, atol=atol, err_msg=name)


def load(path: str) -> dict[str, np.ndarray]:
    return arrays(paddle.load(f"{OUTPUT}/{path}.pdparams"))


@pytest.mark.parametrize(
    ("ema", "decays"),
    [
        ({"decay": 0.9, "warmup": False}, [0.9] * 6),
        ({"decay": 0.35}, [1 / 10, 2 / 11, 3 / 12, 4 / 13, 0.35, 0.35]),
    ],
)
def test_average_is_the_published_formula(engine, updates, config, ema, decays):
    config["Global"]["epochs"] = 2
    built = engine(ema=ema)
    start, records = arrays(built.model.state_dict()), updates(built)
    built.train()
    assert len(records) == len(decays)
    expected = by_hand(records, start, decays)
    assert_same(load("latest.ema"), expected)
    assert_same(load("latest"), records[-1]["after"], atol=0)
    far = max(np.abs(expected[name] - records[-1]["after"][name]).max() for name in expected)
    assert far > 1e-3, "average and trained weights have to differ, running statistics included"


def test_average_is_evaluated_and_saved_as_best(engine, config):
    built = engine(ema={"decay": 0.5, "warmup": False})
    seen = {}

    def observe(model, inputs):
        if not model.training:
            seen.update(arrays(model.state_dict()))

    built.model.register_forward_pre_hook(observe)
    built.train()
    assert_same(seen, load("latest.ema"), atol=0)
    assert_same(load("best_model"), seen, atol=0)
    assert_same(load("epoch_1.ema"), seen, atol=0)
    assert_same(arrays(built.model.state_dict()), load("latest"), atol=0)
    assert any((load("latest")[name] != seen[name]).any() for name in seen)


def test_evaluation_that_fails_leaves_the_trained_weights(engine):
    built = engine(ema={"decay": 0.5})
    built.recipe.begin(None)
    for parameter in built.model.parameters():
        parameter.set_value(parameter + 1)
    trained = arrays(built.model.state_dict())

    def fail(model, inputs):
        raise KeyboardInterrupt

    built.model.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        built.eval()
    assert_same(arrays(built.model.state_dict()), trained, atol=0)


def test_without_recipe_nothing_is_added(engine, tmp_path):
    engine().train()
    assert not list((tmp_path / OUTPUT).glob("*.ema.*"))


def test_resuming_needs_the_average(engine, config, tmp_path):
    engine().train()
    config["Global"].update(checkpoints=f"{OUTPUT}/latest", epochs=2)
    with pytest.raises(PpclsExtError, match=r"Recipe\.ema: Global\.checkpoints has no average beside it"):
        engine(ema={"decay": 0.5})


def norm(arrays) -> float:
    return float(np.sqrt(sum(np.square(array, dtype="float64").sum() for array in arrays)))


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_gradients_are_scaled_down_together(engine, updates, config, limit):
    config["Global"]["eval_during_train"] = False
    config["Optimizer"].pop("regularizer", None)
    built = engine(clip_global_norm=limit)
    records = updates(built)
    built.train()
    first = records[0]  # the velocity is the gradient
    total = norm(first["gradients"].values())
    assert total > 1
    scale = min(1, limit / total) * first["lr"]
    for name, gradient in first["gradients"].items():
        move = first["before"][name].astype("float64") - first["after"][name]
        np.testing.assert_allclose(move, scale * gradient, atol=1e-6, err_msg=name)
    moved = norm(first["before"][name].astype("float64") - first["after"][name] for name in first["gradients"])
    assert moved == pytest.approx(scale * total, rel=1e-3)


def test_adamw_sees_clipped_gradients(engine, config):
    config["Global"]["eval_during_train"] = False
    config["Optimizer"].pop("momentum")
    config["Optimizer"].update(name="AdamW", weight_decay=0.0)
    built = engine(clip_global_norm=1e-3)
    built.train()
    (optimizer,) = built.optimizer
    second = [value for name, value in optimizer.state_dict().items() if "moment2" in name]
    assert second
    # each update adds a thousandth of a squared gradient; all gradients together have the norm 1e-3 at most
    updates = built.config["Global"]["epochs"] * len(built.train_dataloader)
    assert 0 < sum(float(value.sum()) for value in second) <= updates * 1e-3 * 1e-6 * 1.01


COEFFICIENT = 0.01


def test_gradients_and_loss(engine, updates, config):
    config["Arch"]["name"] = "RepVGG_A0"
    config["Global"]["eval_during_train"] = False
    gradients, losses = [], []
    for recipe in ({}, {"custom_l2": COEFFICIENT, "weight_decay": {"start": 0.1, "end": 0.1}}):
        built = engine(**recipe)
        penalty = float(custom_l2(built.model))
        records, noted = updates(built), Noted()
        built.observers.append(noted)
        built.train()
        losses.append(noted.batches[0].loss)
        gradients.append(records[0]["gradients"])
        before, after, rate = records[0]["before"], records[0]["after"], records[0]["lr"]
    added = losses[1] - losses[0]
    # running statistics have moved once before the first loss
    assert added == pytest.approx(COEFFICIENT / 2 * penalty, rel=0.1)
    kernel = "stage2.0.rbr_dense.conv.weight"
    ring = np.ones((3, 3), bool)
    ring[1, 1] = False
    moved = gradients[1][kernel] - gradients[0][kernel]
    np.testing.assert_allclose(moved[..., ring], COEFFICIENT * before[kernel][..., ring], atol=1e-5)
    update = (before[kernel] - after[kernel]) / rate
    np.testing.assert_allclose(update, gradients[1][kernel], atol=1e-4, err_msg="no other decay of this kernel")
    update = (before["linear.weight"] - after["linear.weight"]) / rate - gradients[1]["linear.weight"]
    np.testing.assert_allclose(update, 0.1 * before["linear.weight"], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "optimizer"), [("FasterNet_T0", "Momentum"), ("FasterNet_T0", "AdamW"), ("RepVGG_A0", "Momentum")]
)
def test_head_moves_ten_times_as_far(engine, updates, config, name, optimizer):
    config["Arch"]["name"] = name
    config["Global"]["eval_during_train"] = False
    if optimizer == "AdamW":
        config["Optimizer"].pop("momentum")
        config["Optimizer"].update(name="AdamW", weight_decay=0.0)
    moves = {}
    for factor in (1, 10):
        built = engine(head_learning_rate=factor)
        records = updates(built)
        built.train()
        first = records[0]
        moves[factor] = {
            key: first["after"][key].astype("float64") - first["before"][key] for key in first["gradients"]
        }
    for key, move in moves[1].items():
        ratio = 10 if key.startswith(("head.", "linear.")) else 1
        np.testing.assert_allclose(moves[10][key], ratio * move, atol=2e-6, err_msg=key)
    assert sum(key.startswith(("head.", "linear.")) for key in moves[1]) == 2


START, END = 0.2, 0.05  # large, to be seen in float32


def expected_coefficient(step: int, steps: int) -> float:
    return END + (START - END) * (1 + math.cos(math.pi * step / steps)) / 2


def momentum_coefficients(record: dict, velocities: dict, clip: float | None = None) -> dict[str, float]:
    """The decay of each kernel in one update of Momentum, from what the update did; `velocities` is carried along."""
    coefficients = {}
    for name, gradient in record["gradients"].items():
        before, after = (record[when][name].astype("float64") for when in ("before", "after"))
        velocity = (before - after) / record["lr"]
        norm = np.linalg.norm(gradient)
        if clip is not None and norm > clip:
            gradient = gradient * (clip / norm)
        added = velocity - 0.9 * velocities.get(name, 0.0) - gradient
        velocities[name] = velocity
        if before.any():  # a bias that is still 0 tells nothing
            coefficients[name] = float((added * before).sum() / (before**2).sum())
    return coefficients


@pytest.mark.parametrize("clip", [None, 0.01])
def test_momentum_adds_it_behind_clipping(engine, updates, config, clip):
    config["Global"].update(epochs=2, eval_during_train=False)
    config["Optimizer"]["lr"]["learning_rate"] = 0.05
    if clip:
        config["Optimizer"]["clip_norm"] = clip
    built = engine(weight_decay={"start": START, "end": END})
    records, velocities = updates(built), {}
    built.train()
    assert len(records) == 6
    for step, record in enumerate(records):
        coefficients = momentum_coefficients(record, velocities, clip)
        for name, coefficient in coefficients.items():
            is_kernel = record["before"][name].ndim > 1
            expected = expected_coefficient(step, 6) if is_kernel else 0.0
            assert coefficient == pytest.approx(expected, abs=2e-3 if is_kernel else 2e-2), name


def test_adamw_shrinks_the_weights(engine, updates, config):
    config["Global"].update(epochs=1, eval_during_train=False)
    config["Optimizer"] = {"name": "AdamW", "lr": {"name": "Cosine", "learning_rate": 0.01}}
    built = engine(weight_decay={"start": START, "end": END})
    records = updates(built)
    built.train()
    moments = dict.fromkeys(records[0]["gradients"], (0.0, 0.0))
    for step, record in enumerate(records):
        for name, gradient in record["gradients"].items():
            first, second = moments[name]
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.astype("float64") ** 2
            moments[name] = first, second
            adam = first / (1 - 0.9 ** (step + 1)) / (np.sqrt(second / (1 - 0.999 ** (step + 1))) + 1e-8)
            before = record["before"][name].astype("float64")
            decay = expected_coefficient(step, 3) if before.ndim > 1 else 0.0
            expected = before * (1 - record["lr"] * decay) - record["lr"] * adam
            np.testing.assert_allclose(record["after"][name], expected, atol=2e-5, err_msg=name)


def test_amp_calls_another_method(engine, updates, config):
    """PaddleClas 2.4 calls `minimize` there instead of `step`."""
    config["Global"].update(epochs=1, eval_during_train=False)
    config["AMP"] = {"use_amp": True, "level": "O1"}
    built = engine(weight_decay={"start": START, "end": END}, ema={"decay": 0.5})
    records, velocities = updates(built), {}
    built.train()
    assert len(records) == 3
    for step, record in enumerate(records):
        assert momentum_coefficients(record, velocities)["head.weight"] == pytest.approx(
            expected_coefficient(step, 3), abs=2e-3
        )


def test_gradients_are_left_as_they_were(engine, updates, config):
    """The decay is the optimizer's: whoever looks at the gradients sees the loss's."""
    config["Global"].update(epochs=1, eval_during_train=False)
    gradients = []
    for recipe in ({}, {"weight_decay": {"start": START, "end": END}}):
        built = engine(**recipe)
        records = updates(built)
        built.train()
        gradients.append(records[0]["gradients"])
    for name, gradient in gradients[0].items():
        np.testing.assert_array_equal(gradients[1][name], gradient, err_msg=name)


def crop_and_augment(config, policy: dict) -> None:
    operators = config["DataLoader"]["Train"]["dataset"]["transform_ops"]
    operators[1:1] = [{"RandCropImage": {"size": 32}}, policy]


def observe_sizes(engine) -> list[tuple[int, int]]:
    sizes = []

    def record(layer, inputs):
        if layer.training:
            sizes.append(tuple(inputs[0].shape[2:]))

    engine.model.register_forward_pre_hook(record)
    return sizes


@pytest.mark.parametrize("workers", [0, 1])
def test_network_sees_each_size(engine, config, workers):
    crop_and_augment(config, {"AutoAugment": None})
    config["Global"]["epochs"] = 3
    config["DataLoader"]["Train"]["loader"]["num_workers"] = workers
    built = engine(progressive=[{"epoch": 1, "size": 32, "strength": 0.3}, {"epoch": 2, "size": 64}])
    sizes = observe_sizes(built)
    built.train()
    assert sizes == [(32, 32)] * 3 + [(64, 64)] * 6


def test_epochs_that_end_early(engine, config):
    """PaddleClas develop then goes on with the same iterator, which has prepared pictures already."""
    crop_and_augment(config, {"AutoAugment": None})
    config["Global"].update(epochs=2, iter_per_epoch=1, eval_during_train=False)
    built = engine(progressive=[{"epoch": 1, "size": 32}, {"epoch": 2, "size": 64}])
    sizes = observe_sizes(built)
    built.train()
    half = len(sizes) // 2
    assert sizes == [(32, 32)] * half + [(64, 64)] * half


def test_resuming_starts_in_the_right_stage(engine, config, fresh_process):
    crop_and_augment(config, {"AutoAugment": None})
    progressive = [{"epoch": 1, "size": 32}, {"epoch": 2, "size": 64}]
    with fresh_process():
        engine(progressive=progressive).train()
    config["Global"].update(checkpoints="output/FasterNet_T0/latest", epochs=2, eval_during_train=False)
    with fresh_process():
        built = engine(progressive=progressive)
        sizes = observe_sizes(built)
        built.train()
    assert sizes == [(64, 64)] * 3


@pytest.mark.parametrize("policy", ["AutoAugment", "RandAugment", "TimmAutoAugment"])
def test_share_of_augmented_images(config, registered, policy):
    """Half of the pictures pass through untouched, and at strength 1 none does more often than without a recipe."""
    from ppcls.data import ImageNetDataset

    random.seed(7)
    options = {"config_str": "rand-m9-mstd0.5-inc1"} if policy == "TimmAutoAugment" else None
    crop_and_augment(config, {policy: options})
    settings = config["DataLoader"]["Train"]["dataset"]
    dataset = ImageNetDataset(settings["image_root"], settings["cls_label_path"], settings["transform_ops"])
    curriculum = Curriculum([Stage(1, 32, 0.5), Stage(3, None, 0.0), Stage(5, 64, 1.0)], dataset)
    calls = []
    sometimes = dataset._transform_ops[2]
    operator, picture = sometimes._operator, np.zeros((32, 32, 3), "uint8")
    sometimes._operator = lambda image: calls.append(1) or operator(image)
    for epoch, expected in ((1, 200), (2, 200), (3, 0), (4, 0), (5, 400)):
        calls.clear()
        curriculum.set(epoch)
        for _ in range(400):
            sometimes(picture)
        assert len(calls) == pytest.approx(expected, abs=0 if expected in (0, 400) else 60), epoch
    assert dataset[0][0].shape == (3, 64, 64)


def test_stages_beyond_the_last_epoch_are_named(engine, config, tmp_path):
    crop_and_augment(config, {"AutoAugment": None})
    engine(progressive=[{"epoch": 1, "size": 32}, {"epoch": 39, "size": 64}])
    log = (tmp_path / "output" / "FasterNet_T0" / "train.log").read_text()
    assert "the stages from epoch 39 are not reached in 1 epochs" in log


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
