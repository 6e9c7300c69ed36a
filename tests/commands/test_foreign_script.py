"""`python -m ppcls_ext`: PaddleClas's own scripts with our models."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path

import pytest
import yaml

from ppcls_ext.commands.host_script import one_value_each
from ppcls_ext.weights.files import read_weights

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


@pytest.fixture
def host_config(config, tmp_path) -> Path:
    """A file that PaddleClas understands without this project."""
    config["Global"]["device"] = "cpu"
    del config["AMP"]
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config))))
    return path


@pytest.mark.parametrize("arch", ["FasterNet_T0", "ResNet18"])
def test_train(script, run_tool, host_config, tmp_path, arch):
    """PaddleClas's own loop trains our model, and its own, and writes its own checkpoints."""
    # PaddleClas's way, once a value, beside ours
    options = ["-o", "Global.save_interval=1", "-o", "Global.epochs=1", f"Arch.name={arch}"]
    result = run_tool("-m", script, "-c", host_config, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "[Eval][Epoch 1][best metric:" in result.stdout
    (latest,) = (tmp_path / "output").rglob("latest.pdparams")
    names = read_weights(latest)
    assert any("partial_conv3" in name for name in names) == (arch == "FasterNet_T0")
    assert not list((tmp_path / "output").rglob("*.json")), "no set of ours"


def test_what_only_our_commands_understand(script, run_tool, host_config, tmp_path):
    for arguments in (["-c", host_config, "-o", "Global.epochs=1", "Recipe.ema.decay=0.9"], ["-c", "MobileOne_S0"]):
        result = run_tool("-m", script, *arguments, cwd=tmp_path)
        assert result.returncode == 1
        assert re.search("section Recipe|take a file", result.stderr.splitlines()[-1])
    assert not (tmp_path / "output").exists()


def test_the_scripts_own_command_line(tmp_path, run_tool):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "own.py").write_text("import sys; print(sys.argv)")
    arguments = ["-o", "a", "b", "--help", "-c", "x", "train"]
    result = run_tool("-m", tmp_path / "tools" / "own.py", *arguments, cwd=tmp_path)
    assert result.stdout.splitlines()[-1] == str([str(tmp_path / "tools" / "own.py"), *arguments])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("-c x.yml -o a=1 b=2 -p q=1", "-c x.yml -o a=1 -o b=2 -p q=1"),
        ("-o a=1 -o b=2", "-o a=1 -o b=2"),
        ("--override a=1 b=-1 c=2 -c x.yml", "--override a=1 -o b=-1 -o c=2 -c x.yml"),
        ("-c x.yml y", "-c x.yml y"),
        ("-o", "-o"),
    ],
)
def test_overrides_of_both_kinds(given, expected):
    assert one_value_each(given.split()) == expected.split()


def test_bad_input(script, run_tool, config_file, tmp_path):
    missing = run_tool("-m", tmp_path / "none.py", "-c", config_file, cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: no script ")
    assert run_tool("-m", cwd=tmp_path).returncode == 2
