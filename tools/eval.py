"""Evaluates a model with PaddleClas's engine.

Example: python tools/eval.py -c configs/MobileOne_S0.yml -o Global.pretrained_model=best_model.pdparams
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.engine import evaluate
from ppcls_ext.commands.outcome import run

if __name__ == "__main__":
    sys.exit(run(evaluate))
