"""The whole path on sample pictures: train, evaluate, infer, fuse, export, convert to ONNX, compare, infer again.

Example: python tools/demo.py --output demo
"""

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.outcome import run
from ppcls_ext.errors import PpclsExtError

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Runs the tools one after the other, as a user would, and sums up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="demo", help="folder for everything that is written (default: demo)")
    parser.add_argument("--epochs", type=int, help="instead of the configuration's")
    args = parser.parse_args()
    start = time.monotonic()
    out = Path(args.output)
    digits, weights = out / "digits", out / "MobileOne_S0" / "best_model"
    config = ["-c", str(ROOT / "configs" / "digits" / "MobileOne_S0.yml")]
    places = ["-o", f"Global.output_dir={out}", f"Infer.PostProcess.class_id_map_file={digits}/digits_label_list.txt"]
    for loader, name in (("Train", "train_list.txt"), ("Eval", "val_list.txt")):
        dataset = f"DataLoader.{loader}.dataset"
        places += [f"{dataset}.image_root={digits}", f"{dataset}.cls_label_path={digits / name}"]
    trained = [*config, *places, f"Global.pretrained_model={weights}"]

    _tool("make_sample_dataset.py", "--output", str(digits))
    # the configuration evaluates every fourth epoch; a shorter training is evaluated at its end
    epochs = [f"Global.epochs={args.epochs}", f"Global.eval_interval={min(args.epochs, 4)}"] if args.epochs else []
    _tool("train.py", "--report", *config, *places, *epochs)
    picture, _ = (digits / "val_list.txt").read_text(encoding="utf-8").split("\n")[0].split()
    picture = str(digits / picture)
    unfused = _accuracy(_tool("eval.py", *trained))
    _tool("infer.py", *trained, f"Infer.infer_imgs={picture}")
    _tool("export_model.py", *trained, f"Global.save_inference_dir={out / 'inference'}")
    fused_weights = out / "MobileOne_S0_fused.pdparams"
    _tool("convert_weights.py", f"{weights}.pdparams", str(fused_weights), "--arch", "MobileOne_S0", "--fuse")
    fused = _accuracy(_tool("eval.py", *trained, f"Global.pretrained_model={fused_weights}", "Arch.fused=True"))
    onnx = out / "MobileOne_S0.onnx"
    report = _tool("export_onnx.py", *trained, "--output", str(onnx))
    _tool("infer_onnx.py", "--model", str(onnx), picture)
    onnx_accuracy = _onnx_accuracy(onnx, digits)

    print(f"\nDone in {time.monotonic() - start:.0f} s.")
    print(f"top-1 before fusing    {unfused[0]} over {unfused[1]} images")
    print(f"top-1 after fusing     {fused[0]} over {fused[1]} images")
    print(f"top-1 of the ONNX file {onnx_accuracy}")
    print(report[report.index("largest differences") : report.index("next:")].rstrip())
    for path in (f"{weights}.pdparams", fused_weights, out / "inference", onnx):
        print(path)
    run = weights.parent
    print("to look at:", *(run / name for name in ("batch.png", "curves.png", "report/report.html")), sep="\n  ")
    if unfused != fused:
        raise PpclsExtError(f"the accuracies before and after fusing differ: {unfused[0]} and {fused[0]}")


def _tool(name: str, *arguments: str) -> str:
    """Runs one tool, shows its output and returns it."""
    command = [sys.executable, str(ROOT / "tools" / name), *arguments]
    print(f"\n$ python tools/{name} {shlex.join(arguments)}", flush=True)
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            lines.append(line)
            print(line, end="", flush=True)
    if process.returncode:
        raise PpclsExtError(f"tools/{name} ended with {process.returncode}; what it said is above")
    return "".join(lines)


def _accuracy(output: str) -> tuple[str, str]:
    found = re.findall(r"top1 ([\d.]+).* over (\d+) images", output)
    if not found:
        raise PpclsExtError("the evaluation printed no top1 accuracy")
    return found[-1]


def _onnx_accuracy(onnx: Path, digits: Path) -> str:
    entries = [line.split() for line in (digits / "val_list.txt").read_text(encoding="utf-8").splitlines()]
    labels = {str(digits / name): int(label) for name, label in entries}
    command = [sys.executable, str(ROOT / "tools" / "infer_onnx.py"), "--model", str(onnx), "--json", *labels]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise PpclsExtError(f"tools/infer_onnx.py ended with {done.returncode}; what it said is above")
    results = json.loads(done.stdout)
    right = sum(result["class_ids"][0] == labels[result["file_name"]] for result in results)
    return f"{right / len(results):.4f} over {len(results)} images"


if __name__ == "__main__":
    sys.exit(run(main))
