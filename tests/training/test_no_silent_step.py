"""What would train nothing, or something else than was meant, is refused or said before the first step."""

from __future__ import annotations

import logging

import pytest

from ppcls_ext.errors import PpclsExtError
from tests.helpers import build_engine, prepared

pytestmark = pytest.mark.usefixtures("registered")

CROP = {"CropImage": {"size": 28}}


@pytest.fixture(autouse=True)
def small(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"


@pytest.mark.parametrize("recipe", [{}, {"ema": {"decay": 0.9}}])
@pytest.mark.parametrize("arch", [{"freeze_befor": "head"}])
def test_a_frozen_net(config, arch, recipe):
    config["Arch"].update(arch)
    config["Recipe"] = recipe
    engine = build_engine(config)
    name = arch["freeze_befor"]
    with pytest.raises(PpclsExtError, match=rf"nothing learns: .*Arch\.freeze_befor is {name}"):
        engine.train()
    assert not list(engine.folder.glob("*.pdparams"))


def test_a_net_that_learns_in_part_trains(config):
    config["Arch"]["freeze_befor"] = "avgpool_pre_head"
    build_engine(config).train()


def test_a_sampler_without_batches(config):
    sampler = {"name": "PKSampler", "batch_size": 8, "sample_per_id": 2, "drop_last": False, "shuffle": True}
    config["DataLoader"]["Train"]["sampler"] = sampler
    with pytest.raises(PpclsExtError, match=r"cannot build the section DataLoader: AssertionError: batch size"):
        build_engine(config).train()


@pytest.mark.parametrize("shape", [[1, 32, 32], [4, 32, 32], [32, 32], [3, 32], "3,32,32"])
@pytest.mark.parametrize("mode", ["train", "eval", "export"])
def test_image_shapes_that_are_not_rgb(config, shape, mode):
    config["Global"]["image_shape"] = shape
    with pytest.raises(PpclsExtError, match=r"Global\.image_shape is .*: expected \[3, height, width\]"):
        prepared(config, mode)


@pytest.mark.parametrize("resize", [{"resize_short": 20}, {"size": 20}, {"size": [40, 20]}])
@pytest.mark.parametrize(
    ("loader", "mode"), [("Train", "train"), ("Eval", "train"), ("Eval", "eval"), ("Infer", "infer")]
)
def test_a_crop_larger_than_the_image(config, resize, loader, mode):
    transforms = config["Infer"]["transforms"] if loader == "Infer" else None
    if transforms is None:
        transforms = config["DataLoader"][loader]["dataset"]["transform_ops"]
    transforms[1:1] = [{"ResizeImage": resize}, CROP]
    where = "Infer.transforms" if loader == "Infer" else rf"DataLoader.{loader}.dataset.transform_ops"
    with pytest.raises(PpclsExtError, match=rf"{where}: CropImage takes 28 × 28 px of an image of .* px: lower"):
        prepared(config, mode)
    transforms[1] = {"ResizeImage": {"resize_short": 28}}
    prepared(config, mode)


@pytest.mark.parametrize(
    ("batch", "drop_last", "said"),
    [(1, False, "batches of one image"), (23, False, "a last batch of one image"), (23, True, None), (8, False, None)],
)
def test_batches_of_one_image_of_one_pixel(config, caplog, monkeypatch, batch, drop_last, said):
    monkeypatch.setattr(logging.getLogger("ppcls_ext"), "propagate", True)
    config["DataLoader"]["Train"]["sampler"].update(batch_size=batch, drop_last=drop_last)
    prepared(config, "train")
    lines = [record.getMessage() for record in caplog.records if "of one image" in record.getMessage()]
    assert len(lines) == (said is not None)
    if said:
        assert said in lines[0]
        assert "learns nothing" in lines[0]
    config["Global"]["image_shape"] = [3, 64, 64]
    caplog.clear()
    prepared(config, "train")
    assert "of one image" not in caplog.text


FAILS = r"DataLoader\.LOADER\.dataset\.transform_ops\.1\.NormalizeImage fails on .*png, which can be read: "


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3}, FAILS),  # of order chw
        (
            {"scale": "1.0/255.0", "mean": [0.5] * 5, "std": [0.5] * 5, "order": ""},
            "cannot build the section DataLoader",
        ),
    ],
)
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_wrong_transform_does_not_blame_the_image(config, options, said, mode):
    loader = "Train" if mode == "train" else "Eval"
    config["DataLoader"][loader]["dataset"]["transform_ops"][-1] = {"NormalizeImage": options}
    with pytest.raises(PpclsExtError, match=said.replace("LOADER", loader)):
        build_engine(config, mode)


@pytest.mark.parametrize(
    ("change", "mode", "said"),
    [
        ({"Global": {"use_dali": True}}, "train", r"Global\.use_dali"),
        ({"Global": {"eval_mode": "retrieval"}}, "train", r"DataLoader\.Eval.*Gallery"),
        ({"Global": {"eval_mode": "retrieval"}}, "eval", r"DataLoader\.Eval.*Gallery"),
        ({"Arch": {"class_num": 1}}, "train", r"class_num is 1"),
    ],
)
def test_raw_errors_of_the_host_are_one_line(config, dataset, tmp_path, change, mode, said):
    for section, fields in change.items():
        config[section].update(fields)
    if "class_num" in str(change):
        config["Infer"]["PostProcess"]["class_id_map_file"] = None
        for loader in ("Train", "Eval"):
            path = tmp_path / f"{loader}.txt"
            path.write_text((dataset / "train_list.txt").read_text().replace(".png 1", ".png 0"))
            config["DataLoader"][loader]["dataset"]["cls_label_path"] = str(path)
    with pytest.raises(PpclsExtError, match=said):
        getattr(build_engine(config, mode), mode)()


def test_inference_without_normalisation(config):
    config["Infer"]["transforms"] = [config["Infer"]["transforms"][0], {"ToCHWImage": None}]
    with pytest.raises(PpclsExtError, match=r"Infer\.transforms .*NormalizeImage"):
        build_engine(config, "infer").infer()


def test_transforms_of_inference_do_not_blame_the_image(config):
    config["Infer"]["transforms"][1] = {"NormalizeImage": {"mean": [0.5] * 3, "std": [0.5] * 3}}  # of order chw
    with pytest.raises(
        PpclsExtError, match=r"Infer\.transforms\.1\.NormalizeImage fails on .*00\.png, which can be read"
    ):
        build_engine(config, "infer").infer()
