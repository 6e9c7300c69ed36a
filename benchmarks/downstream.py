"""Trains the detectors and segmenters of configs/ with their hosts' own scripts, exports, converts and compares them.

Each is trained on the data set of shapes, evaluated, exported fused and made an ONNX file; the table goes to the screen
and to output/downstream.md, a picture of predictions by the ONNX files to docs/images/downstream.png.

Example: PADDLEDET_HOME=… PADDLESEG_HOME=… python benchmarks/downstream.py
         … python benchmarks/downstream.py fcn_fasternet_t0          # one of them
         … python benchmarks/downstream.py --trained                 # what was trained before is not trained again
         … python benchmarks/downstream.py --published mobileone_s0.pth.tar   # also PicoDet from (fused) weights
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from ppcls_ext.data.shapes import NAMES
from ppcls_ext.downstream.onnx import ProgramReport, program_to_onnx

DATA = Path("dataset", "shapes")
DETECTION = ("picodet_mobileone_s0", "ppyoloe_repvgg_a0", "yolox_fasternet_t0")
SEGMENTATION = ("pp_liteseg_mobileone_s0", "deeplabv3p_repvgg_a0", "fcn_fasternet_t0")
PUBLISHED = "picodet_published"
COLOURS = np.array([(0, 0, 0), (220, 40, 40), (40, 160, 60), (50, 90, 230)], np.uint8)
COLUMNS = "model | measure | training, min | ONNX nodes | of them Conv | largest difference"


def script(host: str, name: str, *arguments: object, log: Path) -> str:
    """Runs a host's script through `python -m ppcls_ext`; gives what it printed, which also goes to `log`."""
    command = [sys.executable, "-m", "ppcls_ext", str(Path(os.environ[host], "tools", name)), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(done.stdout, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}")
    return done.stdout


def detector(name: str, published: Path | None, trained: bool) -> tuple[str, float, Path]:
    """Trains and exports one; gives its measure, the minutes of training and the folder of the program."""
    config = ROOT / "configs" / "detection" / f"{name.replace(PUBLISHED, DETECTION[0])}.yml"
    folder = Path("output", name)
    overrides = [f"save_dir={folder}"]
    if published:
        overrides += [f"MobileOne_S0.pretrained={published}", "MobileOne_S0.fused=True", "epoch=20"]
    start, minutes = time.time(), float("nan")
    if not (trained and (folder / "model_final.pdparams").exists()):
        script("PADDLEDET_HOME", "train.py", "-c", config, "-o", *overrides, log=folder / "train.log")
        minutes = (time.time() - start) / 60
    overrides = [*overrides[:1], f"weights={folder}/model_final.pdparams", *overrides[2:3]]
    printed = script("PADDLEDET_HOME", "eval.py", "-c", config, "-o", *overrides, log=folder / "eval.log")
    whole, half = (
        re.search(rf"IoU={iou} *\| area= +all \| maxDets=100 \] = ([\d.]+)", printed).group(1)
        for iou in ("0.50:0.95", "0.50     ")
    )
    arguments = ["-c", config, "--output_dir", folder, "-o", *overrides]
    script("PADDLEDET_HOME", "export_model.py", *arguments, log=folder / "export.log")
    return f"AP50 {half}, mAP {whole}", minutes, folder / config.stem


def segmenter(name: str, trained: bool) -> tuple[str, float, Path]:
    """As `detector`; exported without argmax, so that logits are compared."""
    config, folder = ROOT / "configs" / "segmentation" / f"{name}.yml", Path("output", name)
    start, minutes = time.time(), float("nan")
    if not (trained and (folder / "best_model" / "model.pdparams").exists()):
        arguments = ["--config", config, "--do_eval", "--device", "cpu", "--save_dir", folder]
        script("PADDLESEG_HOME", "train.py", *arguments, log=folder / "train.log")
        minutes = (time.time() - start) / 60
    weights = ["--config", config, "--model_path", folder / "best_model" / "model.pdparams"]
    printed = script("PADDLESEG_HOME", "val.py", *weights, "--device", "cpu", log=folder / "val.log")
    mean = re.findall(r"mIoU: ([\d.]+)", printed)[-1]
    arguments = [*weights, "--save_dir", folder / "inference", "--input_shape", 1, 3, 96, 96, "--output_op", "none"]
    script("PADDLESEG_HOME", "export.py", *arguments, log=folder / "export.log")
    return f"mIoU {mean}", minutes, folder / "inference"


def row(name: str, measure: str, minutes: float, report: ProgramReport) -> str:
    """One line of the table."""
    nodes = sum(report.nodes.values())
    return f"{name} | {measure} | {minutes:.1f} | {nodes} | {report.nodes['Conv']} | {report.difference:.1e}"


def answers(path: Path, picture: np.ndarray) -> list[np.ndarray]:
    """What an ONNX file says of a picture of its own size."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    levels = picture.astype(np.float32).transpose(2, 0, 1)[None]
    if "yolox" not in path.stem:
        mean, std = np.float32([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).reshape(2, 1, 3, 1, 1)
        levels = (levels / 255 - mean) / std
    shape = np.float32([picture.shape[:2]])
    inputs = {"im_shape": shape, "scale_factor": np.ones((1, 2), np.float32)}
    return session.run(None, {value.name: inputs.get(value.name, levels) for value in session.get_inputs()})


def draw(picture: np.ndarray, outputs: list[np.ndarray]) -> Image.Image:
    """Boxes, or classes in colour, over a picture, twice its size."""
    height, width = picture.shape[:2]
    image = Image.fromarray(picture).resize((2 * width, 2 * height))
    if outputs[0].ndim == 4:
        colour = Image.fromarray(COLOURS[outputs[0][0].argmax(axis=0)]).resize(image.size, Image.NEAREST)
        return Image.blend(image, colour, 0.6)
    pen = ImageDraw.Draw(image)
    for kind, score, *box in outputs[0]:
        if score > 0.5:
            pen.rectangle([2 * float(value) for value in box], outline=tuple(COLOURS[1 + int(kind)]), width=2)
            pen.text((2 * float(box[0]) + 3, 2 * float(box[1]) + 2), f"{NAMES[int(kind)]} {score:.2f}", fill="black")
    return image


def draw_all(files: dict[str, Path], output: Path) -> None:
    """A row of pictures for each ONNX file, under its name."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((DATA / "images/val").iterdir())[:6]]
    side = 2 * pictures[0].shape[0]
    canvas = Image.new("RGB", (side * len(pictures), (side + 18) * len(files)), "white")
    for number, (name, path) in enumerate(files.items()):
        top = number * (side + 18)
        ImageDraw.Draw(canvas).text((4, top + 3), name, fill="black")
        for column, picture in enumerate(pictures):
            canvas.paste(draw(picture, answers(path, picture)), (column * side, top + 18))
    output.parent.mkdir(parents=True, exist_ok=True)
    canvas.save(output, optimize=True)


def main() -> None:
    """Runs everything that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join((*DETECTION, *SEGMENTATION)))
    parser.add_argument("--published", type=Path, metavar="FILE", help="Apple's fused weights of MobileOne_S0")
    parser.add_argument("--trained", action="store_true", help="train only what has no weights in output/ yet")
    args = parser.parse_args()
    names = args.names or [*DETECTION, *([PUBLISHED] if args.published else []), *SEGMENTATION]
    if not DATA.exists():
        subprocess.run([sys.executable, str(ROOT / "tools" / "make_shapes_dataset.py")], check=True)
    samples = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((DATA / "images/val").iterdir())[:8]]
    rows, files = [COLUMNS, re.sub(r"[^|]+", " --- ", COLUMNS)], {}
    for name in names:
        if name in SEGMENTATION:
            measure, minutes, folder = segmenter(name, args.trained)
        else:
            measure, minutes, folder = detector(name, args.published if name == PUBLISHED else None, args.trained)
        files[name] = Path("output", f"{name}.onnx")
        report = program_to_onnx(folder, files[name], pictures=samples)
        rows.append(row(name, measure, minutes, report))
        print(rows[-1], flush=True)
    Path("output", "downstream.md").write_text("\n".join(f"| {line} |" for line in rows) + "\n", encoding="utf-8")
    draw_all(files, ROOT / "docs" / "images" / "downstream.png")


if __name__ == "__main__":
    main()
