"""A synthetic data set of coloured shapes, for detection (COCO's layout) and for segmentation (PaddleSeg's).

Circles, squares and triangles of random sizes and turns lie on a noisy background: in reds, greens and blues, or in any
colour, which is harder. Nothing is downloaded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ppcls_ext.data.dataset_folder import DatasetKind, make_folder
from ppcls_ext.errors import PpclsExtError

NAMES = ("circle", "square", "triangle")
PARTS = ("train", "val")
CONTENTS = frozenset(("annotations", "images", "labels", "label_list.txt", "train.txt", "val.txt"))
DEFAULT_OUTPUT = Path("dataset", "shapes")
MOST_SHAPES = 4
"""Shapes in one image."""
POINTS = {"circle": 32, "square": 4, "triangle": 3}


class Shape(NamedTuple):
    """One shape of an image.

    Attributes:
        kind: one of `NAMES`.
        polygon: its corners, (x, y) in px.
        colour: RGB.
    """

    kind: str
    polygon: list[tuple[float, float]]
    colour: tuple[int, int, int]


def make(
    output: Path,
    size: int = 96,
    train: int = 160,
    val: int = 40,
    seed: int = 0,
    any_colour: bool = False,
    force: bool = False,
) -> bool:
    """Makes the data set in `output`, which appears complete or not at all.

    Args:
        output: the folder of images/, annotations/{train,val}.json (COCO), labels/ (images of class indices, 0 is the
            background) and {train,val}.txt (PaddleSeg).
        size: side of the images, px.
        train: number of training images.
        val: number of validation images.
        seed: RNG seed; the same seed gives the same images.
        any_colour: whether the colour is independent of the kind of shape.
        force: whether to replace a data set that this tool made with other settings.

    Returns:
        False if the same data set exists already.

    Raises:
        PpclsExtError: a setting is out of range, or `output` contains something else.
    """
    for name, value, low, high in (
        ("size", size, 32, 1024),
        ("train", train, 1, 100_000),
        ("val", val, 1, 100_000),
        ("seed", seed, 0, 2**32 - 1),
    ):
        if not low <= value <= high:
            raise PpclsExtError(f"{name} {value}: expected {low}..{high}")
    settings = {"size": size, "train": train, "val": val, "seed": seed, "any_colour": any_colour}
    return make_folder(output, KIND, settings, force)


def _fault(output: Path, settings: dict[str, int]) -> str | None:
    counts = {part: len(list((output / "labels" / part).glob("*.png"))) for part in PARTS}
    return None if counts == {part: settings[part] for part in PARTS} else "it is not complete"


def _write(folder: Path, settings: dict[str, int]) -> None:
    (folder / "annotations").mkdir()
    for number, part in enumerate(PARTS):
        random = np.random.default_rng([settings["seed"], number])
        images: list[dict] = []
        annotations: list[dict] = []
        rows: list[str] = []
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for index in range(settings[part]):
            shapes = list(_shapes(random, settings["size"], bool(settings["any_colour"])))
            image, label = _draw(random, settings["size"], shapes)
            name = f"{part}/{index:05d}.png"
            image.save(folder / "images" / name)
            label.save(folder / "labels" / name)
            rows.append(f"images/{name} labels/{name}\n")
            images.append({"id": index, "file_name": name, "width": settings["size"], "height": settings["size"]})
            annotations += [_annotation(len(annotations) + place, index, s) for place, s in enumerate(shapes)]
        categories = [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)]
        coco = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{part}.json").write_text(json.dumps(coco), encoding="utf-8")
        (folder / f"{part}.txt").write_text("".join(rows), encoding="utf-8")
    (folder / "label_list.txt").write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")


def _shapes(random: np.random.Generator, size: int, any_colour: bool) -> Iterator[Shape]:
    """Yields one to four shapes that do not touch each other, wholly inside the image."""
    taken: list[tuple[float, float, float]] = []
    wanted = int(random.integers(1, MOST_SHAPES + 1))
    for _ in range(50):
        radius = size * random.uniform(0.1, 0.22)
        x, y = random.uniform(radius + 1, size - radius - 1, 2)
        if all(math.hypot(x - other[0], y - other[1]) > radius + other[2] for other in taken):
            taken.append((x, y, radius))
            kind = NAMES[int(random.integers(len(NAMES)))]
            turn = random.uniform(0, 2 * math.pi)
            angles = [turn + 2 * math.pi * corner / POINTS[kind] for corner in range(POINTS[kind])]
            polygon = [(float(x + radius * math.cos(a)), float(y + radius * math.sin(a))) for a in angles]
            # saturated, so that it stands out from the grey
            colour = random.integers(0, 100, 3)
            colour[int(random.integers(3)) if any_colour else NAMES.index(kind)] = random.integers(160, 256)
            red, green, blue = (int(level) for level in colour)
            yield Shape(kind, polygon, (red, green, blue))
        if len(taken) == wanted:
            return


def _draw(random: np.random.Generator, size: int, shapes: list[Shape]) -> tuple[Image.Image, Image.Image]:
    grey = random.integers(60, 190) + random.normal(0, 12, (size, size, 1))
    image = Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8).repeat(3, axis=2))
    label = Image.new("L", (size, size))
    for shape in shapes:
        ImageDraw.Draw(image).polygon(shape.polygon, fill=shape.colour)
        ImageDraw.Draw(label).polygon(shape.polygon, fill=1 + NAMES.index(shape.kind))
    return image, label


def _annotation(number: int, image_id: int, shape: Shape) -> dict[str, Any]:
    xs, ys = zip(*shape.polygon)
    left, top, width, height = min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)
    corners = zip(shape.polygon, [*shape.polygon[1:], shape.polygon[0]])
    area = abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in corners)) / 2
    return {
        "id": number + 1,
        "image_id": image_id,
        "category_id": 1 + NAMES.index(shape.kind),
        "bbox": [round(value, 2) for value in (left, top, width, height)],
        "area": round(area, 2),
        "iscrowd": 0,
        "segmentation": [[round(value, 2) for point in shape.polygon for value in point]],
    }


KIND = DatasetKind("shapes_settings.json", CONTENTS, _write, _fault)
