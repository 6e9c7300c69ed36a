"""Classifies images with an exported file; needs onnxruntime (or another runtime), NumPy and Pillow, and no Paddle.

The preprocessing and the class names are read from the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ppcls_ext.data.image_files import decode, read_image
from ppcls_ext.data.image_input import ImageLike, network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.runtimes import ExportedModel, load

LARGEST_BATCH = 4096
#: Images per run where the file accepts any number.
BATCH = 8


class Classifier:
    """Classifies images with an exported file.

    Args:
        path: the ONNX file; for the runtime "paddle" the folder that export-model wrote.
        threads: number of threads of one operation; by default the runtime chooses.
        runtime: "onnxruntime", "openvino", "ncnn" or "paddle".
        bf16: whether to compute in bfloat16, which "openvino" alone offers.

    Attributes:
        network: the loaded model.
        metadata: the file's metadata.
        batch: the batch size that the file requires; None where any size is accepted.

    Raises:
        PpclsExtError: the file is missing, damaged, or not exported by this project.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        threads: int | None = None,
        runtime: str = "onnxruntime",
        bf16: bool = False,
    ) -> None:
        self._use(load(runtime, path, threads, bf16))
        if self.batch is not None and not 1 <= self.batch <= LARGEST_BATCH:
            raise PpclsExtError(
                f"{path}: the network reads {self.batch:,} images at once: expected 1 to {LARGEST_BATCH:,}"
            )
        width, height = self.metadata.preprocessing.image_size
        if self.network.image_shape != [3, height, width]:
            raise PpclsExtError(
                f"{path}: the network reads images of shape {self.network.image_shape}, but its metadata make "
                f"{[3, height, width]}: "
                "export it again"
            )

    @classmethod
    def of(cls, network: ExportedModel) -> Classifier:
        """Returns the classifier that runs a network which is loaded already."""
        classifier = cls.__new__(cls)
        classifier._use(network)
        return classifier

    def _use(self, network: ExportedModel) -> None:
        self.network, self.metadata, self.batch = network, network.metadata, network.batch

    def __call__(self, pictures: ImageLike | Sequence[ImageLike], topk: int = 5) -> list[dict[str, list]]:
        """Classifies images.

        Args:
            pictures: one or several images: paths, Pillow images, or uint8 arrays (H, W, 3), RGB.
            topk: number of classes per image; all where there are fewer.

        Returns:
            One dict per image, in order: `class_ids` and `scores`, best first, and `label_names`, empty where the file
            holds none.

        Raises:
            PpclsExtError: an image cannot be read, or the value is not an image; the message names it.
        """
        if isinstance(pictures, (str, os.PathLike, Image.Image, np.ndarray)):
            pictures = [pictures]
        if type(topk) is not int or topk < 1:
            raise PpclsExtError(f"topk is {topk!r}: expected a whole number from 1")
        results, size = [], self.batch or BATCH
        for start in range(0, len(pictures), size):
            images = [network_input(one, self.metadata.preprocessing) for one in pictures[start : start + size]]
            results += [self.top(row, topk) for row in self.probabilities(np.stack(images))]
        return results

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Runs the network.

        Args:
            images: (N, 3, H, W) float32, the network's inputs; N may be less than a fixed batch size.

        Returns:
            (N, classes) float32.
        """
        count = len(images)
        if self.batch:
            images = np.concatenate([images, np.zeros((self.batch - count, *images.shape[1:]), images.dtype)])
        scores = self.network.run(images)
        if scores.ndim != 2 or len(scores) != len(images) or not scores.shape[1]:
            raise PpclsExtError(
                f"the network gives {list(scores.shape)} numbers for {len(images)} images: expected a row of classes "
                "for each; export it again"
            )
        if not np.isfinite(scores[:count]).all():
            raise PpclsExtError("the network's outputs hold NaN or infinity: export it again from other weights")
        return softmax(scores[:count]) if self.network.ends_in_logits else scores[:count]

    def top(self, probabilities: np.ndarray, count: int) -> dict[str, list]:
        """Returns the most probable classes of one image, best first, with the keys of PaddleClas's inference.

        Args:
            probabilities: (classes,).
            count: number of classes to return; all where there are fewer.
        """
        indices = [int(index) for index in probabilities.argsort(kind="stable")[::-1][:count]]
        names = self.metadata.class_names
        return {
            "class_ids": indices,
            "scores": [round(float(probabilities[index]), 5) for index in indices],
            "label_names": [] if names is None else [names[i] if i < len(names) else "" for i in indices],
        }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Computes the softmax over the last axis of `logits: (N, classes)`."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


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
    files: Sequence[Path],
    batch_size: int,
    topk: int,
    keep: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Iterator[Classified]:
    """Classifies image files, each of which is read and decoded once.

    Args:
        classifier: the network.
        files: the image files.
        batch_size: number of images per run.
        topk: number of classes per image.
        keep: called with each decoded image, (H, W, 3) uint8, RGB; returns what to keep of it, such as a smaller one;
            by default nothing is kept.

    Yields:
        Each file, in order.
    """
    for start in range(0, len(files), batch_size):
        chunk = [(file, *_prepared(classifier, file, keep)) for file in files[start : start + batch_size]]
        inputs = [image for _, image, _ in chunk if isinstance(image, np.ndarray)]
        rows = iter(classifier.probabilities(np.stack(inputs)) if inputs else ())
        for file, image, kept in chunk:
            result = image if isinstance(image, PpclsExtError) else classifier.top(next(rows), topk)
            yield Classified(file, result, kept)


def _prepared(
    classifier: Classifier, file: Path, keep: Callable[[np.ndarray], np.ndarray] | None
) -> tuple[np.ndarray | PpclsExtError, np.ndarray | None]:
    """Returns the network's input, or the error that names the file, and what `keep` keeps."""
    rule = classifier.metadata.preprocessing
    try:
        image = decode(read_image(file), rule.decode)
        return network_input(image, rule), None if keep is None else keep(image)
    except OSError as error:
        return PpclsExtError(f"{file}: {error.strerror or error}"), None
    except PpclsExtError as error:
        return PpclsExtError(f"{file}: {error}"), None
