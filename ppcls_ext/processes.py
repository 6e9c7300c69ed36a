"""Processes that end with the one that started them, also where that is killed and can tell them nothing."""

from __future__ import annotations

import ctypes
import signal
import sys

# found now: between fork and exec no library may be loaded
_prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG
#: The first lines of Python code that `python -c` shall run no longer than the process that starts it.
END_WITH_PARENT = f"import ctypes; ctypes.CDLL(None).prctl({DEATH_SIGNAL}, {int(signal.SIGTERM)})\n" if _prctl else ""


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Makes Linux send this process a signal when the thread that started it ends; other systems cannot."""
    if _prctl is not None:
        _prctl(DEATH_SIGNAL, int(number))
