"""What to say when a process that loads pictures dies."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from ppcls_ext.errors import PpclsExtError, one_line, unwrapped


@contextlib.contextmanager
def explained_workers(what_now: Callable[[], str] = lambda: "run it again") -> Iterator[None]:
    """Inside, the death of one of Paddle's loading processes becomes a PpclsExtError.

    Args:
        what_now: gives the end of its message.
    """
    try:
        yield
    except (SystemError, RuntimeError, OSError) as error:
        # Paddle's C++ handler of SIGCHLD, and io/dataloader/dataloader_iter.py
        died = re.search(r"DataLoader (process|\d+ workers?) .*?exit.*", one_line(unwrapped(error)))
        if died is None:
            raise
        how = re.sub(r"\s*\(at .*", "", died.group())
        raise PpclsExtError(
            f"a process that loads pictures died ({how}): mostly memory ran out; lower loader.num_workers or "
            f"sampler.batch_size below DataLoader (or, after a bus error, set loader.use_shared_memory to false); "
            f"{what_now()}"
        ) from error
