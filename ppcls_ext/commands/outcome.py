"""What every command-line tool does around its own work: one-line errors and exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable

from ppcls_ext.errors import PpclsExtError

# Paddle says so at every import; it concerns people who compile operators
warnings.filterwarnings("ignore", message="No ccache found")


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
        logger.addHandler(logging.StreamHandler(sys.stderr))
        logger.setLevel(logging.INFO)
    try:
        return main() or 0
    except KeyboardInterrupt:
        message = "interrupted"
    except PpclsExtError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename or 'system'}: {error.strerror or error}"
    except Exception as error:
        message = f"{type(error).__name__}: {error} (PPCLS_EXT_DEBUG=1 shows where)"
    if os.environ.get("PPCLS_EXT_DEBUG") == "1":
        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 1
