"""What the terminal shows when a command fails: one harmless line, and the traceback where it is asked for."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ppcls_ext.commands.outcome import interrupt_on_signals, run
from ppcls_ext.errors import Interrupted, NotImageError, PpclsExtError, printable, unwrapped
from ppcls_ext.packages import import_extra

FULL = "stdout, or a temporary file: No space left on device"
ROOT = Path(__file__).resolve().parents[2]

HOSTILE = "a\x1b[2Jb\x07\x9bc\u202egnp.exe\u2028\ud800\x7f"
SHOWN = r"a\x1b[2Jb\x07\x9bc\u202egnp.exe\u2028\ud800\x7f"


def failing(error: BaseException):
    def main():
        raise error

    return main


def test_printable():
    assert printable(HOSTILE) == SHOWN
    assert printable("Räume 花 é") == "Räume 花 é"


@pytest.mark.parametrize(
    "error", [PpclsExtError(HOSTILE), ValueError(HOSTILE), OSError(2, "No such file", HOSTILE), KeyboardInterrupt()]
)
def test_nothing_that_a_terminal_obeys(capsys, error):
    assert run(failing(error)) == 1
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert text[:-1].isprintable()


def test_warnings_are_harmless_too(capsys):
    assert run(lambda: logging.getLogger("ppcls_ext").warning("%s is\nskipped", HOSTILE)) == 0
    text = capsys.readouterr().err
    assert text[:-1].isprintable()
    assert "skipped" in text


@pytest.mark.parametrize("error", [PpclsExtError("what"), ValueError("what"), KeyboardInterrupt("what")])
def test_debug_shows_the_traceback(capsys, monkeypatch, error):
    monkeypatch.setenv("PPCLS_EXT_DEBUG", "1")
    assert run(failing(error)) == 1
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert "raise error" in text
    assert "NoneType" not in text
    assert text.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("place", ["gradient", "hook", "hook of a leaf"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt("terminated"), "terminated"),
        (KeyboardInterrupt(), "interrupted"),
        (PpclsExtError("what: was got; do this"), "what: was got; do this"),
        (PpclsExtError("two\n\nlines"), "two lines"),
        (NotImageError("not an image"), "not an image"),
        (ValueError("a value"), "RuntimeError: ValueError: a value (PPCLS_EXT_DEBUG=1 shows where)"),
        (MemoryError(), "MemoryError:  (PPCLS_EXT_DEBUG=1 shows where)"),
    ],
)
def test_an_error_inside_a_gradient_stays_what_it_is(capsys, error, said, place):
    """Paddle hands an exception of a gradient that is written in Python on as the text of another."""
    import paddle
    from paddle.autograd import PyLayer

    class Double(PyLayer):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            if place == "gradient":
                raise error
            return grad * 2

    def hook(_):
        raise error

    def main() -> None:
        x = paddle.ones([2])
        x.stop_gradient = False
        y = Double.apply(x)
        if place != "gradient":
            (y if place == "hook" else x).register_hook(hook)
        y.sum().backward()

    assert run(main) == 1
    assert capsys.readouterr().err.splitlines()[-1] == " ".join(f"error: {said}".split())


def test_an_interrupt_behind_the_last_gradient(capsys):
    import paddle

    def interrupt() -> None:
        raise KeyboardInterrupt("terminated")

    def main() -> None:
        x = paddle.ones([2])
        x.stop_gradient = False
        x._register_backward_hook(interrupt)
        (x * 2).sum().backward()

    assert run(main) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: terminated"


@pytest.mark.parametrize(
    ("file", "kind", "said"),
    [("pylayer/py_layer_node.cc:171", PpclsExtError, "two\n\nlines"), ("elsewhere.cc:1", OSError, "(External) Ppcls")],
)
def test_an_error_inside_a_gradient_as_paddle_to_3_2_tells_it(file, kind, said):
    error = OSError(
        f"(External) PpclsExtError: two\n\nlines\n\nAt:\n  /a.py(8): backward\n (at /paddle/fluid/{file})\n"
    )
    found = unwrapped(error)
    assert type(found) is kind
    assert str(found).startswith(said)


@pytest.fixture
def on_sigint():
    """SIGINT as a program of its own has it: the processes of pytest-xdist ignore it. conftest.py restores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "error", [ImportError("initialization failed"), SystemError("error return"), PpclsExtError("reinstall it")]
)
def test_an_interrupt_that_became_another_error(capsys, on_sigint, number, error):
    """As while Paddle is imported, by C++ code."""

    def main():
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise error from ImportError()

    assert run(main) == (130 if number == signal.SIGINT else 1)
    said = "interrupted" if number == signal.SIGINT else "terminated"
    assert capsys.readouterr().err == f"error: {said}\n"
    assert run(failing(error)) == 1
    assert str(error) in capsys.readouterr().err, "the next command was not interrupted"


