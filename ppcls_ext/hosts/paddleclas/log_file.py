"""PaddleClas's log file: its place, and what happens where it cannot be written."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppcls_ext.errors import one_line
from ppcls_ext.hosts.adaptation import patched

#: PaddleClas's own, and its name for the handler.
FORMAT, DATES = "[%(asctime)s] %(name)s %(levelname)s: %(message)s", "%Y/%m/%d %H:%M:%S"
HANDLER = "file_handler"
logger = logging.getLogger("ppcls_ext")


@contextlib.contextmanager
def log_in(folder: Path) -> Iterator[None]:
    """Puts the log file of an engine that is built in the body into `folder`.

    Older versions write to `output_dir/ARCH`, and a run's folder may have another name. Where the file cannot be
    written (a disk that is full or read-only), a warning says so, and the engine does without.
    """
    import ppcls.engine.engine as host

    init_logger = host.init_logger

    def init_logger_there(*args: Any, log_file: str, **kwargs: Any) -> None:
        init_logger(*args, **kwargs)
        _log_to(folder / Path(log_file).name)

    with patched(host, "init_logger", init_logger_there):
        yield


def _log_to(path: Path) -> None:
    import paddle.distributed as dist
    from ppcls.utils import logger as host_logger

    handlers = host_logger._logger.handlers
    there = any(isinstance(handler, _LogFile) and handler.goes_to(path) for handler in handlers)
    if there or dist.get_rank() != 0:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path)
    except OSError as error:
        logger.warning("warning: no log %s: %s", path, error.strerror or error)
        return
    host_logger._logger.addHandler(handler)


def withdraw_log(folder: Path) -> None:
    """Ends the log file in a folder whose training could not be built, and removes it if it was new."""
    from ppcls.utils import logger as host_logger

    for handler in list(host_logger._logger.handlers):
        if isinstance(handler, _LogFile) and Path(handler.baseFilename).parent == folder.absolute():
            host_logger._logger.removeHandler(handler)
            handler.close()
            if handler.is_new:
                with contextlib.suppress(OSError):  # what went wrong before is worth more
                    Path(handler.baseFilename).unlink()


class _LogFile(logging.FileHandler):
    """PaddleClas's log, up to the first line that cannot be written: then a warning says so once.

    Attributes:
        is_new: whether there was no such file before.
    """

    def __init__(self, path: Path) -> None:
        self.is_new = not path.exists()
        super().__init__(path, "a", encoding="utf-8")
        self.set_name(HANDLER)
        self.setFormatter(logging.Formatter(FORMAT, DATES))
        self._fails = False

    def goes_to(self, path: Path) -> bool:
        """Whether it writes to the file at `path`."""
        return not self._fails and self.baseFilename == str(path.absolute())

    def _open(self) -> io.TextIOWrapper:
        """Without a buffer, whose lock a forked process that loads images inherits: held for ever, if another thread
        was writing when it was forked.
        """
        return io.TextIOWrapper(open(self.baseFilename, self.mode + "b", 0), self.encoding, write_through=True)

    def emit(self, record: logging.LogRecord) -> None:
        if not self._fails:
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        self._fails = True
        logger.warning("warning: %s ends here: %s", self.baseFilename, one_line(sys.exc_info()[1]))
