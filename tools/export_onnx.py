"""Fuses a model, converts it to ONNX, proves the file equal to the model and writes it.

Example: python tools/export_onnx.py -c configs/MobileOne_S0.yml --output MobileOne_S0.onnx
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.export_onnx import main
from ppcls_ext.commands.outcome import run

if __name__ == "__main__":
    sys.exit(run(main))
