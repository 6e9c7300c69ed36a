"""`Arch.in_channels` and sizes that are not square: what follows from them in a configuration."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest

from ppcls_ext.config.checks import check_options
from ppcls_ext.config.folder import compare
from ppcls_ext.config.load import load_config, override
from ppcls_ext.config.recipe import Stage, read_settings
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.config.train_options import set_options
from ppcls_ext.errors import PpclsExtError


def loaded(*overrides: str, **options) -> dict:
    config = load_config("FasterNet_T0")
    set_options(config, options, overrides)
    return override(config, overrides)


def normalized(config: dict) -> list[dict]:
    lists = [config["DataLoader"][loader]["dataset"]["transform_ops"] for loader in ("Train", "Eval")]
    lists.append(config["Infer"]["transforms"])
    return [options["NormalizeImage"] for ops in lists for options in ops if "NormalizeImage" in options]


def step(config: dict, name: str, loader: str = "Eval") -> dict:
    ops = config["DataLoader"][loader]["dataset"]["transform_ops"]
    return next(options[name] for options in ops if name in options)


@pytest.mark.parametrize(
    ("channels", "mean", "how"),
    [
        (1, [0.449], "their mean"),
        (2, [0.485, 0.456], "each in turn"),
        (4, [0.485, 0.456, 0.406, 0.485], "each in turn"),
    ],
)
def test_what_follows_is_set_and_said_once(channels, mean, how, caplog):
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        config = loaded(channels=channels)
        override(config, ())
    assert config["Global"]["image_shape"] == [channels, 224, 224]
    assert [options["mean"] for options in normalized(config)] == [mean] * 3
    assert caplog.text.count(f"Arch.in_channels is {channels}") == 1
    assert f"{how}: mean {mean}" in caplog.text
    rule = RunSettings(config).image_rule()
    assert (rule.channels, list(rule.mean)) == (channels, mean)


def test_numbers_of_the_user_stay_or_are_refused():
    where = "DataLoader.Train.dataset.transform_ops.4.NormalizeImage"
    config = loaded(f"{where}.mean=[0.1, 0.2, 0.3, 0.4]", "Arch.in_channels=4")
    assert [options["mean"][1] for options in normalized(config)] == [0.2, 0.456, 0.456]
    for value, said in (("[0.1, 0.2]", "4: expected 4 numbers"), ("[0.1, 0.2, a]", "those of RGB")):
        with pytest.raises(PpclsExtError, match=said) as caught:
            loaded(f"{where}.mean={value}", "Arch.in_channels=4")
        assert f"{where}.mean" in str(caught.value)
    config = loaded(f"{where}.mean=0.5", "Arch.in_channels=4")
    assert normalized(config)[0]["mean"] == 0.5
    plain = load_config("FasterNet_T0")
    assert loaded("Arch.in_channels=3") == {**plain, "Arch": {**plain["Arch"], "in_channels": 3}}


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "grey", "true", "129"])
def test_a_wrong_number_is_one_line(value):
    with pytest.raises(PpclsExtError, match=r"Arch\.in_channels \(--channels\) is .*, 1 to 128"):
        loaded(f"Arch.in_channels={value}")


def test_a_misspelt_one_and_another_shape():
    with pytest.raises(PpclsExtError, match=r"did you mean Arch\.in_channels"):
        loaded("Arch.in_chanels=1")
    config = loaded("Arch.in_channels=4")
    config["Global"].update(device="cpu", image_shape=[3, 224, 224])
    with pytest.raises(PpclsExtError, match=r"is \[3, 224, 224\]: expected \[4, height, width\]"):
        check_options(config, "infer")


def test_weights_of_other_channels(caplog):
    """A training may start from those of three; nothing else goes together."""
    trained = {count: RunSettings(loaded(f"Arch.in_channels={count}")).trained_with() for count in (1, 3, 4)}
    assert "channels" not in trained[3]["pictures"]
    assert trained[1]["pictures"]["channels"] == 1
    for was, now, mode in ((4, 3, "eval"), (3, 1, "infer"), (1, 3, "export"), (4, 1, "train"), (1, 3, "train")):
        with pytest.raises(PpclsExtError, match=f"of {was} channels?, and the configuration says {now}") as caught:
            compare(Path("w.pdparams"), trained[was], trained[now], mode, [now, 224, 224])
        assert "\n" not in str(caught.value)
    for was, now, mode in ((3, 4, "train"), (4, 4, "eval"), (1, 1, "export"), (3, 3, "infer")):
        compare(Path("w.pdparams"), trained[was], trained[now], mode, [now, 224, 224])
    old = json.loads(json.dumps(trained[3]))
    old["pictures"] = None
    compare(Path("w.pdparams"), old, trained[4], "eval", [4, 224, 224])


@pytest.mark.parametrize("given", ["128x96", "[128, 96]", [128, 96], "128×96"])
def test_height_and_width(given):
    options = {} if isinstance(given, str) and given.startswith("[") else {"size": given}
    config = loaded(*([] if options else [f"Global.image_size={given}"]), **options)
    assert config["Global"]["image_shape"] == [3, 128, 96]
    assert "image_size" not in config["Global"]
    crop = step(config, "RandCropImage", "Train")
    assert (crop["size"], crop["ratio"]) == ([96, 128], [0.5625, 1.0])
    assert step(config, "ResizeImage") == {"size": [110, 146], "interpolation": "bilinear", "backend": "cv2"}
    assert step(config, "CropImage") == {"size": [96, 128]}
    rule = RunSettings(config).image_rule()
    assert (rule.resize, rule.crop, rule.image_size) == ((110, 146), (96, 128), (96, 128))


def test_there_and_back():
    """Another size keeps the proportions of resize and crop, whatever it was before."""
    config = loaded(size=[128, 96])
    override(config, ["Global.image_size=[64, 48]"])
    assert step(config, "ResizeImage")["size"] == [55, 73]
    assert step(config, "RandCropImage", "Train")["ratio"] == [0.5625, 1.0]
    override(config, ["Global.image_size=[48, 64]"])
    assert step(config, "CropImage")["size"] == [64, 48]
    assert step(config, "RandCropImage", "Train")["ratio"] == [1.0, 1.777778]
    override(config, ["Global.image_size=224"])
    assert step(config, "CropImage")["size"] == [224, 224]
    assert step(config, "RandCropImage", "Train")["ratio"] == [0.75, 1.333334]
    assert config["Global"]["image_shape"] == [3, 224, 224]


def test_progressive_sizes_keep_the_proportions():
    config = load_config("ImageNet/MobileOne_S4")
    override(config, ["Global.image_size=[224, 112]"])
    assert read_settings(config).progressive == (
        Stage(1, (160, 80), 0.3),
        Stage(39, (192, 96), 0.6),
        Stage(114, (224, 112), 1.0),
    )
    again = override(copy.deepcopy(config), ["Global.image_size=112"])
    assert [stage.size for stage in read_settings(again).progressive] == [80, 96, 112]
    config["Recipe"]["progressive"][0]["size"] = [160, 0]
    with pytest.raises(PpclsExtError, match=r"progressive\.0\.size is \[160, 0\]: expected"):
        read_settings(config)
