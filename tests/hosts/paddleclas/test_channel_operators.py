"""Operators on images of other channels than RGB: the loader's tensor is what prediction computes, to the last bit."""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.config.load import override
from ppcls_ext.config.prepare import prepare
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.image_input import network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.channel_operators import KNOWN, JitterChannels, NormalizeChannels, with_channels
from tests.data.test_channels import pages_of

pytestmark = pytest.mark.usefixtures("registered")

SIZE = {"ResizeImage": {"resize_short": 36}}, {"CropImage": {"size": 32}}
TALL = {"ResizeImage": {"size": [36, 48]}}, {"CropImage": {"size": [32, 40]}}


def as_channels(config: dict, channels: int, folder, steps=SIZE, **scaling) -> RunSettings:
    """The configuration for images of so many channels, of which it writes some of each shape."""
    bands = np.random.default_rng(0).integers(0, 256, (4, 60, 60, channels), dtype=np.uint8)
    lines = []
    for index, image in enumerate(bands):
        part = image[: 60 - 5 * index, : 40 + 6 * index]
        if channels in (1, 3, 4) and index % 2:
            Image.fromarray(part[:, :, 0] if channels == 1 else part).save(folder / f"{index}.png")
        else:
            data = pages_of(part) if channels != 3 else None
            (folder / f"{index}.png").write_bytes(data) if data else Image.fromarray(part).save(folder / f"{index}.png")
        lines.append(f"{index}.png {index % 2}\n")
    (folder / "list.txt").write_text("".join(lines))
    steps = [
        {name: {**options, **(scaling if name == "ResizeImage" else {})}}
        for step in steps
        for name, options in step.items()
    ]
    for loader in ("Train", "Eval"):
        dataset = config["DataLoader"][loader]["dataset"]
        dataset.update(image_root=str(folder), cls_label_path=str(folder / "list.txt"))
        dataset["transform_ops"][1:1] = steps
    config["Infer"]["transforms"][1:1] = steps
    config["Arch"].update(name="FasterNet_T0", in_channels=channels)
    config["Global"]["output_dir"] = str(folder / "output")
    return RunSettings(override(config, ()))


@pytest.mark.parametrize("steps", [SIZE, TALL], ids=["square", "tall"])
@pytest.mark.parametrize("backend", ["cv2", "pil"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_the_loader_and_prediction_see_the_same(channels, backend, steps, config, tmp_path):
    from ppcls import data
    from ppcls.data import create_operators, preprocess

    settings = as_channels(config, channels, tmp_path, steps, backend=backend, interpolation="bilinear")
    rule = settings.image_rule("eval")
    assert (rule.channels, len(rule.mean)) == (channels, channels)
    prepared = prepare(settings, "eval").config
    options = dict(prepared["DataLoader"]["Eval"]["dataset"])
    dataset = getattr(data, options.pop("name"))(**options)
    inferring = create_operators(prepare(settings, "infer").config["Infer"]["transforms"])
    for index in range(4):
        path = tmp_path / f"{index}.png"
        expected = network_input(path, rule)
        image, _ = dataset[index]
        assert image.dtype == expected.dtype == np.float32
        assert np.array_equal(image, expected)
        assert np.array_equal(preprocess.transform(path.read_bytes(), inferring), expected)
    assert not dataset.listed.failure


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_random_operators_keep_the_channels_together(channels, registered):
    from ppcls.data import create_operators

    plane = np.random.default_rng(0).integers(0, 256, (50, 60, 1), dtype=np.uint8)
    image = np.repeat(plane, channels, axis=2)
    chain = [
        {"RandCropImage": {"size": [32, 40], "interpolation": "random", "backend": backend}}
        for backend in ("cv2", "pil")
    ]
    chain += [{"RandFlipImage": {"flip_code": 1}}, {"ColorJitter": {"brightness": 0.4, "contrast": 0.4}}]
    chain += [{"RandomCropImage": {"size": 30}}, {"RandCropImageV2": {"size": 28}}, {"CropImage": {"size": 24}}]
    operators = create_operators(with_channels(chain, channels, "here"))
    seen = set()
    for seed in range(6):
        random.seed(seed)
        np.random.seed(seed)
        found = image
        for operator in operators:
            found = operator(found)
            assert found.ndim == 3
            assert found.shape[2] == channels
        assert (found == found[:, :, :1]).all(), "all channels are one: so they stay"
        assert found.shape == (24, 24, channels)
        seen.add(found.tobytes())
    assert len(seen) > 3


def test_jitter_is_about_each_channels_mean():
    image = np.full((4, 4, 2), (100, 200), np.uint8)
    image[0] -= 50
    random.seed(0)
    found = JitterChannels(contrast=[2, 2])(image)
    assert found[0, 0].tolist() == [12, 112]
    assert found[1, 0].tolist() == [112, 212]
    assert np.array_equal(JitterChannels(prob=0, brightness=0.5)(image), image)
    assert (JitterChannels(brightness=[3, 3])(image)[1:] == (255, 255)).all()


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", ["MixupOperator", "CutmixOperator", "FmixOperator"])
def test_operators_on_batches_take_any_channels(name, channels):
    from ppcls.data.preprocess.batch_ops import batch_operators

    batch = [[np.full((channels, 40, 32), index, np.float32), np.int64(index)] for index in range(3)]
    mixed = getattr(batch_operators, name)(class_num=3)(batch)
    assert [image.shape for image, _ in mixed] == [(channels, 40, 32)] * 3


@pytest.mark.parametrize("order", ["chw", ""])
def test_numbers_of_each_channel_or_one_for_all(order):
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    axis = 0 if order == "chw" else 2
    found = NormalizeChannels(image.shape[axis], 0.5, [1] * image.shape[axis], "1.0/10.0", order)(image)
    assert np.allclose(found, image / 10 - 0.5)


@pytest.mark.parametrize(
    ("operator", "said"),
    [
        ({"AutoAugment": None}, r"transform_ops\.1\.AutoAugment is for RGB, and Arch\.in_channels is 4: take it out"),
        ({"RandomErasing": {"EPSILON": 0.5}}, "RandomErasing is for RGB"),
        ({"TimmAutoAugment": {"config_str": "rand-m9"}}, "TimmAutoAugment is for RGB"),
    ],
)
def test_an_operator_for_rgb_is_refused_before_anything_is_built(operator, said, config, tmp_path):
    settings = as_channels(config, 4, tmp_path)
    settings.config["DataLoader"]["Train"]["dataset"]["transform_ops"][1:1] = [operator]
    with pytest.raises(PpclsExtError, match=said) as caught:
        prepare(settings, "train")
    assert "\n" not in str(caught.value)


def test_the_list_of_known_operators_is_said():
    with pytest.raises(PpclsExtError) as caught:
        with_channels([{"GridMask": None}], 1, "here")
    assert all(name in str(caught.value) for name in KNOWN)
    with pytest.raises(PpclsExtError, match="channel_first is for 3 channels"):
        with_channels([{"DecodeImage": {"channel_first": True}}], 1, "here")
