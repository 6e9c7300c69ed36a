"""What is checked and settled before anything is built."""

from __future__ import annotations

import logging
from pathlib import Path

import paddle
import pytest

from ppcls_ext.config.settings import choose_device
from ppcls_ext.data.lists import read_list
from ppcls_ext.errors import PpclsExtError
from tests.config.test_expressions import put
from tests.helpers import build_engine, prepared

pytestmark = pytest.mark.usefixtures("registered")


@pytest.mark.parametrize("mode", ["train", "eval", "infer", "export"])
def test_good_configuration_becomes_the_hosts(config, mode):
    ready = prepared(config, mode)
    assert ready.Global.epochs == 1, "PaddleClas reads fields as attributes"
    assert ready.Global.device == ("gpu" if paddle.device.cuda.device_count() else "cpu")
    assert ready["AMP"] is None, "use_amp: False means no AMP also in PaddleClas 2.4"


@pytest.mark.parametrize(
    ("mode", "path"),
    [
        ("train", "Global.epochs"),
        ("train", "Loss.Train"),
        ("train", "Arch"),
        ("train", "Metric"),
        ("train", "DataLoader.Eval"),
        ("eval", "DataLoader.Eval"),
        ("eval", "Metric"),
        ("infer", "Infer.infer_imgs"),
        ("export", "Global.image_shape"),
    ],
)
def test_missing_field(config, mode, path):
    *above, last = path.split(".")
    del (config[above[0]] if above else config)[last]
    with pytest.raises(PpclsExtError, match=f"the configuration has no {path}.*{mode} needs"):
        prepared(config, mode)


def test_export_and_infer_need_no_data(config):
    for section in ("DataLoader", "Metric", "Loss", "Optimizer"):
        del config[section]
    prepared(config, "export")


@pytest.mark.parametrize("mode", ["eval", "infer", "export"])
def test_elsewhere_than_in_a_training_nothing_but_the_log_needs_the_output_folder(config, tmp_path, mode):
    """So a run on a disk that is read-only can be evaluated."""
    (tmp_path / "file").write_text("")
    config["Global"].update(output_dir=str(tmp_path / "file" / "x"), save_inference_dir=str(tmp_path / "inference"))
    prepared(config, mode)
    config["Global"]["output_dir"] = 3
    with pytest.raises(PpclsExtError, match=r"Global\.output_dir is 3: expected the path"):
        prepared(config, mode)


@pytest.mark.parametrize(("mode", "field"), [("train", "output_dir"), ("export", "save_inference_dir")])
def test_places_that_cannot_be_written(config, tmp_path, monkeypatch, mode, field):
    (tmp_path / "file").write_text("")
    config["Global"][field] = str(tmp_path / "file" / "x")
    with pytest.raises(PpclsExtError, match=rf"Global\.{field} is .*: .*/file is not a folder; choose one that"):
        prepared(config, mode)
    config["Global"][field] = str(tmp_path / "new" / "folder")
    monkeypatch.setattr("os.access", lambda path, _: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(PpclsExtError, match=rf"Global\.{field} is .*new/folder: {tmp_path} cannot be written"):
        prepared(config, mode)
    config["Global"][field] = 3
    with pytest.raises(PpclsExtError, match=rf"Global\.{field} is 3: expected the path"):
        prepared(config, mode)


@pytest.mark.parametrize("device", ["gpu", "npu", "fast"])
def test_device_that_is_not_there(config, device):
    if device == "gpu" and paddle.device.cuda.device_count():
        pytest.skip("there is a GPU")
    config["Global"]["device"] = device
    with pytest.raises(PpclsExtError, match=f"Global.device is '{device}'.*cpu.*or auto"):
        prepared(config, "train")


def test_device_may_be_left_out(config):
    del config["Global"]["device"]
    assert prepared(config, "train").Global.device == choose_device("auto")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("DataLoader.Train.dataset.cls_label_path", "nowhere/train_list.txt", "no list nowhere/train_list.txt"),
        ("DataLoader.Train.dataset.image_root", "nowhere", "no image root nowhere"),
        ("DataLoader.Eval.dataset.image_root", None, "DataLoader.Eval.dataset.image_root is None"),
        ("Optimizer.lr.name", "exit()", "Optimizer.lr.name is 'exit()': expected the name of a class of PaddleClas"),
        ("Arch.class_num", 1, "Arch.class_num is 1: of one class there is nothing to learn"),
        ("Global.checkpoints", "nowhere/latest", "Global.checkpoints is nowhere/latest: no such file"),
        (
            "Global.pretrained_model",
            "nowhere/best_model",
            "Global.pretrained_model is nowhere/best_model: no such file",
        ),
        ("Global.pretrained_model", "", "Global.pretrained_model is '': expected a path"),
        (
            "Global.pretrained_model",
            "http://127.0.0.1:9/a.pdparams",
            "or get a.pdparams by other means and give its path",
        ),
    ],
)
def test_bad_values(config, path, value, message):
    put(config, path, value)
    with pytest.raises(PpclsExtError) as error:
        prepared(config, "train")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "text",
    ["\ufeffpng/00.png 0\n", "png/00.png 0\n\n", "png/a  rose 1.png 0\n", "\ufeffpng/00.png 0\r\n\r\n"],
)
def test_lists_that_paddleclas_misreads_reach_it_as_they_were_read(config, dataset, tmp_path, text):
    from ppcls.data import ImageNetDataset

    (tmp_path / "png").mkdir()
    for name in ("00.png", "a  rose 1.png"):
        (tmp_path / "png" / name).write_bytes((dataset / "png" / "00.png").read_bytes())
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode())
    config["DataLoader"]["Eval"]["dataset"].update(image_root=str(tmp_path), cls_label_path=str(path))
    (entry,) = read_list(path, tmp_path, 10)
    host = build_engine(config, "eval").eval_dataloader.dataset
    assert isinstance(host, ImageNetDataset)
    assert [Path(name) for name in host.images] == [entry.path]
    assert host.labels.tolist() == [entry.label]


