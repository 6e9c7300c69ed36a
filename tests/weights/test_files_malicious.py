"""No weight file runs code or takes more memory than its size explains."""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights import pickles
from ppcls_ext.weights.bounded import MIB, BoundedFile, widen_bfloat16
from ppcls_ext.weights.files import read_weights
from tests.weights.files import build
from tests.weights.files.build import entry, named, number, numbers, program, tensor, text


def refusal(path, *, memory: int = 80 * MIB) -> str:
    """Reads a file that must be refused, in bounded time and memory; returns the message."""
    tracemalloc.start()
    started = time.perf_counter()
    try:
        with pytest.raises(PpclsExtError) as caught:
            read_weights(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < memory + 4 * path.stat().st_size
    assert time.perf_counter() - started < 120
    message = str(caught.value)
    assert len(message) < 700
    assert message.isprintable()
    return message


# The file's limits


@pytest.fixture
def file() -> BoundedFile:
    return BoundedFile(io.BytesIO(bytes(10)))


@pytest.mark.parametrize("position", [-1, 11, 1 << 62])
def test_places_outside(file, position):
    with pytest.raises(ValueError, match="outside of the file"):
        file.seek(position)
    assert file.seek(10) == 10


def test_what_is_made_is_paid(file):
    file.allowance = 400
    assert widen_bfloat16(np.zeros(60, "u2"), file).dtype == np.float32
    with pytest.raises(PpclsExtError, match="unfolds to more than 16 times its own size"):
        widen_bfloat16(np.zeros(60, "u2"), file)


# Code

# How a pickle can come to call something: instructions that call `system` with the text `command`
CALLS = {
    "REDUCE": lambda system, command: named(system) + text(command) + b"\x85R",
    "STACK_GLOBAL": lambda system, command: (
        b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in system.rsplit(".", 1))
        + b"\x93" + text(command) + b"\x85R"
    ),
    "INST": lambda system, command: b"(" + text(command) + b"i" + named(system)[1:],
    "OBJ": lambda system, command: b"(" + named(system) + text(command) + b"o",
    "BUILD": lambda system, command: (
        named("argparse.Namespace") + b")\x81}" + text("__setstate__") + named(system) + b"sb" + text(command) + b"b"
    ),
    "BUILD of a dict": lambda system, command: (
        named("collections.OrderedDict") + b")R}" + text("__setstate__") + named(system) + b"sb" + text(command) + b"b"
    ),
    "rebuild of a subclass": lambda system, command: (
        named("torch._tensor._rebuild_from_type_v2")
        + b"(" + named(system) + named("torch.Tensor") + text(command) + b"\x85}tR"
    ),
    "persistent load": lambda system, command: (
        b"(" + text("storage") + named(system) + text(command) + text("cpu") + number(1) + b"tQ"
    ),
    "dict subclass as factory": lambda system, command: (
        named("collections.defaultdict") + named(system) + b"\x85R" + text(command) + b"0"
    ),
}  # fmt: skip
RUN_BY_PYTHON = ["REDUCE", "STACK_GLOBAL", "INST", "OBJ", "BUILD", "BUILD of a dict"]

