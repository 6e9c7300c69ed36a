"""From the bytes of an image file to its pixels, as `cv2.imdecode` or Pillow gives them, with Pillow alone."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps

from ppcls_ext.errors import PpclsExtError

#: Formats that OpenCV reads as well; no others are tried.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "JPEG2000")


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
            return pixels(image, library)
        except Image.UnidentifiedImageError as error:
            raise PpclsExtError(f"not an image of a known format: expected {', '.join(FORMATS)}") from error
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise PpclsExtError(f"the image is too large: expected at most {Image.MAX_IMAGE_PIXELS} px") from error
        except PpclsExtError:
            raise
        except Exception as error:  # Pillow's readers raise many kinds on damaged files
            raise PpclsExtError(f"damaged image: {error or type(error).__name__}") from error


def pixels(image: Image.Image, library: str = "cv2") -> np.ndarray:
    """The pixels of a Pillow image, uint8 (H, W, 3), RGB; see `decode`."""
    image.load()
    return np.asarray(image.convert("RGB") if library == "pil" else _as_opencv(image))


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
