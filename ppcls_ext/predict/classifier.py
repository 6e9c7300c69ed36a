"""Classifies images with an exported file; needs onnxruntime (or another runtime), NumPy and Pillow, and no Paddle.

How an image becomes the input, and the classes' names, are read from the file itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppcls_ext.data.image_input import ImageLike, network_input
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.runtimes import load

LARGEST_BATCH = 4096
#: Pictures a run, where the file leaves it free.
BATCH = 8


class Classifier:
    """An exported file, ready to run.

    Args:
        path: the ONNX file; for the runtime "paddle" the folder that export-model wrote.
        threads: of one operation; None leaves the choice to the runtime.
        runtime: "onnxruntime", "openvino", "ncnn" or "paddle".
        bf16: let it compute in bfloat16; for "openvino".

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
        self.network = load(runtime, path, threads, bf16)
        self.metadata = self.network.metadata
        #: The batch that the file demands; None where any will do.
        self.batch = self.network.batch
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

    def __call__(self, pictures: ImageLike | Sequence[ImageLike], topk: int = 5) -> list[dict[str, list]]:
        """Classifies pictures.

        Args:
            pictures: one or several: paths, Pillow images, or uint8 arrays (H, W, 3), RGB.
            topk: how many classes of each; all where there are fewer.

        Returns:
            One dict a picture, in order: `class_ids` and `scores`, best first, and `label_names`, empty where the file
            holds none.

        Raises:
            PpclsExtError: a picture cannot be read, or is none; names it.
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
            images: (N, 3, H, W) float32, prepared; N may be less than a fixed batch.

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
        """The most probable classes of one image, best first, in the words of PaddleClas's inference.

        Args:
            probabilities: (classes,).
            count: how many; all where there are fewer classes.
        """
        indices = [int(index) for index in probabilities.argsort(kind="stable")[::-1][:count]]
        names = self.metadata.class_names
        return {
            "class_ids": indices,
            "scores": [round(float(probabilities[index]), 5) for index in indices],
            "label_names": [] if names is None else [names[i] if i < len(names) else "" for i in indices],
        }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis: `logits: (N, classes)`."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def classify(
    classifier: Classifier, files: Sequence[Path], batch_size: int, topk: int
) -> Iterator[tuple[Path, dict[str, list] | PpclsExtError]]:
    """Classifies image files, `batch_size` at a time.

    Yields:
        Each file, in order, with its best classes, or with the error where it could not be read.
    """
    for start in range(0, len(files), batch_size):
        chunk: dict[Path, Any] = {}
        for file in files[start : start + batch_size]:
            try:
                chunk[file] = network_input(file, classifier.metadata.preprocessing)
            except PpclsExtError as error:
                chunk[file] = error
        images = [image for image in chunk.values() if isinstance(image, np.ndarray)]
        rows = iter(classifier.probabilities(np.stack(images)) if images else ())
        for file, image in chunk.items():
            yield file, image if isinstance(image, PpclsExtError) else classifier.top(next(rows), topk)
