"""`python -m ppcls_ext`, which is `ppcls-ext`."""

import sys

from ppcls_ext.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
