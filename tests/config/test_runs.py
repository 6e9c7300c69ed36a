"""A run's folder: found, moved, compared; without Paddle."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml

from ppcls_ext.config.folder import (
    KEY,
    Record,
    changes,
    find_run,
    in_words,
    make_absolute,
    need_weights,
    read_trained_with,
)
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.checkpoint_sets import SetWriter


@pytest.fixture
def settings(config, dataset) -> dict:
    """A configuration with a size that can be described."""
    crop = [{"ResizeImage": {"resize_short": 36}}, {"CropImage": {"size": 32}}]
    config["DataLoader"]["Eval"]["dataset"]["transform_ops"][1:1] = copy.deepcopy(crop)
    config["Infer"]["transforms"] = copy.deepcopy(config["DataLoader"]["Eval"]["dataset"]["transform_ops"])
    config["Infer"]["transforms"].append({"ToCHWImage": None})
    return config


def write_run(folder: Path, settings: dict, *names: str) -> Path:
    """A run's folder with weights of these names."""
    record = Record(folder)
    record.begin(settings, "ppcls-ext train …", resumed=False, **{KEY: RunSettings(settings).trained_with()})
    for name in names:
        writer = SetWriter(folder / name)
        writer.add(folder / f"{name}.pdparams", b"weights")
        writer.commit({"epoch": 1, KEY: RunSettings(settings).trained_with()})
    return folder


@pytest.mark.parametrize(
    ("names", "expected"), [(("latest", "best_model"), "best_model"), (("latest", "epoch_1"), "latest"), ((), None)]
)
def test_the_weights_that_a_folder_stands_for(settings, tmp_path, names, expected):
    run = find_run(write_run(tmp_path / "run", settings, *names))
    assert run.folder == tmp_path / "run"
    assert run.weights == (expected and tmp_path / "run" / f"{expected}.pdparams")
    if expected is None:
        with pytest.raises(PpclsExtError, match="holds no weights"):
            need_weights(run)


@pytest.mark.parametrize("name", ["epoch_1", "epoch_1.pdparams"])
def test_weights_stand_for_their_run(settings, tmp_path, name):
    folder = write_run(tmp_path / "run", settings, "epoch_1", "best_model")
    assert find_run(folder / name) == (folder, folder / "epoch_1.pdparams")


def test_no_run(settings, tmp_path):
    write_run(tmp_path / "output" / "MobileOne_S0", settings)
    with pytest.raises(PpclsExtError, match=r"holds no config\.yml.*; in .*output there is MobileOne_S0"):
        find_run(tmp_path / "output")
    with pytest.raises(PpclsExtError, match="is no run"):
        find_run(tmp_path / "nothing")


def test_paths_become_absolute_and_words_stay(config, tmp_path, monkeypatch):
    (tmp_path / "host" / "ppcls").mkdir(parents=True)
    (tmp_path / "host" / "ppcls" / "names.txt").touch()
    (tmp_path / "weights.pdparams").touch()
    monkeypatch.chdir(tmp_path)
    config["Global"].update(output_dir="./output/", pretrained_model="weights", checkpoints="latest")
    config["Arch"]["pretrained"] = "published"
    config["Infer"].update(infer_imgs="photos/*.jpg")
    config["Infer"]["PostProcess"]["class_id_map_file"] = "ppcls/names.txt"
    config["DataLoader"]["Train"]["dataset"]["image_root"] = "pictures"
    make_absolute(config, tmp_path / "host")
    assert config["Global"]["output_dir"] == str(tmp_path / "output")
    assert config["Global"]["pretrained_model"] == str(tmp_path / "weights")
    assert (config["Global"]["checkpoints"], config["Arch"]["pretrained"]) == ("latest", "published")
    assert config["Infer"]["infer_imgs"] == "photos/*.jpg"
    assert config["Infer"]["PostProcess"]["class_id_map_file"] == str(tmp_path / "host" / "ppcls" / "names.txt")
    assert config["DataLoader"]["Train"]["dataset"]["image_root"] == str(tmp_path / "pictures")


def test_a_moved_run_finds_its_own_lists(config, dataset, tmp_path):
    folder = tmp_path / "output" / "MobileOne_S0"
    config["Global"]["output_dir"] = str(folder.parent)
    config["DataLoader"]["Train"]["dataset"]["cls_label_path"] = str(folder / "lists" / "train_list.txt")
    write_run(folder, config, "latest")
    (folder / "lists").mkdir()
    (folder / "lists" / "train_list.txt").touch()
    folder.rename(tmp_path / "kept")
    moved = yaml.safe_load((tmp_path / "kept" / "config.yml").read_text())
    find_run(tmp_path / "kept").adopt(moved)
    train, evaluation = (moved["DataLoader"][name]["dataset"]["cls_label_path"] for name in ("Train", "Eval"))
    assert train == str(tmp_path / "kept" / "lists" / "train_list.txt")
    assert evaluation == str(dataset / "val_list.txt"), "what lies elsewhere stays"
    assert moved["Global"]["pretrained_model"] == str(tmp_path / "kept" / "latest.pdparams")


def test_what_weights_were_trained_with_goes_where_both_files_are_copied(settings, tmp_path):
    folder = write_run(tmp_path / "run", settings, "best_model")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("best_model.pdparams", "best_model.json"):
        (elsewhere / name).write_bytes((folder / name).read_bytes())
    facts = read_trained_with(elsewhere / "best_model.pdparams")
    assert facts == RunSettings(settings).trained_with()
    assert (facts["architecture"], facts["class_num"], facts["class_names"]) == ("MobileOne_S0", 2, ["red", "green"])
    assert facts["pictures"]["crop"] == [32, 32]
    (elsewhere / "best_model.json").unlink()
    assert read_trained_with(elsewhere / "best_model.pdparams") is None
    (folder / "best_model.json").unlink()
    assert read_trained_with(folder / "best_model.pdparams") == facts, "run.json says it, too"
    (folder / "run.json").write_text("[]")
    assert read_trained_with(folder / "best_model.pdparams") is None


