"""`ppcls-ext predict`, by its first name. Example: python tools/infer_onnx.py --model MobileOne_S0.onnx a.jpg."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["predict", *sys.argv[1:]]))
