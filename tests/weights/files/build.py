"""Weight files put together byte by byte, to say what no honest program would write."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def text(value: str) -> bytes:
    """Returns the instruction that pushes a text."""
    encoded = value.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def named(name: str) -> bytes:
    """Returns the instruction that pushes a global, by its dotted name."""
    module, attribute = name.rsplit(".", 1)
    return f"c{module}\n{attribute}\n".encode()


def number(value: int) -> bytes:
    """Returns the instruction that pushes a number of any size."""
    encoded = pickle.encode_long(value)
    return b"\x8b" + struct.pack("<I", len(encoded)) + encoded


def numbers(values: tuple) -> bytes:
    """Returns the instructions that push a tuple of numbers."""
    return b"(" + b"".join(map(number, values)) + b"t"


def program(*instructions: bytes) -> bytes:
    """Returns a pickle of the given instructions."""
    return b"\x80\x02" + b"".join(instructions) + b"."


def entry(*instructions: bytes, name: str = "weight") -> bytes:
    """Returns a pickle of a dict with one entry, whose value the instructions push."""
    return program(b"}", text(name), *instructions, b"s")


def tensor(
    shape: tuple = (2, 3),
    strides: tuple = (3, 1),
    offset: int = 0,
    length: int = 6,
    key: str = "0",
    storage: str = "torch.FloatStorage",
    view: bytes = b"",
) -> bytes:
    """Returns the instructions that push a PyTorch tensor; `view` continues the reference to the storage."""
    reference = b"(" + text("storage") + named(storage) + text(key) + text("cpu") + number(length) + view + b"tQ"
    arguments = b"(" + reference + number(offset) + numbers(shape) + numbers(strides) + b"\x89}t"
    return named("torch._utils._rebuild_tensor_v2") + arguments + b"R"


def zipped(content: bytes, storages: dict[str, bytes] | None = None, byteorder: str = "little") -> bytes:
    """Returns a file in PyTorch's ZIP format, from its pickle and the bytes of its storages."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/byteorder", byteorder)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return buffer.getvalue()


def legacy(content: bytes, storages: dict[str, tuple[int, bytes]] | None = None) -> bytes:
    """Returns a file in PyTorch's legacy format, from its pickle and its storages' lengths and bytes."""
    storages = storages or {}
    header = (TORCH_MAGIC, 1001, {"little_endian": True})
    data = b"".join(struct.pack("<q", length) + data for length, data in storages.values())
    return b"".join(pickle.dumps(item, 2) for item in header) + content + pickle.dumps(list(storages), 2) + data
