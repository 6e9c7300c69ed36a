"""Makes a small dataset of handwritten digits, without a network. Example: python tools/make_sample_dataset.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ppcls_ext.commands.make_sample_dataset import main
from ppcls_ext.commands.outcome import run

if __name__ == "__main__":
    sys.exit(run(main))
