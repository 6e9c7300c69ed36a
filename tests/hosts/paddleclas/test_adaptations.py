"""Adaptations are applied where PaddleClas fails, and only there."""

from __future__ import annotations

import random
import re
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from PIL import Image, ImageOps

from ppcls_ext.hosts.paddleclas import adaptations
from ppcls_ext.hosts.paddleclas.locate import activate

BATCH_OPERATORS = "data/preprocess/batch_ops/batch_operators.py"


def refuses_no_bits() -> bool:
    try:
        ImageOps.posterize(Image.new("L", (1, 1)), 0)
    except ValueError:
        return True
    return False


def test_each_paddleclas_gets_what_it_needs(fresh):
    root = activate(need_engine=True).path / "ppcls"

    def has(file: str, pattern: str) -> bool:
        return bool(re.search(pattern, (root / file).read_text(encoding="utf-8")))

    # what they answer, read from the source
    needed = {
        "AutoAugment": has("data/preprocess/ops/autoaugment.py", r"np\.int\b"),
        "MixupCutmixHybrid": has(BATCH_OPERATORS, r"np\.bool\b") and not hasattr(np, "bool"),
        "mINP": has("metric/metrics.py", "indechmx_sample"),
        "SGD": has("optimizer/optimizer.py", "getargspec"),
        "one-element losses": has("engine/train/utils.py", r"\.numpy\(\)\[0\]"),
        "one-element metrics": has("engine/train/utils.py", r"\.numpy\(\)\[0\]"),
        "averages of floats": has("utils/misc.py", r"\.numpy\(\)\[0\]"),
        "one-element means": has("metric/metrics.py", r"\.numpy\(\)\[0\]"),
        "mixed labels": np.lib.NumpyVersion(np.__version__) >= "2.0.0",  # whose scalars keep their type
        "label ratio": not has("data/dataloader/multilabel_dataset.py", r"self\.label_ratio = "),
        "names of several": has("data/postprocess/topk.py", r"class MultiLabel[^:]*:[^:]*:\s*super\(\)\.__init__\(\)"),
        "no policy": not has("data/preprocess/ops/timm_autoaugment.py", r"config_str is None"),
        "posterize to black": refuses_no_bits(),
        "device of a CPU": has("engine/evaluation/classification.py", r"\.device_id")
        and not paddle.is_compiled_with_cuda(),
        **dict.fromkeys(("pickle", "eval", "bounded resizing", "loading processes", "image reader"), True),
    }
    assert list(needed) == [adaptation.name for adaptation in adaptations.ADAPTATIONS]
    assert fresh.says["adaptations"] == [[name for name in needed if needed[name]], []], "a second call does nothing"


def test_losses_metrics_and_averages_work_on_0_d_tensors():
    adaptations.apply()
    from ppcls.engine.train.utils import update_loss, update_metric
    from ppcls.loss import CombinedLoss
    from ppcls.metric import CombinedMetrics
    from ppcls.utils.misc import AverageMeter

    logits = paddle.to_tensor([[2.0, 0.0], [2.0, 0.0]])
    logits.stop_gradient = False
    labels = paddle.to_tensor([[0], [1]])
    trainer = SimpleNamespace(output_info={}, train_metric_func=CombinedMetrics([{"TopkAcc": {"topk": [1]}}]))
    losses = CombinedLoss([{"CELoss": {"weight": 1.0}}])(logits, labels)
    losses["loss"].backward()
    update_loss(trainer, losses, 2)
    update_metric(trainer, logits, [labels], 2)
    assert trainer.output_info["top1"].avg == pytest.approx(0.5)
    assert trainer.output_info["loss"].avg == pytest.approx(1.126928, abs=1e-5)
    assert float(logits.grad.abs().sum()) == pytest.approx(1.0, abs=1e-5)

    meter = AverageMeter("top1")
    meter.update(paddle.to_tensor(1.0), 3)
    meter.update(paddle.to_tensor(0.0), 1)
    assert meter.avg_info == "top1: 0.75000"


