"""The mode "infer" of the engine: the classes of pictures, a broken one named and the others answered."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ppcls_ext.data.image_files import decode, read_image
from ppcls_ext.errors import PpclsExtError, one_line, printable
from ppcls_ext.predict.results import write_results
from ppcls_ext.report.image_figures import SavedImages
from ppcls_ext.training.inference_pictures import find_pictures
from ppcls_ext.training.watch import require_numbers


@paddle.no_grad()
def infer(engine: Any) -> None:
    """Prints the classes of the pictures of the section `Infer`, a list of one dict per picture and batch.

    Args:
        engine: PaddleClas's, built, in its mode "infer".

    Raises:
        PpclsExtError: there are no pictures, or some cannot be read; these are named on stderr, and the others are
            inferred nevertheless. Or what is to be written cannot be.
    """
    settings = engine.config["Infer"]
    paths = find_pictures(settings["infer_imgs"], settings.get("infer_list"))
    paths = paths[dist.get_rank() :: dist.get_world_size()]
    target, results_file = settings.get("save_image"), settings.get("save_dir")
    if (target or results_file) and dist.get_world_size() > 1:
        raise PpclsExtError("--out and --save-image need one process: several would write over each other's files")
    saved = SavedImages(target, len(paths)) if target else None
    engine.model.eval()
    results, read = [], 0
    for names, images in _batches(engine, paths, settings["batch_size"]):
        answers = engine.postprocess_func(_logits(engine, images), names)
        print(answers)
        results += answers
        read += len(names)
        if saved is not None:
            _draw(saved, names, answers)
    if saved is not None:
        print(printable(saved.finish()), file=sys.stderr)
    if results_file:
        write_results(results_file, results)
    if read < len(paths):
        raise PpclsExtError(f"{len(paths) - read} of {len(paths)} pictures cannot be read; the others are above")


def _batches(engine: Any, paths: Sequence[str], size: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and prepared pictures, `size` at a time; those that cannot be read are named on stderr."""
    names: list[str] = []
    images: list[np.ndarray] = []
    for index, path in enumerate(paths):
        try:
            images.append(preprocess(engine, path))
            names.append(path)
        except (OSError, PpclsExtError) as error:
            reason = getattr(error, "strerror", None) or error
            print(f"error: {printable(one_line(f'{path}: {reason}'))}", file=sys.stderr)
        if images and (len(images) == size or index == len(paths) - 1):
            yield names, np.stack(images)
            names, images = [], []


def _draw(saved: SavedImages, names: Sequence[str], answers: Sequence[dict]) -> None:
    for name, answer in zip(names, answers):
        if "class_ids" not in answer:
            raise PpclsExtError(
                f"--save-image draws classes and scores, and Infer.PostProcess gives {', '.join(answer)}: expected Topk"
            )
        saved.add(name, decode(read_image(name)), answer)


def preprocess(engine: Any, path: str) -> np.ndarray:
    """The picture at `path` as `Infer.transforms` make it, mostly (3, H, W) float32.

    Raises:
        OSError: it cannot be opened.
        PpclsExtError: it cannot be decoded.
    """
    data: Any = read_image(path)
    for operator in engine.preprocess_func:
        data = operator(data)
    return data


def _logits(engine: Any, images: np.ndarray) -> paddle.Tensor:
    out = engine.model(paddle.to_tensor(images))
    require_numbers(out)
    if isinstance(out, list):
        out = out[0]
    for key in ("Student", "logits", "output"):
        if isinstance(out, dict) and key in out:
            out = out[key]
    return out
