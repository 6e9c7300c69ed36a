"""The frame of every command: errors of one line, exit codes, and cleaning up on SIGTERM."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from ppcls_ext.errors import PpclsExtError, message_line, unwrapped
from ppcls_ext.packages import EXTRAS, missing


def run(main: Callable[[], int | None]) -> int:
    """Runs a tool's `main` and turns its outcome into an exit code.

    Returns:
        0 when `main` is done (or what it returns), 1 when it failed: then stderr holds one line that says what,
        where and what to do. argparse's own exit code for bad usage, 2, passes through. With PPCLS_EXT_DEBUG=1
        the traceback is printed as well.
    """
    logger = logging.getLogger("ppcls_ext")
    logger.propagate = False
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_Printable())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    interrupt_on_sigterm()
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
        print(f"error: {message_line(_message(error))}", file=sys.stderr)
    return 1


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
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name in EXTRAS:
        return missing(error.name)
    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    return f"{type(error).__name__}: {error} (PPCLS_EXT_DEBUG=1 shows where)"


def interrupt_on_sigterm() -> None:
    """Makes SIGTERM raise KeyboardInterrupt; to be called once more when Paddle is loaded, which takes the signal."""
    process = os.getpid()

    def interrupt(number: int, _: object) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt("terminated")
        # a process that loads images inherits this handler
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
