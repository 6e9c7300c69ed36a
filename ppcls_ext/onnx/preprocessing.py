"""From an image file to the network's input, as PaddleClas's evaluation does it, with NumPy and Pillow alone.

Decoding follows `cv2.imdecode(data, 1)`, resizing `cv2.resize` or Pillow's, whichever the model was evaluated with:
the two differ by whole grey levels (Pillow averages when it shrinks, OpenCV does not).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.onnx.metadata import Pair, Preprocessing

#: Formats that OpenCV reads as well; no others are tried.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "JPEG2000")


def prepare(path: Path, rule: Preprocessing) -> np.ndarray:
    """Reads an image and makes it the network's input.

    Returns:
        float32 (3, H, W).

    Raises:
        PpclsExtError: the file cannot be read, or is no image; names the file.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PpclsExtError(f"{path}: {error.strerror or error}") from error
    try:
        image = resize_and_crop(decode(data, rule.decode), rule)
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from error
    if rule.channel_order == "BGR":
        image = image[:, :, ::-1]
    # in float32 and in PaddleClas's order, so that the last bit agrees
    image = (image.astype(np.float32) * np.float32(rule.scale) - np.float32(rule.mean)) / np.float32(rule.std)
    return image.transpose(2, 0, 1)


def decode(data: bytes, library: str = "cv2") -> np.ndarray:
    """Decodes the first frame of an image file.

    Args:
        data: the file's bytes.
        library: "cv2" gives what `cv2.imdecode(data, 1)` gives, as RGB: the EXIF orientation is applied, alpha is
            dropped, 16 bits become 8. "pil" gives what Pillow's `convert("RGB")` gives.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        PpclsExtError: no image of a known format, truncated, damaged, or too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            image.load()
            return np.asarray(image.convert("RGB") if library == "pil" else _as_opencv(image))
        except Image.UnidentifiedImageError as error:
            raise PpclsExtError(f"not an image of a known format: expected {', '.join(FORMATS)}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise PpclsExtError(f"the image is too large: expected at most {Image.MAX_IMAGE_PIXELS} px") from error
        except PpclsExtError:
            raise
        except Exception as error:  # Pillow's readers raise many kinds on damaged files
            raise PpclsExtError(f"damaged image: {error or type(error).__name__}") from error


def _as_opencv(image: Image.Image) -> np.ndarray | Image.Image:
    file_format, info = image.format, image.info
    with contextlib.suppress(Exception):  # an orientation that cannot be read is none
        image = ImageOps.exif_transpose(image)
    if image.mode == "F" or (image.mode == "I" and file_format == "TIFF"):
        raise PpclsExtError("the image has 32-bit samples: expected 8 or 16 bits")
    if image.mode.startswith("I"):
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "CMYK" and file_format != "TIFF":
        inks = 255 - np.asarray(image).astype(np.int32)
        colours, black = inks[:, :, :3], inks[:, :, 3:]
        return (black - ((255 - colours) * black >> 8)).astype(np.uint8)
    if image.mode == "RGBA" and file_format == "TIFF":
        return np.asarray(image.convert("RGBa"))[:, :, :3]
    if file_format == "GIF" and image.mode == "P" and "transparency" in info:
        background = 3 * info.get("background", 0)
        rgb = np.array(image.convert("RGB"))
        rgb[np.asarray(image) == info["transparency"]] = image.getpalette()[background : background + 3]
        return rgb
    return image.convert("RGB")


def resize_and_crop(image: np.ndarray, rule: Preprocessing) -> np.ndarray:
    """Resizes and keeps the centre: `image: (H, W, 3)` uint8 → (height, width, 3) uint8."""
    height, width = image.shape[:2]
    if rule.resize is not None:
        size = rule.resize
    else:
        # PaddleClas's own expression: a quotient first, Python's rounding to even
        factor = float(rule.resize_short) / min(width, height)
        size = round(width * factor), round(height * factor)
    crop = rule.crop or size
    left, top = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
    if rule.backend == "cv2":
        columns, rows = range(left, left + crop[0]), range(top, top + crop[1])
        return resize_as_opencv(image, size, rule.interpolation, columns, rows)
    if size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise PpclsExtError(f"a {width} × {height} px image would become {size[0]} × {size[1]} px: too large")
    resized = Image.fromarray(image).resize(size, getattr(Image.Resampling, rule.interpolation.upper()))
    return np.asarray(resized)[top : top + crop[1], left : left + crop[0]]


def resize_as_opencv(
    image: np.ndarray,
    size: Pair,
    interpolation: str = "bilinear",
    columns: range | None = None,
    rows: range | None = None,
) -> np.ndarray:
    """`cv2.resize(image, size)` and a cut-out of it, computing only what is kept.

    Args:
        image: (H, W, 3) uint8.
        size: (width, height) of the whole resized image, px.
        interpolation: "bilinear" is the only one written here.
        columns: the columns to keep; None keeps all.
        rows: the rows to keep; None keeps all.

    Returns:
        uint8 (rows, columns, 3), as OpenCV computes it: with weights of 11 bits, dropping bits between the horizontal
        and the vertical pass. Compared with OpenCV 5.0 on x86, bit by bit.
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
    """The two source pixels beside each target pixel's centre (they may lie outside), and their weights of 11 bits."""
    pixels = np.arange(target) if kept is None else np.arange(kept.start, kept.stop)
    position = ((pixels + 0.5) * (1 / (target / source)) - 0.5).astype(np.float32)
    first = np.floor(position).astype(np.int32)
    second_weight = position - first.astype(np.float32)
    weights = [np.rint(weight * np.float32(2048)).astype(np.int32) for weight in (1 - second_weight, second_weight)]
    return first, first + 1, weights[0], weights[1]
