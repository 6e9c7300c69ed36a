"""From an image to the network's input, as PaddleClas's evaluation computes it, with NumPy and Pillow alone.

Decoding follows `cv2.imdecode(data, 1)`; resizing follows `cv2.resize` or Pillow, whichever the model was evaluated
with: they differ by whole grey levels (Pillow averages when it shrinks an image, OpenCV does not).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Union

import numpy as np
from PIL import Image

from ppcls_ext.data.image_bounds import max_bytes, max_pixels
from ppcls_ext.data.image_files import decode, pixels, read_image
from ppcls_ext.data.image_rule import RGB, Pair, Preprocessing
from ppcls_ext.errors import PpclsExtError

#: An image as Python callers may give it: a path, the bytes of a file, a file open for reading bytes, a Pillow image,
#: or the pixels as uint8 (H, W, C), RGB where C is 3.
ImageLike = Union[str, os.PathLike, bytes, bytearray, memoryview, IO[bytes], Image.Image, np.ndarray]
#: Test-time augmentation: how many views of an image it takes.
TTA = {"flip": 2, "ten-crop": 10}
CHUNK = 1 << 20
"""Bytes of an open file that are read at once."""
EXPECTED = "expected a path, bytes, an open file, a Pillow image or an array uint8 (H, W, C)"


def is_image_like(value: object) -> bool:
    """Returns whether a value stands for one image, rather than for several or for none."""
    kinds = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)
    return isinstance(value, kinds) or (isinstance(value, np.ndarray) and value.ndim != 4) or hasattr(value, "read")


def network_input(image: ImageLike, rule: Preprocessing, whole: bool = False) -> np.ndarray:
    """Reads an image in any form and makes it the network's input.

    Args:
        image: a path, the bytes of a file, a file open for reading bytes, a Pillow image, or the pixels as uint8
            (H, W, C) with the rule's channels, RGB where these are 3.
        rule: the preprocessing that the network expects.
        whole: keep the proportions and all of the image (`Preprocessing.whole`), for networks that take any size.

    Returns:
        float32 (C, H, W).

    Raises:
        PpclsExtError: a file cannot be read or is not an image (the message names it), or an array has another type or
            shape.
    """
    pixels = _pixels_of(image, rule)
    return _to_input(pixels, rule.whole(*pixels.shape[:2]) if whole else rule)


def _pixels_of(image: ImageLike, rule: Preprocessing) -> np.ndarray:
    """An image in any form → uint8 (H, W, C)."""
    if isinstance(image, (str, os.PathLike)):
        return _read(Path(image), rule)
    if isinstance(image, Image.Image):
        return pixels(image, rule.decode, rule.channels)
    if not isinstance(image, np.ndarray):
        data = bytes(image) if isinstance(image, (bytes, bytearray, memoryview)) else _read_open(image)
        return decode(data, rule.decode, rule.channels)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != rule.channels or 0 in image.shape:
        expected = f"expected uint8 (H, W, {rule.channels}){', RGB' if rule.channels == RGB else ''}"
        raise PpclsExtError(f"got an array {image.dtype} {image.shape}: {expected}")
    return image


def check_tta(tta: str | None, rule: Preprocessing, whole: bool = False) -> None:
    """Raises PpclsExtError where there is no such test-time augmentation, or none for images prepared so."""
    if tta is not None and tta not in TTA:
        raise PpclsExtError(f"tta is {tta!r}: expected {' or '.join(TTA)}")
    if tta == "ten-crop" and whole:
        raise PpclsExtError("ten-crop needs a crop, and a file for any size gets the whole of each image: take flip")
    fixed = rule.resize or (rule.resize_short, rule.resize_short)
    if tta == "ten-crop" and rule.crop in (None, fixed):
        raise PpclsExtError(
            f"ten-crop needs a crop that is smaller than the resized image, {fixed[0]} × {fixed[1]} px: take flip"
        )


def network_inputs(image: ImageLike, rule: Preprocessing, tta: str | None = None, whole: bool = False) -> np.ndarray:
    """Makes the views of an image of which test-time augmentation takes the mean score.

    Args:
        image: as for `network_input`.
        rule: the preprocessing that the network expects.
        tta: "flip": the image and its mirror image; "ten-crop": the centre and the four corners of the resized image,
            and their mirror images; None for the image alone.
        whole: as for `network_input`.

    Returns:
        float32 (views, C, H, W).

    Raises:
        PpclsExtError: as for `network_input`.
    """
    pixels = _pixels_of(image, rule)
    rule = rule.whole(*pixels.shape[:2]) if whole else rule
    corners = [None, (0, 0), (1, 0), (0, 1), (1, 1)] if tta == "ten-crop" else [None]
    views = np.stack([_to_input(pixels, rule, corner) for corner in corners])
    return views if tta is None else np.concatenate([views, views[..., ::-1]])


class PreparedImages:
    """Images as a network's inputs, each read when it is asked for: many take no more memory than one.

    Args:
        images: in any form that `network_input` takes; open files are read at once, as they can be read only once.
        rule: the preprocessing that the network expects.

    Attributes:
        shape: (N, C, H, W).
    """

    def __init__(self, images: Sequence[ImageLike], rule: Preprocessing) -> None:
        self._images = [
            _read_open(image) if hasattr(image, "read") and not isinstance(image, Image.Image) else image
            for image in images
        ]
        self._rule = rule
        width, height = rule.image_size
        self.shape = (len(self._images), rule.channels, height, width)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int | slice) -> np.ndarray:
        """Returns one input (C, H, W), or several (n, C, H, W)."""
        if isinstance(index, slice):
            return np.stack([network_input(image, self._rule) for image in self._images[index]])
        return network_input(self._images[index], self._rule)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (network_input(image, self._rule) for image in self._images)


def _read_open(file: Any) -> bytes:
    if not hasattr(file, "read"):
        raise PpclsExtError(f"got a {type(file).__name__}: {EXPECTED}")
    most, size = max_bytes(), 0
    parts: list[bytes] = []
    while size <= most:
        part = file.read(CHUNK)  # all at once would be allocated before a byte is read
        if not isinstance(part, bytes):
            raise PpclsExtError("got a file that is open for reading text: open it with 'rb'")
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise PpclsExtError(f"got a file of more than the {most:,} bytes that are read of an image")


def _read(path: Path, rule: Preprocessing) -> np.ndarray:
    try:
        return decode(read_image(path), rule.decode, rule.channels)
    except OSError as error:
        raise PpclsExtError(f"{path}: {error.strerror or error}") from error
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from error


def _to_input(image: np.ndarray, rule: Preprocessing, corner: Pair | None = None) -> np.ndarray:
    """`image: uint8 (H, W, C)` → float32 (C, H, W)."""
    image = resize_and_crop(image, rule, corner)
    if rule.channel_order == "BGR":
        image = image[:, :, ::-1]
    # in float32 and in PaddleClas's order, so that the last bit agrees
    mean, std = np.array(rule.mean, np.float32), np.array(rule.std, np.float32)
    image = (image.astype(np.float32) * np.float32(rule.scale) - mean) / std
    return image.transpose(2, 0, 1)


def resize_and_crop(image: np.ndarray, rule: Preprocessing, corner: Pair | None = None) -> np.ndarray:
    """Resizes an image and crops its centre, or a corner.

    Args:
        image: uint8 (H, W, C).
        rule: its `resize_short` or `resize`, `interpolation`, `backend` and `crop` are used.
        corner: (0 for left or 1 for right, 0 for top or 1 for bottom); None for the centre.

    Returns:
        uint8 (height, width, C).

    Raises:
        PpclsExtError: the resized image would be too large, or the interpolation is not implemented.
    """
    height, width = image.shape[:2]
    if rule.resize_short is None:
        size = rule.resize or rule.image_size
    else:
        # PaddleClas's own expression: first the quotient, then Python's rounding to even
        factor = float(rule.resize_short) / min(width, height)
        size = round(width * factor), round(height * factor)
    crop = rule.crop or size
    left, top = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    if corner is not None:
        left, top = (side * (whole - kept) for side, whole, kept in zip(corner, size, crop))
    if rule.backend == "cv2":
        columns, rows = range(left, left + crop[0]), range(top, top + crop[1])
        return resize_as_opencv(image, size, rule.interpolation, columns, rows)
    if size[0] * size[1] > max_pixels():
        raise PpclsExtError(f"a {width} × {height} px image would become {size[0]} × {size[1]} px: too large")
    filter_ = getattr(Image.Resampling, rule.interpolation.upper())
    if image.shape[2] == RGB:
        resized = np.asarray(Image.fromarray(image).resize(size, filter_))
    else:  # one by one: a fourth channel need not be alpha, by which Pillow would weigh the others
        planes = (Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(image, 2, 0))
        resized = np.stack([np.asarray(plane.resize(size, filter_)) for plane in planes], axis=2)
    return resized[top : top + crop[1], left : left + crop[0]]


def resize_as_opencv(
    image: np.ndarray,
    size: Pair,
    interpolation: str = "bilinear",
    columns: range | None = None,
    rows: range | None = None,
) -> np.ndarray:
    """Computes a cut-out of `cv2.resize(image, size)`, without the pixels outside it.

    Args:
        image: uint8 (H, W, C).
        size: (width, height) of the whole resized image, px.
        interpolation: only "bilinear" is implemented.
        columns: the columns to keep; None keeps all.
        rows: the rows to keep; None keeps all.

    Returns:
        uint8 (rows, columns, C), computed as OpenCV does, with weights of 11 bits and bits dropped between the
        horizontal and the vertical pass; bit-identical with OpenCV 5.0 on x86.
    """
    if interpolation != "bilinear":
        raise PpclsExtError(
            f"the model was evaluated with OpenCV's {interpolation} resizing, of which only bilinear is written here: "
            "evaluate and export it with ResizeImage's backend: pil"
        )
    height, width, channels = image.shape
    left, right, towards_left, towards_right = _neighbours(width, size[0], columns)
    # at the border OpenCV gives one column all the weight, but mixes a row with itself
    inside = (left >= 0) & (right < width)
    towards_left, towards_right = np.where(inside, (towards_left, towards_right), ((2048,), (0,)))
    above, below, towards_above, towards_below = _neighbours(height, size[1], rows)
    used, index = np.unique(np.clip([above, below], 0, height - 1), return_inverse=True)
    above, below = index.reshape(2, -1)

    # columns and channels as one axis: NumPy is quick on long rows
    source = image[used].reshape(len(used), -1).astype(np.int32)
    left, right = (
        (side.clip(0, width - 1)[:, None] * channels + np.arange(channels)).ravel() for side in (left, right)
    )
    passed = source.take(left, axis=1) * np.repeat(towards_left, channels)
    passed += source.take(right, axis=1) * np.repeat(towards_right, channels)
    passed >>= 4
    result = passed.take(above, axis=0) * towards_above[:, None] >> 16
    result += passed.take(below, axis=0) * towards_below[:, None] >> 16
    return ((result + 2) >> 2).astype(np.uint8).reshape(len(above), -1, channels)


def _neighbours(source: int, target: int, kept: range | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the source pixels on both sides of each target pixel's centre (maybe outside), and 11-bit weights."""
    pixels = np.arange(target) if kept is None else np.arange(kept.start, kept.stop)
    position = ((pixels + 0.5) * (1 / (target / source)) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int32)
    second_weight = position - first.astype(np.float32)
    weights = [np.rint(weight * np.float32(2048)).astype(np.int32) for weight in (1 - second_weight, second_weight)]
    return first, first + 1, weights[0], weights[1]
