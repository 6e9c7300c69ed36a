"""The mode "infer" of the engine: it classifies images, and names those that cannot be read."""

from __future__ import annotations

import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ppcls_ext.config.settings import DISTILLED, NAMES_CLASSES, RunSettings
from ppcls_ext.config.thresholds import own_thresholds
from ppcls_ext.data.image_files import decode, find_images, read_image
from ppcls_ext.data.lists import MULTI_LABEL, read_lines
from ppcls_ext.errors import PpclsExtError, message_line, printable
from ppcls_ext.hosts.paddleclas.image_lists import require_input, require_transforms
from ppcls_ext.predict.answers import Choice, Classes, Threshold, scores_from
from ppcls_ext.predict.classifier import Classified
from ppcls_ext.predict.results import open_results
from ppcls_ext.report.image_figures import SavedImages
from ppcls_ext.training.evaluation import require_finite_outputs

#: PaddleClas's post-processing that makes a softmax of the logits of two classes, or of another's.
ENDS_IN_SOFTMAX = ("ThreshOutput", DISTILLED)


def for_host(settings: RunSettings) -> RunSettings:
    """Returns the configuration with a post-processing that any PaddleClas builds, where ours will be in its place."""
    post_process = settings.section("Infer").get("PostProcess")
    if settings.task != MULTI_LABEL or not isinstance(post_process, dict):
        return settings
    name = post_process.get("name")
    if name in ENDS_IN_SOFTMAX:
        raise PpclsExtError(
            f"Infer.PostProcess.name is {name}, which gives each image one class, and the network is {MULTI_LABEL}: "
            "expected MultiLabelTopk"
        )
    if name not in NAMES_CLASSES:
        return settings
    taken = {field: value for field, value in post_process.items() if field not in ("threshold", "topk")}
    return settings.changed("Infer", PostProcess={**taken, "name": "Topk"})


