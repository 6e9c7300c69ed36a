"""Every format gives the same arrays as were saved, and every file that is none a clear line."""

from __future__ import annotations

import io
import json
import logging
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import paddle
import pytest
import safetensors.numpy

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.files import read_names, read_weight_file, read_weights
from tests.weights.files import build
from tests.weights.files.make_files import contents, numbers

FILES = Path(__file__).parent / "files"
TORCH_FILES = sorted(path.name for path in FILES.glob("*.pth"))
ARRAYS = {
    "conv.weight": numbers((4, 3, 3, 3)),
    "conv.bias": numbers((4,), "float64"),
    "steps": np.array(7, "int64"),
    "mask": numbers((5,), "bool"),
    "none": np.empty((0, 2), "float16"),
}


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(got) == list(expected)
    for name, array in expected.items():
        assert type(got[name]) is np.ndarray
        assert (got[name].dtype, got[name].shape) == (array.dtype, array.shape), name
        assert got[name].tobytes() == array.tobytes(), name
        assert got[name].flags.c_contiguous
        assert not got[name].flags.writeable


def refusal(path) -> str:
    with pytest.raises(PpclsExtError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.fixture
def saved(tmp_path):
    """Writes bytes to a file and gives its path."""

    def save(content: bytes, name: str = "weights") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return save


# PyTorch


@pytest.mark.parametrize("name", TORCH_FILES)
def test_torch_files(name):
    assert_same(read_weights(FILES / name), contents()[name.split(".")[0]])


def test_torch_files_are_all_there():
    kinds = {name.split(".", 1)[1] for name in TORCH_FILES}
    assert kinds == {"zip.pth", "legacy.pth", "protocol4.zip.pth", "protocol4.legacy.pth"}
    assert {name.split(".")[0] for name in TORCH_FILES} == set(contents())


def test_a_real_release(shared):
    weights = read_weights(shared / "weights" / "mobileone_s0.pth.tar")
    assert len(weights) == 88
    assert sum(array.size for array in weights.values()) == 2_078_504
    assert {array.dtype.name for array in weights.values()} == {"float32"}
    assert weights["stage0.reparam_conv.weight"].shape == (48, 3, 3, 3)
    assert all(np.isfinite(array).all() for array in weights.values())


def test_big_endian_torch_file(saved):
    array = numbers((2, 3))
    file = build.zipped(build.entry(build.tensor()), {"0": array.astype(">f4").tobytes()}, "big")
    assert_same(read_weights(saved(file)), {"weight": array})


def test_storage_views_of_early_legacy_files(saved):
    array = numbers((10,))
    view = build.text("view") + build.number(4) + build.number(6) + b"\x87"
    file = build.legacy(build.entry(build.tensor(length=10, view=view)), {"0": (10, array.tobytes())})
    assert_same(read_weights(saved(file)), {"weight": array[4:].reshape(2, 3)})


def test_only_the_chosen_tensors_are_read(saved):
    """The optimizer's storage is missing from the file: nobody asks for it."""
    content = build.program(
        b"}", build.text("optimizer"), b"}", build.text("moment"), build.tensor(key="absent"), b"ss",
        build.text("model"), b"}", build.text("weight"), build.tensor(), b"ss",
    )  # fmt: skip
    file = build.zipped(content, {"0": numbers((2, 3)).tobytes()})
    assert_same(read_weights(saved(file)), {"weight": numbers((2, 3))})


def test_torchscript_is_told_apart():
    assert "TorchScript" in refusal(FILES / "program.pt")


def test_pending_conjugate_is_refused(saved):
    """The storage holds the values before the sign change: reading them as they are would be wrong."""
    pushed = build.tensor()
    assert pushed.endswith(b"}tR")
    negated = pushed[:-2] + b"}" + build.text("neg") + b"\x88st" + b"R"
    assert "pending" in refusal(saved(build.zipped(build.entry(negated), {"0": bytes(24)})))


# Paddle


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle_state_dict(tmp_path, protocol):
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
    paddle.save(layer.state_dict(), str(tmp_path / "net.pdparams"), protocol=protocol)
    found = read_weight_file(tmp_path / "net")
    assert found.format == "paddle"
    assert_same(found.tensors, {name: tensor.numpy() for name, tensor in layer.state_dict().items()})


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_paddle_nested_tensors(tmp_path, protocol):
    """Outside of a flat state dict Paddle writes a tensor as a pair of name and array."""
    layer = paddle.nn.Linear(2, 3)
    paddle.save({"epoch": 3, "model": layer.state_dict()}, str(tmp_path / "all.pdparams"), protocol=protocol)
    assert_same(
        read_weights(tmp_path / "all.pdparams"), {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    )


@pytest.mark.parametrize("nested", [False, True])
def test_paddle_bfloat16_becomes_float32(tmp_path, nested):
    state = {"scale": paddle.to_tensor(numbers((2, 3))).astype("bfloat16"), "one": paddle.to_tensor(1.0, "bfloat16")}
    paddle.save({"model": state, "epoch": 1} if nested else state, str(tmp_path / "half.pdparams"))
    assert_same(read_weights(tmp_path / "half.pdparams"), {"scale": numbers((2, 3)), "one": np.array(1, "float32")})


def test_paddle_big_arrays_saved_in_parts(saved):
    whole = numbers((2, 3, 4))
    content = {
        "small": numbers((2,)),
        "big@@.0": whole.ravel()[:15],
        "big@@.1": whole.ravel()[15:],
        "UnpackBigParamInfor@@": {"big": {"OriginShape": (2, 3, 4), "slices": ["big@@.0", "big@@.1"]}},
        "StructuredToParameterName@@": {"small": "linear_0.b_0", "big": "linear_0.w_0"},
    }
    assert_same(read_weights(saved(pickle.dumps(content, 2))), {"small": numbers((2,)), "big": whole})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickled_arrays(saved, protocol, order):
    arrays = {name: np.asarray(array, order=order) for name, array in ARRAYS.items()}
    arrays["big_endian"] = np.arange(6, dtype=">f4").reshape(2, 3)
    expected = {**ARRAYS, "big_endian": np.arange(6, dtype="float32").reshape(2, 3)}
    assert_same(read_weights(saved(pickle.dumps(arrays, protocol))), expected)


def test_pickle_written_by_python_2_and_numpy_1(saved):
    """Bytes are texts there, an OrderedDict a list of pairs, and NumPy's parts have other names."""
    array = numbers((2, 3), first=200)
    data = array.tobytes()
    pushed = b"".join(
        (
            build.named("numpy.core.multiarray._reconstruct"), build.named("numpy.ndarray"), build.numbers((0,)),
            b"U\x01b\x87R(", build.number(1), build.numbers((2, 3)),
            build.named("numpy.dtype"), b"U\x02f4", build.number(0), build.number(1), b"\x87R",
            b"(", build.number(3), b"U\x01<NNN", build.number(-1), build.number(-1), build.number(0), b"tb",
            b"\x89U", bytes([len(data)]), data, b"tb",
        )
    )  # fmt: skip
    pairs = b"]](U\x06weight" + pushed + b"ea\x85R"
    content = build.program(build.named("collections.OrderedDict"), pairs)
    assert isinstance(pickle.loads(content, encoding="latin1")["weight"], np.ndarray)  # Python agrees
    assert_same(read_weights(saved(content)), {"weight": array})


# safetensors and npz


def test_safetensors(saved):
    found = read_weight_file(saved(safetensors.numpy.save(ARRAYS)))
    assert found.format == "safetensors"
    assert_same(found.tensors, dict(sorted(ARRAYS.items())))


def test_safetensors_bfloat16(saved):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}).encode()
    bits = (numbers((2, 3)).view("uint32") >> 16).astype("<u2").tobytes()
    assert_same(read_weights(saved(len(header).to_bytes(8, "little") + header + bits)), {"w": numbers((2, 3))})


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(saved, save, order):
    buffer = io.BytesIO()
    save(buffer, **{name: np.asarray(array, order=order) for name, array in ARRAYS.items()})
    found = read_weight_file(saved(buffer.getvalue()))
    assert found.format == "npz"
    assert_same(found.tensors, ARRAYS)


