"""Reading the weights in a file of any known format, without running anything that it contains."""

from __future__ import annotations

import difflib
import logging
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union

import numpy as np

from ppcls_ext.errors import PpclsExtError, shown
from ppcls_ext.weights.array_files import is_safetensors, read_npz, read_safetensors
from ppcls_ext.weights.bounded import BoundedFile, Tensor, opened
from ppcls_ext.weights.naming import are_fused
from ppcls_ext.weights.paddle_file import read_paddle
from ppcls_ext.weights.torch_file import is_legacy_torch, read_legacy_torch, read_zipped_torch

logger = logging.getLogger("ppcls_ext")

SUFFIXES = (".pdparams", ".pth", ".tar", ".pt", ".ckpt", ".bin", ".safetensors", ".npz")
"""Suffixes of the files that messages suggest. A file's content decides how it is read, not its name."""

_EXPECTED = "expected .pdparams, .pth, .pth.tar, .pt, .safetensors or .npz"

Leaf = Union[np.ndarray, Tensor]

#: The keys below which a training checkpoint keeps weights; the first that leads to tensors is taken. Averaged weights
#: come first, as in timm: the published accuracy is theirs.
WRAPPERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
)
#: The prefixes of nn.DataParallel and DistributedDataParallel, of torch.compile, and of both around each other.
PARALLEL_PREFIXES = ("module.", "_orig_mod.", "module.")

# The first bytes of other files that are taken for weights, and what these files are
_OTHER_FORMATS = {
    b"<!doctype": "a web page, so the download failed",
    b"<html": "a web page, so the download failed",
    b"<?xml": "an XML document, such as a server's error message",
    b"{": "a JSON document, such as a server's error message",
    b"version https://git-lfs": "a Git LFS pointer: fetch the file itself with git lfs pull",
    b"\x1f\x8b": "packed with gzip: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
    b"\xfd7zXZ": "packed with xz: unpack it first",
    b"\x89HDF": "an HDF5 file",
}