def other(settings: dict, **changed) -> dict:
    """The configuration with another crop or mean in evaluation and inference."""
    for transforms in (settings["DataLoader"]["Eval"]["dataset"]["transform_ops"], settings["Infer"]["transforms"]):
        transforms[2]["CropImage"]["size"] = changed.get("crop", 32)
        transforms[3]["NormalizeImage"]["mean"] = changed.get("mean", [0.5] * 3)
    settings["Global"]["image_shape"] = [3] + [changed.get("crop", 32)] * 2
    return settings


@pytest.mark.parametrize(
    ("mode", "changed", "said"),
    [
        ("eval", {}, None),
        ("eval", {"crop": 24}, "was trained with image size 32×32 px; the configuration says image size 24×24 px"),
        ("infer", {"mean": [0.1] * 3}, "was trained with mean [0.5, 0.5, 0.5]; the configuration says mean [0.1, 0.1"),
        ("export", {"crop": 24}, "the configuration says image size 24×24 px"),
        ("export", {"mean": [0.1] * 3}, None),
        ("train", {"crop": 24}, None),
        ("train", {"crop": 24, "mean": [0.1] * 3}, "the configuration says mean [0.1, 0.1, 0.1]"),
    ],
)
def test_differences_are_one_line(settings, tmp_path, caplog, mode, changed, said):
    weights = write_run(tmp_path, settings, "best_model") / "best_model.pdparams"
    RunSettings(other(settings, **changed)).check_weights(weights, mode)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == bool(said)
    assert not said or (said in messages[0] and messages[0].startswith(f"warning: {weights} was trained with"))


def test_another_architecture_is_named(settings, tmp_path, caplog):
    weights = write_run(tmp_path, settings, "best_model") / "best_model.pdparams"
    settings["Arch"]["name"] = "RepVGG_A0"
    RunSettings(settings).check_weights(weights, "eval")
    assert "with architecture MobileOne_S0; the configuration says architecture RepVGG_A0" in caplog.text


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("0 green\n1 red\n", "the same classes in another order: class 0 was 'red' when .* and is 'green'"),
        ("0 red\n1 blue\n", None),
    ],
)
def test_classes(settings, tmp_path, caplog, names, said):
    weights = write_run(tmp_path, settings, "best_model") / "best_model.pdparams"
    (tmp_path / "names.txt").write_text(names)
    settings["Infer"]["PostProcess"]["class_id_map_file"] = str(tmp_path / "names.txt")
    if said:
        with pytest.raises(PpclsExtError, match=said):
            RunSettings(settings).check_weights(weights, "infer")
    else:
        RunSettings(settings).check_weights(weights, "infer")
        assert "class 1 was 'green'" in caplog.text
    settings["Arch"]["class_num"] = 7
    with pytest.raises(PpclsExtError, match="was trained with 2 classes, and the configuration says 7"):
        RunSettings(settings).check_weights(weights, "eval")
    RunSettings(settings).check_weights(weights, "train")


def test_changes_that_matter(config):
    now = copy.deepcopy(config)
    assert changes(config, now) == []
    now["Global"].update(device="gpu", print_batch_step=7, pretrained_model="x", output_dir="elsewhere", epochs=9)
    now["Optimizer"]["lr"]["learning_rate"] = 0.5
    now["DataLoader"]["Train"]["sampler"]["batch_size"] = 4
    now["DataLoader"]["Train"]["dataset"]["transform_ops"].insert(1, {"RandFlipImage": {"flip_code": 1}})
    now["Recipe"] = {"unfuse": {"pictures": 5}, "ema": {"decay": 0.9}}
    found = changes(config, now)
    assert "Global.epochs 1 → 9" in found
    assert "Optimizer.lr.learning_rate 0.01 → 0.5" in found
    assert "DataLoader.Train.sampler.batch_size 8 → 4" in found
    assert "Recipe.ema.decay none → 0.9" in found
    assert any(item.startswith("DataLoader.Train.dataset.transform_ops.1.RandFlipImage") for item in found)
    assert not any("pretrained" in item or "unfuse" in item or "device" in item for item in found)
    assert in_words([str(number) for number in range(10)]) == "0; 1; 2; 3; 4; 5; 6; 7; and 2 more"


def test_the_record_of_a_resumed_run(config, tmp_path):
    record = Record(tmp_path)
    record.begin(config, "first\ncommand", resumed=False, seed=1)
    record.write(epoch=1, best={"epoch": 1, "value": 0.5})
    again = Record(tmp_path)
    again.begin(config, "second", resumed=True, seed=1)
    facts = json.loads((tmp_path / "run.json").read_text())
    assert (facts["command"], facts["resumed_with"]) == ("first\ncommand", ["second"])
    assert (facts["best"], facts["finished"]) == ({"epoch": 1, "value": 0.5}, False)
    assert facts["lists"]["Train"]["pictures"] == 24
    assert {"python", "numpy"} <= set(facts["versions"])
    text = (tmp_path / "config.yml").read_text()
    assert text.startswith("# The settings of this run, reusable with -c: second\n")
    assert yaml.safe_load(text) == config
    Record(tmp_path).begin(config, "third", resumed=False)
    assert "resumed_with" not in json.loads((tmp_path / "run.json").read_text())


def test_a_damaged_record_is_named(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(PpclsExtError, match=r"cannot read .*run\.json.*remove it"):
        Record(tmp_path)
