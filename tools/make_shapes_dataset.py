"""`ppcls-ext make-shapes-dataset` from a checkout. Example: python tools/make_shapes_dataset.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["make-shapes-dataset", *sys.argv[1:]]))
