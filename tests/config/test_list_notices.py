"""Pictures in no batch, classes without pictures: one line each, before the first step."""

from __future__ import annotations

import logging
import re

import pytest

from ppcls_ext.config.lists import say_what_is_left_out
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.data.lists import read_list
from ppcls_ext.errors import PpclsExtError
from tests.helpers import build_engine, prepared

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def lines(config, tmp_path, monkeypatch, caplog):
    """The warnings of a preparation for training."""
    monkeypatch.chdir(tmp_path)

    def run(mode: str = "train", **sampler) -> list[str]:
        config["DataLoader"]["Train"]["sampler"].update(sampler)
        prepared(config, mode)
        lines = [record.getMessage() for record in caplog.records if "are training images too" not in record.message]
        assert not [line for line in lines if "\n" in line]
        return [line for line in lines if "random" not in line]

    return run


@pytest.mark.parametrize("sampler", ["DistributedBatchSampler", None])
def test_a_batch_larger_than_the_list(lines, config, tmp_path, sampler):
    if sampler is None:
        del config["DataLoader"]["Train"]["sampler"]["name"]
    message = r"DataLoader\.Train\.sampler\.batch_size is 25, and .*train_list\.txt holds 24 images: .*drop_last"
    with pytest.raises(PpclsExtError, match=message):
        lines(batch_size=25, drop_last=True)
    assert not (tmp_path / "output").exists()
    assert lines(batch_size=25, drop_last=False) == []


def test_several_processes_share_the_list(lines, monkeypatch):
    monkeypatch.setattr("paddle.distributed.get_world_size", lambda: 4)
    with pytest.raises(PpclsExtError, match=r"batch_size is 7 on each of 4 processes, and .* holds 24 images"):
        lines(batch_size=7, drop_last=True)


def test_evaluation_over_nothing(lines, config):
    config["DataLoader"]["Eval"]["sampler"].update(batch_size=21, drop_last=True)
    for mode in ("train", "eval"):
        with pytest.raises(PpclsExtError, match=r"DataLoader\.Eval\.sampler\.batch_size is 21, and .*val_list"):
            lines(mode)


def test_images_left_out(lines, config):
    assert lines(drop_last=True) == []
    (line,) = lines(batch_size=9)
    assert line.startswith("6 of the 24 images of ")
    assert line.endswith("are left out of each epoch, others each time: DataLoader.Train.sampler.drop_last")
    assert lines(batch_size=9, shuffle=False)[-1].endswith(
        "are left out of each epoch: DataLoader.Train.sampler.drop_last"
    )
    config["DataLoader"]["Train"]["sampler"].update(batch_size=8)
    config["DataLoader"]["Eval"]["sampler"]["drop_last"] = True
    assert "4 of the 20 images" in lines()[-1]
    assert "left out of each evaluation" in lines("eval")[-1]


def test_classes_without_images(lines, config, dataset, tmp_path):
    config["Infer"]["PostProcess"]["class_id_map_file"] = None
    config["Arch"]["class_num"] = 7
    (line,) = lines()
    assert line.startswith("Arch.class_num is 7, and the labels of ")
    assert line.endswith("end at 1: the classes from 2 have no image")
    del config["Arch"]["class_num"]
    assert lines()[-1].startswith("Arch.class_num is 1000, and the labels of "), "a number that was forgotten"
    text = (dataset / "train_list.txt").read_text().replace(".png 1", ".png 5")
    config["Arch"]["class_num"] = 7
    (tmp_path / "list.txt").write_text(text)
    config["DataLoader"]["Train"]["dataset"]["cls_label_path"] = "list.txt"
    assert lines()[-2:] == [
        f"Arch.class_num is 7, and the labels of list.txt end at 5: {'the classes from 6 have no image'}",
        "list.txt has no image of 4 classes: 1, 2, 3, 4",
    ]


def test_labels_that_paddleclas_renumbers(config, dataset, tmp_path, caplog):
    """Those of a later PaddleClas's `relabel` say nothing of the classes."""
    (tmp_path / "list.txt").write_text("png/00.png 1000000000\n" * 8)
    images = read_list(tmp_path / "list.txt", dataset, None)
    config["DataLoader"]["Train"]["dataset"]["relabel"] = True
    say_what_is_left_out(RunSettings(config), {"Train": images})
    assert not caplog.records


def test_other_samplers_too(config, tmp_path, monkeypatch):
    """What only PaddleClas's loader knows is looked at before the first step, too."""
    import paddle

    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    engine = build_engine(config, "train")
    empty = paddle.io.Subset(engine.train_dataloader.dataset, range(3))
    engine.train_dataloader = paddle.io.DataLoader(empty, batch_size=8, drop_last=True)
    with pytest.raises(PpclsExtError, match=r"DataLoader\.Train makes no batch"):
        engine.train()


@pytest.mark.parametrize("asked", [100, None])
def test_fewer_calibration_images_than_asked(config, tmp_path, monkeypatch, caplog, asked):
    """Nobody asked for our own number."""
    import paddle

    import ppcls_ext

    host_logger = logging.getLogger("ppcls")  # it hands nothing on to pytest's
    monkeypatch.setattr(host_logger, "handlers", [*host_logger.handlers, caplog.handler])
    monkeypatch.chdir(tmp_path)
    config["Arch"]["name"] = "FasterNet_T0"
    fused = ppcls_ext.build("FasterNet_T0", class_num=2, fused=True)
    paddle.save(fused.state_dict(), "fused.pdparams")
    config["Global"]["pretrained_model"] = "fused"
    config["Recipe"] = {"unfuse": {"pictures": asked}} if asked else {}
    build_engine(config, "train")
    said = set(re.findall(r"asks for (\w+) images, and an epoch has only 24", caplog.text))
    assert said == ({"100"} if asked else set())