def test_auto_augment_and_sgd_work():
    adaptations.apply()
    from ppcls.data.preprocess import AutoAugment
    from ppcls.optimizer.optimizer import SGD

    random.seed(0)
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    augment = AutoAugment()
    assert all(augment(picture).shape == picture.shape for _ in range(50))
    layer = paddle.nn.Linear(1, 1)
    weight = layer.weight.item()
    optimizer = SGD(learning_rate=0.5)([layer])
    layer(paddle.ones([1, 1])).backward()
    optimizer.step()
    assert layer.weight.item() == pytest.approx(weight - 0.5)


@pytest.mark.parametrize("lam", [0.25, np.float64(0.25), np.float32(0.25)])
def test_mixed_labels_are_float32(lam):
    adaptations.apply()
    from ppcls.data.preprocess.batch_ops.batch_operators import CutmixOperator

    mixed = CutmixOperator(class_num=3)._mix_target(np.array([0, 1]), np.array([2, 1]), lam)
    assert mixed.dtype == np.float32
    assert mixed.tolist() == [[0.25, 0, 0.75], [0, 1, 0]]


def test_retrieval_metrics_work():
    adaptations.apply()
    from ppcls.metric.metrics import Recallk, mAP, mINP

    # of the first query the first and third in the ranking are right, of the second the second
    similarities = paddle.to_tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])
    queries, gallery = paddle.to_tensor([[0], [1]]), paddle.to_tensor([[0], [1], [0]])
    keep = paddle.ones([2, 3], dtype="bool")
    assert float(mAP()(similarities, queries, gallery, keep)["mAP"]) == pytest.approx((5 / 6 + 1 / 2) / 2)
    assert float(Recallk(topk=[1, 2])(similarities, queries, gallery, keep)["recall1"]) == pytest.approx(0.5)
    assert np.isfinite(float(mINP()(similarities, queries, gallery, keep)["mINP"]))


def test_a_multi_label_dataset_reads_its_images(dataset, tmp_path):
    adaptations.apply()
    from ppcls.data import MultiLabelDataset

    (tmp_path / "list.txt").write_text("png/00.png\t1,0,1\n")
    decode = [{"DecodeImage": {"to_rgb": True, "channel_first": False}}]
    image, label = MultiLabelDataset(str(dataset), str(tmp_path / "list.txt"), decode)[0]
    assert image.shape == (3, 32, 32)
    assert label.tolist() == [1, 0, 1]


def test_the_classes_that_an_image_shows_have_names(tmp_path):
    adaptations.apply()
    from ppcls.data import postprocess

    if not hasattr(postprocess, "MultiLabelTopk"):
        pytest.skip("this PaddleClas has none")
    (tmp_path / "names.txt").write_text("0 cat\n1 a dog\n2 rose\n")
    told = postprocess.MultiLabelTopk(class_id_map_file=str(tmp_path / "names.txt"))
    (found,) = told(paddle.to_tensor([[3.0, 1.0, -1.0]]))
    assert (found["class_ids"], found["label_names"]) == ([0, 1], ["cat", "a dog"])


def test_augmentation_that_keeps_no_bits_gives_black():
    adaptations.apply()
    from ppcls.data.preprocess.ops.timm_autoaugment import posterize

    image = Image.new("RGB", (4, 4), (200, 100, 50))
    assert posterize(image, 0).getextrema() == ((0, 0),) * 3
    assert posterize(image, 1).getpixel((0, 0)) == (128, 0, 0)
    assert posterize(image, 8) is image


def test_augmentation_without_a_policy_changes_nothing():
    adaptations.apply()
    from ppcls.data.preprocess import TimmAutoAugment

    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    assert (TimmAutoAugment(config_str=None)(picture) == picture).all()
    augment = TimmAutoAugment(config_str="rand-m9-mstd0.5-inc1", img_size=32)
    assert any((augment(picture) != picture).any() for _ in range(50)), "a policy still augments"
