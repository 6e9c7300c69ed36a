"""PyTorch's `.pth`, `.pt`, `.pth.tar`: the ZIP format (PyTorch 1.6 and later) and the legacy one, without PyTorch.

Both contain a pickle, in which each tensor is a view (offset, shape, strides) of a storage, and outside of it the
storages' bytes. Formats: torch/serialization.py of PyTorch 2.13.
"""

from __future__ import annotations

import io
import zipfile
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.bounded import BoundedFile, Tensor, plain, read_member, size, sizes, widen_bfloat16
from ppcls_ext.weights.pickles import COMMON, OPAQUE, Unpickler, numpy_globals

LEGACY_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
"""The number in the first pickle of the legacy format, little-endian."""
LEGACY_VERSION = 1001


class ElementType(NamedTuple):
    """The type of a tensor's elements: PyTorch's name and NumPy's code for the same bytes."""

    name: str
    code: str


_ELEMENTS = [
    ElementType("float64", "f8"),
    ElementType("float32", "f4"),
    ElementType("float16", "f2"),
    ElementType("bfloat16", "u2"),
    ElementType("int64", "i8"),
    ElementType("int32", "i4"),
    ElementType("int16", "i2"),
    ElementType("int8", "i1"),
    ElementType("uint64", "u8"),
    ElementType("uint32", "u4"),
    ElementType("uint16", "u2"),
    ElementType("uint8", "u1"),
    ElementType("bool", "b1"),
]
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.storage.UntypedStorage": "uint8",
}


class Storage(NamedTuple):
    """A sequence of elements that tensors view.

    Attributes:
        key: the name of its bytes in the file.
        element: the type of its elements.
        length: the number of elements.
        start: the first element's index within the bytes of `key`.
    """

    key: str
    element: ElementType
    length: int
    start: int = 0

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.length * np.dtype(self.element.code).itemsize


class TorchTensor(Tensor):
    """A view of a storage; offset and strides count elements."""

    def __init__(self, source: _TorchFile, storage: Storage, element: ElementType, *view: object) -> None:
        offset, shape, strides = view
        self._source = source
        self._storage = storage
        self._element = element
        self._offset = storage.start + size(offset)
        self._shape = sizes(shape)
        self._strides = sizes(strides)
        if len(self._shape) != len(self._strides):
            raise ValueError("a tensor has more strides than dimensions, or fewer")

    def read(self, file: BoundedFile) -> np.ndarray:
        """Returns the view's values, bfloat16 as float32."""
        dtype = np.dtype(self._element.code).newbyteorder(self._source.byte_order)
        content = self._source.content(self._storage)
        if 0 in self._shape:
            array = np.empty(self._shape, dtype)
        else:
            last = self._offset + sum((length - 1) * stride for length, stride in zip(self._shape, self._strides))
            if (last + 1) * dtype.itemsize > len(content):
                raise ValueError("a tensor reaches beyond its storage")
            strides = [stride * dtype.itemsize for stride in self._strides]
            array = np.ndarray(self._shape, dtype, content, self._offset * dtype.itemsize, strides)
        return widen_bfloat16(array, file) if self._element.name == "bfloat16" else plain(array, file)


