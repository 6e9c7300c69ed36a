"""Every command that opens a run or a configuration takes the same weights and the same number of classes from it."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import paddle
import pytest
import yaml

import ppcls_ext
from ppcls_ext.commands.main import main
from ppcls_ext.config.folder import Record
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.config.trained_with import KEY
from ppcls_ext.weights.checkpoint_sets import SetWriter
from tests.helpers import needs_converter

ARCH = "FasterNet_T0"
#: Command → its arguments before and behind the run, or the weights in it.
COMMANDS = {
    "eval": (),
    "infer": (),
    "export-model": (),
    "export-onnx": (),
    "explain": ("png/00.png", "--output", "explained"),
    "convert-weights": ("converted.pdparams", "--arch", ARCH),
}
each_command = pytest.mark.parametrize(
    "command", [pytest.param(name, marks=needs_converter) if "onnx" in name else name for name in COMMANDS]
)


@pytest.fixture
def settings(config, dataset, tmp_path, monkeypatch) -> dict:
    """The configuration of a small net at 32 px."""
    (tmp_path / "png").symlink_to(dataset / "png")
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = ARCH
    crop = [{"ResizeImage": {"resize_short": 36}}, {"CropImage": {"size": 32}}]
    config["DataLoader"]["Eval"]["dataset"]["transform_ops"][1:1] = copy.deepcopy(crop)
    config["Infer"]["transforms"][1:1] = crop
    config["Global"]["output_dir"] = str(tmp_path / "output")
    return config


@pytest.fixture
def run(settings, tmp_path) -> Path:
    """The folder of a run whose best weights are a checkpoint set."""
    folder = tmp_path / "output" / ARCH
    Record(folder).begin(settings, "ppcls-ext train …", resumed=False, **{KEY: RunSettings(settings).trained_with()})
    save(folder, settings, seed=1)
    return folder


def save(folder: Path, settings: dict, seed: int) -> bytes:
    """Writes the set best_model; returns the bytes of its weights."""
    paddle.seed(seed)
    stream = io.BytesIO()
    paddle.save(ppcls_ext.build(ARCH, class_num=2).state_dict(), stream)
    writer = SetWriter(folder / "best_model")
    writer.add(folder / "best_model.pdparams", stream.getvalue())
    writer.commit({"epoch": 1, KEY: RunSettings(settings).trained_with()})
    return stream.getvalue()


def call(command: str, run: Path) -> int:
    place = run / "best_model.pdparams" if command == "convert-weights" else run
    return main([command, str(place), *COMMANDS[command]])


@each_command
def test_altered_weights_are_refused(command, run, capsys):
    weights = run / "best_model.pdparams"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1  # in a tensor: the file can be read as before
    weights.write_bytes(content)
    assert call(command, run) == 1
    assert f"checkpoint {weights} is damaged: it is changed" in capsys.readouterr().err


@each_command
@pytest.mark.parametrize("first", [False, True], ids=["over another set", "the first set"])
def test_a_save_that_was_killed_before_it_renamed_its_files_counts(command, first, run, settings, capsys):
    weights = run / "best_model.pdparams"
    before = weights.read_bytes()
    after = save(run, settings, seed=2)
    assert before != after
    weights.rename(f"{weights}.new")
    if not first:
        weights.write_bytes(before)
    assert call(command, run) == 0
    assert f"{weights}.new: loaded " in capsys.readouterr().err


@pytest.mark.parametrize("form", ["unfused", "fused"])
@pytest.mark.parametrize("command", ["eval", "train", pytest.param("export-onnx", marks=needs_converter)])
def test_global_class_num_counts_where_arch_has_none(command, form, settings, tmp_path, capsys):
    """PaddleClas takes it in its own constructor; `Recipe.unfuse` and the exports build nets of their own."""
    del settings["Arch"]["class_num"]
    settings["Global"]["class_num"] = 2
    model = ppcls_ext.build(ARCH, class_num=2)
    if form == "fused":
        model = ppcls_ext.reparameterize(model)
        if command != "train":
            settings["Arch"]["fused"] = True
    paddle.save(model.state_dict(), "weights.pdparams")
    settings["Global"]["pretrained_model"] = "weights"
    Path("tiny.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert main([command, "-c", "tiny.yml"]) == 0
    said = capsys.readouterr()
    assert "starting afresh" not in said.err, "a head of another number of classes"
    if command == "train":
        assert yaml.safe_load((tmp_path / "output" / ARCH / "config.yml").read_text())["Arch"]["class_num"] == 2
