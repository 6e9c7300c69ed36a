"""Reading pickles without running them.

Python's unpickler calls whatever a file names. `Unpickler` is a small machine for the same instructions that knows
numbers, strings, bytes, tuples, lists and dicts, and a table of names that it was given, each standing for a function
of ours. A name outside the table ends the reading; nothing that the file chooses is ever imported, called or set.

A subclass of `pickle.Unpickler` with its own `find_class` would refuse the same names, but could not keep the limits on
time and memory. Measured with Python 3.11: the 9 bytes of a memo index of 2**28 reserve 4 GiB; a dict's key of tuples
doubled n times is hashed in 2**n steps, at two bytes for each doubling; BUILD sets attributes of the functions that
`find_class` returns. No method can be overridden to prevent this (tests/weights/test_files_malicious.py has the files).
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, BinaryIO, Literal

import numpy as np

from ppcls_ext.errors import PpclsExtError, shown
from ppcls_ext.weights.bounded import BoundedFile, Tensor, from_bytes, sizes

MAX_STEPS = 1_000_000
"""Instructions read from one pickle before it is refused. A tensor takes about 25 of them; each may cost some hundred
bytes of memory, though it is one byte in the file."""


class Opaque:
    """The substitute for every object that weights do not need; takes any argument, item or state and keeps none."""


OPAQUE = Opaque()


class Stateful:
    """An object that a pickle makes first and fills later."""

    def set_state(self, state: Any) -> None:
        """Takes the content, which is untrusted."""
        raise NotImplementedError


class Unpickler:
    """Reads the pickles at the position of `stream`, one by one.

    Dicts keep only the entries whose key is a string, since no other can name a tensor.

    Args:
        stream: the stream to read from; left just behind the pickle.
        known: the substitute for each global that may occur, by its dotted name: a function of ours, which gets the
            arguments that the file gives, or any inert value.
        persistent_load: returns the substitute for an object that the file stores outside of the pickle.
    """

    def __init__(
        self,
        stream: BinaryIO,
        known: Mapping[str, object],
        persistent_load: Callable[[Any], object] | None = None,
    ) -> None:
        self._stream = stream
        self._known = known
        self._persistent_load = persistent_load

    def load(self) -> object:
        """Returns the next pickle's content.

        Raises:
            PpclsExtError: it asks for an unknown global, or is longer than any real pickle.
            Exception: it is not a valid pickle (mostly ValueError, IndexError, KeyError, TypeError).
        """
        self._stack: list = []
        self._outer_stacks: list[list] = []
        self._memo: dict[int, object] = {}
        self._steps = 0
        for opcode, argument, _position in pickletools.genops(self._stream):
            self._count(1)
            if opcode.name in _LITERALS:
                self._push(argument)
            elif opcode.name in _INSTRUCTIONS:
                _INSTRUCTIONS[opcode.name](self, argument)
            elif opcode.name == "STOP":
                return self._stack.pop()
            else:
                raise ValueError(f"the pickle instruction {opcode.name} has no place in a weight file")
        raise ValueError("the pickle has no end")

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MAX_STEPS:
            raise PpclsExtError(f"refused: its pickle has more than {MAX_STEPS:,} instructions, as no weights do")

    # Stack and memo

    def _push(self, value: object) -> None:
        self._stack.append(value)

    def _mark(self, _: None) -> None:
        self._outer_stacks.append(self._stack)
        self._stack = []

    def _pop_to_mark(self) -> list:
        items = self._stack
        self._stack = self._outer_stacks.pop()
        return items

    def _pop(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_to_mark()

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    # Containers

    def _tuple(self, length: int) -> None:
        if len(self._stack) < length:
            raise ValueError("a tuple is made of more items than there are")
        items = tuple(self._stack[-length:])
        self._stack[-length:] = [items]

    def _dict(self, _: None) -> None:
        items = self._pop_to_mark()
        self._push({})
        self._set_items(items)

    def _append(self, items: list) -> None:
        target = self._stack[-1]
        if isinstance(target, list):
            target.extend(items)
        elif target is not OPAQUE:
            raise ValueError("items are added to something else than a list")

    def _set_items(self, items: list) -> None:
        target = self._stack[-1]
        if isinstance(target, dict):
            target.update((key, value) for key, value in zip(items[::2], items[1::2]) if isinstance(key, str))
        elif target is not OPAQUE:
            raise ValueError("items are set in something else than a dict")

    # Globals and objects

    def _find(self, module: object, name: object) -> object:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a global has no name")
        python3_module = "builtins" if module == "__builtin__" else module
        try:
            return self._known[f"{python3_module}.{name}"]
        except KeyError:
            raise PpclsExtError(
                f"its pickle asks for the global {shown(f'{module}.{name}')}, no part of plain tensors or of known "
                "settings: refused, because unpickling it could run code; if you trust the file, save its plain "
                "state dict anew where it was made"
            ) from None

    def _call(self, target: object, arguments: object) -> object:
        if not isinstance(arguments, (tuple, list)):
            raise ValueError("a function is called without a tuple of arguments")
        if target is OPAQUE:
            return OPAQUE
        # Functions come from the table alone: no instruction makes one
        if not isinstance(target, FunctionType):
            raise ValueError(f"an object of type {type(target).__name__} is called")
        # Ours may copy a list, and the file may call them with the same list again and again
        self._count(sum(len(argument) for argument in arguments if isinstance(argument, (list, tuple))))
        return target(*arguments)

    def _global(self, name: str) -> None:
        self._push(self._find(*name.split(" ", 1)))

    def _stack_global(self, _: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._push(self._find(module, name))

    def _reduce(self, _: None) -> None:
        arguments, target = self._stack.pop(), self._stack.pop()
        self._push(self._call(target, arguments))

    def _new_with_keywords(self, _: None) -> None:
        if self._stack.pop():
            raise ValueError("a function is called with keyword arguments")
        self._reduce(None)

    def _inst(self, name: str) -> None:
        target, arguments = self._find(*name.split(" ", 1)), self._pop_to_mark()
        self._push(self._call(target, arguments))

    def _obj(self, _: None) -> None:
        target, *arguments = self._pop_to_mark()
        self._push(self._call(target, arguments))

    def _build(self, _: None) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Stateful):
            target.set_state(state)
        elif target is not OPAQUE and not isinstance(target, dict):  # a dict's attributes hold no weights
            raise ValueError(f"an object of type {type(target).__name__} is given a state")

    def _persistent(self, _: None) -> None:
        if self._persistent_load is None:
            raise ValueError("the pickle asks for an object outside of it")
        self._push(self._persistent_load(self._stack.pop()))


_LITERALS = frozenset(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    """.split()
)

