"""Classifies images with an exported file; needs onnxruntime (or another runtime), NumPy and Pillow, and no Paddle.

The preprocessing and the class names are read from the file.
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional, TypeVar, Union

import numpy as np

from ppcls_ext import cpu
from ppcls_ext.data.image_files import decode, decoding_threads, read_image
from ppcls_ext.data.image_input import EXPECTED, ImageLike, check_tta, is_image_like, network_input, network_inputs
from ppcls_ext.data.image_rule import SIZE, read_size, size_text
from ppcls_ext.data.lists import MULTI_LABEL, require_class_names
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.answers import Choice, Threshold, scores_from
from ppcls_ext.predict.answers import softmax as softmax  # its place before, from which others import it
from ppcls_ext.predict.runtimes import ExportedModel, load

LARGEST_BATCH = 4096
#: Images per run where the file accepts any number.
BATCH = 8
#: Batches whose images are decoded ahead of the network.
AHEAD = 2
#: A file, the network's input or why there is none, and what is kept of its image.
_Prepared = tuple[Path, Union[np.ndarray, PpclsExtError], Optional[np.ndarray]]
_File = TypeVar("_File")
_Made = TypeVar("_Made")


class Classifier:
    """Classifies images with an exported file, which says how to prepare them; needs no Paddle.

        >>> classifier = ppcls_ext.Classifier("m.onnx")
        >>> classifier("flower.jpg", topk=2)
        [{'class_ids': [1, 0], 'scores': [0.97..., 0.01...], 'label_names': ['rose', 'daisy']}]

    It is called with one image or several: paths, bytes, open files, Pillow images or arrays uint8 (H, W, C), RGB
    where C is 3, and returns one dict per image; see `__call__`.

    Args:
        path: an exported file (.onnx, .tflite, .ncnn.param, .mlpackage), or the folder that export-model wrote.
        threads: number of threads of one operation; by default the runtime chooses.
        runtime: of an ONNX file "onnxruntime" (the default) or "openvino"; the others have one of their own.
        bf16: whether to compute in bfloat16, which "openvino" alone offers.
        size: (height, width), or one number of px for both, of the images that a file for any size gets (export-onnx
            --dynamic-size). By default it gets the whole of each image in its own proportions, with the shorter side
            that images had before the crop, and sides of multiples of 32 px.

    Attributes:
        network: the loaded model.
        metadata: the file's metadata: `architecture`, `class_names`, `task`, `thresholds`, `preprocessing`.
        batch: the batch size that the file requires; None where any size is accepted.

    Raises:
        PpclsExtError: the file is missing, damaged, or not exported by this project; or the runtime's package is
            missing.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        threads: int | None = None,
        runtime: str | None = None,
        bf16: bool = False,
        size: int | str | Sequence[int] | None = None,
    ) -> None:
        self._use(load(runtime, path, threads, bf16))
        if self.batch is not None and not 1 <= self.batch <= LARGEST_BATCH:
            raise PpclsExtError(
                f"{path}: the network reads {self.batch:,} images at once: expected 1 to {LARGEST_BATCH:,}"
            )
        rule = self.metadata.preprocessing
        expected = [rule.channels, *rule.image_size[::-1]]
        if self.network.image_shape != expected:
            raise PpclsExtError(
                f"{path}: the network reads images of shape {self.network.image_shape}, but its metadata make "
                f"{expected}: export it again"
            )
        if size is not None:
            self._use_size(path, size)

    @classmethod
    def of(cls, network: ExportedModel) -> Classifier:
        """Returns the classifier that runs a network which is loaded already."""
        classifier = cls.__new__(cls)
        classifier._use(network)
        return classifier

    def _use(self, network: ExportedModel) -> None:
        self.network, self.metadata, self.batch = network, network.metadata, network.batch
        self._rule, self._is_whole = self.metadata.preprocessing, self.metadata.dynamic_size

    def _use_size(self, path: str | os.PathLike, size: int | str | Sequence[int]) -> None:
        given = read_size(size)
        if given is None:
            raise PpclsExtError(f"size is {size!r}: expected {SIZE}")
        if not self.metadata.dynamic_size and given[::-1] != self._rule.image_size:
            own = size_text(*self._rule.image_size[::-1])
            raise PpclsExtError(
                f"{path} was exported for images of {own} px, and the size is {size_text(*given)}: leave it out, or "
                "export with --dynamic-size"
            )
        self._rule, self._is_whole = self._rule.of_size(*given), False

    def input(self, image: ImageLike) -> np.ndarray:
        """Makes an image, in any form, the network's input: float32 (C, H, W); see `network_input`."""
        return network_input(image, self._rule, self._is_whole)

    def views(self, image: ImageLike, tta: str | None) -> np.ndarray:
        """Makes the views of an image for test-time augmentation: float32 (views, C, H, W); see `network_inputs`."""
        return network_inputs(image, self._rule, tta, self._is_whole)

    def check_tta(self, tta: str | None) -> None:
        """Raises PpclsExtError where there is no such test-time augmentation, or none for this file's images."""
        check_tta(tta, self._rule, self._is_whole)

    def __call__(
        self, pictures: ImageLike | Iterable[ImageLike], topk: int | None = None, threshold: Threshold | None = None
    ) -> list[dict[str, list]]:
        """Classifies images.

        Args:
            pictures: one or several images: paths, bytes of files, files open for reading bytes, Pillow images, or
                uint8 arrays (H, W, C), RGB where C is 3; several as a sequence, a generator or an array
                (N, H, W, C).
            topk: the most classes per image. By default 5 of a single-label network, unless there is a threshold, and
                as many of a multi-label one as an image shows.
            threshold: the score from which on an image shows a class: a number from 0 to 1, one for each class, or a
                mapping from names or indices of classes (None for all others). By default that of the file, or 0.5; a
                single-label network has none by default.

        Returns:
            One dict per image, in order: `class_ids` and `scores`, best first, and `label_names`, empty where the file
            holds none. All are empty for an image that shows no class.

        Raises:
            PpclsExtError: an image cannot be read, or the value is not an image; the message names it. Or `topk` or
                a threshold is out of range.
        """
        several: Any = [pictures] if is_image_like(pictures) else pictures
        if not isinstance(several, Iterable):
            raise PpclsExtError(f"got a {type(pictures).__name__}: {EXPECTED}, or several of them")
        choose = Choice(self.metadata, topk, threshold)
        size, rest = self.batch or BATCH, iter(several)
        results: list[dict[str, list]] = []
        while some := list(itertools.islice(rest, size)):
            results += map(choose, self.scores_of([self.input(one) for one in some]))
        return results

    def scores_of(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        """Runs the network on inputs (C, H, W) of one or several sizes; see `scores`."""
        runs = itertools.groupby(inputs, key=lambda image: image.shape)
        return np.concatenate([self.scores(np.stack(list(images))) for _, images in runs])

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Runs a single-label network.

        Args:
            images: (N, C, H, W) float32, the network's inputs; N may be less than a fixed batch size.

        Returns:
            (N, classes) float32; each row sums up to 1.

        Raises:
            PpclsExtError: the network is multi-label, or as for `scores`.
        """
        if self.metadata.task == MULTI_LABEL:
            raise PpclsExtError("a multi-label network has no probabilities that sum up to 1: take its scores")
        return self.scores(images)

    def scores(self, images: np.ndarray) -> np.ndarray:
        """Runs the network.

        Args:
            images: (N, C, H, W) float32, the network's inputs; N may be less than a fixed batch size.

        Returns:
            (N, classes) float32, from 0 to 1: the probabilities of a single-label network, and of a multi-label one
            the score of each class by itself.

        Raises:
            PpclsExtError: the network cannot run, or its outputs are not finite numbers for each image.
        """
        count = len(images)
        if self.batch:
            images = np.concatenate([images, np.zeros((self.batch - count, *images.shape[1:]), images.dtype)])
        outputs = self.network.run(images)
        if outputs.ndim != 2 or len(outputs) != len(images) or not outputs.shape[1]:
            raise PpclsExtError(
                f"the network gives {list(outputs.shape)} numbers for {len(images)} images: expected a row of classes "
                "for each; export it again"
            )
        if self.metadata.class_names is not None:
            require_class_names(self.metadata.class_names, outputs.shape[1], "the file")
        if not np.isfinite(outputs[:count]).all():
            raise PpclsExtError("the network's outputs hold NaN or infinity: export it again from other weights")
        return scores_from(outputs[:count], self.metadata.task) if self.network.ends_in_logits else outputs[:count]


class Classified(NamedTuple):
    """One image file, classified.

    Attributes:
        path: the file.
        result: its best classes, or the error where it cannot be read.
        kept: what `classify` was told to keep of the decoded image; None where there was an error.
    """

    path: Path
    result: dict[str, list] | PpclsExtError
    kept: np.ndarray | None = None


def classify(
    classifier: Classifier,
    files: Iterable[Path],
    batch_size: int,
    choose: Choice,
    keep: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Classified]:
    """Classifies image files, each of which is read and decoded once, ahead of the network and in several threads.

    Args:
        classifier: the network.
        files: the image files.
        batch_size: number of images per run.
        choose: which classes each result holds.
        keep: called with each decoded image, (H, W, C) uint8; returns what to keep of it, such as a smaller one;
            by default nothing is kept.

    Yields:
        Each file, in order.
    """
    prepared = ahead(partial(_prepared, classifier, keep=keep), files, AHEAD * batch_size)
    while chunk := list(itertools.islice(prepared, batch_size)):
        inputs = [image for _, image, _ in chunk if isinstance(image, np.ndarray)]
        rows = iter(classifier.scores_of(inputs) if inputs else ())
        for file, image, kept in chunk:
            result = image if isinstance(image, PpclsExtError) else choose(next(rows))
            yield Classified(file, result, kept)


def ahead(prepare: Callable[[_File], _Made], files: Iterable[_File], count: int) -> Iterator[_Made]:
    """Yields `prepare` of each file, in order, computed in threads for up to `count` files ahead."""
    waiting: collections.deque[Future[_Made]] = collections.deque()
    with decoding_threads(cpu.usable_cores()) as pool:
        try:
            for file in files:
                waiting.append(pool.submit(prepare, file))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepared(classifier: Classifier, file: Path, keep: Callable[[np.ndarray], np.ndarray] | None) -> _Prepared:
    """Returns the file, the network's input or the error that names the file, and what `keep` keeps."""
    rule = classifier.metadata.preprocessing
    try:
        image = decode(read_image(file), rule.decode, rule.channels)
        return file, classifier.input(image), None if keep is None else keep(image)
    except OSError as error:
        return file, PpclsExtError(f"{file}: {error.strerror or error}"), None
    except PpclsExtError as error:
        return file, PpclsExtError(f"{file}: {error}"), None
