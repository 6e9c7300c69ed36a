"""`load_weights` and tools/convert_weights.py: every naming and layout, all or nothing, errors that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest

from ppcls_ext import build, load_weights, reparameterize
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.factories import load_model
from ppcls_ext.weights.files import read_weight_file
from ppcls_ext.weights.loading import FORMATS, save_weights
from ppcls_ext.weights.naming import to_model_names, to_torch_names
from tests.helpers import randomise_norms, relative
from tests.reference import official_weights

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["MobileOne_S0", "RepVGG_A0", "FasterNet_T0"]
TIMM = json.loads((Path(__file__).parent / "timm_names.json").read_text())


def state(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def same(model, expected):
    return all(np.array_equal(tensor, expected[name]) for name, tensor in state(model).items())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("suffix", [".pdparams", ".npz", ".safetensors"])
@pytest.mark.parametrize("name", SMALL)
def test_round_trip(name, suffix, fused, tmp_path):
    model = build(name, class_num=6)
    randomise_norms(model, seed=0)
    if fused:
        model = reparameterize(model)
    save_weights(model, tmp_path / f"weights{suffix}")
    other, report = load_model(tmp_path / f"weights{suffix}", name)
    assert same(other, state(model))
    assert sorted(report.loaded) == sorted(state(model))
    if suffix == ".pdparams":  # PaddleClas's path without a suffix
        load_weights(build(name, class_num=6, fused=fused), tmp_path / "weights")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_was_read_before_is_not_read_again(suffix, tmp_path):
    model, path = build("FasterNet_T0", class_num=6), tmp_path / f"weights{suffix}"
    save_weights(model, path)
    file = read_weight_file(path)
    assert not file.is_fused
    path.unlink()
    other = build("FasterNet_T0", class_num=6)
    load_weights(other, file)
    assert same(other, state(model))
    with pytest.raises(PpclsExtError, match=rf"weights{suffix} does not fit RepVGG_A0"):
        load_weights(build("RepVGG_A0", class_num=6), file)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_is_replaced_as_a_whole(suffix, tmp_path, monkeypatch):
    model, path = paddle.nn.Linear(2, 1), tmp_path / f"w{suffix}"
    save_weights(model, path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda handle: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_weights(paddle.nn.Linear(3, 1), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_square_classifier_is_not_transposed(tmp_path):
    """Where the classifier is as wide as its input, no shape tells the layout: the file's kind must."""
    model = build("MobileOne_S0", class_num=1024, fused=True)
    for suffix in (".pdparams", ".npz", ".safetensors"):
        save_weights(model, tmp_path / f"weights{suffix}")
        assert same(load_model(tmp_path / f"weights{suffix}", "MobileOne_S0")[0], state(model))


@pytest.mark.parametrize("name", sorted(TIMM))
def test_timm_names_are_complete(name):
    """Names and shapes read off timm 1.0.31's models, unfused and fused."""
    architecture, form = name.split("/")
    model = build(architecture, fused=form == "fused")
    arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape in TIMM[name].items()}
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    named = to_model_names(arrays, expected, model.timm_names, paddle_layout=False)
    assert named.naming == "timm"
    assert {key: array.shape for key, array in named.tensors.items()} == expected


def test_official_names_and_paddleclas_names_agree():
    official = official_weights("RepVGG_A0")
    model = build("RepVGG_A0")
    load_weights(model, {key: value.astype("float32") for key, value in official.items()})
    assert set(to_torch_names(state(model))) == set(official)
    again = build("RepVGG_A0")
    assert load_weights(again, state(model)).naming == "PaddleClas"
    assert same(again, state(model))


def test_other_number_of_classes():
    source = build("MobileOne_S0", class_num=4, fused=True)
    model = build("MobileOne_S0", class_num=7, fused=True)
    before = state(model)
    with pytest.raises(PpclsExtError, match=r"linear\.weight is \[1024, 4\], expected \[1024, 7\]"):
        load_weights(model, state(source))
    assert same(model, before)
    report = load_weights(model, state(source), allow_other_classes=True)
    assert report.fresh == ["linear.weight", "linear.bias"]
    assert np.array_equal(model.linear.weight.numpy(), before["linear.weight"])
    assert np.array_equal(model.stage0.reparam_conv.weight.numpy(), source.stage0.reparam_conv.weight.numpy())


@pytest.mark.parametrize(("name", "shape"), [("linear.weight", (512, 4)), ("stage0.reparam_conv.bias", (5,))])
def test_other_classes_are_no_other_network(name, shape):
    arrays = state(build("MobileOne_S0", class_num=4, fused=True))
    arrays[name] = np.zeros(shape, "float32")
    model = build("MobileOne_S0", class_num=7, fused=True)
    before = state(model)
    with pytest.raises(PpclsExtError, match=rf"1 of another shape \({name} is"):
        load_weights(model, arrays, allow_other_classes=True)
    assert same(model, before)


@pytest.mark.parametrize("name", SMALL)
def test_what_other_programs_put_before_the_names(name):
    source, model = build(name, class_num=3), build(name, class_num=3)
    for seed, prefix in enumerate(("model.", "module.", "backbone.", "net.", "encoder.", "module.model.backbone.")):
        randomise_norms(source, seed)
        report = load_weights(model, {f"{prefix}{key}": value for key, value in state(source).items()})
        assert report.prefix == prefix
        assert f"(PaddleClas names behind {prefix})" in str(report)
        assert same(model, state(source))
    with pytest.raises(PpclsExtError, match="does not fit"):
        load_weights(model, {f"student.{key}": value for key, value in state(source).items()})