_INSTRUCTIONS: dict[str, Callable] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda self, _: None),
    "NONE": lambda self, _: self._push(None),
    "NEWTRUE": lambda self, _: self._push(True),
    "NEWFALSE": lambda self, _: self._push(False),
    "MARK": Unpickler._mark,
    "POP": Unpickler._pop,
    "POP_MARK": lambda self, _: self._pop_to_mark(),
    "DUP": lambda self, _: self._push(self._stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), Unpickler._put),
    "MEMOIZE": lambda self, _: self._put(len(self._memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), lambda self, index: self._push(self._memo[index])),
    "EMPTY_TUPLE": lambda self, _: self._push(()),
    "TUPLE": lambda self, _: self._push(tuple(self._pop_to_mark())),
    "TUPLE1": lambda self, _: self._tuple(1),
    "TUPLE2": lambda self, _: self._tuple(2),
    "TUPLE3": lambda self, _: self._tuple(3),
    "EMPTY_LIST": lambda self, _: self._push([]),
    "LIST": lambda self, _: self._push(self._pop_to_mark()),
    "APPEND": lambda self, _: self._append([self._stack.pop()]),
    "APPENDS": lambda self, _: self._append(self._pop_to_mark()),
    "EMPTY_DICT": lambda self, _: self._push({}),
    "DICT": Unpickler._dict,
    "SETITEM": lambda self, _: self._set_items([self._stack.pop(-2), self._stack.pop()]),
    "SETITEMS": lambda self, _: self._set_items(self._pop_to_mark()),
    "EMPTY_SET": lambda self, _: self._push(OPAQUE),
    "ADDITEMS": lambda self, _: self._append(self._pop_to_mark()),
    "FROZENSET": lambda self, _: (self._pop_to_mark(), self._push(OPAQUE)),
    "GLOBAL": Unpickler._global,
    "STACK_GLOBAL": Unpickler._stack_global,
    "REDUCE": Unpickler._reduce,
    "NEWOBJ": Unpickler._reduce,
    "NEWOBJ_EX": Unpickler._new_with_keywords,
    "INST": Unpickler._inst,
    "OBJ": Unpickler._obj,
    "BUILD": Unpickler._build,
    "BINPERSID": Unpickler._persistent,
}


