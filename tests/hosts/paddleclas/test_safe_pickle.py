"""Paddle's own loading, with our reader inside: the same structures, nothing run."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas import safe_pickle


@pytest.fixture
def guarded() -> None:
    safe_pickle.read_without_running()


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def save_malicious(path: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": Malicious()}, protocol=2))


def cifar(path: Path, batch: object) -> None:
    """Packs one batch of CIFAR-10 as its archive does, in Python 2's kind of pickle."""
    content = pickle.dumps(batch, protocol=2)
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))


def static_load() -> None:
    paddle.enable_static()
    try:
        paddle.static.load(paddle.static.Program(), "w")
    finally:
        paddle.disable_static()


def load_on_a_mac() -> None:
    with open("w.pdparams", "rb") as stream:
        paddle.framework.io_utils._pickle_loads_mac("w.pdparams", stream)


SEAMS = {
    "paddle.load": lambda: paddle.load("w.pdparams"),
    "paddle.load of a stream": lambda: paddle.load(io.BytesIO(Path("w.pdparams").read_bytes())),
    "paddle.static.load": static_load,
    "paddle.static.load_program_state": lambda: paddle.static.load_program_state("w"),
    "paddle.jit": lambda: paddle.jit.translated_layer._load_persistable_vars("w", "w.pdparams", None, None),
    "paddle.load on a Mac": load_on_a_mac,
    "Model.load": lambda: paddle.Model(paddle.nn.Linear(1, 1)).load("w"),
    "Cifar10": lambda: paddle.vision.datasets.Cifar10("cifar.tar.gz", download=False),
}


@pytest.mark.parametrize("seam", SEAMS)
def test_nothing_is_run(guarded, seam, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_malicious(Path("w.pdparams"))
    cifar(Path("cifar.tar.gz"), Malicious())
    with pytest.raises(PpclsExtError, match="could run code"):
        SEAMS[seam]()
    assert not Path("executed").exists()


def test_no_module_of_paddle_that_reads_files_is_left_out(guarded):
    """Those that unpickle what another rank or process of the same training sends may."""
    remote = ("paddle.distributed", "paddle.incubate")
    left = [
        name
        for name, module in sys.modules.items()
        if name.startswith(("paddle.", "ppcls.")) and getattr(module, "pickle", None) is pickle
    ]
    assert [name for name in left if not name.startswith(remote)] == []


def examples() -> dict[str, object]:
    net = paddle.nn.Linear(3, 2)
    schedule = paddle.optimizer.lr.LinearWarmup(paddle.optimizer.lr.CosineAnnealingDecay(0.1, 5), 3, 0.0, 0.1)
    optimizer = paddle.optimizer.Adam(schedule, parameters=net.parameters())
    net(paddle.ones([1, 3])).sum().backward()
    optimizer.step()
    return {
        "weights": net.state_dict(),
        "optimizers": [optimizer.state_dict()],
        "states": {"metric": np.float64(0.5), "epoch": 3, "other": np.float32(2)},
        "tensor": net.weight,
        "bfloat16": {"weight": net.weight.astype("bfloat16")},
        "nested": {"a": [1, (2, net.bias), None, True, "text"]},
    }


def assert_same(got: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        for name, value in expected.items():
            assert_same(got[name], value)
    elif isinstance(expected, (list, tuple)):
        assert type(got) is type(expected)
        assert len(got) == len(expected)
        for pair in zip(got, expected):
            assert_same(*pair)
    elif isinstance(expected, paddle.Tensor):
        assert (got.dtype, got.name, got.shape) == (expected.dtype, expected.name, expected.shape)
        assert (got.numpy() == expected.numpy()).all()
    else:
        assert got == expected


@pytest.mark.parametrize("name", examples())
@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("settings", [{}, {"return_numpy": True}])
def test_same_structure_as_python_unpickles(guarded, name, protocol, settings, tmp_path, monkeypatch):
    path = tmp_path / "saved"
    paddle.save(examples()[name], str(path), protocol=protocol)
    got = paddle.load(str(path), **settings)
    monkeypatch.setattr(paddle.framework.io, "pickle", pickle)
    expected = paddle.load(str(path), **settings)
    if settings:
        np.testing.assert_equal(got, expected)
    else:
        assert_same(got, expected)


def test_files_of_paddle_2_0_name_their_tensors(guarded, tmp_path):
    path = tmp_path / "w.pdparams"
    state = {"fc.weight": np.ones((2, 3), "f4"), "StructuredToParameterName@@": {"fc.weight": "linear_0.w_0"}}
    path.write_bytes(pickle.dumps(state, 2))
    (name, tensor), *others = paddle.load(str(path)).items()
    assert (name, tensor.name, tensor.shape, others) == ("fc.weight", "linear_0.w_0", [2, 3], [])
    for table in ({"fc.bias": "b"}, {"fc.weight": 1}, ["fc.weight"]):
        path.write_bytes(pickle.dumps({**state, "StructuredToParameterName@@": table}, 2))
        with pytest.raises(PpclsExtError, match="its table of names does not fit"):
            paddle.load(str(path))


def test_cifar_is_read(guarded, tmp_path):
    """PaddleClas's Cifar10 is Paddle's, whose archive holds pickles."""
    pixels = np.arange(2 * 3072, dtype="uint8").reshape(2, 3072)
    cifar(tmp_path / "cifar.tar.gz", {"data": pixels, "labels": [3, 4]})
    dataset = paddle.vision.datasets.Cifar10(str(tmp_path / "cifar.tar.gz"), download=False, backend="cv2")
    assert [int(label) for _, label in dataset] == [3, 4]
    assert (dataset[1][0] == pixels[1].reshape(3, 32, 32).transpose(1, 2, 0)).all()


@pytest.mark.parametrize("content", [b"", b"no pickle", b"\x80\x02", pickle.dumps({"a": 1}, 0), b"PK\3\4"])
def test_other_files_are_one_line(guarded, content, tmp_path):
    path = tmp_path / "w.pdparams"
    path.write_bytes(content)
    with pytest.raises(PpclsExtError, match=r"w\.pdparams"):
        paddle.load(str(path))


class Endless(io.RawIOBase):
    """A member of an archive that says nothing of its size."""

    def read(self, count: int = -1) -> bytes:
        assert count >= 0, "all of it"
        return bytes(count)


def test_streams_are_read_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(safe_pickle, "LARGEST_STREAM", 1000)
    with pytest.raises(PpclsExtError, match="no file of paddle"):
        safe_pickle.read_pickle(Endless())


def test_registering_models_leaves_paddle_alone():
    """Only the commands guard their process; a program that imports the package keeps its own `paddle.load`."""
    code = (
        "import pickle, paddle, ppcls_ext; ppcls_ext.register(); "
        "raise SystemExit(paddle.framework.io.pickle is not pickle)"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
