"""Our models in PaddleClas's registry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_factory_is_where_paddleclas_looks(fresh):
    assert fresh.says["registered"], "in ppcls.arch and ppcls.arch.backbone"
    assert fresh.says["listed"], "by get_architectures"


def test_originals_stay_reachable(fresh):
    assert fresh.says["replaced"] == fresh.says["theirs"]
    assert {"RepVGG_A0", "RepVGG_B3g4"} <= set(fresh.says["replaced"])
    assert fresh.says["originals"], "PaddleClas's own objects, also after a second call"


def test_build_model_and_rec_model_build_ours(fresh):
    assert fresh.says["models"] == [
        "ppcls_ext.models.mobileone",
        "ppcls_ext.models.repvgg",
        "ppcls.arch.backbone.model_zoo.repvgg",
        "ppcls_ext.models.mobileone",
    ]


def test_replacing_is_said_in_one_line(fresh):
    lines = [line for line in fresh.stderr.splitlines() if "ppcls_ext replaces" in line]
    assert len(lines) == 1
    assert all(name in lines[0] for name in fresh.says["replaced"])
    assert "MobileOne" not in lines[0]


def test_importing_the_package_imports_neither_paddle_nor_paddleclas():
    code = "import ppcls_ext, sys; print([name for name in ('paddle', 'ppcls', 'paddleclas') if name in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout.strip() == "[]"
