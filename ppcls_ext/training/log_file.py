"""Where PaddleClas's log file is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def log_in(folder: Path) -> Iterator[None]:
    """Inside, PaddleClas's log file is in the run's folder, also where that is not called after the architecture."""
    import ppcls.engine.engine as host

    init_logger = host.init_logger

    def init_logger_there(*args: Any, log_file: str, **kwargs: Any) -> None:
        init_logger(*args, log_file=str(folder / Path(log_file).name), **kwargs)

    host.init_logger = init_logger_there
    try:
        yield
    finally:
        host.init_logger = init_logger
