"""A run that somebody else made: where its files make no sense that is one line, and nothing outside is written."""

from __future__ import annotations

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ppcls_ext.commands.main import main
from ppcls_ext.config.first_epoch import require_own_places, settle
from ppcls_ext.config.folder import find_run
from ppcls_ext.config.settings import open_run
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.run import Run
from ppcls_ext.weights.manifest import _digest

ODD = [None, True, -1, 10**90, float("nan"), "", "a\0b", [], [[1, None]], {"a": {"b": None}}, "é" * 5000]


def places(node: Any, above: tuple = ()) -> Iterator[tuple]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*above, key)
        yield from places(value, (*above, key))


def changed(node: Any, place: tuple, value: Any) -> Any:
    node = above = copy.deepcopy(node)
    for key in place[:-1]:
        above = above[key]
    above[place[-1]] = value
    return node


def read_all(folder: Path) -> None:
    """What commands read of a run before they build anything."""
    run = Run(open_run(folder))
    _ = run.metadata, run.settings.thresholds, run.settings.trained_with(), run.onnx_file()
    run.settings.weights("export")
    run.settings.image_list("Eval")
    run.settings.require_trained_list("Eval")


@pytest.mark.parametrize("name", ["config.yml", "run.json", "best_model.json"])
def test_any_value_of_a_runs_files(tiny_run, name):
    """A valid run or one line; never another exception. The seed is another one each time."""
    seed = int(os.environ.get("PPCLS_EXT_SEED") or random.randrange(10**6))
    load, dump = (yaml.safe_load, yaml.safe_dump) if name == "config.yml" else (json.loads, json.dumps)
    before = load((tiny_run / name).read_text())
    found = list(places(before))
    for place, value in random.Random(seed).choices([(place, value) for place in found for value in ODD], k=25):
        content = changed(before, place, value)
        if name == "best_model.json" and place[0] == "set":
            content["sha256"] = _digest(content["set"])
        (tiny_run / name).write_text(dump(content), encoding="utf-8")
        try:
            read_all(tiny_run)
        except PpclsExtError:
            continue
        except Exception as error:
            raise AssertionError(f"PPCLS_EXT_SEED={seed}: {name}: {place} = {value!r}"[:300]) from error


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("config.yml", ("Global",), [], r"config\.yml is damaged: Global\.output_dir is 'None': expected a text"),
        ("config.yml", ("Global", "output_dir"), 7, r"Global\.output_dir is '7': expected a text"),
        ("config.yml", ("Arch", "name"), ["a"], r"Arch\.name is .*: expected a text"),
        ("run.json", ("lists",), [1], r"run\.json is damaged: lists is '\[1\]': expected a dict"),
        ("run.json", ("lists", "Eval"), 3, r"run\.json is damaged: lists\.'Eval' is no path, number of lines and SHA"),
        ("run.json", ("lists", "Eval", "path"), None, r"lists\.'Eval' is no path"),
        ("run.json", ("lists", "Eval", "pictures"), "many", r"lists\.'Eval' is no path"),
        ("run.json", ("resumed_with",), "text", r"run\.json is damaged: resumed_with is .*: expected a list"),
        ("run.json", ("trained_with",), 5, r"run\.json is damaged: trained_with is '5': expected a dict"),
        (
            "best_model.json",
            ("set", "state", "trained_with"),
            [],
            r"best_model\.json is damaged: trained_with is '\[\]'",
        ),
        ("best_model.json", ("set", "state", "trained_with", "class_num"), "2", r"class_num is .*: expected a int"),
        ("best_model.json", ("set", "state", "trained_with", "class_names"), [1, "a"], r"class_names are no texts"),
        ("best_model.json", ("set", "state", "trained_with", "pictures"), 5, r"pictures is '5': expected a dict"),
        ("best_model.json", ("set", "state", "trained_with", "pictures", "crop"), 5, r"pictures\.crop is '5'"),
    ],
)
def test_odd_values_are_named(tiny_run, name, place, value, said):
    load, dump = (yaml.safe_load, yaml.safe_dump) if name == "config.yml" else (json.loads, json.dumps)
    content = changed(load((tiny_run / name).read_text()), place, value)
    if name == "best_model.json":
        content["sha256"] = _digest(content["set"])
    (tiny_run / name).write_text(dump(content), encoding="utf-8")
    with pytest.raises(PpclsExtError, match=said):
        read_all(tiny_run)


