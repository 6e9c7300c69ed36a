"""The tiny network's exported file."""

from __future__ import annotations

import pytest

from tests.onnx.tiny import METADATA, PIXELS, make_net


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The network of seed 0, its file for any batch, and the report."""
    from ppcls_ext.onnx.export import export_onnx

    net, path = make_net(), tmp_path_factory.mktemp("exported") / "tiny.onnx"
    report = export_onnx(net, path, image_shape=(3, PIXELS, PIXELS), metadata=METADATA.to_properties())
    return net, path, report
