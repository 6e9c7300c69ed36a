"""Which of several checkouts a script runs on: its own, whatever the environment names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.hosts import checkouts
from tests.helpers import ROOT

#: The least of the package `ppdet` that models can be registered in.
FILES = {
    "ppdet/__init__.py": "",
    "ppdet/core/__init__.py": "",
    "ppdet/core/workspace.py": "global_config = {}\nregister = serializable = lambda kind: kind\n",
    "ppdet/engine/__init__.py": "",
    "ppdet/engine/trainer.py": "import paddle\n",
    "ppdet/utils/__init__.py": "",
    "ppdet/utils/visualizer.py": "from PIL import ImageFont\n",
    "ppdet/modeling/__init__.py": "",
    "ppdet/modeling/heads/__init__.py": "",
    "ppdet/modeling/ops.py": "def multiclass_nms(boxes, scores, **settings):\n    return [boxes]\n",
    "ppdet/modeling/assigners/__init__.py": "",
    "ppdet/modeling/assigners/task_aligned_assigner.py": "TaskAlignedAssigner = lambda topk: lambda *inputs: None\n",
    "tools/show.py": "import ppdet\nprint(ppdet.__file__)\n",
}
YOLO = {"ppdet/modeling/architectures/yolov5.py": ""}


def checkout(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.fixture
def folders(tmp_path):
    return {
        checkouts.PADDLEDET: checkout(tmp_path / "PaddleDetection", FILES),
        checkouts.PADDLEYOLO: checkout(tmp_path / "PaddleYOLO", {**FILES, **YOLO}),
    }


def run(folders, *command: str, **environment: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=next(iter(folders.values())).parent,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()[-1]


def test_a_script_belongs_to_its_checkout(folders):
    for host, folder in folders.items():
        assert checkouts.of_script(folder / "tools" / "show.py") is host


def test_a_script_runs_on_its_own_checkout(folders):
    """Both hosts have the package `ppdet`, and the environment may name the other one."""
    homes = {host.home: str(folder) for host, folder in folders.items()}
    for folder in folders.values():
        shown = run(folders, "-m", "ppcls_ext", str(folder / "tools" / "show.py"), **homes)
        assert Path(shown).parents[1] == folder


@pytest.mark.parametrize(
    "named", [(checkouts.PADDLEDET,), (checkouts.PADDLEYOLO,), (checkouts.PADDLEYOLO, checkouts.PADDLEDET)]
)
def test_from_python_the_environment_says_which(folders, named):
    code = "import ppcls_ext; ppcls_ext.register_in_paddledet(); import ppdet; print(ppdet.__file__)"
    shown = run(folders, "-c", code, **{host.home: str(folders[host]) for host in named})
    assert Path(shown).parents[1] == folders[named[-1]]
