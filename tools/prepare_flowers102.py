"""Makes Oxford Flowers102 ready for training. Example: python tools/prepare_flowers102.py --download."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppcls_ext.commands.outcome import run
from ppcls_ext.commands.prepare_flowers102 import main

if __name__ == "__main__":
    sys.exit(run(main))
