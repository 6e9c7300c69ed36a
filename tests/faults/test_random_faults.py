"""Kills and full disks at places that are drawn anew each time: what was there before is whole, or what is new is.

PPCLS_EXT_SEED repeats a run; every failure tells its seed. Lists of a million lines are tests/data/'s matter.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

import ppcls_ext
from ppcls_ext.predict.program_set import require_one_set
from ppcls_ext.weights.checkpoint_sets import read_set
from tests.helpers import ROOT, needs_converter
from tests.tiny_run import ARCH

pytestmark = pytest.mark.slow
KILLS = 2  # of each command
#: Files that a killed process may leave; docs/reference/errors.md says so.
LEFT = (".tmp", ".new", ".old", ".lock", ".log")


@pytest.fixture
def rng(request) -> random.Random:
    seed = os.environ.get("PPCLS_EXT_SEED") or str(random.SystemRandom().randrange(10**6))
    print(f"PPCLS_EXT_SEED={seed}")
    return random.Random(f"{seed} {request.node.name}")


def drive(folder: Path, *command: str, step: int = -1, limit: int = -1) -> subprocess.CompletedProcess:
    """Runs a command in `folder`, which is its working directory; see `tests.faults.driver`."""
    arguments = [sys.executable, "-m", "tests.faults.driver", str(folder), str(step), str(limit), *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def done(folder: Path, *command: str) -> int:
    """Runs a command that succeeds; returns the number of its operations."""
    process = drive(folder, *command)
    assert process.returncode == 0, process.stderr
    return int(process.stdout.split()[-1])


@pytest.fixture(scope="module")
def trained(base_config, dataset, tmp_path_factory) -> Path:
    """A folder with a small data set, tiny.yml and output/ARCH, a run of one epoch with its exports."""
    root = tmp_path_factory.mktemp("faults") / "work"
    shutil.copytree(dataset, root)
    settings = json.loads(json.dumps(base_config).replace(str(dataset), str(root)))
    settings["Arch"]["name"] = ARCH
    crop = [{"ResizeImage": {"resize_short": 36}}, {"CropImage": {"size": 32}}]
    for transforms in (settings["DataLoader"]["Eval"]["dataset"]["transform_ops"], settings["Infer"]["transforms"]):
        transforms[1:1] = crop
    settings["Global"]["output_dir"] = str(root / "output")
    (root / "tiny.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for index, path in enumerate(sorted((root / "png").iterdir())):
        for copy in ("many/a", "many/b", f"classes/{index % 2}"):
            (root / copy).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / copy)
    done(root, "train", "-c", "tiny.yml")
    return root


@pytest.fixture
def work(trained, tmp_path) -> Iterator[Path]:
    """A copy of `trained`, under its own path, as the run knows it; the first one comes back."""
    kept = tmp_path / "kept"
    shutil.copytree(trained, kept)
    yield trained
    restore(trained, kept)


def restore(root: Path, kept: Path) -> None:
    shutil.rmtree(root)
    shutil.copytree(kept, root)


def content(folder: Path) -> dict[str, bytes]:
    """All files but those that may be left."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part.endswith(LEFT) for part in path.relative_to(folder).parts)
    }


def whole_run(root: Path) -> None:
    """The run is that of one epoch, or the next; its settings, lists and weights fit together."""
    folder = root / "output" / ARCH
    run = ppcls_ext.Run(folder)
    assert read_set(folder / "latest").state["epoch"] in (1, 2)
    assert run.settings.weights() is not None
    (evaluation,) = run.evaluate().evaluations
    assert evaluation.images == 20


def one_file(name: str) -> Callable[[Path], None]:
    def check(root: Path) -> None:
        path = root / name
        if path.suffix == ".json":
            assert json.loads(path.read_text()) == "before" or len(json.loads(path.read_text())) == 24
        elif path.read_bytes() != b"before":
            assert ppcls_ext.Classifier(path)(str(root / "png" / "00.png"))

    return check


def one_set(name: str) -> Callable[[Path], None]:
    def check(root: Path) -> None:
        texts = {path.read_bytes() == b"before" for path in (root / name).iterdir()}
        assert len(texts) == 1, "files of two sets"
        if texts == {False} and (root / name / "inference.sha256").exists():
            require_one_set(root / name)

    return check


