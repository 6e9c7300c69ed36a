"""`python -m ppcls_ext SCRIPT`: see `ppcls_ext.commands.host_script`."""

import sys

from ppcls_ext.commands.host_script import main
from ppcls_ext.commands.outcome import run

if __name__ == "__main__":
    sys.exit(run(main))
