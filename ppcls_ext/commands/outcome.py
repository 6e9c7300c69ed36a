"""The frame of every command: errors of one line, exit codes, and cleaning up on signals."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

from ppcls_ext.commands.pages import page_for
from ppcls_ext.errors import PpclsExtError, message_line, unwrapped
from ppcls_ext.packages import EXTRAS, missing

#: Signals that end a command in good order, and what is said of them.
ENDING = {"SIGTERM": "terminated", "SIGHUP": "hangup", "SIGQUIT": "quit"}
#: What is said of Ctrl-C, and the exit code that shells expect of a command that it ended.
SIGINT, INTERRUPTED = "interrupted", 130
GRACE = 10.0
"""Seconds in which a further one of these signals changes nothing."""


def run(main: Callable[[], int | None]) -> int:
    """Runs a tool's `main` and turns its outcome into an exit code.

    Returns:
        0 when `main` is done (or what it returns), 1 when it failed, 130 when Ctrl-C ended it: then stderr holds one
        line that says what, where and what to do. argparse's own exit code for bad usage, 2, passes through. With
        PPCLS_EXT_DEBUG=1
        the traceback is printed as well.
    """
    logger = logging.getLogger("ppcls_ext")
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Printable())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    _interrupts.clear()
    interrupt_on_signals()
    _interrupt_on_sigint()
    try:
        code = main() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError as error:
        if not _reader_is_gone():
            print(f"error: {message_line(_message(error))}", file=sys.stderr)
    except (Exception, KeyboardInterrupt) as error:
        if os.environ.get("PPCLS_EXT_DEBUG") == "1":
            traceback.print_exc()
        _drop_unwritten_output()
        swallowed = _swallowed_interrupt(error)
        print(f"error: {message_line(swallowed or _message(error))}", file=sys.stderr)
        is_interrupt = swallowed is not None or isinstance(unwrapped(error), KeyboardInterrupt)
        if is_interrupt and set(_interrupts) == {SIGINT}:
            return INTERRUPTED
    return 1


def _drop_unwritten_output() -> None:
    try:
        sys.stdout.flush()
    except OSError:  # as on a full disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends


#: What says that there is no room. Paths are missing where stdout, or a temporary file that is open, is written.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


#: What has interrupted this process. C++ code that imports a module makes some other error of a KeyboardInterrupt.
_interrupts: list[str] = []


def _swallowed_interrupt(error: BaseException) -> str | None:
    if not _interrupts or isinstance(unwrapped(error), KeyboardInterrupt):
        return None
    is_told = isinstance(error, PpclsExtError) and not isinstance(error.__cause__, ImportError)
    return None if is_told else _interrupts[0]


def _interrupt_on_sigint() -> None:
    """Keeps in mind that an interrupt has come, and raises KeyboardInterrupt as Python does."""

    def interrupt(number: int, _: object) -> None:
        _interrupts.append(SIGINT)
        raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)


def _reader_is_gone() -> bool:
    """Whether nobody reads stdout any more, as behind `| head`: no failure that anyone should hear of."""
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    gone = any(event & select.POLLERR for _, event in poll.poll(0))
    if gone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
    return gone


class _Printable(logging.Formatter):
    """Messages on one line, with nothing that the terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        return message_line(super().format(record))


def _message(error: BaseException) -> str:
    error = unwrapped(error)
    if isinstance(error, KeyboardInterrupt):
        return str(error) or "interrupted"
    if isinstance(error, PpclsExtError):
        page = page_for(error)
        return f"{error} (more: ppcls-ext docs {page})" if page else str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return missing(error.name)
    if isinstance(error, OSError):
        advice = "; packages keep files there: set HOME to a folder that can be written" if _is_cache(error) else ""
        nameless = "stdout, or a temporary file" if error.errno in FULL else "system"
        return f"{error.filename or nameless}: {error.strerror or error}{advice}"
    return f"{type(error).__name__}: {error} (PPCLS_EXT_DEBUG=1 shows where)"


def _is_cache(error: OSError) -> bool:
    """Whether it is about a place that a package, such as Paddle while it is imported, makes in the home folder."""
    hidden = os.path.join(os.path.expanduser("~"), ".")
    return isinstance(error.filename, str) and error.filename.startswith(hidden)


def interrupt_on_signals() -> None:
    """Makes the signals of `ENDING` raise KeyboardInterrupt; to be called once more when Paddle is loaded.

    Paddle takes SIGTERM. What the caller ignores stays ignored, as `nohup` wants it.

    Raises:
        KeyboardInterrupt: a signal came while Paddle was loaded, which has swallowed it.
    """
    process, answered = os.getpid(), float("-inf")
    if _interrupts:
        raise KeyboardInterrupt(_interrupts[0])

    def interrupt(number: int, _: object) -> None:
        nonlocal answered
        if os.getpid() != process:
            # a process that loads images inherits this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if time.monotonic() < answered + GRACE:
            return  # a terminal that closes sends several, and what the first one ends is cleaning up
        answered = time.monotonic()
        if hasattr(signal, "SIGCHLD"):
            # processes that load images may have got the same signal, of which Paddle would make an error in between
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _interrupts.append(ENDING[signal.Signals(number).name])
        raise KeyboardInterrupt(_interrupts[-1])

    if threading.current_thread() is threading.main_thread():
        for name in ENDING:
            number = getattr(signal, name, None)  # Windows has SIGTERM alone
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, interrupt)
