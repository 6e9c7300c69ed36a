"""`ppcls-ext`, the one command: its list, its ways in, and what it loads."""

from __future__ import annotations

import importlib
import inspect
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import ppcls_ext
from ppcls_ext.commands.main import main
from ppcls_ext.commands.table import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


def test_help_lists_the_commands_first(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("commands (ppcls-ext COMMAND --help says more):")
    assert start < 4
    assert [line.split()[0] for line in lines[start + 1 :][: len(COMMANDS)]] == list(COMMANDS)
    assert "examples:" in lines


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ppcls-ext {ppcls_ext.__version__}\n"


def test_bad_usage(capsys):
    assert main(["trian"]) == 2
    assert "there is no command 'trian': did you mean train?" in capsys.readouterr().err
    assert main([]) == 2
    assert "commands (ppcls-ext COMMAND --help says more):" in capsys.readouterr().err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_needs_no_extra(name):
    code = f"""
import sys
from ppcls_ext.commands.main import main
try:
    main([{name!r}, "--help"])
except SystemExit as end:
    assert end.code == 0
from ppcls_ext.packages import EXTRAS
print({{"ppcls", *EXTRAS}} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    *text, loaded = done.stdout.splitlines()
    assert text[0].startswith(f"usage: ppcls-ext {name}")
    assert any(line.startswith(f"  ppcls-ext {name} ") for line in text), "an example"
    assert loaded == "set()"


@pytest.mark.parametrize("name", COMMANDS)
def test_tools_are_the_same_commands(name, monkeypatch):
    module = importlib.import_module(f"ppcls_ext.commands.{COMMANDS[name].module}")
    got = []
    monkeypatch.setattr(module, COMMANDS[name].function, got.append)
    script = ROOT / "tools" / f"{name.replace('-', '_')}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "-x", "1"])
    code = compile(script.read_text(encoding="utf-8"), script, "exec")
    with pytest.raises(SystemExit) as end:
        exec(code, {"__name__": "__main__", "__file__": str(script)})
    assert end.value.code == 0
    own = ["--paddleclas"] if name == "infer" else []  # PaddleClas's own output stays for its tool
    assert got == [[*own, "-x", "1"]]


def test_a_name_that_the_terminal_cannot_show_does_not_end_the_command():
    command = [sys.executable, "-m", "ppcls_ext", "--help"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONIOENCODING": "ascii"}, capture_output=True, text=True)
    assert done.returncode == 0
    assert "\\u2026" in done.stdout


@pytest.mark.parametrize("command", ["--help", "models"])
def test_a_reader_that_has_enough_is_no_error(command):
    shell = f"{sys.executable} -m ppcls_ext {command} | true"
    for _ in range(3):
        done = subprocess.run(["sh", "-c", shell], cwd=ROOT, capture_output=True, text=True)
        assert done.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_thin(name):
    """Arguments and printing; the work is done by `Run` and the rooms, which a notebook calls as well."""
    function = getattr(importlib.import_module(f"ppcls_ext.commands.{COMMANDS[name].module}"), COMMANDS[name].function)
    assert len(inspect.getsource(function).splitlines()) <= 60


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_the_null_device(tmp_path, closed):
    """Nobody reads, and nothing fails; no file that is opened gets the number of stdout, and what C++ prints there."""
    code = f"""
import os, sys
from ppcls_ext.commands import main
def command():
    handle = os.open({str(tmp_path / "file")!r}, os.O_RDWR | os.O_CREAT)
    os.system("echo printed; echo printed >&2")
    print("text", flush=True)
    print("text", file=sys.stderr, flush=True)
    return 0 if handle > 2 else 3
main._load = lambda *_: command()
sys.exit(main.main(["predict"]))
"""
    command = f"{sys.executable} -c {shlex.quote(code)} {closed}"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == ""
