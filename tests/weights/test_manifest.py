"""A manifest is believed only about files of its set: nothing outside the folder is read as one, renamed or removed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.checkpoint_sets import SetWriter, find_newest, finish, intact, read_set
from ppcls_ext.weights.manifest import belongs, manifest_path


def write(prefix: Path, *suffixes: str) -> None:
    writer = SetWriter(prefix)
    for suffix in suffixes:
        writer.add(Path(f"{prefix}{suffix}"), suffix.encode())
    writer.commit({"epoch": 1, "resumable": True})
    writer.close()


def forge(prefix: Path, listed: object) -> None:
    """A manifest whose checksum is right, whatever it lists."""
    digest = hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
    manifest_path(prefix).write_text(json.dumps({"set": listed, "sha256": digest}))


def facts(path: Path) -> dict:
    data = path.read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def outside(tmp_path):
    """A file beside the folder of the checkpoints, with what an interrupted save would leave beside it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "precious").write_text("data")
    (folder / "precious.new").write_text("more")
    (folder / "model.pdparams").write_text("data")
    (folder / "model.pdparams.new").write_text("more")
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "../elsewhere/precious",
        "latest/../../elsewhere/precious",
        "{outside}/precious",
        "latest.x/../../elsewhere/precious",
        "latest/model.x/../../../elsewhere/precious",
        "link/precious",
        "best_model.pdparams",
        "train.log",
        "latest.json",
        "latest.pdparams.new",
        "",
        ".",
        "latest.pdparams\0",
        "latest.a\\..\\..\\precious",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, outside, name):
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    write(folder / "latest", ".pdparams", ".pdopt", ".pdstates")
    write(folder / "best_model", ".pdparams")
    (folder / "train.log").write_text("log")
    name = name.format(outside=outside)
    forge(
        folder / "latest",
        {"written": 1, "state": {"epoch": 1, "resumable": True}, "files": {name: facts(outside / "precious")}},
    )
    before = snapshot(outside) | snapshot(folder)
    with pytest.raises(PpclsExtError, match=r"latest\.json is damaged: it lists .*, which is not a file of latest"):
        read_set(folder / "latest")
    found, faults = find_newest(folder)
    assert found.prefix.name == "best_model"
    assert len(faults) == 1
    finish(folder / "latest")
    assert snapshot(outside) | snapshot(folder) == before
    write(folder / "latest", ".pdparams")  # the next save
    assert snapshot(outside).items() <= before.items()
    assert (folder / "train.log").exists()
    assert (folder / "best_model.pdparams").exists()


def test_a_linked_folder_is_not_the_sets(tmp_path, outside):
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "best_model").symlink_to(outside)
    before = snapshot(outside)
    listed = {"best_model/model.pdparams": facts(outside / "model.pdparams.new")}
    forge(folder / "best_model", {"written": 1, "state": {}, "files": listed})
    finish(folder / "best_model")
    write(folder / "best_model", ".pdparams")
    assert snapshot(outside) == before
    with pytest.raises(PpclsExtError, match="not a name for a file"):
        SetWriter(folder / "best_model").add(folder / "best_model" / "model.pdparams", b"")


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero"), os.mkdir])
@pytest.mark.parametrize("name", ["latest.json", "latest.pdparams"])
def test_what_is_no_plain_file_is_neither_read_nor_replaced(tmp_path, make, name):
    write(tmp_path / "latest", ".pdparams")
    listed = {"written": 1, "state": {}, "files": {"latest.pdparams": {"size": 0, "sha256": "0" * 64}}}
    forge(tmp_path / "latest", listed)
    (tmp_path / name).unlink()
    make(tmp_path / name)
    mode = (tmp_path / name).lstat().st_mode
    with pytest.raises(PpclsExtError):
        read_set(tmp_path / "latest")
    find_newest(tmp_path)
    with pytest.raises(PpclsExtError, match=rf"cannot write {tmp_path / name}: it is a (FIFO|symbolic link|folder)"):
        write(tmp_path / "latest", ".pdparams")
    assert (tmp_path / name).lstat().st_mode == mode
    assert not list(tmp_path.glob("*.new"))


def test_names_that_paddleclas_writes():
    for name in ("best_model.pdparams", "best_model_student.pdparams", "best_model/model.pdparams", "best_model.json5"):
        assert belongs(Path("output/best_model"), name)
    assert belongs(Path("output/latest"), "latest.ema.pdparams")
    assert not belongs(Path("output/epoch_1"), "epoch_10.pdparams")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
NAMES = (
    st.sampled_from(["latest.pdparams", "../elsewhere/precious", "/etc/passwd", "latest/model.pdparams"]) | st.text()
)
FACTS = st.fixed_dictionaries({"size": st.sampled_from([0, 4]) | JSON, "sha256": st.just("0" * 64) | JSON}) | JSON
LISTED = st.fixed_dictionaries({"written": st.integers() | JSON, "state": JSON, "files": st.dictionaries(NAMES, FACTS)})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(listed=LISTED | JSON)
def test_any_manifest(tmp_path, outside_once, listed):
    """Read, found, finished, saved over: PpclsExtError or fine, and nothing outside is touched."""
    folder, before = outside_once
    prefix = folder / "latest"
    (folder / "latest.pdparams").write_text("data")
    forge(prefix, listed)
    for attempt in (read_set, finish, lambda prefix: intact(Path(f"{prefix}.pdparams"))):
        with contextlib.suppress(PpclsExtError):
            attempt(prefix)
    find_newest(folder)
    write(prefix, ".pdparams")
    assert read_set(prefix).files == {"latest.pdparams": folder / "latest.pdparams"}
    assert snapshot(folder.parent / "elsewhere") == before


@pytest.fixture
def outside_once(tmp_path, outside):
    folder = tmp_path / "output"
    folder.mkdir()
    return folder, snapshot(outside)


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_any_bytes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("set")
    (folder / "latest.json").write_bytes(data)
    (folder / "latest.pdparams").write_bytes(b"")
    with pytest.raises(PpclsExtError):
        read_set(folder / "latest")
    assert find_newest(folder)[0] is None


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"epoch": "1"},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": 1, "best_metric": "0.9"},
        {"epoch": 1, "seed": 1.5},
        {"epoch": 1, "learning_rate": 3},
        {"epoch": 1, "loss_scaler": [1]},
        {"epoch": 1, "resumable": "yes"},
    ],
)
def test_a_state_from_which_no_training_can_go_on(tmp_path, state):
    write(tmp_path / "latest", ".pdparams")
    forge(tmp_path / "latest", {"written": 1, "state": state, "files": {}})
    with pytest.raises(PpclsExtError, match=r"latest\.json is damaged: its state "):
        read_set(tmp_path / "latest")
    assert find_newest(tmp_path)[0] is None


def test_a_huge_manifest_is_refused(tmp_path):
    with open(tmp_path / "latest.json", "wb") as stream:
        stream.truncate(1 << 32)
    with pytest.raises(PpclsExtError, match="larger than"):
        read_set(tmp_path / "latest")


def test_the_folder_of_a_run_may_be_a_link(tmp_path):
    """As where output/ is on another disk; links inside it are another matter."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to("disk")
    write(tmp_path / "run" / "latest", ".pdparams", ".pdopt", ".pdstates")
    write(tmp_path / "run" / "best_model", ".pdparams")
    assert set(read_set(tmp_path / "run" / "latest").files) == {"latest.pdparams", "latest.pdopt", "latest.pdstates"}
    found, faults = find_newest(tmp_path / "run")
    assert found is not None
    assert not faults