def with_settings(folder: Path, **infer: Any) -> Run:
    settings = yaml.safe_load((folder / "config.yml").read_text())
    settings["Infer"].update(infer)
    (folder / "config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    return Run(folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("save_dir", "mine.json"),
        ("save_dir", "output/../mine.json"),
        ("save_dir", "link/mine.json"),
        ("save_dir", ["mine.json"]),
        ("save_image", "mine"),
        ("save_image", "{run}/out/mine.png"),
    ],
)
def test_infer_writes_where_the_user_says(tiny_run, tmp_path, field, value):
    """Not where the run's own settings say: they may be a stranger's, and name any file of the user's."""
    (tmp_path / "mine.json").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    (tiny_run / "out").symlink_to(tmp_path)
    run = with_settings(tiny_run, **{field: value.format(run=tiny_run) if isinstance(value, str) else value})
    with pytest.raises(PpclsExtError, match=rf"Infer\.{field} of .*{tiny_run.name} is .*(say where to write|a path)"):
        run.infer(["png/00.png"])
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_infer_writes_in_the_run_or_where_it_is_told(tiny_run, tmp_path, capsys):
    with_settings(tiny_run, save_dir=str(tmp_path / "mine.json"))
    assert main(["infer", str(tiny_run), "png/00.png", "--out", "told.json"]) == 0
    assert main(["infer", str(tiny_run), "png/00.png", "-o", "Infer.save_dir=said.json"]) == 0
    with_settings(tiny_run, save_dir=str(tiny_run / "own.json"))
    assert main(["infer", str(tiny_run), "png/00.png"]) == 0
    assert all(path.is_file() for path in (tmp_path / "told.json", tmp_path / "said.json", tiny_run / "own.json"))
    assert not (tmp_path / "mine.json").exists()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("eval.log", ["eval"]),
        ("infer.log", ["infer", "--paddleclas"]),
        ("export.log", ["export-model"]),
        ("inference", ["export-model"]),
        ("report-eval", ["eval", "--report"]),
        ("FasterNet_T0.onnx", ["export-onnx"]),
        ("FasterNet_T0_int8.onnx", ["export-onnx", "--int8"]),
    ],
)
def test_links_out_of_a_run_are_not_followed(tiny_run, tmp_path, capsys, name, command):
    """Neither where they lead to something, nor where they would make it."""
    mine = tmp_path / "mine"
    mine.mkdir() if "." not in name else mine.write_text("mine")
    (tiny_run / name).symlink_to(mine)
    assert main([command[0], str(tiny_run), *command[1:]]) == 1
    assert "symbolic link" in capsys.readouterr().err.splitlines()[-1]
    assert list(mine.iterdir()) == [] if mine.is_dir() else mine.read_text() == "mine"
    (tiny_run / name).unlink()
    (tiny_run / name).symlink_to(tmp_path / "new")
    assert main([command[0], str(tiny_run), *command[1:]]) == 1
    assert not (tmp_path / "new").exists()


def test_a_log_that_is_a_fifo_is_refused(tiny_run, capsys):
    os.mkfifo(tiny_run / "eval.log")  # opening it would wait for a reader
    assert main(["eval", str(tiny_run)]) == 1
    assert "eval.log: it is a FIFO" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        *("run.json", "config.yml", "train.log", "lists", "vdl", "report", "best_model", "metrics.csv", "curves.png"),
        *("latest.pdparams", "first_epoch", ".replacing", ".replaced", "lists/train_list.txt", "best_model/inference"),
    ],
)
def test_a_training_does_not_follow_links_out_of_its_folder(tmp_path, name):
    folder, mine = tmp_path / "run", tmp_path / "mine"
    (folder / name).parent.mkdir(parents=True)
    (folder / "data").symlink_to(tmp_path)  # the user's, which no training writes to
    require_own_places(folder)
    (folder / name).symlink_to(mine)
    for there in (False, True):
        if there:
            mine.mkdir()
        with pytest.raises(PpclsExtError, match=f"{name}: it leads to {mine}, out of {folder}, by a symbolic link"):
            require_own_places(folder)
    (tmp_path / "link").symlink_to(folder)
    (folder / name).unlink()
    (folder / "notes.txt").touch()
    (folder / name).symlink_to(folder / "notes.txt")  # within the folder
    require_own_places(tmp_path / "link")


def test_opening_a_run_moves_nothing_of_others(tmp_path):
    """Its folder may look as if a training had been killed while it replaced another."""
    folder, mine = tmp_path / "run", tmp_path / "mine"
    mine.mkdir()
    (mine / "file").write_text("mine")
    folder.mkdir()
    for name in (".replacing", ".replaced"):
        (folder / name).symlink_to(mine)
    settle(folder)
    assert (mine / "file").read_text() == "mine"
    (folder / ".replaced").unlink()
    (folder / ".replaced" / "docs").mkdir(parents=True)
    (folder / ".replaced" / "docs" / "file").write_text("a stranger's")
    (folder / "docs").symlink_to(mine)
    with pytest.raises(PpclsExtError, match=r"out of .*, by a symbolic link"):
        find_run(folder)
    assert (mine / "file").read_text() == "mine"
