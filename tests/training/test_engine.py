"""Cases of the engine that need a model but no process of their own."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path

import paddle
import pytest
from PIL import Image

from ppcls_ext.errors import Interrupted, PpclsExtError
from ppcls_ext.onednn.find import library
from ppcls_ext.predict.program_set import require_one_set
from ppcls_ext.predict.runtimes import PaddleModel
from tests.helpers import build_engine

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def engine(config, tmp_path, monkeypatch):
    """Builds an engine from the fixture `config` as it is then, working in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"

    def build(mode: str):

        return build_engine(config, mode)

    return build


def save(folder, class_num: int = 2) -> str:
    import ppcls_ext

    model = ppcls_ext.build("FasterNet_T0", class_num=class_num)
    paddle.save(model.state_dict(), str(folder / "w.pdparams"))
    return str(folder / "w")


def test_evaluating_with_weights_of_other_classes_fails(engine, config, tmp_path):
    config["Global"]["pretrained_model"] = save(tmp_path, class_num=3)
    with pytest.raises(PpclsExtError, match=r"w\.pdparams does not fit"):
        engine("eval")


def test_fine_tuning_from_weights_of_other_classes_works(engine, config, tmp_path):
    config["Global"]["pretrained_model"] = save(tmp_path, class_num=3)
    built = engine("train")
    expected = paddle.load(str(tmp_path / "w.pdparams"))
    loaded = built.model.state_dict()
    same = [name for name in expected if loaded[name].shape == expected[name].shape]
    assert len(same) == len(expected) - 2, "all but the classifier's weight and bias"
    assert all((loaded[name].numpy() == expected[name].numpy()).all() for name in same)


def test_resuming_continues(engine, config, tmp_path):
    with paddle.utils.unique_name.guard():  # optimizers know parameters by names that a process counts
        engine("train").train()
    config["Global"].update(
        checkpoints="output/FasterNet_T0/latest", epochs=2, output_dir="again", eval_during_train=False
    )
    with paddle.utils.unique_name.guard():
        engine("train").train()
    names = {path.name for path in (tmp_path / "again" / "FasterNet_T0").glob("*.pdparams")}
    assert names == {"epoch_2.pdparams", "latest.pdparams"}, "the second epoch, and no best without evaluation"


def test_no_memory_is_kept_for_gradients_after_a_step(engine):
    built = engine("train")
    built.train()
    assert not [name for name, weight in built.network.named_parameters() if weight.grad is not None]


def test_resuming_from_another_model_fails(engine, config, tmp_path):
    stem = save(tmp_path, class_num=3)
    paddle.save([{}], stem + ".pdopt")
    paddle.save({"epoch": 1, "metric": 0.5}, stem + ".pdstates")
    config["Global"]["checkpoints"] = stem
    with pytest.raises(PpclsExtError, match=r"w\.pdparams does not fit"):
        engine("train").train()


def test_images_left_out_are_not_counted(engine, config, tmp_path):
    config["DataLoader"]["Eval"]["sampler"]["drop_last"] = True
    engine("eval").eval()
    log = (tmp_path / "output" / "FasterNet_T0" / "eval.log").read_text()
    assert "over 16 images" in log, "two batches of 8 of the 20 images"


def test_export_of_an_impossible_shape_leaves_nothing(engine, config, tmp_path):
    config["Global"]["image_shape"] = [3, 0, 32]
    with pytest.raises(PpclsExtError, match=r"image_shape\.1 is 0"):
        engine("export").export()
    assert not (tmp_path / "inference").exists()


def test_wrong_export_is_not_kept(engine, config, tmp_path, monkeypatch):
    from ppcls_ext.reparam.reparameterizable import Reparameterizable

    fuse = Reparameterizable.re_parameterize

    def fuse_wrongly(self):
        fuse(self)
        self.fused_conv.bias.set_value(self.fused_conv.bias + 0.1)

    monkeypatch.setattr(Reparameterizable, "re_parameterize", fuse_wrongly)
    (tmp_path / "inference").mkdir()
    (tmp_path / "inference" / "inference.pdiparams").write_text("of an earlier export")
    with pytest.raises(PpclsExtError, match="differs from the trained one"):
        engine("export").export()
    assert [path.name for path in (tmp_path / "inference").iterdir()] == ["inference.pdiparams"]
    assert (tmp_path / "inference" / "inference.pdiparams").read_text() == "of an earlier export"


