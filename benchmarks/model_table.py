"""Writes docs/reference/models.md: parameters, MACs, ONNX nodes, the ONNX file's largest difference, for every model.

Each model gets random weights with random batch-norm statistics, and is exported and verified like a trained one.
Example: python benchmarks/model_table.py            # all 25, about half an hour on two cores
         python benchmarks/model_table.py RepVGG_A0  # print one row
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from ppcls_ext.hosts.threads import use_all_cores

use_all_cores()
import onnx
import onnxruntime
import paddle

from ppcls_ext import build, list_models
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.export.pipeline import export_onnx
from ppcls_ext.files import atomic_write
from ppcls_ext.models.figures import FIGURES
from ppcls_ext.models.table import MODELS
from ppcls_ext.predict.metadata import Metadata
from tests.helpers import randomise_norms

COLUMNS = (
    "model",
    "parameters unfused (M)",
    "parameters fused (M)",
    "MACs at 224 px (G)",
    "ONNX nodes",
    "largest difference",
    "published top-1 (%)",
)


def describe(name: str) -> tuple[str, ...]:
    """One row of the table."""
    paddle.seed(0)
    model = build(name)
    randomise_norms(model, seed=0)
    model.eval()
    metadata = Metadata(name, Preprocessing(), None).to_properties()
    with tempfile.TemporaryDirectory() as folder:
        report = str(export_onnx(model, Path(folder) / "model.onnx", metadata=metadata))
    nodes = re.search(r"nodes +(\d+)", report).group(1)
    differences = re.findall(r"([\d.e+-]+) +onnxruntime, from Paddle", report)
    top1 = MODELS[name].published_top1
    return (
        name,
        f"{FIGURES[name].unfused / 1e6:.2f}",
        f"{FIGURES[name].fused / 1e6:.2f}",
        f"{FIGURES[name].macs / 1e9:.2f}",
        nodes,
        f"{max(map(float, differences)):.1e}",
        f"{top1}" if top1 else "none",
    )


def main() -> None:
    """Prints the rows asked for, or writes the whole table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="print only these")
    names = parser.parse_args().models
    rows = []
    for name in names or list_models():
        rows.append(describe(name))
        print(" | ".join(rows[-1]), flush=True)
    if names:
        return
    lines = [
        "# The models",
        "",
        "Written by `python benchmarks/model_table.py`: random weights, random batch-norm statistics, 1000 classes,",
        "224 px, opset 17. The largest difference is that of the logits between Paddle and onnxruntime, relative to",
        "the largest logit, at batch 1 and 3. Top-1 is what the papers publish; none was measured here.",
        f"paddle {paddle.__version__}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{'---|' * len(COLUMNS)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    with atomic_write(ROOT / "docs" / "reference" / "models.md", "w", encoding="utf-8") as stream:
        stream.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
