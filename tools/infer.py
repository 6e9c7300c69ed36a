"""Prints the classes of pictures.

Example: python tools/infer.py -c configs/MobileOne_S0.yml -o Infer.infer_imgs=flower.jpg
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.engine import infer
from ppcls_ext.commands.outcome import run

if __name__ == "__main__":
    sys.exit(run(infer))
