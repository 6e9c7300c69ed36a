"""Keeping a host quiet: what Python, the C++ libraries or a logger print while something is only tried."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO


@contextlib.contextmanager
def captured_output() -> Iterator[IO[str]]:
    """Keeps what Python and the C++ libraries print off the screen; yields the file that receives it."""
    with tempfile.TemporaryFile("w+", errors="replace") as output, contextlib.ExitStack() as stack:
        for number, stream in ((1, sys.stdout), (2, sys.stderr)):
            stream.flush()
            kept = os.dup(number)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            stack.callback(stream.flush)
            os.dup2(output.fileno(), number)
        # Python's streams may lead elsewhere than to 1 and 2
        stack.enter_context(contextlib.redirect_stdout(output))
        stack.enter_context(contextlib.redirect_stderr(output))
        yield output


@contextlib.contextmanager
def logging_from(level: int, logger: logging.Logger) -> Iterator[None]:
    """Inside the block, `logger` logs only messages of `level` or above."""
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
