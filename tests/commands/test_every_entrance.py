"""Every command that opens a run or a configuration takes the same weights and the same number of classes from it."""

from __future__ import annotations

from pathlib import Path

import paddle
import pytest
import yaml

import ppcls_ext
from ppcls_ext.commands.main import main
from tests.helpers import needs_converter
from tests.tiny_run import ARCH, save

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


def call(command: str, tiny_run: Path) -> int:
    place = tiny_run / "best_model.pdparams" if command == "convert-weights" else tiny_run
    return main([command, str(place), *COMMANDS[command]])


@each_command
def test_altered_weights_are_refused(command, tiny_run, capsys):
    weights = tiny_run / "best_model.pdparams"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1  # in a tensor: the file can be read as before
    weights.write_bytes(content)
    assert call(command, tiny_run) == 1
    assert f"checkpoint {weights} is damaged: it is changed" in capsys.readouterr().err


@each_command
@pytest.mark.parametrize("first", [False, True], ids=["over another set", "the first set"])
def test_a_save_that_was_killed_before_it_renamed_its_files_counts(command, first, tiny_run, tiny_settings, capsys):
    weights = tiny_run / "best_model.pdparams"
    before = weights.read_bytes()
    after = save(tiny_run, tiny_settings, seed=2)
    assert before != after
    weights.rename(f"{weights}.new")
    if not first:
        weights.write_bytes(before)
    assert call(command, tiny_run) == 0
    assert f"{weights}.new: loaded " in capsys.readouterr().err


@pytest.mark.parametrize("form", ["unfused", "fused"])
@pytest.mark.parametrize("command", ["eval", "train", pytest.param("export-onnx", marks=needs_converter)])
def test_global_class_num_counts_where_arch_has_none(command, form, tiny_settings, tmp_path, capsys):
    """PaddleClas takes it in its own constructor; `Recipe.unfuse` and the exports build nets of their own."""
    del tiny_settings["Arch"]["class_num"]
    tiny_settings["Global"]["class_num"] = 2
    model = ppcls_ext.build(ARCH, class_num=2)
    if form == "fused":
        model = ppcls_ext.reparameterize(model)
        if command != "train":
            tiny_settings["Arch"]["fused"] = True
    paddle.save(model.state_dict(), "weights.pdparams")
    tiny_settings["Global"]["pretrained_model"] = "weights"
    Path("tiny.yml").write_text(yaml.safe_dump(tiny_settings), encoding="utf-8")
    assert main([command, "-c", "tiny.yml"]) == 0
    said = capsys.readouterr()
    assert "starting afresh" not in said.err, "a head of another number of classes"
    if command == "train":
        assert yaml.safe_load((tmp_path / "output" / ARCH / "config.yml").read_text())["Arch"]["class_num"] == 2
