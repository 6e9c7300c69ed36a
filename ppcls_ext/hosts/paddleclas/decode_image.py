"""PaddleClas's operator DecodeImage reads pictures as prediction does: `data/image_files`."""

from __future__ import annotations

import functools
from typing import Any

from PIL import Image

from ppcls_ext.data.image_files import decode


def give_host_our_reader() -> None:
    """Makes PaddleClas's DecodeImage decode bytes with this project's reader; all else it does itself. Idempotent.

    OpenCV's reader fills up what is missing of some pictures, and takes other formats and colours than prediction,
    which has no OpenCV: training, evaluation and prediction would see different pixels.
    """
    from ppcls.data.preprocess import DecodeImage

    host = DecodeImage.__call__
    if hasattr(host, "host"):
        return

    @functools.wraps(host)
    def call(self: Any, img: Any) -> Any:
        backend = getattr(self, "backend", "cv2")
        if isinstance(img, bytes):
            img = _decoded(img, backend)
        elif isinstance(img, dict) and isinstance(img.get("img"), bytes):  # PaddleClas develop's other datasets
            img = {**img, "img": _decoded(img["img"], backend)}
        return host(self, img)

    call.host = host
    DecodeImage.__call__ = call


def _decoded(data: bytes, backend: str) -> Any:
    """What the operator takes in the place of bytes: BGR pixels, or Pillow's picture."""
    pixels = decode(data, backend)
    return Image.fromarray(pixels) if backend == "pil" else pixels[:, :, ::-1]
