"""A command that the system tells to end does what it does when the user interrupts it: it cleans up."""

from __future__ import annotations

import os
import signal
import threading


def interrupt_on_sigterm() -> None:
    """Makes SIGTERM raise KeyboardInterrupt; to be called once more when Paddle is loaded, which takes the signal."""
    process = os.getpid()

    def interrupt(number: int, _: object) -> None:
        if os.getpid() == process:
            raise KeyboardInterrupt("terminated")
        # a process that loads pictures, which inherits this handler
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, interrupt)