RUN = f"output/{ARCH}"
ONNX = f"{RUN}/{ARCH}.onnx"
#: Command → its arguments, the files that are there before it, and the check of what is there behind it.
CASES = {
    "train": (["train", "--resume", RUN, "-o", "Global.epochs=2"], (), whole_run),
    "overwrite": (["train", "-c", "tiny.yml", "--overwrite", "-o", "Global.seed=2"], (), whole_run),
    "export-onnx": (["export-onnx", RUN], (ONNX,), one_file(ONNX)),
    "int8": (
        ["export-onnx", RUN, "--int8", "--allow", "--calibration", "many"],
        (f"{RUN}/{ARCH}_int8.onnx",),
        one_file(f"{RUN}/{ARCH}_int8.onnx"),
    ),
    "export-model": (
        ["export-model", RUN],
        (f"{RUN}/inference/inference.json", f"{RUN}/inference/inference.pdiparams"),
        one_set(f"{RUN}/inference"),
    ),
    "report": (
        ["eval", RUN, "--report"],
        (f"{RUN}/report-eval/report.html", f"{RUN}/report-eval/per_class.csv"),
        one_set(f"{RUN}/report-eval"),
    ),
    "infer": (["infer", RUN, "png", "--out", "answers.json"], ("answers.json",), one_file("answers.json")),
    "predict": (["predict", "tiny.onnx", "png", "--out", "answers.json"], ("answers.json",), one_file("answers.json")),
}


def write_before(root: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text('"before"' if name == "answers.json" else "before")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs_converter) if name in ("export-onnx", "int8") else name for name in CASES]
)
def test_killed_at_any_moment(work, rng, tmp_path, registered, request, name):
    command, names, check = CASES[name]
    if name == "predict":
        shutil.copy(request.getfixturevalue("exported")[1], work / "tiny.onnx")
    write_before(work, names)
    shutil.copytree(work, tmp_path / "before")
    total = done(work, *command)
    check(work)
    for step in sorted(rng.sample(range(total), KILLS)):
        print(name, "killed before its operation", step, "of", total)
        restore(work, tmp_path / "before")
        process = drive(work, *command, step=step)
        assert process.returncode == -9, process.stderr
        check(work)
        mine = {name: data for name, data in content(work).items() if not name.startswith("output/")}
        before = {name: data for name, data in content(tmp_path / "before").items() if not name.startswith("output/")}
        assert {**mine, "answers.json": b""} == {**before, "answers.json": b""}


#: Commands that write, beside those above; what they write is not there before.
WRITING = {
    **{name: command for name, (command, _, _) in CASES.items()},
    "convert-weights": ["convert-weights", f"{RUN}/best_model.pdparams", "w.npz", "--arch", ARCH, "--fuse"],
    "explain": ["explain", RUN, "png/00.png", "--output", "maps"],
    "make-lists": ["make-lists", "classes", "--output", "lists"],
    "make-sample-dataset": ["make-sample-dataset", "--limit", "100", "--output", "digits"],
    "bench": ["bench", "tiny.onnx", "--turns", "2", "--output", "bench"],
}
ROUNDS = 4


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_full_disk_is_one_line(work, rng, tmp_path, exported, round_):
    """No file grows beyond a few bytes, drawn anew: the command says so, and what was there before is what it was."""
    shutil.copy(exported[1], work / "tiny.onnx")
    name = rng.choice(sorted(WRITING)[round_::ROUNDS])
    limit = int(10 ** rng.uniform(2, 4))  # bytes; a semaphore of multiprocessing, which tells no cause, takes 32
    print(name, limit)
    before = content(work)
    process = drive(work, *WRITING[name], limit=limit)
    lines = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in process.stderr
    assert "Logging error" not in process.stderr
    if process.returncode == 0:
        return  # what it writes is smaller
    assert process.returncode == 1
    (line,) = lines
    assert any(text in line for text in ("File too large", "cannot write", "room")), line
    assert content(work) == before
