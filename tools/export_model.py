"""Fuses a model and writes it for Paddle Inference.

Example: python tools/export_model.py -c configs/MobileOne_S0.yml -o Global.save_inference_dir=inference
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.cli import run
from ppcls_ext.engine.run import export

if __name__ == "__main__":
    sys.exit(run(export))
