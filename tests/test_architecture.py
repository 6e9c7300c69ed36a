"""The rooms of the package and the arrows between them: docs/explanation/architecture.md stays true."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "ppcls_ext"

#: Room → the rooms that it may import, all of them further up.
ARROWS = {
    "errors": "",
    "files": "errors",
    "csv_table": "errors",
    "cpu": "",
    "bounded_yaml": "errors",
    "packages": "errors",
    "download": "errors packages",
    "progress": "packages",
    "processes": "",
    "data": "errors files packages download",
    "hosts": "errors cpu",
    "predict": "errors files csv_table cpu bounded_yaml packages data",
    "report": "errors files csv_table packages progress data predict",
    "onednn": "errors",
    "reparam": "errors onednn",
    "layers": "errors onednn reparam",
    "blocks": "layers",
    "weights": "errors files packages download",
    "hosts/paddleclas": "errors bounded_yaml packages processes data weights hosts",
    "models": "errors hosts/paddleclas onednn layers reparam weights",
    "config": "errors files bounded_yaml progress hosts hosts/paddleclas onednn data models weights",
    "export": "errors files packages progress processes cpu hosts hosts/paddleclas data predict reparam weights models "
    "config",
    "training": "errors files packages progress hosts hosts/paddleclas onednn report data predict reparam weights "
    "models config export",
    "hosts/dense": "errors hosts models export",
    "hosts/paddleyolo": "hosts hosts/dense",
    "hosts/paddledet": "errors hosts models export hosts/dense hosts/paddleyolo",
    "hosts/paddleseg": "errors hosts models hosts/dense",
    "hosts/paddlex": "errors packages data predict models",
    "doctor": "errors packages cpu hosts hosts/paddleclas onednn data weights config training",
}
#: These call all the others: the public face, a run with all that can be done with it, and the command lines.
ON_TOP = {"__init__", "__main__", "run", "averages", "commands"}
#: Packages that only these rooms may import.
ONLY_IN = {
    "ppcls": {"hosts/paddleclas", "training", "config", "commands"},
    "paddle": {"__init__", "hosts", "hosts/paddleclas", "onednn", "reparam", "layers", "weights", "models", "training"}
    | {"config", "export", "hosts/dense", "hosts/paddledet", "hosts/paddleyolo", "hosts/paddleseg", "doctor", "run"}
    | {"commands"},
    "ppdet": {"hosts/paddledet", "hosts/paddleyolo"},
    "paddleseg": {"hosts/paddleseg"},
}
#: Outside of hosts/, the files that set attributes of objects that are not their own, and which objects these are.
#: Everything that changes PaddleClas, Paddle or another host is in hosts/.
SET_FROM_OUTSIDE = {
    # fields that are there to be set: an argument parser's, tqdm's, sys's, a logger's, ctypes', a session's options
    "commands/host_script.py": "sys",
    "commands/main.py": "sys",
    "progress.py": "bar",
    "commands/outcome.py": "logger",
    "commands/evaluate.py": "parser",
    "commands/predict.py": "parser args",
    "commands/train.py": "parser",
    "onednn/library.py": "functions.dnnl_version function",
    "onednn/self_check.py": "value",
    "reparam/folded.py": "_compare",
    "data/shards.py": "entry",
    "predict/onnx_file.py": "options",
    "predict/ncnn_model.py": "self.net.opt",
    "training/precise_statistics.py": "norm",
    "training/statistics_lag.py": "norm",
    "training/terminal.py": "handler",
    "weights/bounded.py": "array.flags",
    # nodes and values of an ONNX graph
    "export/simplify.py": "graph node end side",
    "export/graph.py": "more.graph.output[0]",
    "export/gelu.py": "graph",
    "export/net.py": "graph",
    "predict/evidence.py": "value.type.tensor_type.shape.dim[0]",
    # what a flatbuffer and a Core ML model consist of
    "export/litert.py": "made",
    "export/coreml.py": "model",
    # objects of this project: layers and models, the memory of oneDNN, the engine
    "doctor.py": "trial",
    "export/bench_files.py": "layer",
    "export/fusion_proof.py": "layer",
    "export/calibration.py": "limits",
    "models/backbone.py": "layer parameter",
    "models/factory.py": "made model",
    "models/standalone.py": "layer",
    "onednn/arena.py": "block held",
    "onednn/find.py": "found",
    "onednn/maps.py": "ctx",
    "reparam/reparameterizable.py": "conv parameter",
    "training/first_batch.py": "trial",
    "training/host_log.py": "engine self._engine",
    "training/loop.py": "engine",
    "training/recipe.py": "policy",
    "training/reports.py": "engine",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return room_of(path.relative_to(PACKAGE).with_suffix("").parts)


def room_of(parts: tuple[str, ...]) -> str:
    """The room that holds a module; each host has one of its own, as models need PaddleClas's and detectors models."""
    of_host = "/".join(parts[:2])
    return of_host if parts[0] == "hosts" and of_host in ARROWS else parts[0]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def set_from_outside(path: Path) -> set[str]:
    """The objects, but for `self`, whose attributes a file sets or deletes."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and not isinstance(node.ctx, ast.Load):
            found.add(ast.unparse(node.value))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            found.add(ast.unparse(node.args[0]))
    return found - {"self", "cls"}


def test_every_room_is_in_the_table():
    assert {room(path) for path in FILES} == {*ARROWS, *ON_TOP}


def test_arrows_point_one_way():
    rooms = list(ARROWS)
    for name, below in ARROWS.items():
        assert set(below.split()) <= set(rooms[: rooms.index(name)]), name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_arrows(path):
    here = room(path)
    for module in imports(path):
        parts = module.split(".")
        if parts[0] == "ppcls_ext" and len(parts) > 1 and here not in ON_TOP:
            allowed = {here, *ARROWS[here].split(), "__version__"}
            there = room_of(tuple(parts[1:]))
            assert there in allowed, f"{here} imports {module}: an arrow that the table does not have"
        if parts[0] in ONLY_IN:
            assert here in ONLY_IN[parts[0]], f"{here} imports {parts[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_say_their_one_idea(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith('"""'), "the first line says what the file holds"
    assert text.count("\n") <= 800


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_hosts_change_foreign_objects(path):
    name = path.relative_to(PACKAGE).as_posix()
    if not name.startswith("hosts/"):
        beyond = set_from_outside(path) - set(SET_FROM_OUTSIDE.get(name, "").split())
        assert not beyond, f"{name} sets attributes of {beyond}: a change of a host belongs in hosts/"


def test_the_page_shows_the_same_rooms_and_arrows():
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+?)/?` \| .+ \| ([\w/, ]*|all) \|$", page, re.MULTILINE)
    assert {name: set(below.replace(",", "").split()) for name, below in rows if below != "all"} == {
        name: set(below.split()) for name, below in ARROWS.items()
    }
    assert {name for name, below in rows if below == "all"} == ON_TOP - {"__main__"}


@pytest.mark.parametrize(
    "statement",
    [
        "import ppcls_ext",
        "import ppcls_ext; assert len(ppcls_ext.list_models()) == 25",
        "import ppcls_ext.predict.classifier",
        "import ppcls_ext.data.image_input, ppcls_ext.data.image_rule",
        "import ppcls_ext.config.shipped",
        "import ppcls_ext.commands.predict",
        "import ppcls_ext.export.int8, ppcls_ext.export.float16",
        "import ppcls_ext.commands.export, ppcls_ext.export.litert, ppcls_ext.export.ncnn, ppcls_ext.export.file_proof",
    ],
)
def test_no_paddle(statement):
    code = f"import sys; {statement}; print({{'paddle', 'ppcls', 'cv2', 'pandas', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
