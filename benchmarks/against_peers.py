"""Our exported files against timm's, in onnxruntime by turns, and our export against the stock paddle2onnx command.

timm's side is its own reparameterized model, exported by torch and simplified by the same onnxslim; it needs the extra
[peers], or `--peer-python` of another environment that has torch and timm. Both sides have random weights.
Example: python benchmarks/against_peers.py --peer-python ../peers/bin/python --output docs/explanation/peers.md

The stock command writes the raw graph (`--optimize_tool None`) and verifies nothing.
"""

import argparse
import datetime
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from ppcls_ext.hosts.threads import use_all_cores

use_all_cores()
import numpy as np
import onnx
import onnxslim
import paddle

from ppcls_ext import build, export_onnx, reparameterize
from ppcls_ext.files import atomic_write
from ppcls_ext.predict.latency import machine, measure
from ppcls_ext.predict.onnx_file import open_session

MODELS = ("MobileOne_S0", "MobileOne_S4", "RepVGG_A0", "FasterNet_T0", "FasterNet_S")
PX = 224
PEER = """
import sys, torch, timm
from timm.utils.model import reparameterize_model
sys.path.append(sys.argv[3])  # torch's exporter wants the package onnx
model = reparameterize_model(timm.create_model(sys.argv[1]).eval())
image = torch.randn(1, 3, 224, 224)
torch.onnx.export(model, image, sys.argv[2], opset_version=17, dynamo=False, input_names=["image"])
print(f"timm {timm.__version__}, torch {torch.__version__}")
"""
HEADER = (
    "| model | 1 thread (ms) | ratio to timm | 2 threads (ms) | ratio to timm | export (s) | stock command (s) |\n"
    "|---|---|---|---|---|---|---|\n"
)


def main() -> None:
    """Measures and prints; with --output writes the page."""
    args = parse()
    rows, peer = [], ""
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            ours, theirs = Path(folder, f"{name}.onnx"), Path(folder, f"{name}_timm.onnx")
            seconds, stock = time_exports(name, ours, Path(folder, name))
            peer = export_peer(args.peer_python, name, theirs)
            cells = [name]
            for threads in (1, 2):
                calls = {"timm": call(theirs, threads), "ours": call(ours, threads)}
                found = measure(calls, args.turns)["ours"]
                cells += [f"{found.median:.2f}", f"{found.ratio:.3f}"]
            rows.append(f"| {' | '.join([*cells, f'{seconds:.1f}', f'{stock:.1f}'])} |\n")
            print(rows[-1], end="", flush=True)
    about = (
        f"{datetime.date.today()}, {machine()}, onnxruntime {version('onnxruntime')}, paddle {paddle.__version__}, "
        f"paddle2onnx {version('paddle2onnx')}; {peer}. Medians of {args.turns} turns, batch 1, {PX} px."
    )
    print(about)
    if args.output:
        with atomic_write(args.output, "w", encoding="utf-8") as file:
            file.write(f"# Against timm and paddle2onnx\n\nWritten by `benchmarks/against_peers.py`: {about}\n\n")
            file.write(HEADER + "".join(rows))


def time_exports(name: str, path: Path, program: Path) -> tuple[float, float]:
    """Seconds that our verified export takes, and that the stock command takes for the same, already fused program."""
    paddle.seed(0)
    model = build(name)
    start = time.perf_counter()
    export_onnx(model, path)
    seconds = time.perf_counter() - start
    spec = [paddle.static.InputSpec([None, 3, PX, PX], "float32", name="image")]
    paddle.jit.save(reparameterize(model), str(program), input_spec=spec)
    file = next(other for other in program.parent.glob(f"{program.name}.*") if other.suffix in (".json", ".pdmodel"))
    command = [str(Path(sys.executable).parent / "paddle2onnx"), "--model_dir", str(program.parent)]
    command += ["--model_filename", file.name, "--params_filename", f"{program.name}.pdiparams"]
    command += ["--save_file", str(program.with_suffix(".stock.onnx")), "--optimize_tool", "None"]
    start = time.perf_counter()
    environment = {**os.environ, "POLYGRAPHY_AUTOINSTALL_DEPS": "0"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return seconds, time.perf_counter() - start


def export_peer(python: str, name: str, path: Path) -> str:
    """Writes timm's file; returns the versions."""
    packages = str(Path(onnx.__file__).parents[1])
    command = [python, "-W", "ignore", "-c", PEER, name.lower(), str(path), packages]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    onnx.save(onnxslim.slim(onnx.load(path)), path)
    return done.stdout.splitlines()[-1]


def call(path: Path, threads: int) -> partial:
    """One run of a file."""
    running = open_session(path.read_bytes(), threads)
    image = np.random.default_rng(0).standard_normal((1, 3, PX, PX), dtype=np.float32)
    return partial(running.run, None, {running.get_inputs()[0].name: image})


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS, metavar="NAME")
    parser.add_argument("--peer-python", default=sys.executable, metavar="FILE", help="a Python with torch and timm")
    parser.add_argument("--turns", type=int, default=50, metavar="N")
    parser.add_argument("--output", metavar="FILE", help="Markdown to write (default: none)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
