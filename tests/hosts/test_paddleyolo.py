"""The changes to PaddleYOLO, on files that fail as its own do; test_detection_and_segmentation.py has its own."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import paddle
import pytest
from PIL import Image

from ppcls_ext.hosts import paddleyolo
from ppcls_ext.hosts.adaptation import raises

#: Asks in one way for arrays and in another, Paddle 2's, for programs.
OPS = """
from paddle import _C_ops, in_dynamic_mode
from paddle.common_ops_import import LayerHelper

def multiclass_nms(bboxes, scores, score_threshold, nms_top_k, keep_top_k, nms_threshold=0.3, normalized=True,
                   nms_eta=1.0, background_label=-1, return_index=False, rois_num=None):
    if {condition}:
        settings = score_threshold, nms_top_k, keep_top_k, nms_threshold, normalized, nms_eta, background_label
        boxes, index, number = _C_ops.multiclass_nms3(bboxes, scores, rois_num, *settings)
        return boxes, number, index if return_index else None
    LayerHelper("multiclass_nms3").append_op(type="multiclass_nms3", inputs={{"BBoxes": bboxes, "Scores": scores}})
"""
#: Adds its labels to indices.
ASSIGNER = """
import paddle

class TaskAlignedAssigner(paddle.nn.Layer):
    def __init__(self, topk):
        super().__init__()

    def forward(self, scores, boxes, points, anchors, labels, its_boxes, mask, bg_index):
        return scores.argmax(-1) + labels.squeeze(-1){cast} + bg_index
"""
VISUALIZER = """
from PIL import ImageDraw

def size(image, text):
    return ImageDraw.Draw(image).textsize(text)  # as draw.textsize
"""


@pytest.fixture
def host(tmp_path, monkeypatch):
    """Writes a file of a package `ppdet` and imports it."""
    for name in [name for name in sys.modules if name.split(".")[0] == "ppdet"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)

    def write(file, text):
        path = tmp_path / "ppdet" / file
        path.parent.mkdir(parents=True)
        path.write_text(text)
        return importlib.import_module(".".join(("ppdet", *path.relative_to(tmp_path / "ppdet").with_suffix("").parts)))

    yield write
    for name in [name for name in sys.modules if name.split(".")[0] == "ppdet"]:
        del sys.modules[name]


def applied(name):
    """Applies the change of this name where it is needed; returns whether it was."""
    (adaptation,) = (each for each in paddleyolo.ADAPTATIONS if each.name == name)
    needed = adaptation.is_needed()
    if needed:
        adaptation.apply()
    return needed


def test_suppression_in_programs(host):
    ops = host("modeling/ops.py", OPS.format(condition="in_dynamic_mode()"))
    original = ops.multiclass_nms
    assert applied("suppression") == paddle.framework.use_pir_api()
    assert not applied("suppression")

    def suppress(boxes, scores):
        return ops.multiclass_nms(boxes, scores, 0.1, 10, keep_top_k=2, nms_threshold=0.5, return_index=True)

    boxes = [[0, 0, 4, 4], [0, 0, 4, 5], [9, 9, 12, 12], [20, 20, 25, 25], [30, 30, 31, 31]]
    scores = [[[0.5, 0.6, 0.9, 0.05, 0.2]]]  # one too low, one suppressed, one too many
    inputs = paddle.to_tensor([boxes], "float32"), paddle.to_tensor(scores, "float32")
    expected = original(*inputs, 0.1, 10, 2, nms_threshold=0.5, return_index=True)
    np.testing.assert_array_equal(expected[0][:, 0:2].numpy(), np.float32([[0, 0.9], [0, 0.6]]))
    for function in (suppress, paddle.jit.to_static(suppress, full_graph=True)):
        for got, want in zip(function(*inputs), expected):
            np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_a_suppression_that_programs_know_is_left(host):
    ops = host("modeling/ops.py", OPS.format(condition="True"))
    original = ops.multiclass_nms
    assert not applied("suppression")
    assert ops.multiclass_nms is original


def test_labels_of_int64(host):
    assigner = host("modeling/assigners/task_aligned_assigner.py", ASSIGNER.format(cast="")).TaskAlignedAssigner(topk=1)
    one = paddle.ones([1, 1, 1])
    assert applied("labels") == raises(TypeError, lambda: paddle.ones([1], "int64") + paddle.ones([1], "int32"))
    assert not applied("labels")
    assert assigner(one, one, one, [1], paddle.full([1, 1, 1], 5, "int32"), one, one, bg_index=1).tolist() == [[6]]


def test_an_assigner_that_takes_labels_of_int32_is_left(host):
    text = ASSIGNER.format(cast='.astype("int64")')
    original = host("modeling/assigners/task_aligned_assigner.py", text).TaskAlignedAssigner
    forward = original.forward
    assert not applied("labels")
    assert original.forward is forward


def test_sizes_of_texts(host):
    from PIL import ImageDraw

    visualizer = host("utils/visualizer.py", VISUALIZER)
    assert applied("text sizes") == (not hasattr(ImageDraw.ImageDraw, "textsize"))
    assert not applied("text sizes")
    image = Image.new("L", (80, 40))
    width, height = visualizer.size(image, "circle 0.90")
    visualizer.ImageDraw.Draw(image).text((10, 5), "circle 0.90", fill=255)
    _, _, right, bottom = image.getbbox()
    assert abs(10 + width - right) <= 1, "as wide as what is drawn"
    assert abs(5 + height - bottom) <= 1


def test_a_drawing_that_asks_for_no_size_is_left(host):
    visualizer = host("utils/visualizer.py", VISUALIZER.replace("textsize", "textbbox"))
    assert not applied("text sizes")
    assert visualizer.ImageDraw is sys.modules["PIL.ImageDraw"]
