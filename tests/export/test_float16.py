"""ppcls_ext.export.float16: half the size, the same classes."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export import float16
from ppcls_ext.export.float16 import reduce_to_float16
from ppcls_ext.predict.onnx_file import open_session
from tests.export.conftest import make_pictures


def test_half_the_size_and_the_same_answers(fp32):
    half, report = reduce_to_float16(fp32)
    onnx.checker.check_model(half, full_check=True)
    stored = [tensor for tensor in half.graph.initializer if np.prod(tensor.dims) >= 64]
    assert {tensor.data_type for tensor in stored if tensor.data_type != onnx.TensorProto.INT64} == {
        onnx.TensorProto.FLOAT16
    }
    pictures = make_pictures(8)
    ours, theirs = (open_session(model).run(None, {"image": pictures})[0] for model in (half, fp32))
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).all()
    assert 0 < report.difference < 0.02
    assert {entry.key: entry.value for entry in half.metadata_props}["quantization"] == json.dumps({"type": "fp16"})


@pytest.mark.parametrize("fp32", ["RepVGG"], indirect=True)
def test_weights_beyond_fp16_are_refused(fp32):
    large = onnx.ModelProto()
    large.CopyFrom(fp32)
    first = next(tensor for tensor in large.graph.initializer if np.prod(tensor.dims) >= 64)
    first.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(first) * np.float32(1e8), first.name))
    with pytest.raises(PpclsExtError, match="fp16 ends at 65504: keep fp32"):
        reduce_to_float16(large)


@pytest.mark.parametrize("fp32", ["RepVGG"], indirect=True)
def test_other_logits_are_refused(fp32, monkeypatch):
    """Weights rounded much more coarsely than fp16 does."""
    right = float16.store_as_float16

    def coarse(model):
        half = right(model)
        for tensor in half.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT16:
                values = numpy_helper.to_array(tensor)
                step = np.abs(values).max() / np.float16(4) or np.float16(1)
                tensor.CopyFrom(
                    numpy_helper.from_array((np.rint(values / step) * step).astype(np.float16), tensor.name)
                )
        return half

    monkeypatch.setattr(float16, "store_as_float16", coarse)
    with pytest.raises(PpclsExtError, match=r"fp16 changes the logits by .* allowed is 0\.02; nothing was written"):
        reduce_to_float16(fp32)
