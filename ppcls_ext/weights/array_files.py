"""`.npz` and `.safetensors`: files of named arrays, without a pickle."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.packages import import_extra
from ppcls_ext.weights.bounded import BoundedFile, from_bytes, read_member, widen_bfloat16

_HEADER_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_npz(file: BoundedFile, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Reads the arrays of a `.npz` file by name; refuses Python objects in them instead of unpickling.

    Raises:
        PpclsExtError: an array has an unknown version or type, or the allowance is used up.
        ValueError: two arrays have the same name, or an array contradicts its header.
    """
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


_CODES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "b1",
}


def is_safetensors(head: bytes, size: int) -> bool:
    """Returns whether a file of `size` bytes that starts with `head` has safetensors' header: its length, then JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def read_safetensors(file: BoundedFile) -> dict[str, np.ndarray]:
    """Reads the arrays of a `.safetensors` file, sorted by name, bfloat16 as float32.

    Raises:
        PpclsExtError: a type is unknown, a name occurs twice, or the allowance is used up.
    """
    # safetensors.numpy has no bfloat16; deserialize() checks the header and leaves the types to us, in any order
    arrays, data = {}, file.read()
    entries = import_extra("safetensors").deserialize(data)
    _refuse_duplicates(data[8 : 8 + int.from_bytes(data[:8], "little")])
    for name, entry in sorted(entries, key=lambda item: item[0]):
        kind = entry["dtype"]
        if kind not in _CODES:
            raise PpclsExtError(f"holds a tensor of type {kind}; expected one of {', '.join(_CODES)}")
        array = from_bytes(entry["data"], np.dtype(_CODES[kind]), entry["shape"], file)
        arrays[name] = widen_bfloat16(array, file) if kind == "BF16" else array
    return arrays


def _refuse_duplicates(header: bytes) -> None:
    """Raises PpclsExtError if a name occurs twice: the library silently takes one of the tensors."""

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        made = {}
        for name, value in items:
            if name in made:
                raise PpclsExtError(f"gives {name!r} twice; save it again from its source")
            made[name] = value
        return made

    json.loads(header, object_pairs_hook=pairs)
