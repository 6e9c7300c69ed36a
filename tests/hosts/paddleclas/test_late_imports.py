"""What PaddleClas imports and few runs use is loaded when it is used."""

from __future__ import annotations

import subprocess
import sys

from tests.helpers import ROOT

SETUP = "import sys; from ppcls_ext.training.start import set_up; set_up(); "


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", SETUP + code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_an_engine_without_them():
    loaded = run("print({'sklearn', 'matplotlib', 'scipy.stats'} & set(sys.modules))")
    assert loaded == "set()"


def test_they_work_when_they_are_used():
    code = (
        "import ppcls.utils.metrics as m, ppcls.data.preprocess.ops.fmix as f, numpy as np;"
        "assert m.hamming_loss(np.array([0, 1]), np.array([0, 0])) == 0.5;"
        "assert 0 <= f.beta.rvs(1, 1) <= 1;"
        "import ppcls.loss.afdloss as a; assert callable(a.plt.figure);"
        "import sklearn.metrics, scipy.stats; print(type(sklearn.metrics).__name__, scipy.stats.beta.rvs(1, 1) <= 1)"
    )
    assert run(code) == "module True"


def test_a_package_that_is_loaded_stays():
    code = (
        "import sklearn.metrics as s; "
        + SETUP
        + "import ppcls.utils.metrics as m; print(m.hamming_loss is s.hamming_loss)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip().splitlines()[-1] == "True", done.stderr
