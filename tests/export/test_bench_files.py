"""ppcls_ext.export.bench_files: the unfused form computes all that the fused one does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from ppcls_ext.export.bench_files import write_forms
from ppcls_ext.predict.onnx_file import open_session
from tests.helpers import needs_converter


@needs_converter
@pytest.mark.parametrize("name", ["RepVGG_A0", "FasterNet_T0"])
def test_the_unfused_form_is_the_whole_network(name, tmp_path):
    """Activations, squeeze-and-excitation and projections stay between the sums of branches."""
    files = write_forms(name, ["unfused", "fused"], (64, 32), tmp_path)
    image = np.random.default_rng(0).standard_normal((1, 3, 64, 32), dtype=np.float32)
    answers = []
    for file in files.values():
        session = open_session(str(file))
        answers.append(session.run(None, {session.get_inputs()[0].name: image})[0])
    np.testing.assert_allclose(*answers, rtol=1e-3)
    nodes = {form: len(onnx.load(file).graph.node) for form, file in files.items()}
    assert nodes["unfused"] > 2 * nodes["fused"]