def test_an_interrupt_that_was_swallowed_counts_once_paddle_is_loaded(capsys, on_sigint):
    def main():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interrupt_on_signals()
        pytest.fail("it goes on")

    assert run(main) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


def test_what_an_interrupted_command_says_itself_stays(capsys, on_sigint):
    def main():
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise Interrupted("interrupted; resume with …") from error

    assert run(main) == 130
    assert capsys.readouterr().err == "error: interrupted; resume with …\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("print('text')", FULL),
        ("print('text', flush=True)", FULL),
        ("print('text'); raise ValueError('a value')", "ValueError: a value"),
    ],
)
def test_stdout_on_a_full_disk(code, said):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    code = f"import sys; from ppcls_ext.commands.outcome import run; sys.exit(run(lambda: exec({code!r})))"
    for options in ((), ("-u",)):
        command = [sys.executable, *options, "-c", code]
        with open("/dev/full", "w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"error: {said if not options else FULL}")


def test_a_home_that_cannot_be_written(capsys, monkeypatch):
    """Packages make folders there while they are imported, as Paddle does."""
    monkeypatch.setenv("HOME", "/proc")

    def main():
        import_extra("no_writable_home")

    def makes_folders(name):
        os.makedirs("/proc/.cache/paddle")

    monkeypatch.setattr("importlib.import_module", makes_folders)
    assert run(main) == 1
    said = "error: /proc/.cache: No such file or directory; packages keep files there: set HOME to a folder"
    assert capsys.readouterr().err.startswith(said)


ENDED = """
import signal, sys, time
from ppcls_ext.commands.outcome import run

def main():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("cleaning up", flush=True)
        time.sleep(0.5)
        print("clean", flush=True)

sys.exit(run(main))
"""


def ended_by(numbers: list[int], ignored: int = 0) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that gets signals: one at its work, the others while it cleans up."""
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    if ignored:
        signal.signal(ignored, signal.SIG_IGN)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", ENDED], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler or signal.SIG_DFL)
    said = process.stdout.readline()
    for number in numbers:
        process.send_signal(number)
        if number != ignored:
            said += process.stdout.readline()
    out, errors = process.communicate(timeout=60)
    return process.returncode, said + out, errors


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has SIGTERM alone")
@pytest.mark.parametrize(
    ("name", "word"), [("SIGTERM", "terminated"), ("SIGHUP", "hangup"), ("SIGQUIT", "quit"), ("SIGINT", "interrupted")]
)
def test_signals_that_end_a_command(name, word):
    number = getattr(signal, name)
    code = 130 if name == "SIGINT" else 1
    assert ended_by([number]) == (code, "begun\ncleaning up\nclean\n", f"error: {word}\n")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has SIGTERM alone")
def test_several_signals_do_not_end_the_cleaning_up():
    """A terminal that closes sends SIGHUP twice, and a service manager SIGTERM and SIGHUP."""
    for first, second in ((signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGHUP)):
        code, out, errors = ended_by([first, second])
        assert (code, out) == (1, "begun\ncleaning up\nclean\n")
        assert errors in ("error: hangup\n", "error: terminated\n")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has SIGTERM alone")
@pytest.mark.parametrize("name", ["SIGHUP", "SIGQUIT"])
def test_what_nohup_ignores_stays_ignored(name):
    number = getattr(signal, name)
    assert ended_by([number, signal.SIGTERM], ignored=number)[2] == "error: terminated\n"
