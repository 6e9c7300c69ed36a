"""Running statistics that are computed anew: `Recipe.precise_statistics`."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

import ppcls_ext
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.precise_statistics import BATCHES, compute_statistics, first_images, learning_norms
from ppcls_ext.training.recipe import STATISTICS
from tests.helpers import build_engine

pytestmark = pytest.mark.usefixtures("registered")

ARCHS = ["MobileOne_S0", "MobileOne_S4", "RepVGG_A0", "RepVGG_D2se", "FasterNet_T0"]


def state_of(network) -> dict:
    return {name: value.numpy() for name, value in network.state_dict().items()}


def build(name: str, class_num: int = 4):
    paddle.seed(0)
    network = ppcls_ext.build(name, class_num=class_num, **({"num_conv_branches": 1} if name == "MobileOne_S0" else {}))
    network.train()
    return network


def images(count: int, size: int = 64) -> paddle.Tensor:
    """Noise, of which the last image is far brighter than the others."""
    noise = np.random.default_rng(0).standard_normal((count, 3, size, size)).astype("float32")
    noise[-1] *= 10
    return paddle.to_tensor(noise)


@pytest.mark.parametrize("name", ARCHS)
def test_an_evaluation_is_the_training_step_of_one_large_batch(name):
    network, batch = build(name), images(12)
    norms = learning_norms(network)
    expected = state_of(network)
    for norm in norms:
        norm._momentum = 0.0
    with paddle.no_grad():
        network(batch)  # of all images at once
    whole = state_of(network)
    for norm in norms:
        norm._momentum = 0.9
    with paddle.no_grad():
        network(images(4))  # other statistics to begin with
    compute_statistics(network, [batch[:5], batch[5:8], batch[8:]])
    state = state_of(network)
    for key in state:
        if key.endswith(STATISTICS):
            error = np.abs(state[key] - whole[key]).max() / np.abs(whole[key]).max()
            assert error < 2e-2, key  # a deep network in float32 with noise for weights
        else:
            assert np.array_equal(state[key], expected[key]), key
    network.eval()
    with paddle.no_grad():
        logits = network(batch)
    assert bool((logits.abs() < 100).all())


def test_modes_momenta_and_random_numbers_stay():
    network = build("FasterNet_T0")
    network.freeze(1)
    before, modes = state_of(network), [layer.training for layer in network.sublayers(include_self=True)]
    numbers = paddle.get_rng_state()[0].current_seed(), np.random.get_state()[1].tolist()
    compute_statistics(network, [images(4)])
    assert modes == [layer.training for layer in network.sublayers(include_self=True)]
    assert numbers == (paddle.get_rng_state()[0].current_seed(), np.random.get_state()[1].tolist())
    assert all(norm._momentum == 0.9 for norm in learning_norms(network))
    changed = [key for key, value in state_of(network).items() if not np.array_equal(value, before[key])]
    assert changed
    assert all(key.endswith(STATISTICS) for key in changed)
    assert not any(key.startswith(("patch_embed", "stages.0")) for key in changed), "frozen"
    assert any(key.startswith("stages.6") for key in changed)


def trained(config, tmp_path, monkeypatch, recipe: dict, **options):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "MobileOne_S0"
    config["Arch"]["num_conv_branches"] = 1
    config["Global"].update({"epochs": 2, "eval_during_train": True, "seed": 1, **options})
    config["Recipe"] = recipe
    return build_engine(config, "train")


@pytest.mark.parametrize("ema", [{}, {"ema": {"decay": 0.9}}], ids=["weights", "average"])
def test_what_is_evaluated_and_saved_has_them(config, tmp_path, monkeypatch, ema):
    """The last epoch is evaluated with the statistics of the training images, and its files hold them."""
    engine = trained(config, tmp_path, monkeypatch, {**ema, "precise_statistics": {}})
    chunks, seen = [], []
    original, evaluate = first_images, engine.eval
    monkeypatch.setattr(
        "ppcls_ext.training.recipe.first_images", lambda *given: chunks.append(original(*given)) or chunks[-1]
    )

    def spy(number):
        with engine.recipe.evaluated():
            seen.append(state_of(engine.network))
        return evaluate(number)

    engine.eval = spy
    engine.train()
    assert len(chunks) == len(seen) == 2
    saved = paddle.load(str(engine.folder / ("latest.ema.pdparams" if ema else "latest.pdparams")))
    network = build("MobileOne_S0", 2)
    network.set_state_dict(saved)
    for norm in learning_norms(network):
        norm._mean.set_value(paddle.zeros_like(norm._mean))
    compute_statistics(network, chunks[-1])
    anew = state_of(network)
    for key, value in anew.items():
        np.testing.assert_array_equal(np.asarray(saved[key]), seen[-1][key], err_msg=key)
        spread = np.sqrt(anew[key.replace("._mean", "._variance")]) if key.endswith("._mean") else np.abs(value)
        assert (np.abs(np.asarray(saved[key]) - value) <= 5e-3 * spread + 1e-6).all(), key


def test_images_are_augmented_and_not_mixed(config, tmp_path, monkeypatch):
    config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] = [
        {"OpSampler": {"MixupOperator": {"alpha": 50.0, "prob": 1.0}}}
    ]
    config["Metric"]["Train"] = None
    engine = trained(config, tmp_path, monkeypatch, {})
    loader = engine.train_dataloader
    mixed = next(iter(loader))
    assert mixed[1].ndim == 2
    assert mixed[1].shape[1] > 1, "labels of two images"
    given = loader.collate_fn
    chunks = first_images(loader, None)
    assert loader.collate_fn is given
    size = loader.batch_sampler.batch_size
    assert len(chunks) == min(BATCHES, len(loader))
    assert all(tuple(chunk.shape) == (size, *mixed[0].shape[1:]) for chunk in chunks)
    assert len(first_images(loader, size + 1)) == min(2, len(loader))
    colours = chunks[0].reshape([size, -1])
    distances = [float((colours - other).abs().max(1).min()) for other in mixed[0].reshape([size, -1])]
    assert max(distances) > 0.1, "none of those that were mixed"


def test_only_where_it_is_evaluated_and_at_the_end(config, tmp_path, monkeypatch):
    engine, computed = trained(config, tmp_path, monkeypatch, {"precise_statistics": {}}, epochs=5, eval_interval=2), []
    monkeypatch.setattr(engine.recipe, "compute_statistics", lambda loader: computed.append(engine.train_dataloader))
    engine.train()
    assert len(computed) == 3, "after epochs 2, 4 and 5"


@pytest.mark.parametrize("evaluated", [True, False])
def test_where_they_cannot_be_computed_the_epoch_is_saved(config, tmp_path, monkeypatch, evaluated):
    recipe = {"precise_statistics": {}}
    engine = trained(config, tmp_path, monkeypatch, recipe, epochs=1, eval_during_train=evaluated)

    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr("ppcls_ext.training.recipe.first_images", fail)
    with pytest.raises(PpclsExtError, match="epoch 1 failed, and that epoch is saved as latest: MemoryError: no room"):
        engine.train()
    assert (engine.folder / "latest.pdparams").is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": 0}, "Recipe.precise_statistics.images is 0: expected a whole number of at least 1"),
        ({"pictures": 8}, "Recipe.precise_statistics"),
        (True, "Recipe.precise_statistics is True"),
    ],
)
def test_wrong_settings(config, tmp_path, monkeypatch, given, said):
    with pytest.raises(PpclsExtError) as error:
        trained(config, tmp_path, monkeypatch, {"precise_statistics": given})
    assert str(error.value).startswith(said)


def test_another_projects_network_is_refused(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "ResNet18"
    config["Recipe"] = {"precise_statistics": {}}
    with pytest.raises(PpclsExtError, match="models only, and Arch\\.name is ResNet18"):
        build_engine(config, "train")
