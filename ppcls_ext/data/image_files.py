"""Image files: finding them, reading them, and decoding them to pixels with Pillow.

This is the only decoder of training, evaluation and prediction. It gives what `cv2.imdecode` gives wherever that reads
a whole image of an ordinary kind. Damaged and truncated files are refused, and so are float, 32-bit and CIELAB images;
the 16-bit samples of a TIFF file lose their lower 8 bits.
"""

from __future__ import annotations

import contextlib
import glob
import io
import logging
import math
import os
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Optional, Union

import numpy as np
from PIL import Image, ImageOps, features

from ppcls_ext.data.image_bounds import (
    TIFF,
    Page,
    max_bytes,
    require_bounded,
    require_bounded_tags,
    require_quick,
    require_size,
    tiff_pages,
)
from ppcls_ext.data.image_rule import MOST_CHANNELS, RGB
from ppcls_ext.data.lists import ListEntry
from ppcls_ext.data.shards import find_member, read_member
from ppcls_ext.errors import NotImageError, PpclsExtError
from ppcls_ext.files import read_regular
from ppcls_ext.packages import import_extra

logger = logging.getLogger("ppcls_ext")

#: Formats that OpenCV reads as well; no others are tried. Pillow reads AVIF from 11.3.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "JPEG2000", "PPM")
FORMATS += ("AVIF",) if "avif" in features.modules and features.check("avif") else ()
MAGIC = {b"\xff\xd8\xff": "JPEG", b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"GIF8": "GIF", b"BM": "BMP"}
GREY = ("1", "L", "I;16", "I;16B", "I;16L")
"""Modes of which several pages are the channels of one image."""
ORIENTATION = 0x112  # EXIF's tag
BAND = 1 << 21
"""Pixels whose colours are converted at once, which takes up to 50 bytes each."""
AT_ONCE = 1024
"""Images that wait for a thread."""
#: Pillow's modes of 8 or 16 bits per sample whose colours `convert` understands.
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "I", "I;16", "I;16B", "I;16L")


def read_image(path: str | os.PathLike) -> bytes:
    """Reads the bytes of an image, in a file of its own or in a shard (`ppcls_ext.data.shards`).

    Raises:
        OSError: the file cannot be opened or read.
        PpclsExtError: it is not a regular file, or far too large, or the shard has no such image.
    """
    member = find_member(os.fspath(path))
    return read_regular(path, max_bytes()) if member is None else read_member(member, max_bytes())