def test_an_export_on_a_full_disk_says_so(engine, tmp_path):
    """Paddle's C++ writes what there is room for, and reports nothing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    exporting = engine("export")
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(PpclsExtError, match=r"cannot write .*inference: .*choose a folder that is writable"):
            exporting.export()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "inference").exists()


def test_an_export_is_one_set(engine, config, tmp_path, monkeypatch):
    """A folder of its own is replaced as one; among other files a mixture of two exports is refused."""
    folder = tmp_path / "inference"
    folder.mkdir()
    (folder / "inference.yml").write_text("of an earlier export")
    engine("export").export()
    assert not (folder / "inference.yml").exists(), "which names other classes, perhaps"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    require_one_set(folder)
    (folder / "notes.txt").touch()
    replace = os.replace

    def replace_until_the_parameters(source, target):
        if Path(target).name == "inference.pdiparams":
            raise KeyboardInterrupt
        replace(source, target)

    other = engine("export")
    for parameter in other.model.parameters():
        parameter.set_value(parameter + 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace_until_the_parameters)
        with pytest.raises(KeyboardInterrupt):
            other.export()
    with pytest.raises(PpclsExtError, match=r"inference\.\w+ is missing, was changed or is of another export"):
        PaddleModel(folder, None)
    (folder / "notes.txt").unlink()
    engine("export").export()
    require_one_set(folder)
    assert set(first) == {path.name for path in folder.iterdir()}
    (folder / "inference.pdiparams").unlink()
    with pytest.raises(PpclsExtError, match=r"inference\.pdiparams is missing"):
        require_one_set(folder)
    (folder / "inference.sha256").write_text("0  ../../etc/passwd\n")
    with pytest.raises(PpclsExtError, match="is no file of an export"):
        require_one_set(folder)


@pytest.mark.parametrize(
    ("value", "message"), [("nowhere", "no such file or folder"), (".", "the folder holds no image")]
)
def test_nothing_to_infer(engine, config, value, message):
    config["Infer"]["infer_imgs"] = value
    with pytest.raises(PpclsExtError, match=message):
        engine("infer").infer()


def test_infer_list_and_results_file(engine, config, dataset, tmp_path):
    names = ["01.png", "a flower 7.png", "04.png"]
    shutil.copytree(dataset / "png", tmp_path / "pictures")
    (tmp_path / "pictures" / "02.png").rename(tmp_path / "pictures" / names[1])
    # a byte order mark, CRLF, a label, a blank line, spaces in a name with and without a label
    lines = ["\ufeff01.png 1", "a flower 7.png", "", "a flower 7.png 2", "04.png"]
    (tmp_path / "list.txt").write_bytes("\r\n".join(lines).encode())
    config["Infer"].update(infer_imgs="pictures", infer_list="list.txt", save_dir="results.json")
    engine("infer").infer()
    results = json.loads((tmp_path / "results.json").read_text())
    expected = [os.path.join("pictures", names[index]) for index in (0, 1, 1, 2)]
    assert [item["file_name"] for item in results] == expected


def test_infer_draws_what_it_could_read(engine, config, dataset, tmp_path, capsys):
    shutil.copytree(dataset / "png", tmp_path / "pictures")
    (tmp_path / "pictures" / "05.png").write_bytes(b"")
    config["Infer"].update(infer_imgs="pictures", save_image="drawn")
    with pytest.raises(PpclsExtError, match="1 of 24 images cannot be read"):
        engine("infer").infer()
    assert "24 images written, the last drawn/sheet-01.png" in capsys.readouterr().err
    names = {f"{index:02}.png" for index in range(24) if index != 5}
    assert {path.name for path in (tmp_path / "drawn").iterdir()} == {*names, "sheet-01.png"}
    with Image.open(tmp_path / "drawn" / "04.png") as drawn:
        assert drawn.width == 760
        assert drawn.convert("L").getextrema()[0] < 100, "not blank"


def test_infer_draws_classes_only(engine, config):
    config["Infer"].update(save_image="drawn", PostProcess={"name": "VehicleAttribute"})
    config["Arch"]["class_num"] = 19
    with pytest.raises(PpclsExtError, match="--save-image draws classes and scores"):
        engine("infer").infer()


def test_several_processes_do_not_write_one_file(engine, config, monkeypatch):
    config["Infer"]["save_dir"] = "results.json"
    built = engine("infer")
    monkeypatch.setattr("paddle.distributed.get_world_size", lambda: 2)
    with pytest.raises(PpclsExtError, match="need one process"):
        built.infer()


def test_bad_infer_list(engine, config, dataset, tmp_path, capsys):
    config["Infer"].update(infer_imgs=str(dataset), infer_list="list.txt")
    with pytest.raises(PpclsExtError, match=r"no list list\.txt"):
        engine("infer").infer()
    (tmp_path / "list.txt").write_text("png/my flower.png\npng/04.png\n")
    with pytest.raises(PpclsExtError, match="1 of 2 images cannot be read"):
        engine("infer").infer()
    assert f"error: {dataset / 'png' / 'my flower.png'}: No such file" in capsys.readouterr().err


@pytest.mark.skipif(library() is None, reason="this Paddle has no oneDNN that can be called")
@pytest.mark.parametrize("place", ["hook of a gradient", "gradient"])
def test_an_interrupt_inside_a_backward_pass_says_how_to_go_on(engine, config, monkeypatch, place):
    """Paddle makes another error of it."""
    from ppcls_ext.onednn import maps

    config["Global"]["epochs"] = 2
    built, calls = engine("train"), []

    def interrupt() -> None:
        if (built.folder / "latest.pdparams").is_file():  # in the second epoch
            raise KeyboardInterrupt("hangup")

    if place == "gradient":
        original = maps._of_their_own
        monkeypatch.setattr(maps, "_of_their_own", lambda *given: calls.append(1) or interrupt() or original(*given))
    else:
        monkeypatch.setattr(maps, "_refuse_second_time", lambda: lambda _: calls.append(1) or interrupt())
    with pytest.raises(Interrupted, match=r"^hangup; .*--resume"):
        built.train()
    assert calls
