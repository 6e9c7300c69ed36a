"""Runs a command of `ppcls-ext` in a process that is killed, or whose disk is full, at a place that was drawn.

python -m tests.faults.driver FOLDER STEP LIMIT COMMAND…: SIGKILL comes before the operation number STEP on a file below
FOLDER, and no file grows beyond LIMIT bytes; -1 is never. The number of operations is the last line of stdout.
"""

from __future__ import annotations

import os
import resource
import signal
import sys

from ppcls_ext.commands.main import main

#: By the names of Python's audit events. C++ writes without one, to folders that are put in place by these.
OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
counted = 0


def count(event: str, arguments: tuple) -> None:
    """Kills the process when it is time."""
    global counted
    if event in OPERATIONS and isinstance(arguments[0], (str, os.PathLike)) and below in str(arguments[0]):
        if counted == step:
            os.kill(os.getpid(), signal.SIGKILL)
        counted += 1


below, step, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.addaudithook(count)
if limit >= 0:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
code = main(sys.argv[4:])
print(counted)
sys.exit(code)