def decode(data: bytes, library: str = "cv2", channels: int = RGB) -> np.ndarray:
    """Decodes an image file: its first frame, or all pages or bands of a TIFF file where these are the channels.

    A file with alpha, colours or 16 bits becomes what `channels` asks for as Pillow converts it: 1 is "L", 2 "LA", 4
    "RGBA" (opaque where there is no alpha; the fourth band of a TIFF file stays as it is). Where `channels` is not 3,
    several grey pages of one size in a TIFF file are the channels, and so are as many bands.

    Args:
        data: the file's bytes.
        library: the library whose result is wanted: "cv2" for `cv2.imdecode(data, 1)` as RGB (it applies the EXIF
            orientation, drops alpha, and reduces 16 bits to 8), "pil" for Pillow's `convert("RGB")`.
        channels: of the result.

    Returns:
        uint8 (H, W, channels), RGB where these are 3, writable.

    Raises:
        NotImageError: the data are not an image of a known format.
        PpclsExtError: the image is truncated, damaged or too large, or has other channels; names both numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            bands = _tiff_bands(data, channels)
            return _decode(data, library, channels) if bands is None else bands
        except Image.UnidentifiedImageError as error:
            for magic, name in MAGIC.items():
                if name == "TIFF" and data.startswith(magic) and (count := tiff_pages(data, 1)[0].samples) > 1:
                    raise PpclsExtError(_BANDS.format(count, channels)) from error
                if data.startswith(magic):
                    raise PpclsExtError(f"damaged {name} image, or of a kind that Pillow does not read") from error
            raise NotImageError(f"not an image of a known format: expected {', '.join(FORMATS)}") from error
        except Image.DecompressionBombError as error:  # a process may have lowered Pillow's limit
            raise PpclsExtError(f"the image is too large for Pillow: {error}") from error
        except PpclsExtError:
            raise
        except Exception as error:  # Pillow's readers raise many kinds of errors on damaged files
            raise PpclsExtError(f"damaged image: {error or type(error).__name__}") from error


def _decode(data: bytes, library: str, channels: int) -> np.ndarray:
    frame = require_bounded(data)
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    require_size(*image.size)
    require_quick(image, data)
    if image.format == "PNG":
        image.verify()  # the checksums, which reading the pixels passes over
        image = Image.open(io.BytesIO(data), formats=("PNG",))
    _require_known_samples(image)
    image.load()
    if frame is not None and frame.lacks(data, image):
        raise PpclsExtError("the image is truncated: libjpeg would fill it up with grey")
    return pixels(image, library, channels)


def pixels(image: Image.Image, library: str = "cv2", channels: int = RGB) -> np.ndarray:
    """Returns the pixels of a Pillow image as uint8 (H, W, channels); arguments and errors as of `decode`."""
    if channels != RGB and (pages := _grey_pages(image, library, channels)) is not None:
        return pages
    convert: _Convert = _as_rgb if library == "pil" else _as_opencv
    if channels != RGB:
        convert = _CONVERSIONS.get(channels) or _refuse(image, channels)
    return _converted(image, library, convert, channels)


def _converted(image: Image.Image, library: str, convert: _Convert, channels: int) -> np.ndarray:
    _require_known_samples(image)
    image.load()
    file_format = image.format
    if library != "pil":
        image = _upright(image)
    rows = max(1, BAND // image.width)
    if rows >= image.height:
        return np.array(convert(image, file_format)).reshape(image.height, image.width, channels)
    result = np.empty((image.height, image.width, channels), np.uint8)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        result[top : top + rows] = np.asarray(convert(band, file_format)).reshape(-1, image.width, channels)
    return result


def _refuse(image: Image.Image, channels: int) -> NoReturn:
    bands = len(image.getbands())
    raise PpclsExtError(
        f"the image has {bands} channel{'s' * (bands > 1)} ({image.mode}), expected: {channels}; only a TIFF file "
        "has so many, as bands or grey pages"
    )


def _grey_pages(image: Image.Image, library: str, channels: int) -> np.ndarray | None:
    """Several grey pages of one size of a TIFF file, as the channels of one image; None for any other image."""
    if image.format != "TIFF" or image.mode not in GREY or not getattr(image, "is_animated", False):
        return None
    require_size(*image.size, -(-channels // 4))
    shown, size, planes = image.tell(), image.size, []
    try:
        for page in range(channels + 1):
            try:
                image.seek(page)
            except EOFError:
                break
            if image.mode not in GREY or image.size != size:
                return None  # a thumbnail, say
            if page < channels:
                planes.append(_converted(image, library, _as_grey, 1))
        else:
            page += 1
    finally:
        image.seek(shown)
    if page != channels:
        there = f"{page} grey pages" if page < channels else f"more than {channels} grey page{'s' * (channels > 1)}"
        raise PpclsExtError(
            f"the TIFF file has {there} of one size, expected: {channels} (Arch.in_channels, --channels)"
        )
    return np.concatenate(planes, axis=2)


_BANDS = "the TIFF file has {} bands, expected: {} (Arch.in_channels, --channels)"


def _tiff_bands(data: bytes, channels: int) -> np.ndarray | None:
    """The bands of a TIFF file that has as many as are wanted and of which Pillow reads others; else None.

    Raises:
        PpclsExtError: it has more bands, which Pillow would leave out.
    """
    if channels == RGB or not data.startswith(TIFF):
        return None
    first, *_ = tiff_pages(data, channels + 1)
    if first.samples == channels > 1 and _bands_in_pillow(data) != channels:
        return _read_bands(data, first)
    if first.samples > 4:
        raise PpclsExtError(_BANDS.format(first.samples, channels))
    return None


def own_channels(data: bytes) -> int:
    """Returns the channels to show an image file with: 3, or the bands or grey pages of a TIFF file that has others."""
    if data.startswith(TIFF):
        first, *others = tiff_pages(data, MOST_CHANNELS)
        if first.samples > 1:
            return RGB if _bands_in_pillow(data) == first.samples else first.samples
        if others and all(page == first for page in others):
            return 1 + len(others)
    return RGB


def _bands_in_pillow(data: bytes) -> int:
    """How many bands of a TIFF file Pillow reads; 0 of one that it does not read."""
    try:
        return len(Image.open(io.BytesIO(data), formats=("TIFF",)).getbands())
    except Image.UnidentifiedImageError:
        return 0


def _read_bands(data: bytes, page: Page) -> np.ndarray:
    """Reads the bands of a TIFF file's first page: uint8 (H, W, bands); see `decode`."""
    require_size(page.width, page.height, -(-page.samples // 4))
    tifffile = import_extra("tifffile")
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of damaged files is in its exceptions
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        first = file.pages[0]
        shape, expected = first.shape, (page.height, page.width, page.samples)
        if shape not in (expected, (expected[2], *expected[:2])) or str(first.dtype) not in ("uint8", "uint16"):
            raise PpclsExtError(
                f"the TIFF file has bands {shape} of {first.dtype}: expected {page.samples} of 8 or 16 bits a pixel"
            )
        if first.compression not in (1, 8, 32946):
            raise PpclsExtError(
                f"the TIFF file has bands compressed by {getattr(first.compression, 'name', first.compression)}: "
                "expected none or deflate"
            )
        if ORIENTATION in first.tags and first.tags[ORIENTATION].value != 1:
            raise PpclsExtError("the TIFF file has bands that lie on a side: save it upright")
        if first.compression != 1:
            _require_small_parts(data, first)
        bands = first.asarray(maxworkers=1)
    bands = bands if shape == expected else np.moveaxis(bands, 0, 2)
    return np.array(bands if bands.dtype == np.uint8 else bands >> 8, np.uint8)


def _require_small_parts(data: bytes, page: Any) -> None:
    """A part of some bytes may inflate to any number, all of which tifffile would make at once."""
    largest = math.prod(page.chunks) * page.dtype.itemsize
    for start, count in zip(page.dataoffsets, page.databytecounts):
        if len(zlib.decompressobj().decompress(data[start : start + count], largest + 1)) > largest:
            raise PpclsExtError(f"damaged image: a part of it inflates to more than its {largest:,} bytes")


def _require_known_samples(image: Image.Image) -> None:
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise PpclsExtError("the image has 32-bit samples: expected 8 or 16 bits")
    if image.mode not in MODES:
        raise PpclsExtError(f"the image's colours are {image.mode}: save it as RGB")


def _upright(image: Image.Image) -> Image.Image:
    """Turns an image by its EXIF orientation; one that cannot be read counts as none."""
    require_bounded_tags(_exif(image))
    with contextlib.suppress(Exception):
        if image.getexif().get(ORIENTATION, 1) != 1:  # otherwise exif_transpose would copy the image
            return ImageOps.exif_transpose(image)
    return image


def _exif(image: Image.Image) -> bytes:
    exif = image.info.get("exif", b"")
    with contextlib.suppress(Exception):
        if not exif and "Raw profile type exif" in image.info:  # ImageMagick's way to put it into a PNG
            exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    return exif.split(b"Exif\0\0")[-1] if isinstance(exif, bytes) else b""


def _as_opencv(image: Image.Image, file_format: str | None) -> np.ndarray | Image.Image:
    """The colours of an image, or of a band of it, as OpenCV makes them."""
    info = image.info
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
        rgb[np.asarray(image) == info["transparency"]] = (image.getpalette() or [])[background : background + 3]
        return rgb
    return _as_rgb(image)


def _as_rgb(image: Image.Image, file_format: str | None = None) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy it


def _as_grey(image: Image.Image, file_format: str | None) -> Image.Image:
    return _plain(image, file_format).convert("L")


def _as_grey_and_alpha(image: Image.Image, file_format: str | None) -> Image.Image:
    return _plain(image, file_format).convert("LA")


def _as_rgba(image: Image.Image, file_format: str | None) -> Image.Image:
    return image if image.mode == "RGBX" else _plain(image, file_format).convert("RGBA")


def _plain(image: Image.Image, file_format: str | None) -> Image.Image:
    """An image of 8 bits, in a mode that Pillow converts to any other, with the colours that RGB would have."""
    if image.mode.startswith("I") or (image.mode == "CMYK" and file_format != "TIFF"):
        colours = np.asarray(_as_opencv(image, file_format))
        return Image.fromarray(np.ascontiguousarray(colours[:, :, 0]) if image.mode.startswith("I") else colours)
    other = {"1": "L", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}.get(image.mode)
    return image if other is None else image.convert(other)


_Convert = Callable[[Image.Image, Optional[str]], Union[np.ndarray, Image.Image]]
#: By the number of channels, what makes an image of any mode have them.
_CONVERSIONS: dict[int, _Convert] = {1: _as_grey, 2: _as_grey_and_alpha, 4: _as_rgba}


#: Suffixes that make a file in a folder an image; a file that is named itself is always tried.
SUFFIXES: tuple[str, ...] = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jp2")
SUFFIXES += (".ppm", ".pgm", ".pbm", ".pnm", *((".avif",) if "AVIF" in FORMATS else ()))
#: Files and folders that systems leave between images, in lower case.
OF_SYSTEMS = frozenset(("thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"))


class LeftOut(NamedTuple):
    """A file or folder that will not be used.

    Attributes:
        path: the file or folder.
        kind: the reason in a few words, which are counted.
        reason: the reason in full.
    """

    path: Path
    kind: str
    reason: str


def counted(left_out: Sequence[LeftOut]) -> str:
    """Returns how many files and folders were left out, by kind: "2 hidden, 1 not an image"."""
    counts = Counter(item.kind for item in left_out)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def find_images(names: Sequence[str | Path]) -> list[Path]:
    """Finds the image files that `names` stand for; logs how many files of folders and patterns are left out.

    Args:
        names: files, folders (all images in and below them, see `images_below`) and glob patterns, whose files and
            folders are read by the same rule; a `Path` is never a pattern.

    Returns:
        Each file once, in the order of `names`; the files of a folder or pattern are sorted.

    Raises:
        PpclsExtError: no image belongs to one of the names.
    """
    found: dict[str, Path] = {}
    for name in names:
        path = Path(name)
        left_out: list[LeftOut] = []
        if path.is_dir():
            files, left_out = images_below(path)
        elif path.exists() or isinstance(name, Path) or not glob.has_magic(name):
            files = [path]  # a missing one is reported when its turn comes
        else:
            files, left_out = images_among(sorted(map(Path, glob.glob(name, recursive=True))))
        if not files:
            what = "the folder holds no image" if path.is_dir() else "no image found"
            more = f" ({counted(left_out)})" if left_out else ""
            raise PpclsExtError(f"{name}: {what}{more}; expected files, folders or patterns of {' '.join(SUFFIXES)}")
        if left_out:
            logger.info("%s: left out: %s", name, counted(left_out))
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def images_below(folder: Path) -> tuple[list[Path], list[LeftOut]]:
    """Finds the images in and below a folder, by the rule that holds wherever a folder is read.

    A file is an image by its suffix, one without a suffix by its content. Hidden files and folders, and those that
    systems leave, are left out. Links are followed, each folder once.

    Returns:
        The images, sorted by their paths, and everything else.
    """
    left_out: list[LeftOut] = []
    return sorted(_walk(sorted(folder.iterdir()), left_out, {folder.resolve()})), left_out


def images_among(paths: Sequence[Path]) -> tuple[list[Path], list[LeftOut]]:
    """As `images_below`, of some files and folders."""
    left_out: list[LeftOut] = []
    return sorted(_walk(paths, left_out, {path.parent.resolve() for path in paths})), left_out


def _walk(entries: Sequence[Path], left_out: list[LeftOut], seen: set[Path]) -> Iterator[Path]:
    for entry in entries:
        if is_hidden(entry.name):
            left_out.append(LeftOut(entry, "hidden", "it is hidden, or a system's own"))
        elif entry.is_file():
            if entry.suffix.lower() in SUFFIXES or (not entry.suffix and _is_image(entry)):
                yield entry
            else:
                left_out.append(LeftOut(entry, "not an image", f"expected one of {' '.join(SUFFIXES)}"))
        elif entry.is_dir():
            real = entry.resolve()
            if real in seen:
                left_out.append(LeftOut(entry, "repeated folder", f"the same folder as {real}"))
            else:
                seen.add(real)
                yield from _walk(sorted(entry.iterdir()), left_out, seen)
        else:
            left_out.append(LeftOut(entry, "not a file", "neither a file nor a folder, or a link to nothing"))


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder of this name is hidden, or one that a system leaves between images."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


def _is_image(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.open(path, formats=FORMATS).close()
    except Image.UnidentifiedImageError:
        return False
    except Exception:  # of known format, or it cannot be opened: whoever reads it says what is wrong
        return True
    return True


@contextlib.contextmanager
def decoding_threads(count: int) -> Iterator[ThreadPoolExecutor]:
    """Yields so many threads to call `decode` in.

    Pillow decodes outside the interpreter lock. Threads share the filters of warnings, which `decode` sets while it
    runs: as they are the same before and behind, threads that overlap leave no others. (multiprocessing's pool needs
    room in /dev/shm.)
    """
    with warnings.catch_warnings(), ThreadPoolExecutor(count) as pool:
        warnings.simplefilter("ignore")
        yield pool


def find_faults(
    paths: Sequence[Path], report: Callable[[int, int], None] | None = None, channels: int = RGB
) -> list[OSError | PpclsExtError | None]:
    """Decodes every file to its last pixel, as training does, on all cores.

    Args:
        paths: the image files.
        report: called after each file with (files done, files in all).
        channels: that the images are decoded to.

    Returns:
        For each file the error that reading it raises, or None.
    """
    found: list[OSError | PpclsExtError | None] = []
    with decoding_threads(os.cpu_count() or 1) as pool:
        for start in range(0, len(paths), AT_ONCE):
            for fault in pool.map(partial(_find_fault, channels=channels), paths[start : start + AT_ONCE]):
                found.append(fault)
                if report:
                    report(len(found), len(paths))
    return found


def check_images(
    entries: Sequence[ListEntry], report: Callable[[int, int], None] | None = None, channels: int = RGB
) -> list[tuple[ListEntry, str]]:
    """Returns the entries of a list (`read_list`) that cannot be decoded, in order, each with the reason.

    Args:
        entries: the list or a part of it.
        report: called after each image with (images done, images in all).
        channels: that the images are decoded to.
    """
    found = zip(entries, find_faults([entry.path for entry in entries], report, channels))
    return [(entry, reason_of(fault)) for entry, fault in found if fault is not None]


def reason_of(fault: OSError | PpclsExtError) -> str:
    """Returns why a file cannot be read, without its path."""
    return getattr(fault, "strerror", None) or str(fault)


def _find_fault(path: Path, channels: int) -> OSError | PpclsExtError | None:
    try:
        decode(read_image(path), channels=channels)
    except (OSError, PpclsExtError) as error:
        return error
    return None
