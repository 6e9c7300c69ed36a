"""Fuses a model and writes it for Paddle Inference.

Example: python tools/export_model.py -c configs/MobileOne_S0.yml -o Global.save_inference_dir=inference
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.engine import export
from ppcls_ext.commands.outcome import run

if __name__ == "__main__":
    sys.exit(run(export))
