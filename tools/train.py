"""Trains a model with PaddleClas's engine.

Example: python tools/train.py -c configs/MobileOne_S0.yml -o Global.epochs=20
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.engine import train
from ppcls_ext.commands.outcome import run

if __name__ == "__main__":
    sys.exit(run(train))
