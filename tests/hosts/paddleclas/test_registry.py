"""Our models in PaddleClas's registry."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


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
        "ppcls_ext.models.repvgg",
        "ppcls.arch.backbone.model_zoo.repvgg",
        "ppcls_ext.models.mobileone",
    ]


def test_replacing_is_said_once_where_a_replaced_model_is_built(fresh):
    before, after = fresh.stderr.split("registered\n")
    assert "ppcls_ext" not in before, "registering alone replaces nothing that anybody uses"
    lines = [line for line in after.splitlines() if "is ppcls_ext's" in line]
    assert len(lines) == 1, "RepVGG_A0 is built twice, MobileOne_S0, which PaddleClas does not have, too"
    assert "RepVGG_A0 is ppcls_ext's: " in lines[0]


def test_importing_the_package_imports_neither_paddle_nor_paddleclas():
    code = "import ppcls_ext, sys; print([name for name in ('paddle', 'ppcls', 'paddleclas') if name in sys.modules])"
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stdout.strip() == "[]"
