"""The mode "infer" of the engine: the classes of pictures, a broken one named and the others answered."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ppcls_ext.engine.inference_pictures import find_pictures
from ppcls_ext.engine.watch import require_numbers
from ppcls_ext.errors import PpclsExtError, one_line, printable
from ppcls_ext.pictures.decoding import read_picture
from ppcls_ext.predict.results import write_results


@paddle.no_grad()
def infer(engine: Any) -> None:
    """Prints the classes of the pictures of the section `Infer`, a list of one dict per picture and batch.

    Args:
        engine: PaddleClas's, built, in its mode "infer".

    Raises:
        PpclsExtError: there are no pictures, or some cannot be read; these are named on stderr, and the others are
            inferred nevertheless.
    """
    settings = engine.config["Infer"]
    paths = find_pictures(settings["infer_imgs"], settings.get("infer_list"))
    paths = paths[dist.get_rank() :: dist.get_world_size()]
    engine.model.eval()
    results, unreadable = [], 0
    names: list[str] = []
    images: list[np.ndarray] = []
    for index, path in enumerate(paths):
        try:
            images.append(preprocess(engine, path))
            names.append(path)
        except (OSError, PpclsExtError) as error:
            reason = getattr(error, "strerror", None) or error
            print(f"error: {printable(one_line(f'{path}: {reason}'))}", file=sys.stderr)
            unreadable += 1
        if images and (len(images) == settings["batch_size"] or index == len(paths) - 1):
            result = engine.postprocess_func(_logits(engine, np.stack(images)), names)
            print(result)
            results += result
            names, images = [], []
    if settings.get("save_dir"):
        write_results(settings["save_dir"], results)
    if unreadable:
        raise PpclsExtError(f"{unreadable} of {len(paths)} pictures cannot be read; the others are above")


def preprocess(engine: Any, path: str) -> np.ndarray:
    """The picture at `path` as `Infer.transforms` make it, mostly (3, H, W) float32.

    Raises:
        OSError: it cannot be opened.
        PpclsExtError: it cannot be decoded.
    """
    data: Any = read_picture(path)
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