class WeightFile(NamedTuple):
    """The weights in a file.

    Attributes:
        path: the file that was read.
        format: "paddle", "torch", "safetensors" or "npz".
        keys: the keys that lead through nested dicts to the weights; empty for a plain file of weights.
        tensors: the arrays by name.
    """

    path: Path
    format: str
    keys: list[str]
    tensors: dict[str, np.ndarray]

    @property
    def is_fused(self) -> bool:
        """Whether the weights are a fused model's; see `are_fused`."""
        return are_fused(self.tensors)


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the tensors that `read_weight_file` finds in the file `path`, by name."""
    return read_weight_file(path).tensors


def read_weight_file(path: str | os.PathLike) -> WeightFile:
    """Reads the weights in a file of any known format, without running anything that it contains.

    The formats are told apart by content: Paddle's `.pdparams`; PyTorch's `.pth`, `.pth.tar` and `.pt`, both in the ZIP
    format and in the legacy one; `.safetensors`; `.npz`. Neither PyTorch nor Paddle is needed.

    In a training checkpoint the weights are searched below the keys in `WRAPPERS`, up to two levels deep; **averaged
    (EMA) weights are preferred to the others**, as in timm, and a log line says which were taken. Everything else in
    a checkpoint (optimizer, epoch, settings) is ignored. A prefix that DataParallel or torch.compile put before every
    name is removed.

    Memory: the weights, and at most about the file's size besides; files that unfold to more than 16 times their size
    (64 MiB for small ones) are refused.

    Args:
        path: the file; as in PaddleClas, a path without suffix means `PATH.pdparams` if there is no file `PATH`.

    Returns:
        The tensors with the file's names, layouts and types, except that bfloat16 becomes float32 (Paddle stores it as
        uint16, so uint16 from Paddle becomes float32 too); in the file's order, those of safetensors by name. The
        arrays are read-only, contiguous, in this machine's byte order. Arrays that share memory in the file may share
        it here.

    Raises:
        PpclsExtError: there is no such file, its format is unknown, it is damaged or incomplete, it asks for anything
            beyond plain tensors and harmless settings, or it would take far more memory than its size explains.
    """
    path = find_file(path)
    with opened(path) as file:
        kind, content = _read_content(file)
        keys, tensors = _find_weights(content)
        weights = {name: t if isinstance(t, np.ndarray) else t.read(file) for name, t in tensors.items()}
    if keys:
        logger.info("%s: taking the weights in %s", path, "".join(f"[{key!r}]" for key in keys))
    return WeightFile(path, kind, keys, without_parallel_prefix(weights))


def read_names(path: str | os.PathLike) -> list[str]:
    """Returns the names of the tensors that `read_weight_file` would return, without converting their values.

    Raises:
        PpclsExtError: as `read_weight_file`; damage to the values alone may remain unnoticed.
    """
    with opened(find_file(path)) as file:
        _, content = _read_content(file)
        _, tensors = _find_weights(content)
    return list(without_parallel_prefix(tensors))


def find_file(path: str | os.PathLike) -> Path:
    """Returns the file that `path` refers to: `path` itself, or else `path` with `.pdparams` appended.

    Raises:
        PpclsExtError: neither exists; the message suggests files with similar names.
    """
    try:
        return _find_file(Path(path))
    except OSError as error:
        raise PpclsExtError(f"cannot look for {path}: {error.strerror or error}") from error


def _find_file(path: Path) -> Path:
    with_suffix = path.with_name(f"{path.name}.pdparams") if path.name else path
    if path.is_file():
        return path
    if with_suffix.is_file():
        return with_suffix
    if path.is_dir():
        names = sorted(entry.name for entry in path.iterdir() if entry.name.endswith(SUFFIXES))
        inside = f"it holds {', '.join(names[:5])}" if names else "it holds no weights"
        raise PpclsExtError(f"{path} is a folder, expected a file of weights; {inside}")
    if path.exists():
        raise PpclsExtError(f"{path} is a device or pipe, expected a file of weights")
    if not path.parent.is_dir():
        raise PpclsExtError(f"no file {path}: there is no folder {path.parent}")
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.name.endswith(SUFFIXES))
    similar = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    hint = f"did you mean {' or '.join(similar)}?" if similar else "the folder holds no weights"
    tried = path if path.name.endswith(SUFFIXES) else f"{path}, nor {with_suffix.name}"
    raise PpclsExtError(f"no file {tried}; {hint}")


def _read_content(file: BoundedFile) -> tuple[str, object]:
    """Returns the format of a file and its content: (nested) dicts of tensors, most of them not read yet."""
    head = file.read(512)
    file.seek(0)
    if head.startswith(b"PK\3\4"):
        return _read_zip(file)
    if is_legacy_torch(head):
        return "torch", read_legacy_torch(file)
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "paddle", read_paddle(file)
    if is_safetensors(head, file.size):
        return "safetensors", read_safetensors(file)
    raise PpclsExtError(f"is {_describe(head)}; {_EXPECTED}")


def _read_zip(file: BoundedFile) -> tuple[str, object]:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    pickles = [name for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if pickles:
        return "torch", read_zipped_torch(file, archive, pickles[0][: -len("data.pkl")])
    if names and all(name.endswith(".npy") for name in names):
        return "npz", read_npz(file, archive)
    some = ", ".join(shown(name) for name in names[:3]) or "nothing"
    raise PpclsExtError(f"is a ZIP archive of {some}, neither PyTorch's nor NumPy's; unpack it if weights are inside")


def _find_weights(content: object) -> tuple[list[str], dict[str, Leaf]]:
    found = find_state_dict(content)
    if found is None:
        if isinstance(content, dict):
            keys = ", ".join(shown(key) for key in list(content)[:8])
            raise PpclsExtError(f"holds no tensors where they were expected; its entries are: {keys or 'none'}")
        raise PpclsExtError(f"holds one {type(content).__name__}; expected a dict of names and tensors")
    return found


def _describe(head: bytes) -> str:
    if not head:
        return "empty"
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it (PyTorch's oldest format, which is one, is not read)"
    start = head.lstrip().lower()
    return next(
        (kind for magic, kind in _OTHER_FORMATS.items() if start.startswith(magic.lower())), "of unknown format"
    )


def find_state_dict(content: object, depth: int = 2) -> tuple[list[str], dict[str, Leaf]] | None:
    """Returns the path of keys to the weights in a file's content, and the weights; None if there are none.

    A dict is searched below the keys in `WRAPPERS`, in their order, up to `depth` levels deep; only if none of them
    leads to tensors does it count as a state dict itself, and then its entries that are not tensors are left out.
    """
    if not isinstance(content, Mapping):
        return None
    if depth > 0:
        for key in WRAPPERS:
            found = find_state_dict(content.get(key), depth - 1)
            if found:
                return [key, *found[0]], found[1]
    tensors = {name: value for name, value in content.items() if isinstance(value, (np.ndarray, Tensor))}
    return ([], tensors) if tensors else None


def without_parallel_prefix(weights: dict[str, Any]) -> dict[str, Any]:
    """Returns `weights` without the prefix that a parallel or compiling wrapper put before every name."""
    for prefix in PARALLEL_PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            weights = {name[len(prefix) :]: value for name, value in weights.items()}
    return weights
