"""Classifies images with an exported ONNX file, without Paddle.

Example: python tools/infer_onnx.py --model MobileOne_S0.onnx flower.jpg
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.infer_onnx import main
from ppcls_ext.commands.outcome import run

if __name__ == "__main__":
    sys.exit(run(main))