class _Ours:
    """Our post-processing: the classes at or above their thresholds, best first, in PaddleClas's form.

    Args:
        settings: the opened configuration.
        topk: the most classes of an image.
        threshold: see `Choice`.
    """

    def __init__(self, settings: RunSettings, topk: int | None, threshold: Threshold | None) -> None:
        self._settings, self._topk, self._threshold = settings, topk, threshold
        Choice(Classes(settings.task, settings.class_names, None), topk, threshold)  # raises where they are wrong

    def __call__(self, logits: paddle.Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the results of the images with these names, from their logits (N, classes)."""
        settings = self._settings
        thresholds = own_thresholds(settings, logits.shape[1])
        choose = Choice(Classes(settings.task, settings.class_names, thresholds), self._topk, self._threshold)
        answers = []
        for name, row in zip(names, scores_from(logits.numpy(), settings.task)):
            result = choose(row)
            answers.append({**{key: result[key] for key in ("class_ids", "scores")}, "file_name": name, **result})
        return answers


def _post_processing(engine: Any, threshold: Threshold | None) -> Callable[[Any, Sequence[str]], list[dict]]:
    """Returns ours for several labels or where a threshold is given, else PaddleClas's.

    Raises:
        PpclsExtError: there is a threshold, and the post-processing names no classes.
    """
    settings = engine.opened
    post_process = settings.section("Infer").get("PostProcess") or {}
    several = settings.task == MULTI_LABEL
    if post_process.get("name") in (NAMES_CLASSES if several else NAMES_CLASSES[:1]) and (
        several or threshold is not None
    ):
        return _Ours(settings, None if several else post_process.get("topk"), threshold)
    if threshold is not None:
        raise PpclsExtError(
            f"--threshold chooses among classes, and Infer.PostProcess.name is {post_process.get('name')}: expected "
            f"{'MultiLabelTopk' if several else 'Topk'}"
        )
    return engine.postprocess_func


@paddle.no_grad()
def infer(engine: Any, threshold: Threshold | None = None) -> None:
    """Prints the classes of the images of the section `Infer`: for each batch, a list of one dict per image.

    Args:
        engine: ours, built, in its mode "infer".
        threshold: the score from which on an image shows a class; see `Choice`.

    Raises:
        PpclsExtError: there are no images, or some cannot be read; these are named on stderr, and the others are
            inferred nevertheless. Or what is to be written cannot be.
    """
    post_process = _post_processing(engine, threshold)
    settings = engine.config["Infer"]
    paths = images_to_infer(settings["infer_imgs"], settings.get("infer_list"))
    paths = paths[dist.get_rank() :: dist.get_world_size()]
    target, results_file = settings.get("save_image"), settings.get("save_dir")
    if (target or results_file) and dist.get_world_size() > 1:
        raise PpclsExtError("--out and --save-image need one process: several would write over each other's files")
    saved = SavedImages(target, paths, engine.opened.task) if target else None
    engine.model.eval()
    read = 0
    with open_results(results_file) if results_file else contextlib.nullcontext() as writer:
        for names, images in _batches(engine, paths, settings["batch_size"]):
            answers = post_process(_logits(engine, images), names)
            print(answers)
            read += len(names)
            if writer is not None:
                writer.add_all(answers)
            if saved is not None:
                _draw(saved, names, answers, engine.opened.channels)
        if saved is not None:
            print(printable(saved.finish()), file=sys.stderr)
    if read < len(paths):
        raise PpclsExtError(f"{len(paths) - read} of {len(paths)} images cannot be read; the others are above")


def classify(
    engine: Any,
    files: Sequence[Path],
    threshold: Threshold | None = None,
    keep: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Classified]:
    """Classifies image files as `infer` does; see `ppcls_ext.predict.classifier.classify`.

    Args:
        engine: ours, built, in its mode "infer".
        files: the image files.
        threshold: see `infer`.
        keep: called with each decoded image; returns what to keep of it.

    Yields:
        Each file, in order.
    """
    post_process = _post_processing(engine, threshold)
    engine.model.eval()
    waiting = deque(map(str, files))
    unreadable: dict[str, PpclsExtError] = {}
    for names, images in _batches(engine, list(waiting), engine.config["Infer"]["batch_size"], unreadable.__setitem__):
        with paddle.no_grad():
            answers = dict(zip(names, post_process(_logits(engine, images), names)))
        while waiting and (waiting[0] in answers or waiting[0] in unreadable):
            name = waiting.popleft()
            if name in unreadable:
                yield Classified(Path(name), unreadable[name])
            else:
                kept = None if keep is None else keep(decode(read_image(name), channels=engine.opened.channels))
                yield Classified(Path(name), answers[name], kept)
    for name in waiting:
        yield Classified(Path(name), unreadable[name])


def _say_unreadable(path: str, error: PpclsExtError) -> None:
    print(f"error: {message_line(error)}", file=sys.stderr)


def _batches(
    engine: Any,
    paths: Sequence[str],
    size: int,
    failed: Callable[[str, PpclsExtError], None] = _say_unreadable,
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Names and prepared images, `size` at a time; `failed` gets those that cannot be read, by default for stderr."""
    names: list[str] = []
    images: list[np.ndarray] = []
    channels = engine.opened.channels
    for index, path in enumerate(paths):
        try:
            image = preprocess(engine, path)
        except Exception as error:
            require_transforms(path, engine.preprocess_func, "Infer.transforms", channels)
            if not isinstance(error, (OSError, PpclsExtError)):
                raise
            reason = getattr(error, "strerror", None) or error
            failed(path, PpclsExtError(f"{path}: {reason}"))
        else:
            require_input(image, "Infer.transforms", channels)
            images.append(image)
            names.append(path)
        if images and (len(images) == size or index == len(paths) - 1):
            yield names, np.stack(images)
            names, images = [], []


def _draw(saved: SavedImages, names: Sequence[str], answers: Sequence[dict], channels: int) -> None:
    for name, answer in zip(names, answers):
        if "class_ids" not in answer:
            raise PpclsExtError(
                f"--save-image draws classes and scores, and Infer.PostProcess gives {', '.join(answer)}: expected Topk"
            )
        saved.add(name, decode(read_image(name), channels=channels), answer)


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
    with engine.precision.cast(evaluating=True):
        out = engine.model(paddle.to_tensor(images))
    require_finite_outputs(out)
    if isinstance(out, list):
        out = out[0]
    post_process = engine.opened.section("Infer").get("PostProcess") or {}
    if post_process.get("name") == DISTILLED:
        return out  # it takes the network that it names
    for key in (engine.config["Arch"].get("infer_model_name"), "Student", "logits", "output"):
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