# Which weights


def state(value: float) -> dict[str, np.ndarray]:
    return {"weight": np.full((2,), value)}


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ({"state_dict": state(0), "state_dict_ema": state(1), "epoch": 3}, ["state_dict_ema"]),
        ({"ema": state(1), "model": state(0)}, ["ema"]),
        ({"model_ema": {"module": state(1), "decay": 0.9}, "model": state(0)}, ["model_ema", "module"]),
        ({"model_ema": None, "ema": {"decay": 0.9}, "model": state(1), "net": state(0)}, ["model"]),
        ({"model": {"state_dict": state(1)}, "best": np.ones(1), "optimizer": state(0)}, ["model", "state_dict"]),
        ({**state(1), "epoch": 3, "optimizer": state(0), "model": "a name"}, []),
    ],
)
def test_choice_among_candidates(saved, caplog, content, keys):
    path = saved(pickle.dumps(content))
    with caplog.at_level(logging.INFO, "ppcls_ext"):
        found = read_weight_file(path)
    assert found.keys == keys
    assert read_names(path) == list(found.tensors)
    assert_same(found.tensors, state(1))
    assert (repr(keys[0]) in caplog.text) if keys else not caplog.text


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["module.a", "module.b"], ["a", "b"]),
        (["module.module.a"], ["a"]),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"]),
        (["module._orig_mod.a"], ["a"]),
        (["module.a", "b"], ["module.a", "b"]),
    ],
)
def test_prefix_of_parallel_training(saved, names, expected):
    path = saved(pickle.dumps({name: np.ones(1) for name in names}))
    assert list(read_weights(path)) == expected
    assert read_names(path) == expected


