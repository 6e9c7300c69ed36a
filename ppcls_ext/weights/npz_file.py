"""NumPy's `.npz`: a ZIP archive of arrays."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.arrays import from_bytes
from ppcls_ext.weights.bounded import BoundedFile
from ppcls_ext.weights.zips import read_member

_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(file: BoundedFile, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Returns the arrays by name. Python objects in them are refused, not unpickled."""
    members = archive.infolist()
    contents = {member.filename[: -len(".npy")]: read_member(archive, member, file) for member in members}
    if len(contents) < len(members):
        raise ValueError("two arrays have the same name")
    return {name: _read_npy(content, file) for name, content in contents.items()}


def _read_npy(content: bytes, file: BoundedFile) -> np.ndarray:
    # np.load reserves memory for whatever shape the header claims; here the member's size has to agree first
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise PpclsExtError(f"holds an array in version {version} of the .npy format; expected 1.0 or 2.0")
    shape, fortran, dtype = _HEADER_READERS[version](stream)
    return from_bytes(memoryview(content)[stream.tell() :], dtype, shape, file, fortran=fortran)
