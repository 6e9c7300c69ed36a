"""`python -m ppcls_ext`: PaddleClas's own scripts with our models."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import yaml

from ppcls_ext.__main__ import _read_configurations_strictly
from ppcls_ext.errors import PpclsExtError

CHECKOUT = os.environ.get("PADDLECLAS_HOME")
# what tools/train.py of every PaddleClas does: the wheel has no tools
SCRIPT = """
from ppcls.utils import config
from ppcls.engine.engine import Engine
args = config.parse_args()
config = config.get_config(args.config, overrides=args.override, show=False)
config.profiler_options = args.profiler_options
Engine(config, mode="train").train()
"""


@pytest.fixture
def script(tmp_path) -> Path:
    if CHECKOUT:
        return Path(CHECKOUT, "tools", "train.py")
    spec = importlib.util.find_spec("paddleclas")
    if spec is None:
        pytest.skip("needs the paddleclas wheel or, in PADDLECLAS_HOME, a checkout")
    home = tmp_path / "PaddleClas"
    (home / "tools").mkdir(parents=True)
    (home / "ppcls").symlink_to(Path(spec.origin).parent / "ppcls")
    (home / "tools" / "train.py").write_text(SCRIPT)
    return home / "tools" / "train.py"


def test_train(script, run_tool, config_file, tmp_path):
    result = run_tool("-m", script, "-c", config_file, "-o", "Arch.name=FasterNet_T0", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "[Eval][Epoch 1][best metric:" in result.stdout
    # where PaddleClas itself puts it: its versions differ
    assert len(list((tmp_path / "output").rglob("best_model.pdparams"))) == 1


def test_configurations_are_read_strictly_and_a_recipe_is_refused(config, registered, tmp_path, monkeypatch):
    import ppcls.utils.config

    for module in (ppcls.utils, ppcls.utils.config):
        monkeypatch.setattr(module, "get_config", module.get_config)
    _read_configurations_strictly("train")
    path = tmp_path / "tiny.yml"
    path.write_text(yaml.safe_dump(config))
    assert ppcls.utils.config.get_config(str(path), overrides=["Global.epochs=4"]).Global.epochs == 4
    path.write_text(yaml.safe_dump({**config, "Recipe": {"ema": {"decay": 0.99}}}))
    with pytest.raises(PpclsExtError, match=r"tools/train\.py"):
        ppcls.utils.get_config(str(path))


def test_bad_input(script, run_tool, config_file, tmp_path):
    missing = run_tool("-m", tmp_path / "none.py", "-c", config_file, cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: no script ")
    assert run_tool("-m", cwd=tmp_path).returncode == 2