_HARMLESS = """
argparse.Namespace types.SimpleNamespace typing.Any builtins.bool builtins.complex builtins.dict builtins.float
builtins.frozenset builtins.int builtins.list builtins.long builtins.set builtins.str collections.Counter
datetime.date datetime.datetime datetime.timedelta datetime.timezone pathlib.Path pathlib.PosixPath
pathlib.WindowsPath pathlib.PurePosixPath pathlib.PureWindowsPath pathlib._local.Path pathlib._local.PosixPath
pathlib._local.WindowsPath addict.addict.Dict easydict.EasyDict yacs.config.CfgNode fvcore.common.config.CfgNode
mmcv.utils.config.ConfigDict mmengine.config.config.ConfigDict omegaconf.base.ContainerMetadata
omegaconf.base.Metadata omegaconf.dictconfig.DictConfig omegaconf.listconfig.ListConfig omegaconf.nodes.AnyNode
lightning_fabric.utilities.data.AttributeDict pytorch_lightning.utilities.parsing.AttributeDict
pytorch_lightning.callbacks.early_stopping.EarlyStopping
pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint
""".split()


def _dict(pairs: object = ()) -> dict:
    # Python 2 pickles an OrderedDict as a list of [key, value]
    if not isinstance(pairs, (list, tuple)):
        raise ValueError("a dict is made of something else than pairs")
    return {key: value for key, value in pairs if isinstance(key, str)}


def _empty_dict(*_arguments: object) -> dict:
    return {}


COMMON: dict[str, object] = {
    **dict.fromkeys(_HARMLESS, OPAQUE),
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _empty_dict,
}
"""The substitutes known in every pickle: for containers, and for settings found beside the weights."""


class PickledType(Stateful):
    """A NumPy type as it is pickled: `dtype("f4")`, then a state that contains the byte order."""

    def __init__(self, code: object, *_flags: object) -> None:
        self._code = code
        self._order: Literal["=", "<", ">"] = "="

    def set_state(self, state: Any) -> None:
        """Takes (version, byte order, …)."""
        _version, self._order = state[:2]

    def dtype(self) -> np.dtype:
        """Returns the type, checked to be one of plain numbers.

        Raises:
            PpclsExtError: it is anything else.
        """
        if not isinstance(self._code, str):
            raise ValueError("an array's type has no name")
        if not re.fullmatch("[fiub][1248]", self._code):  # NumPy would accept much more
            raise PpclsExtError(f"holds an array of type {shown(self._code)}; expected plain real numbers or booleans")
        return np.dtype(self._code).newbyteorder(self._order if self._order in ("<", ">") else "=")


class PickledArray(Tensor, Stateful):
    """An array as it is pickled: an empty one, then a state with its type, shape and bytes."""

    def __init__(self) -> None:
        self._shape: Any = ()
        self._type: Any = None
        self._fortran: Any = False
        self._content: Any = None

    def set_state(self, state: Any) -> None:
        """Takes (version, shape, type, whether in Fortran order, bytes)."""
        _version, self._shape, self._type, self._fortran, self._content = state

    def read(self, file: BoundedFile) -> np.ndarray:
        """Returns the array; its state is checked only now."""
        if not isinstance(self._type, PickledType):
            raise ValueError("an array has no type")
        dtype, content = self._type.dtype(), self._content
        if isinstance(content, str):  # Python 2's bytes, and Python 3's in protocol 2
            file.spend(len(content))
            content = content.encode("latin-1")
        if not isinstance(content, (bytes, bytearray)):
            raise ValueError("an array has no content")
        return from_bytes(content, dtype, sizes(self._shape), file, fortran=self._fortran is True)


def numpy_globals(array: type[PickledArray] = PickledArray) -> dict[str, object]:
    """Returns the substitutes for NumPy's names in a pickle; arrays become objects of the class `array`."""

    def reconstruct(*_arguments: object) -> PickledArray:
        return array()

    def from_buffer(content: object, element: object, shape: object, order: object) -> PickledArray:
        made = array()
        made.set_state((1, shape, element, order == "F", content))
        return made

    def scalar(element: object, content: object) -> object:
        """Returns a NumPy number; these occur only beside weights, so anything else becomes `OPAQUE`."""
        bits = content.encode("latin-1") if isinstance(content, str) else content
        if not isinstance(element, PickledType) or not isinstance(bits, bytes) or len(bits) > 8:
            return OPAQUE
        return np.frombuffer(bits, element.dtype())[0].item()

    known = {
        "numpy.ndarray": OPAQUE,
        "numpy.dtype": lambda *arguments: PickledType(*arguments),
        # Protocol 2 writes bytes as a string to be encoded; PickledArray encodes it once, when it is read
        "_codecs.encode": lambda text, _encoding: text,
        "builtins.bytes": lambda: b"",
    }
    for core in ("core", "_core"):  # before and since NumPy 2
        known[f"numpy.{core}.multiarray._reconstruct"] = reconstruct
        known[f"numpy.{core}.multiarray.scalar"] = scalar
        known[f"numpy.{core}.numeric._frombuffer"] = from_buffer
    return known