@pytest.mark.parametrize(
    "text", ["\ufeff0 eins\n1 zwei drei\n", "0 eins\r\n\r\n1 zwei drei\r\n", "0 eins\n1 zwei drei"]
)
def test_class_names_reach_paddleclas(config, tmp_path, text):
    from ppcls.data.postprocess.topk import Topk

    path = tmp_path / "names.txt"
    path.write_bytes(text.encode())
    config["Infer"]["PostProcess"]["class_id_map_file"] = str(path)
    config["Infer"]["infer_imgs"] = str(tmp_path)
    handed_on = prepared(config, "infer")["Infer"]["PostProcess"]["class_id_map_file"]
    names = Topk(1, handed_on).class_id_map
    assert names == {0: "eins", 1: "zwei drei"}


def test_class_names_that_are_none(config, tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("rose\ntulip\n")
    config["Infer"]["PostProcess"]["class_id_map_file"] = str(path)
    with pytest.raises(PpclsExtError, match=r"names\.txt:1: got 'rose', expected a new class index"):
        prepared(config, "infer")


def test_missing_weights_name_those_that_are_there(config, tmp_path):
    (tmp_path / "latest.pdparams").touch()
    config["Global"]["pretrained_model"] = str(tmp_path / "best_model")
    with pytest.raises(PpclsExtError, match=r"holds latest\.pdparams"):
        prepared(config, "eval")


@pytest.mark.parametrize("given", ["w", "w.pdparams"])
def test_our_models_load_their_weights_themselves(config, tmp_path, given):
    (tmp_path / "w.pdparams").touch()
    config["Global"]["pretrained_model"] = str(tmp_path / given)
    ready = prepared(config, "eval")
    assert ready.Arch.pretrained == str(tmp_path / "w.pdparams")
    assert ready.Global.pretrained_model is None


@pytest.mark.parametrize("given", ["w", "w.pdparams"])
def test_other_models_are_left_to_paddleclas(config, tmp_path, given):
    (tmp_path / "w.pdparams").touch()
    config["Arch"]["name"] = "MobileNetV1_x0_25"
    config["Global"]["pretrained_model"] = str(tmp_path / given)
    ready = prepared(config, "eval")
    assert "pretrained" not in ready.Arch
    assert ready.Global.pretrained_model == str(tmp_path / "w"), "PaddleClas 2.4 appends .pdparams"


@pytest.mark.parametrize(("mode", "warned"), [("train", False), ("eval", True), ("infer", True), ("export", True)])
def test_random_weights_are_announced(config, caplog, mode, warned):
    with caplog.at_level(logging.WARNING, "ppcls_ext"):
        prepared(config, mode)
    assert ("the weights are random" in caplog.text) == warned


def test_profiler_that_this_paddle_lacks(config):
    from ppcls_ext.hosts.paddleclas.versions import profiles_with_removed_module

    if not profiles_with_removed_module():
        pytest.skip("this PaddleClas profiles with what this Paddle has")
    config["profiler_options"] = "batch_range=[1, 2]"
    with pytest.raises(PpclsExtError, match=r"--profiler_options: PaddleClas 2.*use a newer PaddleClas"):
        prepared(config, "train")


def test_class_names_of_paddleclas_are_found_in_its_folder(config):
    config["Infer"]["PostProcess"]["class_id_map_file"] = "ppcls/utils/imagenet1k_label_list.txt"
    config["Arch"]["class_num"] = 1000
    path = Path(prepared(config, "infer").Infer.PostProcess.class_id_map_file)
    assert path.is_absolute()
    assert path.read_text().startswith("0 ")


def test_missing_class_names(config):
    config["Infer"]["PostProcess"]["class_id_map_file"] = "nowhere.txt"
    with pytest.raises(PpclsExtError, match=r"class_id_map_file is nowhere.txt: no such file"):
        prepared(config, "infer")
