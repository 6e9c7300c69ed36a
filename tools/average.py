"""`ppcls-ext average` from a checkout. Example: python tools/average.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["average", *sys.argv[1:]]))