class _TorchFile:
    """The common part of the two formats, the pickle; each format finds the bytes of the storages itself."""

    byte_order: Literal["<", ">"] = "<"

    def __init__(self, file: BoundedFile) -> None:
        self._file = file
        self._storages: dict[str, Storage] = {}
        self._contents: dict[str, bytes] = {}

    def content(self, storage: Storage) -> bytes:
        """Returns a storage's bytes, read once for all of its tensors."""
        if storage.key not in self._contents:
            self._contents[storage.key] = self._fetch(storage)
        return self._contents[storage.key]

    def _fetch(self, storage: Storage) -> bytes:
        raise NotImplementedError

    def _unpickle(self, stream: BinaryIO) -> Any:
        return Unpickler(stream, self._globals(), self._load_storage).load()

    def _load_storage(self, reference: Any) -> Storage:
        kind, element, key, _device, length, *view = reference
        if kind != "storage" or not isinstance(element, ElementType) or not isinstance(key, str):
            raise ValueError("the pickle refers to something other than a storage")
        storage = self._storages.setdefault(key, Storage(key, element, size(length)))
        if view and view[0] is not None:  # in files of early PyTorch
            _key, start, length = view[0]
            return storage._replace(start=size(start), length=size(length))
        return storage

    def _globals(self) -> dict[str, object]:
        def tensor(storage: object, element: object, view: tuple, metadata: object) -> TorchTensor:
            if not isinstance(storage, Storage) or not isinstance(element, ElementType):
                raise ValueError("a tensor has no storage")
            if metadata:
                raise PpclsExtError("holds a tensor whose sign or conjugate is pending; save it with .clone()")
            return TorchTensor(self, storage, element, *view)

        def rebuild_tensor(
            storage: object,
            offset: object,
            shape: object,
            strides: object,
            _requires_grad: object = None,
            _hooks: object = None,
            metadata: object = None,
        ) -> TorchTensor:
            return tensor(storage, getattr(storage, "element", None), (offset, shape, strides), metadata)

        def rebuild_typed_tensor(
            storage: object,
            offset: object,
            shape: object,
            strides: object,
            _requires_grad: object,
            _hooks: object,
            element: object,
            *metadata: object,
        ) -> TorchTensor:
            return tensor(storage, element, (offset, shape, strides), any(metadata))

        def rebuild_parameter(tensor: object, *_: object) -> object:
            return tensor

        def rebuild_subclass(function: Any, _type: object, arguments: Any, _state: object) -> object:
            if function not in (rebuild_tensor, rebuild_typed_tensor):
                raise ValueError("a tensor is rebuilt by something else")
            return function(*arguments)

        elements = {f"torch.{element.name}": element for element in _ELEMENTS}
        return {
            **COMMON,
            **numpy_globals(),
            **elements,
            **{storage: elements[f"torch.{name}"] for storage, name in _STORAGES.items()},
            "torch._utils._rebuild_tensor": rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": rebuild_typed_tensor,
            "torch._utils._rebuild_parameter": rebuild_parameter,
            "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
            "torch._tensor._rebuild_from_type_v2": rebuild_subclass,
            "torch.Size": lambda shape: shape,
            "torch.device": OPAQUE,
            "torch.Tensor": OPAQUE,
            "torch.nn.parameter.Parameter": OPAQUE,
            "torch.nn.parameter.Buffer": OPAQUE,
        }


class _ZipFormat(_TorchFile):
    """`NAME/data.pkl`, `NAME/data/KEY` for each storage, `NAME/byteorder`."""

    def __init__(self, file: BoundedFile, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file)
        self._archive = archive
        self._folder = folder

    def _member(self, name: str) -> bytes:
        return read_member(self._archive, self._archive.getinfo(self._folder + name), self._file)

    def read(self) -> object:
        names = self._archive.namelist()
        if f"{self._folder}constants.pkl" in names:
            raise PpclsExtError(
                "is a TorchScript program (torch.jit.save), not weights; save the model's state dict with torch.save"
            )
        if f"{self._folder}byteorder" in names and self._member("byteorder") == b"big":
            self.byte_order = ">"
        return self._unpickle(io.BytesIO(self._member("data.pkl")))

    def _fetch(self, storage: Storage) -> bytes:
        content = self._member(f"data/{storage.key}")
        if len(content) < storage.nbytes:
            raise ValueError("a storage is shorter than declared")
        return content


class _LegacyFormat(_TorchFile):
    """Pickles of a magic number, a version, the machine, the content and the storages' keys; then the storages."""

    def read(self) -> object:
        _magic, version, _machine, content = (self._unpickle(self._file) for _ in range(4))
        if version != LEGACY_VERSION:
            raise ValueError("its version of the format does not exist")
        self._positions: dict[str, int] = {}
        for key in self._unpickle(self._file):
            storage = self._storages[key]
            length = int.from_bytes(self._file.read(8), "little")
            if length != storage.length:
                raise ValueError("a storage has another length than declared")
            self._positions[key] = self._file.tell()
            self._file.seek(self._file.tell() + storage.nbytes)
        return content

    def _fetch(self, storage: Storage) -> bytes:
        self._file.seek(self._positions[storage.key])
        return self._file.read(self._storages[storage.key].nbytes)


def is_legacy_torch(head: bytes) -> bool:
    """Returns whether a file that starts with `head` is in PyTorch's legacy format."""
    return head.startswith(b"\x80") and LEGACY_MAGIC in head[:32]


def read_legacy_torch(file: BoundedFile) -> object:
    """Reads the object saved in the legacy format: (nested) dicts whose tensors are `Tensor` objects."""
    return _LegacyFormat(file).read()


def read_zipped_torch(file: BoundedFile, archive: zipfile.ZipFile, folder: str) -> object:
    """Reads the object saved in the ZIP format below `folder`; returns the same as `read_legacy_torch`."""
    return _ZipFormat(file, archive, folder).read()
