"""Class names fit the classes in every mode, and labels follow the names that a run was trained with."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

import ppcls_ext
from ppcls_ext.commands import datasets, evaluate
from ppcls_ext.commands.outcome import run
from ppcls_ext.config.lists import evaluate_on
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.lists import read_list
from ppcls_ext.errors import PpclsExtError
from tests.helpers import prepared

pytestmark = pytest.mark.usefixtures("registered")

NAMES = {
    "0 red\n": "has 1 class names, and there are 2",
    "0 red\n1 green\n2 blue\n": "has 3 class names",
    "1 green\n": "0 of 2",
}


@pytest.mark.parametrize("text", NAMES)
@pytest.mark.parametrize("mode", ["train", "eval", "infer"])
def test_names_that_do_not_fit_are_refused(config, tmp_path, text, mode):
    path = tmp_path / "names.txt"
    path.write_text(text)
    config["Infer"]["PostProcess"]["class_id_map_file"] = str(path)
    with pytest.raises(PpclsExtError, match=rf"names\.txt \(Infer\.PostProcess\.class_id_map_file\).*{NAMES[text]}"):
        prepared(config, mode)


@pytest.mark.parametrize("text", NAMES)
def test_export_and_predictions_refuse_them_too(tiny_run, tmp_path, text):
    path = tmp_path / "names.txt"
    path.write_text(text)
    opened = ppcls_ext.Run(tiny_run, [f"Infer.PostProcess.class_id_map_file={path}"])
    for use in (lambda: opened.metadata, opened.export_onnx, lambda: opened.predict("none.png")):
        with pytest.raises(PpclsExtError, match=NAMES[text]):
            use()
    assert not list(tiny_run.glob("*.onnx"))


def test_doubled_names_are_said(config, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("ppcls_ext.config.settings.logger.propagate", True)
    path = tmp_path / "names.txt"
    path.write_text("0 crane\n1 crane\n")
    config["Infer"]["PostProcess"]["class_id_map_file"] = str(path)
    assert RunSettings(config).class_names == ("crane", "crane")
    assert f"{path} calls several classes 'crane'" in caplog.text


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_lists_that_count_other_classes_are_refused(config, dataset, tmp_path, mode):
    """As make-lists makes them of a folder that lacks a class."""
    loader = config["DataLoader"]["Train" if mode == "train" else "Eval"]["dataset"]
    source = dataset / ("train_list.txt" if mode == "train" else "val_list.txt")
    (tmp_path / "list.txt").write_text(source.read_text())
    loader.update(cls_label_path=str(tmp_path / "list.txt"))
    for text in ("0 rouge\n1 vert\n", "0 red\n1 green\n", "no names\n"):  # translated, the same, of another kind
        (tmp_path / "label_list.txt").write_text(text)
        prepared(copy.deepcopy(config), mode)
    for text in ("0 green\n1 red\n", "0 green\n"):
        (tmp_path / "label_list.txt").write_text(text)
        with pytest.raises(PpclsExtError, match=r"'green' is 0, and in .*names\.txt it is 1: make the lists with"):
            prepared(config, mode)


@pytest.fixture
def more(dataset, tmp_path) -> Path:
    """Three green images, no red one, in a folder called test."""
    folder = tmp_path / "more" / "test" / "green"
    folder.mkdir(parents=True)
    for index in range(3):
        (folder / f"{index}.png").write_bytes((dataset / "png" / f"{2 * index + 1:02}.png").read_bytes())
    (folder / "notes.txt").touch()
    return tmp_path / "more"


def test_a_partial_folder_keeps_its_labels(tiny_settings, more, caplog, monkeypatch):
    monkeypatch.setattr("ppcls_ext.config.lists.logger.propagate", True)
    caplog.set_level("INFO")
    dataset = evaluate_on(RunSettings(tiny_settings), more).dataset("Eval")
    entries = read_list(Path(dataset["cls_label_path"]), more, 2)
    assert [entry.label for entry in entries] == [1, 1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        f"{more}/test: 3 images of 1 classes",
        f"{more}/test has no image of 1 of the run's 2 classes: red",
        f"{more}/test: left out: 1 not an image",
    ]


def test_eval_on_other_data(tiny_run, more, capsys):
    assert run(lambda: evaluate.main([str(tiny_run), "--data", str(more)])) == 0
    assert "over 3 images" in capsys.readouterr().out
    (more / "test" / "blue").mkdir()
    (more / "test" / "blue" / "0.png").write_bytes((more / "test" / "green" / "0.png").read_bytes())
    assert run(lambda: evaluate.main([str(tiny_run), "--data", str(more)])) == 1
    assert "blue is the folder of no class: expected red, green" in capsys.readouterr().err
    assert run(lambda: evaluate.main([str(tiny_run), "--data", "nowhere"])) == 1
    assert "nowhere" in capsys.readouterr().err


def test_make_lists_counts_as_a_run_does(tiny_run, more, tmp_path, capsys):
    lists = tmp_path / "lists"
    command = [str(more / "test"), "--output", str(lists), "--classes-of", str(tiny_run)]
    assert run(lambda: datasets.lists(command)) == 0
    assert (lists / "label_list.txt").read_text() == "0 red\n1 green\n"
    assert {entry.label for entry in read_list(lists / "train_list.txt", more / "test", 2)} == {1}
    assert run(lambda: evaluate.main([str(tiny_run), "--data", str(lists / "val_list.txt")])) == 1  # another image root
    capsys.readouterr()
