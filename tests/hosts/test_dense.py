"""What both hosts share, without either: networks, frozen parts, fusing with proof, checkouts, adaptations."""

from __future__ import annotations

import sys

import numpy as np
import paddle
import pytest
from paddle import nn

import ppcls_ext
from ppcls_ext.commands import host_script
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.fusion_proof import fuse_with_proof, require_no_branches
from ppcls_ext.hosts import checkouts, dense, paddleseg
from ppcls_ext.hosts.dense import build_net
from ppcls_ext.hosts.paddledet import _Int, freeze_norms, freeze_parameters
from tests.helpers import randomise_norms, relative
from tests.models.test_models import SMALL


def trained(name: str):
    paddle.seed(0)
    net = build_net(name, None, fused=False)
    randomise_norms(net, seed=1)
    return net


@pytest.mark.parametrize("name", SMALL)
def test_fuse_with_proof(name):
    net = trained(name)
    net.eval()
    x = paddle.randn([1, 3, 64, 64])
    before = net(x)
    fuse_with_proof(net)
    require_no_branches(net)
    for got, expected in zip(net(x), before):
        assert relative(got, expected) < 1e-5
    # FasterNet's normalisations of the maps stay
    left = [layer for layer in net.sublayers() if isinstance(layer, nn.BatchNorm2D)]
    assert len(left) == (4 if name.startswith("FasterNet") else 0)
    fuse_with_proof(net)  # a second call does nothing


@pytest.mark.parametrize("name", SMALL)
def test_a_wrong_fusion_is_noticed(name, monkeypatch):
    net = trained(name)
    layer = next(layer for layer in net.sublayers() if hasattr(layer, "is_repped"))
    right = type(layer).re_parameterize

    def wrong(self):
        right(self)
        self.fused_conv.bias.set_value(self.fused_conv.bias + 0.1)

    monkeypatch.setattr(type(layer), "re_parameterize", wrong)
    with pytest.raises(PpclsExtError, match="differ by"):
        fuse_with_proof(net)


def test_branches_left_are_noticed():
    net = trained("RepVGG_A0")
    with pytest.raises(PpclsExtError, match="training branches"):
        require_no_branches(net)


@pytest.mark.parametrize("name", SMALL)
def test_frozen_parts_keep_weights_and_statistics(name):
    net = trained(name)
    frozen = [layer for part in net.parts()[:2] for layer in part]
    freeze_parameters(frozen)
    freeze_norms(frozen)
    kept = {id(tensor): tensor.numpy() for layer in frozen for tensor in layer.state_dict().values()}
    optimizer = paddle.optimizer.SGD(0.1, parameters=[p for p in net.parameters() if not p.stop_gradient])
    net.train()
    before = net.state_dict()
    moved = {key: tensor.numpy() for key, tensor in before.items()}
    sum(map_.square().mean() for map_ in net(paddle.randn([2, 3, 64, 64]))).backward()
    optimizer.step()
    changed = 0
    for key, tensor in net.state_dict().items():
        if id(tensor) in kept:
            np.testing.assert_array_equal(tensor.numpy(), kept[id(tensor)], err_msg=key)
        else:
            changed += not np.array_equal(tensor.numpy(), moved[key])
    assert changed > 10


def test_fused_weights_need_fused_true(tmp_path):
    paddle.save(ppcls_ext.build("MobileOne_S0", fused=True).state_dict(), str(tmp_path / "fused.pdparams"))
    with pytest.raises(PpclsExtError, match="fused: True"):
        build_net("MobileOne_S0", str(tmp_path / "fused.pdparams"), fused=False)
    assert build_net("MobileOne_S0", str(tmp_path / "fused.pdparams"), fused=True).arch == "MobileOne_S0"


def test_other_weights_get_no_advice_about_fused(tmp_path):
    """Weights of another network, in a file whose name speaks of fusing, and unfused ones for a fused network."""
    file = str(tmp_path / "fused.pdparams")
    paddle.save(ppcls_ext.build("MobileOne_S0").state_dict(), file)
    for arch, fused in (("RepVGG_A0", False), ("MobileOne_S0", True)):
        with pytest.raises(PpclsExtError) as caught:
            build_net(arch, file, fused=fused)
        assert "fused: True" not in str(caught.value)


@pytest.mark.parametrize(
    "host", [checkouts.PADDLEDET, checkouts.PADDLEYOLO, checkouts.PADDLESEG], ids=lambda host: host.title
)
def test_checkouts(host, tmp_path, monkeypatch):
    monkeypatch.delenv(host.home, raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    for name in [name for name in sys.modules if name.split(".")[0] == host.package]:
        monkeypatch.delitem(sys.modules, name)
    if not checkouts.importlib.util.find_spec(host.package):
        with pytest.raises(PpclsExtError, match=f"no {host.title}"):
            checkouts.activate(host)
    script = tmp_path / "checkout" / "tools" / "train.py"
    assert checkouts.of_script(script) is None
    for folder in ("checkout", "site"):
        package = tmp_path / folder / host.package
        package.mkdir(parents=True)
        for file in filter(None, ("__init__.py", host.only_here)):
            (package / file).parent.mkdir(parents=True, exist_ok=True)
            (package / file).write_text("")
    assert checkouts.of_script(script) is host
    monkeypatch.setenv(host.home, str(tmp_path / "checkout"))
    assert checkouts.activate(host) == tmp_path / "checkout"
    monkeypatch.setenv(host.home, str(tmp_path))
    with pytest.raises(PpclsExtError, match="expected a checkout"):
        checkouts.activate(host)
    # the wheel
    monkeypatch.delenv(host.home)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), *sys.path])
    checkouts.importlib.invalidate_caches()
    info = tmp_path / "site" / f"{host.wheel}-{host.last_wheel}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {host.wheel}\nVersion: {host.last_wheel}\n")
    with pytest.raises(PpclsExtError, match="is the wheel, which does not train"):
        checkouts.activate(host)


def test_a_package_that_the_host_misses(tmp_path, monkeypatch):
    """A script that its checkout's environment cannot run, in one line that says where its packages are listed."""
    script = tmp_path / "tools" / "train.py"
    for file, text in ((tmp_path / "paddleseg/__init__.py", ""), (script, "import no_such_module")):
        file.parent.mkdir()
        file.write_text(text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(paddleseg, "register", lambda root: None)
    monkeypatch.delitem(sys.modules, "paddleseg", raising=False)
    with pytest.raises(PpclsExtError, match=r"PaddleSeg needs the module no_such_module.*requirements\.txt"):
        host_script.main([str(script)])


def test_scalars_of_tensors():
    needed = dense._tensors_are_no_scalars()
    assert needed == bool(np.lib.NumpyVersion(np.__version__) >= "2.4.0")
    kept = {name: getattr(paddle.Tensor, name) for name in ("__int__", "__long__", "__float__", "__index__")}
    try:
        dense._scalars_of_tensors()
        assert not dense._tensors_are_no_scalars()
        assert int(paddle.to_tensor([3])) == int(paddle.to_tensor(3)) == range(9)[paddle.to_tensor([3])] == 3
        assert float(paddle.to_tensor([[0.5]])) == 0.5
        with pytest.raises(Exception, match="only one element"):
            int(paddle.to_tensor([1, 2]))
    finally:
        for name, method in kept.items():
            setattr(paddle.Tensor, name, method)


def test_int_of_arrays():
    assert _Int(np.array([7])) == 7
    assert _Int("12") == 12
    assert isinstance(3, _Int)
    with pytest.raises(TypeError):
        _Int(np.array([1, 2]))
