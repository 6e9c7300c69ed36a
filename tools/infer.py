"""`ppcls-ext infer` from a checkout, with PaddleClas's own output. Example: python tools/infer.py --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["infer", "--paddleclas", *sys.argv[1:]]))
