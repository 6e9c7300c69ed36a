"""Trains the detectors and segmenters of configs/ with their hosts' own scripts, exports, converts and compares them.

Each is trained on the data set of shapes, evaluated, exported fused and made an ONNX file, once as the host exports it
and once bare, without post-processing. What comes out is kept in output/NAME/result.json; the table of all that are
there goes to output/downstream.md, a picture of predictions by the ONNX files to docs/images/downstream.png.

Example: PADDLEDET_HOME=… PADDLEYOLO_HOME=… PADDLESEG_HOME=… python benchmarks/downstream.py
         … python benchmarks/downstream.py fcn_fasternet_t0          # one of them; the others' rows stay
         … python benchmarks/downstream.py --trained                 # what was trained before is not trained again
         … python benchmarks/downstream.py --published mobileone_s0.pth.tar   # also PicoDet from (fused) weights
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from ppcls_ext.data.shapes import NAMES
from ppcls_ext.export.program import program_to_onnx

DATA = Path("dataset", "shapes")
PUBLISHED = "picodet_mobileone_s0_published"
#: name → family.
PADDLEDET = {
    "picodet_mobileone_s0": "MobileOne",
    PUBLISHED: "MobileOne",
    "ppyoloe_repvgg_a0": "RepVGG",
    "yolox_fasternet_t0": "FasterNet",
}
PADDLEYOLO = {
    "yolov5_repvgg_a0": "RepVGG",
    "yolov7_mobileone_s0": "MobileOne",
    "yolov8_fasternet_t0": "FasterNet",
}
DETECTION = {**PADDLEDET, **PADDLEYOLO}
SEGMENTATION = {
    "pp_liteseg_mobileone_s0": "MobileOne",
    "deeplabv3p_repvgg_a0": "RepVGG",
    "fcn_fasternet_t0": "FasterNet",
}
HOSTS = {"PaddleDetection": PADDLEDET, "PaddleYOLO": PADDLEYOLO, "PaddleSeg": SEGMENTATION}
#: How a detector's export leaves the suppression out; YOLOX's own way gives sums alone, so its suppression keeps all.
BARE = {
    "PicoDet": ("export.benchmark=True",),
    "YOLOv3": ("PPYOLOEHead.exclude_nms=True",),
    **{f"YOLOv{number}": (f"YOLOv{number}Head.exclude_nms=True",) for number in (5, 7, 8)},
    "YOLOX": tuple(f"YOLOXHead.nms.{what}" for what in ("score_threshold=0.0", "nms_threshold=1.0", "keep_top_k=1000")),
}
COLOURS = np.array([(0, 0, 0), (220, 40, 40), (40, 160, 60), (50, 90, 230)], np.uint8)
COLUMNS = (
    "host | configuration | family | measure | training, min of CPU (wall) | ONNX nodes | largest difference | "
    "ONNX nodes, bare | largest difference, bare"
)


def script(host: str, name: str, *arguments: object, log: Path) -> str:
    """Runs a host's script through `python -m ppcls_ext`; gives what it printed, which also goes to `log`."""
    command = [sys.executable, "-m", "ppcls_ext", str(Path(os.environ[host], "tools", name)), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8") as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
    printed = log.read_text(encoding="utf-8")
    if status:
        sys.exit(f"{' '.join(command)} failed:\n{printed[-2000:]}")
    return printed


def train(host: str, *arguments: object, folder: Path) -> None:
    """Runs a host's training; what it took goes to `folder`/training.json, since other work may share the processor."""
    start, before = time.time(), resource.getrusage(resource.RUSAGE_CHILDREN)
    script(host, "train.py", *arguments, log=folder / "train.log")
    wall, after = time.time() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    (folder / "training.json").write_text(json.dumps({"cpu": cpu / 60, "wall": wall / 60}), encoding="utf-8")


def detector(name: str, published: Path | None, trained: bool) -> tuple[str, dict[str, Path]]:
    """Trains and exports one; gives its measure and the folders of its programs."""
    config = ROOT / "configs" / "detection" / f"{name.replace('_published', '')}.yml"
    folder = Path("output", name)
    home = "PADDLEYOLO_HOME" if name in PADDLEYOLO else "PADDLEDET_HOME"
    fused = ["MobileOne_S0.fused=True"] if name == PUBLISHED else []
    save_dir = folder.parent if name in PADDLEYOLO else folder  # PaddleYOLO adds the name
    if not (trained and (folder / "training.json").exists()):
        start = [f"MobileOne_S0.pretrained={published}", "epoch=20"] if name == PUBLISHED else []
        train(home, "-c", config, "-o", f"save_dir={save_dir}", *fused, *start, folder=folder)
    overrides = ["-c", config, "-o", f"save_dir={save_dir}", f"weights={folder}/model_final.pdparams", *fused]
    printed = script(home, "eval.py", *overrides, log=folder / "eval.log")
    whole, half = (
        re.search(rf"IoU={iou} *\| area= +all \| maxDets=100 \] = ([\d.]+)", printed).group(1)
        for iou in ("0.50:0.95", "0.50     ")
    )
    architecture = re.search(r"^architecture: (\w+)", config.read_text(encoding="utf-8"), re.MULTILINE).group(1)
    kinds = {"whole": (), "bare": BARE[architecture]}
    for kind, extra in kinds.items():
        arguments = [*overrides, *extra, "--output_dir", folder / kind]
        script(home, "export_model.py", *arguments, log=folder / f"export_{kind}.log")
    return f"AP50 {half}, mAP {whole}", {kind: folder / kind / config.stem for kind in kinds}


def segmenter(name: str, trained: bool) -> tuple[str, dict[str, Path]]:
    """As `detector`; bare is without argmax."""
    config, folder = ROOT / "configs" / "segmentation" / f"{name}.yml", Path("output", name)
    if not (trained and (folder / "training.json").exists()):
        arguments = ["--config", config, "--do_eval", "--device", "cpu", "--save_dir", folder]
        train("PADDLESEG_HOME", *arguments, folder=folder)
    weights = ["--config", config, "--model_path", folder / "best_model" / "model.pdparams"]
    printed = script("PADDLESEG_HOME", "val.py", *weights, "--device", "cpu", log=folder / "val.log")
    mean = re.findall(r"mIoU: ([\d.]+)", printed)[-1]
    for kind, operator in (("whole", "argmax"), ("bare", "none")):
        arguments = [*weights, "--save_dir", folder / kind, "--input_shape", 1, 3, 96, 96, "--output_op", operator]
        script("PADDLESEG_HOME", "export.py", *arguments, log=folder / f"export_{kind}.log")
    return f"mIoU {mean}", {kind: folder / kind for kind in ("whole", "bare")}


def onnx_file(name: str, kind: str) -> Path:
    """Where the ONNX file of a program goes."""
    return Path("output", f"{name}.onnx" if kind == "whole" else f"{name}_{kind}.onnx")


def measure(name: str, published: Path | None, trained: bool, samples: list[np.ndarray]) -> None:
    """Trains, exports, converts and compares one; writes output/NAME/result.json."""
    result: dict[str, Any] = {}
    result["measure"], programs = detector(name, published, trained) if name in DETECTION else segmenter(name, trained)
    for kind, program in programs.items():
        report = program_to_onnx(program, onnx_file(name, kind), images=samples)
        result[kind] = {"nodes": sum(report.nodes.values()), "difference": report.difference}
    Path("output", name, "result.json").write_text(json.dumps(result), encoding="utf-8")


def row(name: str) -> str:
    """One line of the table."""
    result, training = (
        json.loads(Path("output", name, file).read_text(encoding="utf-8")) for file in ("result.json", "training.json")
    )
    cells = [
        next(host for host, names in HOSTS.items() if name in names),
        f"{name.replace('_published', '')}, Apple's fused weights" if name == PUBLISHED else name,
        {**DETECTION, **SEGMENTATION}[name],
        result["measure"],
        f"{training['cpu']:.1f} ({training['wall']:.1f})",
    ]
    for kind in ("whole", "bare"):
        cells += [str(result[kind]["nodes"]), f"{result[kind]['difference']:.1e}"]
    return " | ".join(cells)


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
    image = Image.fromarray(picture).resize((2 * width, 2 * height), Image.NEAREST)
    if outputs[0].ndim == 4:
        classes = Image.fromarray(outputs[0][0].argmax(axis=0).astype(np.uint8)).resize(image.size, Image.NEAREST)
        colour = Image.fromarray(COLOURS[np.asarray(classes)])
        return Image.composite(Image.blend(image, colour, 0.6), image, classes.point(lambda kind: 255 * (kind > 0)))
    pen = ImageDraw.Draw(image)
    for kind, score, *box in outputs[0]:
        if score > 0.5:
            pen.rectangle([2 * float(value) for value in box], outline=tuple(COLOURS[1 + int(kind)]), width=2)
            place = (min(2 * float(box[0]) + 3, 2 * width - 70), 2 * float(box[1]) + 2)
            pen.text(place, f"{NAMES[int(kind)]} {score:.2f}", "white", stroke_width=1, stroke_fill="black")
    return image


def draw_all(files: dict[str, Path], output: Path) -> None:
    """A row of pictures for each ONNX file, under its name."""
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((DATA / "images/val").iterdir())[:5]]
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
    everything = [*DETECTION, *SEGMENTATION]
    names = args.names or [name for name in everything if name != PUBLISHED or args.published]
    if unknown := set(names) - set(everything):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if PUBLISHED in names and not (args.published or args.trained):
        parser.error(f"{PUBLISHED} needs --published FILE")
    if not DATA.exists():
        subprocess.run([sys.executable, str(ROOT / "tools" / "make_shapes_dataset.py")], check=True)
    samples = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((DATA / "images/val").iterdir())[:8]]
    for name in names:
        measure(name, args.published, args.trained, samples)
        print(row(name), flush=True)
    done = [name for name in everything if Path("output", name, "result.json").exists()]
    lines = [COLUMNS, re.sub(r"[^|]+", " --- ", COLUMNS).strip(), *map(row, done)]
    Path("output", "downstream.md").write_text("\n".join(f"| {line} |" for line in lines) + "\n", encoding="utf-8")
    drawn = {name: onnx_file(name, "whole" if name in DETECTION else "bare") for name in done}
    if drawn:
        draw_all(drawn, ROOT / "docs" / "images" / "downstream.png")


if __name__ == "__main__":
    main()