FORMS = {
    ".pdparams": lambda payload: payload,
    "ZIP .pth": lambda payload: build.zipped(payload),
    "legacy .pth": lambda payload: build.legacy(payload),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("form", FORMS)
def test_calls_are_refused_and_named(tmp_path, form, call):
    canary = tmp_path / "canary"
    payload = entry(CALLS[call]("posix.system", f"touch {canary}"))
    if call in RUN_BY_PYTHON:  # or the test would prove nothing
        pickle.loads(payload)
        assert canary.exists()
        canary.unlink()
    path = tmp_path / "weights.pth"
    path.write_bytes(FORMS[form](payload))
    message = refusal(path)
    assert not canary.exists()
    if form == ".pdparams" and call.startswith("rebuild"):
        assert "'torch._tensor._rebuild_from_type_v2'" in message  # of no use to Paddle
    else:
        assert "'posix.system'" in message
    assert "could run code" in message


@pytest.mark.parametrize("position", range(5))
def test_every_pickle_of_the_legacy_format_is_guarded(tmp_path, position):
    canary = tmp_path / "canary"
    parts = [pickle.dumps(part, 2) for part in (build.TORCH_MAGIC, 1001, {}, {}, [])]
    payload = program(CALLS["REDUCE"]("posix.system", f"touch {canary}"))
    if position == 0:
        parts[0] = b"\x80\x02\x8a\x0a" + pickle.encode_long(build.TORCH_MAGIC) + payload[2:]
    else:
        parts[position] = payload
    path = tmp_path / "weights.pth"
    path.write_bytes(b"".join(parts))
    assert "'posix.system'" in refusal(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.eval",
        "builtins.exec",
        "builtins.getattr",
        "builtins.setattr",
        "builtins.__import__",
        "__builtin__.eval",
        "os.system",
        "subprocess.Popen",
        "pickle.loads",
        "copyreg._reconstructor",
        "functools.partial",
        "operator.attrgetter",
        "importlib.import_module",
        "numpy.load",
        "numpy.core.multiarray.fromfile",
        "torch.load",
        "torch.hub.load",
        "torch.storage._load_from_bytes",
        "torch.nn.modules.container.Sequential",
        "ppcls_ext.weights.pickles.Unpickler",
        "collections.OrderedDict.__class__",
        "torch._utils.__builtins__",
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_globals_outside_of_the_table(tmp_path, form, name):
    path = tmp_path / "weights.pth"
    path.write_bytes(FORMS[form](entry(named(name))))
    message = refusal(path)
    assert repr(name) in message
    assert "could run code" in message


def test_name_of_a_global_cannot_garble_the_message(tmp_path):
    path = tmp_path / "weights.pth"
    name = b"\x1b[2Jevil" + b"x" * 100_000
    path.write_bytes(program(b"X", struct.pack("<I", len(name)), name, text("y"), b"\x93"))
    assert r"\x1b[2Jevilxxx" in refusal(path)


def test_known_globals_hold_no_function_of_others():
    """What a pickle can reach are functions of this package and inert values."""
    from ppcls_ext.weights import paddle_file, torch_file

    known = [*torch_file._TorchFile(None)._globals().values(), *pickles.numpy_globals().values()]
    known += [paddle_file._tensor_in_a_tuple, paddle_file._named_tensor]
    for value in known:
        if isinstance(value, type(lambda: 0)):
            assert value.__module__.startswith("ppcls_ext.weights.")
        else:
            assert isinstance(value, (pickles.Opaque, torch_file.ElementType))


def test_objects_in_npz_are_not_unpickled(tmp_path):
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    np.savez(tmp_path / "weights.npz", weight=np.array([Evil()], dtype=object))
    assert "type object" in refusal(tmp_path / "weights.npz")
    assert not canary.exists()


@pytest.mark.parametrize("code", ["O", "V8", "U4", "S4", "f8,f8", "c8", "f16", "M8[s]"])
def test_arrays_of_other_types_are_refused(tmp_path, code):
    arrays = {"weight": np.zeros(2, code)}
    path = tmp_path / "weights"
    path.write_bytes(pickle.dumps(arrays))
    assert "expected plain real numbers" in refusal(path)
    np.savez(tmp_path / "weights.npz", **arrays)
    assert "expected plain real numbers" in refusal(tmp_path / "weights.npz")


# Tensors that are not what they declare

STORAGE = {"0": np.arange(6, dtype="float32").tobytes()}


@pytest.mark.parametrize(
    "pushed",
    [
        tensor(offset=1),
        tensor(offset=1 << 62),
        tensor(offset=-1),
        tensor(shape=(2, 4)),
        tensor(shape=(-2, -3)),
        tensor(strides=(4, 1)),
        tensor(strides=(-3, 1)),
        tensor(strides=(1 << 62, 1 << 62)),
        tensor(shape=(9,), strides=(1 << 59,)),  # 8 strides of 2**61 bytes are 0 to a 64-bit machine
        tensor(strides=(3,)),
        tensor(shape=(2,) * 40, strides=(0,) * 40),
        tensor(shape=(0, 1 << 62), strides=(1, 1)),
        tensor(shape=(1 << 40, 1 << 40), strides=(0, 0)),
        tensor(shape=(1 << 70,), strides=(0,)),
        tensor(length=7),
        tensor(length=1 << 60),
        tensor(length=-1),
        tensor(key="1"),
        tensor(storage="torch.DoubleStorage"),
        tensor(storage="collections.OrderedDict"),
        tensor(storage="torch.QInt8Storage"),
    ],
)
@pytest.mark.parametrize("form", ["ZIP", "legacy"])
def test_tensors_that_contradict_their_storage(tmp_path, pushed, form):
    path = tmp_path / "weights.pth"
    data = {key: (6, value) for key, value in STORAGE.items()}
    path.write_bytes(build.zipped(entry(pushed), STORAGE) if form == "ZIP" else build.legacy(entry(pushed), data))
    refusal(path)


def test_legacy_storage_of_another_length(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(build.legacy(entry(tensor()), {"0": (8, bytes(32))}))
    assert "another length" in refusal(path)


def test_the_same_tensor_undamaged_is_read(tmp_path):
    for file in (build.zipped(entry(tensor()), STORAGE), build.legacy(entry(tensor()), {"0": (6, STORAGE["0"])})):
        (tmp_path / "weights.pth").write_bytes(file)
        assert read_weights(tmp_path / "weights.pth")["weight"].tobytes() == STORAGE["0"]


def test_expanded_tensor_as_bomb(tmp_path):
    """One number on disk, 4 TB in memory: within its storage, and yet out of proportion."""
    path = tmp_path / "weights.pth"
    path.write_bytes(build.zipped(entry(tensor(shape=(10**12,), strides=(0,))), STORAGE))
    assert "16 times its own size" in refusal(path)


def test_many_copies_of_one_storage_as_bomb(tmp_path):
    """Each transposed view is a copy; a thousand views of 1 MiB are 1 GiB."""
    length = 1 << 18
    content = b"".join(
        text(str(index)) + tensor(shape=(512, 512), strides=(1, 512), length=length) + b"s" for index in range(1000)
    )
    path = tmp_path / "weights.pth"
    path.write_bytes(build.zipped(program(b"}", content), {"0": bytes(4 * length)}))
    assert "16 times its own size" in refusal(path)


# Pickles that grow


def repeated(count: int, instructions: bytes) -> bytes:
    return instructions * count


ARRAY_OF_TEXT = (  # an array whose bytes come as a text, to be encoded for each name
    named("numpy.core.multiarray._reconstruct") + named("numpy.ndarray") + numbers((0,)) + text("b") + b"\x87R("
    + number(1) + numbers((1 << 20,)) + named("numpy.dtype") + text("u1") + b"\x85R\x89"
    + text("a" * (1 << 20)) + b"tb"
)  # fmt: skip

BOMBS = {
    "memo index": program(b"}", b"r" + struct.pack("<I", 2**31)) + b"." * 9,
    "bytes that are not there": program(b"}", text("a"), b"\x8e" + struct.pack("<Q", 1 << 40)),
    "text that is not there": program(b"}", text("a"), b"\x8d" + struct.pack("<Q", 1 << 40)),
    "bytearray that is not there": program(b"}", text("a"), b"\x96" + struct.pack("<Q", 1 << 40)),
    "number that is not there": program(b"}", text("a"), b"\x8b" + struct.pack("<i", 2**31 - 1)),
    "negative length": program(b"}", text("a"), b"\x8b" + struct.pack("<i", -5)),
    "frame that is not there": program(b"\x95" + struct.pack("<Q", 1 << 62), b"}"),
    "tuples doubled as a key": program(b"}", b")" + repeated(60, b"2\x86"), b"Ns"),
    "tuples nested as a key": program(b"}", b")" + repeated(30_000, b"\x85"), b"Ns"),
    "tuples doubled as a shape": entry(
        tensor(shape=(), strides=()).replace(b"(t(t", b")" + repeated(60, b"2\x86") + b"(t")
    ),
    "lists in lists": program(repeated(30_000, b"]"), repeated(29_999, b"a")),
    "lists doubled": program(b"]", repeated(60, b"q\x000](h\x00h\x00e")),
    "arrays of one text": program(
        b"}", text("0"), ARRAY_OF_TEXT, b"q\x00s", *(text(str(i)) + b"h\x00s" for i in range(1, 200))
    ),
    "part of an array, many times": program(
        b"}", text("p"), ARRAY_OF_TEXT, b"q\x00s", *(text(f"{i}") + b"h\x00s" for i in range(100)),
        text("UnpackBigParamInfor@@"), b"}", text("big"), b"}", text("OriginShape"), numbers((100 << 20,)), b"s",
        text("slices"), b"](", *(text(f"{i}") for i in range(100)), b"esss",
    ),
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("form", FORMS)
def test_pickle_bombs(tmp_path, bomb, form):
    path = tmp_path / "weights.pth"
    path.write_bytes(FORMS[form](BOMBS[bomb]))
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        program(repeated(20_000, b"}")),
        program(b"](" + repeated(20_000, b"N") + b"e", named("collections.OrderedDict"), b"0", b"0]"),
        # One list of 1000 pairs, copied 1000 times over
        program(
            b"](" + repeated(1000, text("k") + b"N\x86") + b"eq\x00",
            *(named("collections.OrderedDict") + b"h\x00\x85R" for _ in range(1000)),
        ),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_long_pickles_are_given_up(tmp_path, form, content, monkeypatch):
    monkeypatch.setattr(pickles, "MAX_STEPS", 10_000)
    path = tmp_path / "weights.pth"
    path.write_bytes(FORMS[form](content))
    assert "10,000 instructions" in refusal(path)


# Archives


def npz(content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("weight.npy", content)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_zip_bomb(tmp_path):
    path = tmp_path / "weights.npz"
    path.write_bytes(npz(npy(np.zeros(100 * MIB, "uint8"))))
    assert path.stat().st_size < MIB
    assert "16 times its own size" in refusal(path)


def test_zip_bomb_of_many_members(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, **{str(index): np.zeros(MIB, "uint8") for index in range(100)})
    assert "16 times its own size" in refusal(path)


@pytest.mark.parametrize("declared", [1 << 10, (1 << 32) - 2])
def test_zip_member_that_lies_about_its_size(tmp_path, declared):
    file = bytearray(npz(npy(np.zeros(100 * MIB, "uint8"))))
    directory = file.rindex(b"PK\1\2")
    file[directory + 24 : directory + 28] = struct.pack("<I", declared)
    path = tmp_path / "weights.npz"
    path.write_bytes(file)
    refusal(path)


def test_sparse_but_honest_archive_is_read(tmp_path):
    arrays = {"weight": np.zeros((16, MIB), "uint8")}
    np.savez_compressed(tmp_path / "weights.npz", **arrays)
    assert (tmp_path / "weights.npz").stat().st_size < 16 * MIB // 900
    assert read_weights(tmp_path / "weights.npz")["weight"].shape == (16, MIB)


def test_storages_as_zip_bomb(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", entry(tensor()))
        archive.writestr("archive/data/0", bytes(100 * MIB))
    path = tmp_path / "weights.pth"
    path.write_bytes(buffer.getvalue())
    assert "16 times its own size" in refusal(path)


@pytest.mark.parametrize("shape", ["(1125899906842624,)", "(-1,)", "(2.5,)", "(1,)*9", "((1,),)", "(" * 3000])
def test_npy_header_that_lies(tmp_path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}\n".encode()
    path = tmp_path / "weights.npz"
    path.write_bytes(npz(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(8), zipfile.ZIP_STORED))
    refusal(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, method):
    path = tmp_path / "weights.npz"
    path.write_bytes(npz(npy(np.zeros(3)), method))
    assert "unpack it" in refusal(path)


def test_two_members_of_one_name(tmp_path):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weight.npy", npy(np.full(2, 1)))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("weight.npy", npy(np.full(2, 2)))
    assert "same name" in refusal(path)


@pytest.mark.parametrize(
    "header",
    [
        b'{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}',
        b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        b'{"w":{"dtype":"F8_E4M3","shape":[8],"data_offsets":[0,8]}}',
        b'{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}',
        b'{"w":' + b"[" * 100_000,
        b"{}",
    ],
)
def test_safetensors_headers_that_lie(tmp_path, header):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    refusal(path)
