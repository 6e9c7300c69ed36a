"""The place of PaddleClas's log file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppcls_ext.hosts.adaptation import patched


@contextlib.contextmanager
def log_in(folder: Path) -> Iterator[None]:
    """Puts the log file of an engine that is built in the body into `folder`.

    Older versions write to `output_dir/ARCH`, and a run's folder may have another name.
    """
    import ppcls.engine.engine as host

    init_logger = host.init_logger

    def init_logger_there(*args: Any, log_file: str, **kwargs: Any) -> None:
        init_logger(*args, log_file=str(folder / Path(log_file).name), **kwargs)

    with patched(host, "init_logger", init_logger_there):
        yield