# Names and content


@pytest.mark.parametrize("name", TORCH_FILES)
def test_names_alone(name):
    assert read_names(FILES / name) == list(read_weights(FILES / name))


def test_names_alone_of_what_is_not_weights(saved, tmp_path):
    with pytest.raises(PpclsExtError, match="web page"):
        read_names(saved(b"<html>"))
    with pytest.raises(PpclsExtError, match="no file"):
        read_names(tmp_path / "nothing.pth")


@pytest.mark.parametrize("name", ["weights.npz", "weights.pdparams", "weights.safetensors", "weights"])
def test_content_decides_not_the_name(tmp_path, name):
    shutil.copy(FILES / "types.legacy.pth", tmp_path / name)
    found = read_weight_file(tmp_path / name)
    assert found.format == "torch"
    assert_same(found.tensors, contents()["types"])


def test_path_without_suffix_means_pdparams(tmp_path):
    (tmp_path / "best_model").mkdir()  # as PaddleClas's develop branch leaves it beside the file
    (tmp_path / "best_model.pdparams").write_bytes(pickle.dumps(ARRAYS))
    assert_same(read_weights(str(tmp_path / "best_model")), ARRAYS)


def test_neither_framework_is_imported(saved):
    paddle_file = saved(pickle.dumps(ARRAYS))
    code = (
        "import sys; from ppcls_ext.weights.files import read_weights; "
        f"read_weights({str(FILES / 'types.zip.pth')!r}); read_weights({str(paddle_file)!r}); "
        "assert not {'torch', 'paddle'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=FILES.parents[2])


# What is no weight file


def test_missing_file_suggests_similar_ones(saved):
    there = saved(b"", "MobileOne_S0.pdparams")
    message = refusal(there.with_name("MobilOne_S0.pdparams"))
    assert message.startswith("no file")
    assert message.endswith("MobilOne_S0.pdparams; did you mean MobileOne_S0.pdparams?")
    assert "MobileOne, nor MobileOne.pdparams; did you mean" in refusal(there.with_name("MobileOne"))
    assert "no folder" in refusal(there.parent / "absent" / "x.pth")


def test_folder(saved):
    folder = saved(b"", "model.pdparams").parent
    assert "is a folder" in refusal(folder)
    assert "model.pdparams" in refusal(folder)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n<!DOCTYPE html><html>404</html>", "web page"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "XML"),
        (b'{"error": "not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00" + bytes(64), "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        (bytes(64), "unknown format"),
        (b"\x80\x04\x95", "damaged"),
        (b"PK\x03\x04" + bytes(64), "damaged"),
    ],
)
def test_strangers(saved, content, said):
    message = refusal(saved(content, "weights.pth"))
    assert said in message
    assert "weights.pth" in message
    if "damaged" not in said:
        assert "expected .pdparams, .pth, .pth.tar, .pt, .safetensors or .npz" in message


def test_tar_archives(tmp_path):
    with tarfile.open(tmp_path / "old.pth.tar", "w") as archive:
        archive.add(FILES / "types.zip.pth", "storages")
    assert "tar archive" in refusal(tmp_path / "old.pth.tar")


def test_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.zip", "w") as archive:
        archive.write(FILES / "types.zip.pth", "types.zip.pth")
    assert "ZIP archive of 'types.zip.pth'" in refusal(tmp_path / "weights.zip")


@pytest.mark.parametrize("name", ["types.zip.pth", "types.legacy.pth"])
def test_truncated_at_any_place(saved, name):
    whole = (FILES / name).read_bytes()
    for length in range(0, len(whole), 37):
        refusal(saved(whole[:length]))


def test_checkpoint_without_tensors(saved):
    assert "its entries are: 'epoch', 'args'" in refusal(saved(pickle.dumps({"epoch": 3, "args": [1]})))
    assert "expected a dict" in refusal(saved(pickle.dumps([np.ones(2)])))


def test_safetensors_with_a_name_twice(saved):
    """The library takes one of the two without a word."""
    entries = [f'"a": {{"dtype": "{kind}", "shape": [2], "data_offsets": [0, 8]}}' for kind in ("F32", "I32")]
    header = "{" + ", ".join(entries) + "}"
    with pytest.raises(PpclsExtError, match="gives 'a' twice"):
        read_weight_file(saved(len(header).to_bytes(8, "little") + header.encode() + bytes(8)))
