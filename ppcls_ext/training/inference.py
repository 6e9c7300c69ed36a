"""The mode "infer" of the engine: it classifies images, and names those that cannot be read."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ppcls_ext.data.image_files import decode, find_images, read_image
from ppcls_ext.data.lists import read_lines
from ppcls_ext.errors import PpclsExtError, one_line, printable
from ppcls_ext.hosts.paddleclas.image_lists import require_input, require_transforms
from ppcls_ext.predict.results import write_results
from ppcls_ext.report.image_figures import SavedImages
from ppcls_ext.training.evaluation import require_finite_outputs


@paddle.no_grad()
def infer(engine: Any) -> None:
    """Prints the classes of the images of the section `Infer`: for each batch, a list of one dict per image.

    Args:
        engine: PaddleClas's, built, in its mode "infer".

    Raises:
        PpclsExtError: there are no images, or some cannot be read; these are named on stderr, and the others are
            inferred nevertheless. Or what is to be written cannot be.
    """
    settings = engine.config["Infer"]
    paths = images_to_infer(settings["infer_imgs"], settings.get("infer_list"))
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
        raise PpclsExtError(f"{len(paths) - read} of {len(paths)} images cannot be read; the others are above")


def _batches(engine: Any, paths: Sequence[str], size: int) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and prepared images, `size` at a time; those that cannot be read are named on stderr."""
    names: list[str] = []
    images: list[np.ndarray] = []
    for index, path in enumerate(paths):
        try:
            image = preprocess(engine, path)
        except Exception as error:
            require_transforms(path, engine.preprocess_func, "Infer.transforms")
            if not isinstance(error, (OSError, PpclsExtError)):
                raise
            reason = getattr(error, "strerror", None) or error
            print(f"error: {printable(one_line(f'{path}: {reason}'))}", file=sys.stderr)
        else:
            require_input(image, "Infer.transforms")
            images.append(image)
            names.append(path)
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
    """The image at `path` as `Infer.transforms` make it, mostly (3, H, W) float32.

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
    require_finite_outputs(out)
    if isinstance(out, list):
        out = out[0]
    for key in ("Student", "logits", "output"):
        if isinstance(out, dict) and key in out:
            out = out[key]
    return out


def images_to_infer(names: str | Sequence[str], list_file: str | None) -> list[str]:
    """The files that are meant, as texts.

    Args:
        names: one or several images, folders with all that is below them, or patterns.
        list_file: names images relative to the folder `names`.

    Raises:
        PpclsExtError: a name stands for nothing.
    """
    if list_file:
        return [_listed(str(names), line.strip()) for line in read_lines(Path(list_file)) if line.strip()]
    if isinstance(names, str):
        if not os.path.exists(names):
            raise PpclsExtError(f"Infer.infer_imgs is {names}: no such file or folder")
        names = [names]
    return [str(path) for path in find_images(names)]


def _listed(folder: str, line: str) -> str:
    """The file that `line` names, which may end with a label as in a list for training."""
    whole, without_label = os.path.join(folder, line), os.path.join(folder, line.rsplit(maxsplit=1)[0])
    return without_label if os.path.isfile(without_label) and not os.path.isfile(whole) else whole
