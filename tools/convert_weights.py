"""Converts weight files: published PyTorch or Paddle weights in, .pdparams, .npz or .safetensors out.

Example: python tools/convert_weights.py mobileone_s0_unfused.pth.tar MobileOne_S0.pdparams --arch MobileOne_S0
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.convert_weights import main
from ppcls_ext.commands.outcome import run

if __name__ == "__main__":
    sys.exit(run(main))
