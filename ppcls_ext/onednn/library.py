"""The shared library, and *primitives*: operations of oneDNN for tensors of certain shapes.

A primitive is built once for its shapes and number of threads, is kept, and runs on the tensors' own memory. Where it
wants another layout (for kernels it does) it is reordered on the way. One call runs at a time: the primitives' memory
handles and their scratch memory are shared.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.onednn.memory import BFLOAT16, FLOAT32
from ppcls_ext.onednn.signals import undisturbed

#: Primitives that are kept; a model needs one or two hundred for each size of image.
CAPACITY = 1024

# <dnnl_types.h>; the numbers are part of oneDNN's ABI
_MAJOR, _OPENMP, _CPU, _IN_ORDER = 3, 2, 1, 1
_ANY = 1
_DATA_TYPES = {FLOAT32: 3, BFLOAT16: 2}
_HAS_BFLOAT16 = 1 << 7  # of the effective instruction set: AVX-512 BF16, which all processors with AMX have, too
_HAS_AMX = 1 << 11  # for bfloat16
_QUERY_NAME, _QUERY_ARGUMENT = 8, 255
_FROM, _TO, _SCRATCHPAD = 1, 17, 80
_USER = 1  # scratchpad mode
_ALIGNMENT = 64  # bytes

_POINTER, _INT, _SIZE, _FLOAT32, _INT64 = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t, ctypes.c_float, ctypes.c_int64
#: The functions that are called, `dnnl_NAME`, with the types of their arguments (<dnnl.h>, oneDNN 3).
_FUNCTIONS = {
    "get_effective_cpu_isa": [],
    "engine_create": [_POINTER, _INT, _SIZE],
    "engine_destroy": [_POINTER],
    "stream_create": [_POINTER, _POINTER, _INT],
    "stream_destroy": [_POINTER],
    "memory_desc_create_with_strides": [_POINTER, _INT, _POINTER, _INT, _POINTER],
    "memory_desc_create_with_tag": [_POINTER, _INT, _POINTER, _INT, _INT],
    "memory_desc_destroy": [_POINTER],
    "memory_desc_equal": [_POINTER, _POINTER],
    "memory_desc_get_size": [_POINTER],
    "memory_create": [_POINTER, _POINTER, _POINTER, _POINTER],
    "memory_destroy": [_POINTER],
    "memory_set_data_handle": [_POINTER, _POINTER],
    "post_ops_create": [_POINTER],
    "post_ops_destroy": [_POINTER],
    "post_ops_append_binary": [_POINTER, _INT, _POINTER],
    "post_ops_append_eltwise": [_POINTER, _INT, _FLOAT32, _FLOAT32],
    "post_ops_append_sum": [_POINTER, _FLOAT32, _INT, _INT],
    "primitive_attr_create": [_POINTER],
    "primitive_attr_destroy": [_POINTER],
    "primitive_attr_set_scratchpad_mode": [_POINTER, _INT],
    "primitive_attr_set_post_ops": [_POINTER, _POINTER],
    "convolution_forward_primitive_desc_create": [_POINTER, _POINTER, _INT, _INT, *(8 * [_POINTER]), _POINTER],
    "convolution_backward_data_primitive_desc_create": [_POINTER, _POINTER, _INT, *(8 * [_POINTER]), _POINTER],
    "convolution_backward_weights_primitive_desc_create": [_POINTER, _POINTER, _INT, *(9 * [_POINTER]), _POINTER],
    "batch_normalization_forward_primitive_desc_create": [
        *(_POINTER, _POINTER, _INT, _POINTER, _POINTER, _FLOAT32, ctypes.c_uint, _POINTER)
    ],
    "batch_normalization_backward_primitive_desc_create": [
        *(_POINTER, _POINTER, _INT, _POINTER, _POINTER, _POINTER, _FLOAT32, ctypes.c_uint, _POINTER, _POINTER)
    ],
    "matmul_primitive_desc_create": 7 * [_POINTER],
    "binary_primitive_desc_create": [_POINTER, _POINTER, _INT, _POINTER, _POINTER, _POINTER, _POINTER],
    "eltwise_forward_primitive_desc_create": [
        *(_POINTER, _POINTER, _INT, _INT, _POINTER, _POINTER, _FLOAT32, _FLOAT32, _POINTER)
    ],
    "eltwise_backward_primitive_desc_create": [
        *(_POINTER, _POINTER, _INT, _POINTER, _POINTER, _POINTER, _FLOAT32, _FLOAT32, _POINTER, _POINTER)
    ],
    "reorder_primitive_desc_create": [_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER],
    "primitive_desc_destroy": [_POINTER],
    "primitive_desc_query": [_POINTER, _INT, _INT, _POINTER],
    "primitive_desc_query_md": [_POINTER, _INT, _INT],
    "primitive_create": [_POINTER, _POINTER],
    "primitive_destroy": [_POINTER],
    "primitive_execute": [_POINTER, _POINTER, _INT, _POINTER],
}
#: What those return that do not return a status.
_RESULTS = {"primitive_desc_query_md": _POINTER, "memory_desc_get_size": _SIZE}


_Built = TypeVar("_Built", bound="Primitive | Copies")


class UnsupportedError(Exception):
    """oneDNN has no implementation, or no fast one, of what was asked."""


class Handle:
    """An object of oneDNN, destroyed with this one."""

    def __init__(self, destroy: Callable, value: ctypes.c_void_p) -> None:
        self._destroy, self._as_parameter_ = destroy, value

    def __del__(self) -> None:
        self._destroy(self._as_parameter_)


class Description(Handle):
    """Of a tensor in memory, with the kind of its numbers."""

    def __init__(self, destroy: Callable, value: ctypes.c_void_p, numbers: int) -> None:
        super().__init__(destroy, value)
        self.numbers = numbers


class _Version(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("major", "minor", "patch")]
    _fields_ += [("hash", ctypes.c_char_p), ("cpu_runtime", ctypes.c_uint), ("gpu_runtime", ctypes.c_uint)]


class _Argument(ctypes.Structure):
    _fields_ = [("index", ctypes.c_int), ("memory", ctypes.c_void_p)]


class Library:
    """The loaded library with an engine, a stream and the primitives built so far.

    Args:
        path: of the shared library.
        openmp: path of the OpenMP runtime that it runs on, or its name among the system's libraries.

    Raises:
        UnsupportedError: it is not the oneDNN that is expected.
        OSError, AttributeError: it is missing, or misses a function.
    """

    def __init__(self, path: str, openmp: str) -> None:
        functions = ctypes.CDLL(path)
        functions.dnnl_version.restype = ctypes.POINTER(_Version)
        version = functions.dnnl_version().contents
        if version.major != _MAJOR or version.cpu_runtime != _OPENMP:
            raise UnsupportedError(f"oneDNN {version.major} with CPU runtime {version.cpu_runtime}")
        self.version = f"{version.major}.{version.minor}.{version.patch}"
        self.functions: dict[str, Any] = {}
        for name, types in _FUNCTIONS.items():
            function = self.functions[name] = getattr(functions, f"dnnl_{name}")
            function.argtypes, function.restype = types, _RESULTS.get(name, _INT)
        self.set_pointer = self.functions["memory_set_data_handle"]
        self.execute = self.functions["primitive_execute"]
        runtime = ctypes.CDLL(openmp)
        self.threads, self.set_threads = runtime.omp_get_max_threads, runtime.omp_set_num_threads
        number = version.major, version.minor, version.patch
        #: Calls what multiplies matrices, where that takes care.
        self.undisturbed = undisturbed(number, runtime, self.threads)
        self.engine = self.make("engine", "engine_create", _CPU, 0)
        self.stream = self.make("stream", "stream_create", self.engine, _IN_ORDER)
        instructions = self.functions["get_effective_cpu_isa"]()
        #: Whether the processor computes products of bfloat16 numbers, by AVX-512 BF16 or AMX, and whether by AMX.
        self.has_bfloat16, self.has_amx = bool(instructions & _HAS_BFLOAT16), bool(instructions & _HAS_AMX)
        self.lock: Any = threading.RLock()  # Any: typeshed knows no _is_owned
        #: None where oneDNN has none.
        self.primitives: collections.OrderedDict[tuple, Any] = collections.OrderedDict()
        self._scratch = (np.empty(0, np.uint8), 0, 0)  # the memory, its first aligned address, the bytes from there

    def call(self, name: str, *arguments: Any) -> None:
        """Calls `dnnl_NAME`; a status other than success raises `UnsupportedError`."""
        status = self.functions[name](*arguments)
        if status:
            raise UnsupportedError(f"dnnl_{name} returned {status}")

    def make(self, kind: str, name: str, *arguments: Any) -> Handle:
        """Calls `dnnl_NAME`, whose first argument is where the new object, of that kind, goes."""
        value = ctypes.c_void_p()
        self.call(name, ctypes.byref(value), *arguments)
        return Handle(self.functions[f"{kind}_destroy"], value)

    def description(
        self, shape: Sequence[int], strides: Sequence[int] | None = None, numbers: int = FLOAT32
    ) -> Description:
        """Of a tensor in memory, `FLOAT32` or `BFLOAT16`; without strides oneDNN is free to choose the layout."""
        value, sizes = ctypes.c_void_p(), dims(*shape)
        arguments = (ctypes.byref(value), len(shape), sizes, _DATA_TYPES[numbers])
        if strides is None:
            self.call("memory_desc_create_with_tag", *arguments, _ANY)
        else:
            self.call("memory_desc_create_with_strides", *arguments, dims(*strides))
        return Description(self.functions["memory_desc_destroy"], value, numbers)

    def descriptor(self, operation: str, *arguments: Any, post_ops: Handle | None = None) -> Handle:
        """A primitive descriptor; scratch memory is handed in at each call.

        Raises:
            UnsupportedError: there is none, or a slow reference implementation only.
        """
        attributes = self.make("primitive_attr", "primitive_attr_create")
        self.call("primitive_attr_set_scratchpad_mode", attributes, _USER)
        if post_ops is not None:
            self.call("primitive_attr_set_post_ops", attributes, post_ops)
        descriptor = self.make("primitive_desc", f"{operation}_primitive_desc_create", *arguments, attributes)
        if self.implementation(descriptor).startswith("ref"):
            raise UnsupportedError(f"{operation} is slow")
        return descriptor

    def implementation(self, descriptor: Handle) -> str:
        """Name of what computes a primitive."""
        name = ctypes.c_char_p()
        self.call("primitive_desc_query", descriptor, _QUERY_NAME, 0, ctypes.byref(name))
        return (name.value or b"").decode()

    def refuse_reentry(self) -> None:
        """Raises where this thread holds the lock: a signal handler runs a model in the middle of an operation."""
        if self.lock._is_owned():
            raise PpclsExtError(
                "a model was run inside an operation of another one (by a signal handler or a finalizer?): "
                "let the handler set a flag, and run the model after the operation"
            )

    def primitive(self, key: tuple, build: Callable[..., _Built], *arguments: Any) -> _Built:
        """Returns the kept primitive of that key, or a new one: `build(library, *arguments)`.

        Raises:
            UnsupportedError: oneDNN has none, or a slow one only; this is remembered, too.
        """
        key = (*key, self.threads())
        self.refuse_reentry()
        with self.lock:
            if key in self.primitives:
                found = self.primitives[key]
                self.primitives.move_to_end(key)
            else:
                try:
                    found = build(self, *arguments)
                except UnsupportedError:
                    found = None
                self.primitives[key] = found
                if len(self.primitives) > CAPACITY:
                    self.primitives.popitem(last=False)
        if found is None:
            raise UnsupportedError(f"oneDNN has no fast implementation of {build.__name__} for {arguments}")
        return found

    @contextlib.contextmanager
    def one_thread(self) -> Iterator[None]:
        """Primitives that are built in this context run in the calling thread."""
        threads = self.threads()
        try:
            self.set_threads(1)
            yield
        finally:
            self.set_threads(threads)

    def scratch(self, size: int) -> int:
        """Address of `size` bytes that stay valid until the next call."""
        _, start, available = self._scratch
        if available < size:
            memory = np.empty(size + _ALIGNMENT, np.uint8)
            start = -(-memory.ctypes.data // _ALIGNMENT) * _ALIGNMENT
            # in one assignment: an interrupt must not leave a size without its memory
            self._scratch = (memory, start, size)
        return start


def dims(*sizes: int) -> ctypes.Array:
    """The C array of sizes."""
    return (ctypes.c_int64 * len(sizes))(*sizes)


class Primitive:
    """A primitive, its memory objects, and the reorders that it needs.

    Args:
        library: that it belongs to.
        descriptor: of the primitive.
        inputs: argument index and description of each tensor read, in the order of the call's addresses.
        outputs: of each tensor written, following the inputs.

    Attributes:
        memory: how many numbers, and of which kind, lie in the memory of each input and output.

    Raises:
        UnsupportedError: the primitive does not take one of these arguments.
    """

    def __init__(
        self,
        library: Library,
        descriptor: Handle,
        inputs: list[tuple[int, Description]],
        outputs: list[tuple[int, Description]],
    ) -> None:
        self.library, self._descriptor = library, descriptor
        self._outer: list[Handle] = []
        self._inner: list[tuple[Handle, int]] = []  # with offsets in the scratch memory
        self._size = 0
        size_of = library.functions["memory_desc_get_size"]
        self.memory = [(size_of(given) // given.numbers, given.numbers) for _, given in (*inputs, *outputs)]
        before, after, arguments = [], [], []
        for index, given in (*inputs, *outputs):
            outer = memory = self._memory(given)
            wanted = self._query(index)
            if not library.functions["memory_desc_get_size"](wanted):
                raise UnsupportedError(f"the primitive takes no argument {index:#x}")
            if not library.functions["memory_desc_equal"](wanted, given):
                memory = self._scratch_memory(wanted)
                if len(self._outer) < len(inputs):
                    before.append(self._reorder(given, wanted, outer, memory))
                else:
                    after.append(self._reorder(wanted, given, memory, outer))
            arguments.append((index, memory))
            self._outer.append(outer)
        scratchpad = self._query(_SCRATCHPAD)
        if library.functions["memory_desc_get_size"](scratchpad):
            arguments.append((_SCRATCHPAD, self._scratch_memory(scratchpad)))
        self._calls = [*before, self._call(descriptor, arguments), *after]
        self._execute = library.execute
        if library.undisturbed is not None and "gemm" in library.implementation(descriptor):
            self._execute = functools.partial(library.undisturbed, library.execute)

    def __call__(self, *addresses: int) -> None:
        """Runs on the memory of the inputs, then the outputs.

        Raises:
            PpclsExtError: see `Library.refuse_reentry`.
        """
        library = self.library
        library.refuse_reentry()
        with library.lock:
            for memory, address in zip(self._outer, addresses):
                library.set_pointer(memory, address)
            if self._size:
                start = library.scratch(self._size)
                for memory, offset in self._inner:
                    library.set_pointer(memory, start + offset)
            for primitive, count, arguments in self._calls:
                if self._execute(primitive, library.stream, count, arguments):
                    raise RuntimeError("oneDNN could not execute a primitive that it has built")

    def _query(self, index: int) -> ctypes.c_void_p:
        query = self.library.functions["primitive_desc_query_md"]
        return ctypes.c_void_p(query(self._descriptor, _QUERY_ARGUMENT, index))

    def _memory(self, description: Any) -> Handle:
        return self.library.make("memory", "memory_create", description, self.library.engine, None)

    def _scratch_memory(self, description: ctypes.c_void_p) -> Handle:
        memory = self._memory(description)
        self._inner.append((memory, self._size))
        size = self.library.functions["memory_desc_get_size"](description)
        self._size += -(-size // _ALIGNMENT) * _ALIGNMENT
        return memory

    def _reorder(self, source: Any, target: Any, source_memory: Handle, target_memory: Handle) -> tuple:
        engine = self.library.engine
        descriptor = self.library.make(
            "primitive_desc", "reorder_primitive_desc_create", source, engine, target, engine, None
        )
        return self._call(descriptor, [(_FROM, source_memory), (_TO, target_memory)])

    def _call(self, descriptor: Handle, arguments: list[tuple[int, Handle]]) -> tuple:
        """What `dnnl_primitive_execute` takes beside the stream."""
        primitive = self.library.make("primitive", "primitive_create", descriptor)
        array = (_Argument * len(arguments))(
            *[_Argument(index, memory._as_parameter_.value) for index, memory in arguments]
        )
        return primitive, len(arguments), array


class Copies:
    """Copies of parts of one tensor into parts of another, one after the other.

    Args:
        parts: each with where it begins in the memory of the two, bytes.
    """

    def __init__(self, parts: Sequence[tuple[Primitive, int, int]]) -> None:
        self.parts = parts

    def __call__(self, source: int, target: int) -> None:
        """Runs on the memory of the two."""
        for copy, given, wanted in self.parts:
            copy(source + given, target + wanted)
