"""docs/howto/blocks.md: its networks are built, trained, fused and made ONNX files, and print what it shows."""

from __future__ import annotations

import contextlib
import io
import re

import pytest

from ppcls_ext.export.program import program_to_onnx
from tests.helpers import ROOT, needs_converter

pytestmark = pytest.mark.slow
PART = re.compile(r"^```python\n(.*?)^```(?:\n\n```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def ran(work):
    """What the page's code made, by name, after each part printed what is shown below it."""
    page = ROOT / "docs" / "howto" / "blocks.md"  # the Chinese page has the same code
    names: dict[str, object] = {}
    parts = PART.findall(page.read_text(encoding="utf-8"))
    assert len(parts) == 5
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        for number, (code, shown) in enumerate(parts):
            script = work / f"part_{number}.py"
            script.write_text(code, encoding="utf-8")  # Paddle reads the source of what it makes a program of
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code, str(script), "exec"), names)
            assert printed.getvalue() == shown
    return names


def test_the_page_does_what_it_shows(ran):
    assert {"detector", "net", "fused"} <= set(ran)


@needs_converter
def test_the_program_becomes_an_onnx_file(ran, work):
    report = program_to_onnx(work / "unet", work / "unet.onnx")
    assert report.difference < 1e-4
    assert "BatchNormalization" not in report.nodes
