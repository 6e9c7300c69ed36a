"""metrics.csv keeps one row an epoch; report.html is one file, everything in it escaped, opened in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.report.page import Page
from ppcls_ext.report.tables import add_metrics, read_metrics

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def page(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "figure.png")
    page = Page("<b>Title</b>", {"top-1": "0.5 & more"})
    page.add_image("Figure", tmp_path / "figure.png")
    page.add_table("Classes", [{"class": 0, "name": "<script>玫瑰", "accuracy": 0.25}, {"class": 1, "name": None}])
    page.add_table("Pairs", [])
    page.add_text("Settings", "Arch: <MobileOne>")
    page.write(tmp_path / "report.html")
    return tmp_path / "report.html"


def test_one_file_with_everything_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;b&gt;Title" in text
    assert "0.2500" in text
    assert not re.search(r'(src|href)="(?!data:)', text)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_in_a_browser(page, tmp_path):
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=900,700",
        f"--user-data-dir={tmp_path / 'p'}",
    ]

    def browse(*arguments: str) -> str:
        command = [BROWSER, *flags, *arguments, page.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    browse(f"--screenshot={tmp_path / 'shot.png'}")
    with Image.open(tmp_path / "shot.png") as image:
        colours = len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))
    assert colours > 1000  # the figure's noise is there
    document = browse("--dump-dom")
    assert document.count("<section>") == 4
    assert "玫瑰" in document


def test_rows_are_added_and_replaced(tmp_path):
    path = tmp_path / "metrics.csv"
    for epoch in (1, 2, 3):
        add_metrics(path, {"epoch": epoch, "train_loss": 1 / epoch, "eval_top1": None})
    rows = add_metrics(path, {"epoch": 2, "train_loss": 0.25, "eval_loss": 7.0, "eval_top1": 0.5})
    assert [row["epoch"] for row in rows] == [1, 2]
    assert read_metrics(path)[1]["train_loss"] == 0.25
    header = path.read_text().splitlines()[0]
    assert header == "epoch,step,learning_rate,images_per_second,train_loss,eval_loss,eval_top1"


def test_damaged_file(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step\n1,x\n")
    with pytest.raises(PpclsExtError, match="move it away"):
        read_metrics(path)