def test_a_prefix_of_most_names_alone_counts():
    """A detector's other parts are not the net's: they are named as what does not fit."""
    source, model = build("RepVGG_A0", class_num=3), build("RepVGG_A0", class_num=3)
    arrays = {f"backbone.{key}": value for key, value in state(source).items()}
    with pytest.raises(PpclsExtError, match=r"1 not in the model \(neck\.conv\.weight\)"):
        load_weights(model, {**arrays, "neck.conv.weight": np.zeros(3, "float32")})
    # the classifier stands outside the backbone
    outside = {key.replace("backbone.linear", "linear"): value for key, value in arrays.items()}
    load_weights(model, outside)
    assert same(model, state(source))
    with pytest.raises(PpclsExtError, match="does not fit"):  # two tensors would have one name
        load_weights(model, {**arrays, "linear.bias": np.zeros(3, "float32")})


@pytest.mark.parametrize("name", SMALL)
def test_weights_without_a_classifier(name):
    source, model = build(name, class_num=3), build(name, class_num=5)
    randomise_norms(source, 0)
    arrays = {key: value for key, value in state(source).items() if not key.startswith(f"{source.classifier}.")}
    before = state(model)
    with pytest.raises(PpclsExtError, match=rf"missing \({source.classifier}\."):
        load_weights(model, arrays)
    report = load_weights(model, arrays, allow_other_classes=True)
    assert report.fresh == [key for key in before if key.startswith(f"{model.classifier}.")]
    assert same(model, {**before, **arrays})
    some = {key: value for key, value in state(source).items() if key != f"{source.classifier}.bias"}
    with pytest.raises(PpclsExtError, match=rf"1 missing \({source.classifier}\.bias\)"):
        load_weights(build(name, class_num=3), some, allow_other_classes=True)


def test_pretrained_argument(tmp_path):
    source = build("FasterNet_T0", class_num=4)
    save_weights(source, tmp_path / "w.pdparams")
    assert same(build("FasterNet_T0", class_num=4, pretrained=str(tmp_path / "w.pdparams")), state(source))
    assert build("FasterNet_T0", class_num=9, pretrained=str(tmp_path / "w")).head.weight.shape == [1280, 9]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("stage0.rbr_dense.conv.weight"), r"1 missing \(stage0\.rbr_dense\.conv\.weight\)"),
        (lambda arrays: arrays.update(extra=np.zeros(3)), r"1 not in the model \(extra\)"),
        (lambda arrays: arrays.update({"stage0.rbr_1x1.bn.bias": np.zeros(3)}), r"of another shape .*is \[3\]"),
        (lambda arrays: arrays.clear(), "missing"),
        (lambda arrays: arrays["stage0.rbr_1x1.bn.bias"].fill(np.nan), r"not finite: stage0\.rbr_1x1\.bn\.bias"),
    ],
)
def test_nothing_is_loaded_unless_all_fits(change, message):
    model = build("RepVGG_A0", class_num=3)
    before = state(model)
    arrays = state(build("RepVGG_A0", class_num=3))
    change(arrays)
    with pytest.raises(PpclsExtError, match=message):
        load_weights(model, arrays)
    assert same(model, before)


@pytest.mark.parametrize("name", ["MobileOne_S0", "RepVGG_A0"])
def test_wrong_form_is_explained(name):
    fused, unfused = build(name, fused=True), build(name)
    with pytest.raises(PpclsExtError, match=r"holds fused weights, and the model is unfused.*unfuse"):
        load_weights(unfused, state(fused))
    with pytest.raises(PpclsExtError, match="holds unfused weights, and the model is fused"):
        load_weights(fused, state(unfused))
    other_classes = build(name, class_num=3)
    with pytest.raises(PpclsExtError, match=r"run it as it is with .*Arch.fused=True.*Recipe.unfuse.pictures=512"):
        load_weights(other_classes, state(fused))


def test_real_weights(shared):
    model, report = load_model(shared / "weights" / "mobileone_s0.pth.tar", "MobileOne_S0")
    assert report.naming == "official"
    assert len(report.loaded) == 88
    assert model.stage0.is_repped


def test_tool(tmp_path):
    model = build("MobileOne_S0", class_num=5)
    randomise_norms(model, seed=0)
    model.eval()
    save_weights(model, tmp_path / "in.pdparams")
    tool = [sys.executable, str(ROOT / "tools" / "convert_weights.py")]

    def run(*arguments):
        return subprocess.run([*tool, *map(str, arguments)], capture_output=True, text=True, cwd=tmp_path)

    done = run("in.pdparams", "out.safetensors", "--arch", "MobileOne_S0", "--fuse")
    assert done.returncode == 0, done.stderr
    assert "MobileOne_S0, fused, 88 tensors" in done.stdout
    fused, _ = load_model(tmp_path / "out.safetensors", "MobileOne_S0")
    fused.eval()
    x = paddle.randn([1, 3, 32, 32])
    assert relative(fused(x), model(x)) < 1e-5

    failed = run("in.pdparams", "wrong.npz", "--arch", "MobileOne_S1")
    assert failed.returncode == 1
    assert failed.stderr.count("\n") == 1
    assert "does not fit MobileOne_S1" in failed.stderr
    assert not (tmp_path / "wrong.npz").exists()
    assert run("in.pdparams", "out.onnx", "--arch", "MobileOne_S0").returncode == 2
