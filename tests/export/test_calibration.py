"""ppcls_ext.export.calibration: ranges, moments, and rounding whose errors cancel on the inputs that a layer has."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from ppcls_ext.export.calibration import Moments, round_weights
from ppcls_ext.predict.onnx_file import open_session

CASES = {
    "dense": ((6, 4, 3, 3), {}),
    "depthwise": ((4, 1, 3, 3), {"group": 4}),
    "grouped": ((6, 2, 3, 3), {"group": 2}),
    "pointwise": ((6, 4, 1, 1), {}),
    "strided": ((6, 4, 2, 3), {"strides": [2, 1]}),
    "dilated": ((6, 4, 3, 2), {"dilations": [1, 2]}),
}


def conv(shape, options):
    """The node, and the function that runs it with given weights."""
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **options)

    def run(weight, x):
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
        graph = helper.make_graph(
            [node], "g", [value], [helper.make_empty_tensor_value_info("y")], [numpy_helper.from_array(weight, "w")]
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return open_session(model).run(None, {"x": x})[0]

    return node, run


def smooth(count, seed=0):
    """Inputs (N, 4, 12, 12) whose neighbours and channels are alike, far from 0."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 4, 4, 4)).repeat(3, axis=2).repeat(3, axis=3)
    return (coarse + coarse[:, :1] + 5 + 0.1 * rng.standard_normal(coarse.shape)).astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_moments_are_those_of_the_inputs(case):
    """They predict the variance of the layer's outputs."""
    shape, options = CASES[case]
    node, run = conv(shape, options)
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x = smooth(64)
    moments = Moments(node, weight, len(x))
    moments.per_image = 1000
    for start in range(0, len(x), 16):
        moments.add(x[start : start + 16])
    covariance = moments.covariance()
    groups = len(covariance)
    split = weight.reshape(groups, shape[0] // groups, -1).astype(np.float64)
    predicted = np.einsum("goi,gij,goj->go", split, covariance, split).ravel()
    np.testing.assert_allclose(predicted, run(weight, x).var(axis=(0, 2, 3)), rtol=0.12)


@pytest.mark.parametrize("case", CASES)
def test_errors_cancel(case):
    shape, options = CASES[case]
    node, run = conv(shape, options)
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    x, other = smooth(64), smooth(64, seed=1)
    moments = Moments(node, weight, len(x))
    moments.add(x)
    scales = (np.abs(weight).max(axis=(1, 2, 3)) / 7).astype(np.float32)  # four bits: errors that are easy to see
    wide = scales[:, None, None, None]
    rounded = round_weights(node, weight, scales, moments.covariance())
    assert rounded.dtype == np.int8
    expected = run(weight, other)
    errors = [
        (run((levels * wide).astype(np.float32), other) - expected).var(axis=(0, 2, 3)).mean()
        for levels in (rounded, np.rint(weight / wide))
    ]
    assert errors[0] < (0.95 if case == "pointwise" else 0.8) * errors[1]


@pytest.mark.parametrize("level", [0.0, 1000.0])
def test_inputs_that_hardly_change(level):
    """An untrained network's deep layers: any rounding is as good, and none fails."""
    shape, options = CASES["dense"]
    node, _ = conv(shape, options)
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    moments = Moments(node, weight, 16)
    noise = np.random.default_rng(2).standard_normal((16, 4, 12, 12)).astype(np.float32)
    moments.add(np.float32(level) + np.float32(1e-5) * noise * np.float32(level > 0))
    scales = np.abs(weight).max(axis=(1, 2, 3)) / 127
    rounded = round_weights(node, weight, scales, moments.covariance())
    assert np.abs(rounded * scales[:, None, None, None] - weight).max() < 1.01 * scales.max()
