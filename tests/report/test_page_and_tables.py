"""metrics.csv keeps one row an epoch; report.html is one file, everything in it escaped, opened in a real browser."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.latency import machine
from ppcls_ext.report.evaluation_report import write_evaluation_report
from ppcls_ext.report.page import _SCRIPT, Page, begin_page
from ppcls_ext.report.predictions import Predictions, macro_f1
from ppcls_ext.report.tables import add_metrics, read_metrics

NODE = shutil.which("node")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


#: In this order, the text order of the numbers differs from theirs; two are equal in the digits that are shown.
SIZES = [
    {"name": "b10", "images": 9, "share": 0.12344},
    {"name": "b9", "images": 100, "share": None},
    {"name": "été", "images": 20, "share": 0.12341},
    {"name": "a", "images": 20, "share": 1.0},
]
#: Column → its texts after one click and after another one.
SORTED = {
    0: (["a", "b9", "b10", "été"], ["été", "b10", "b9", "a"]),
    1: (["b9", "été", "a", "b10"], ["b10", "été", "a", "b9"]),
    2: (["a", "b10", "été", "b9"], ["été", "b10", "a", "b9"]),
}


@pytest.fixture
def page(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (50, 80, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "figure.png")
    page = Page("<b>Title</b>", {"top-1": "0.5 & more"})
    page.add_image("Figure", tmp_path / "figure.png")
    page.add_table("Classes", [{"class": 0, "name": "<script>玫瑰", "accuracy": 0.25}, {"class": 1, "name": None}])
    page.add_table("Pairs", [])
    page.add_table("Sizes", SIZES)
    page.add_text("Settings", "Arch: <MobileOne>")
    page.write(tmp_path / "report.html")
    return tmp_path / "report.html"


def test_one_file_with_everything_escaped(page):
    text = page.read_text(encoding="utf-8")
    assert text.count("<script") == 1, "the page's own"
    assert "&lt;b&gt;Title" in text
    assert "0.2500" in text
    assert not re.search(r'(src|href)="(?!data:)', text)


class Cells(HTMLParser):
    """Collects the attributes of the heads and cells of the table whose section has a heading."""

    def __init__(self, heading: str) -> None:
        super().__init__()
        self._heading, self._inside, self.rows = heading, False, []

    def handle_starttag(self, tag, attrs):
        if tag == "tr" and self._inside:
            self.rows.append([])
        elif tag in ("th", "td") and self._inside:
            self.rows[-1].append({**dict(attrs), "text": ""})

    def handle_data(self, data):
        if data == self._heading:
            self._inside = True
        elif self._inside and self.rows and self.rows[-1] and data.strip():
            self.rows[-1][-1]["text"] += data

    def handle_endtag(self, tag):
        self._inside &= tag != "section"


def cells_of(page) -> list[list[dict]]:
    found = Cells("Sizes")
    found.feed(page.read_text(encoding="utf-8"))
    return found.rows


def test_columns_of_numbers_are_marked(page):
    head, *rows = cells_of(page)
    assert [cell.get("class") for cell in head] == [None, "number", "number"]
    assert [[cell["text"] for cell in row] for row in rows] == [
        ["b10", "9", "0.1234"],
        ["b9", "100", ""],
        ["été", "20", "0.1234"],
        ["a", "20", "1.0000"],
    ]
    assert [row[2].get("data-value") for row in rows] == ["0.12344", None, "0.12341", "1"]


#: As much of a browser's document as the script uses.
DOCUMENT = """
const [script, [head, ...cells], clicks] = JSON.parse(require("fs").readFileSync(0, "utf8"));
const buttons = [], row = (cells) => ({ cells });
const heads = head.map(({ class: name }) => ({
  attributes: {}, childNodes: [], append() {}, classList: { contains: (one) => one === name },
  getAttribute(name) { return this.attributes[name] ?? null; },
  setAttribute(name, value) { this.attributes[name] = value; },
  removeAttribute(name) { delete this.attributes[name]; },
}));
const body = { rows: cells.map((line) => row(line.map((cell) => (
  { textContent: cell.text, dataset: "data-value" in cell ? { value: cell["data-value"] } : {} })))) };
body.append = (...rows) => { body.rows = rows; };
const document = {
  querySelectorAll: () => [{ tHead: { rows: [row(heads)] }, tBodies: [body] }],
  createElement: () => ({ append() {}, addEventListener(event, run) { this[event] = run; buttons.push(this); } }),
};
new Function("document", script)(document);
console.log(JSON.stringify(clicks.map((column) => {
  buttons[column].click();
  return [body.rows.map(({ cells }) => cells[0].textContent), heads.map(({ attributes }) => attributes["aria-sort"])];
})));
"""


@pytest.mark.skipif(NODE is None, reason="no node is installed")
@pytest.mark.parametrize("column", SORTED)
def test_a_click_sorts_numbers_as_numbers(page, column):
    given = json.dumps([_SCRIPT, cells_of(page), [column, column]])
    done = subprocess.run([NODE, "-e", DOCUMENT], input=given, check=True, capture_output=True, encoding="utf-8")
    (first, orders), (second, others) = json.loads(done.stdout)
    assert (first, second) == SORTED[column]
    usual, other = ("ascending", "descending") if column == 0 else ("descending", "ascending")
    assert (orders[column], others[column]) == (usual, other)
    assert orders.count(None) == 2


def test_a_page_begins_with_what_was_evaluated(tmp_path):
    weights = tmp_path / "best_model.pdparams"
    weights.write_bytes(b"weights")
    facts = {"weights": tmp_path / "best_model", "duration": "3 s"}
    begin_page("net", facts, {"top-1": 0.5}, {"Curves": tmp_path / "none.png"}).write(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    names = re.findall(r"<tr><th>(.*?)</th>", text)
    assert names == ["date", "weights", "top-1", "duration", "machine"]
    digest = hashlib.sha256(b"weights").hexdigest()
    assert f'<td title="SHA-256 {digest}">{weights} (SHA-256 {digest[:12]}…)</td>' in text
    assert re.search(r"<td>20\d\d-\d\d-\d\d \d\d:\d\d [+-]\d{4}</td>", text)
    assert machine() in text
    assert "<td>0.5000</td>" in text
    assert "Curves" not in text


@pytest.mark.parametrize("classes", [3, 40])
def test_the_report_of_an_evaluation(tmp_path, classes):
    random = np.random.default_rng(0)
    labels, predicted = random.integers(0, 3, 60), random.integers(0, 3, 60)
    found = Predictions(["gone.png"] * 60, labels, np.eye(classes)[predicted] * 0.9)
    text = write_evaluation_report(found, tmp_path / "out", "net", "Global: {}").read_text(encoding="utf-8")
    f1 = [2 * sum((labels == i) & (predicted == i)) / sum((labels == i) * 1 + (predicted == i)) for i in range(3)]
    assert macro_f1(found) == pytest.approx(np.mean(f1))
    assert f"<tr><th>macro F1</th><td>{np.mean(f1):.4f}</td></tr>" in text
    assert ("<th>top-5</th>" in text) == (classes > 5), "of five classes it is always 1"
    assert ("<h2>Confusion matrix</h2>" in text) == (classes == 3)
    assert text.count('<table class="sortable">') >= 2


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

    def browse(*arguments: str, shown=page) -> str:
        command = [BROWSER, *flags, *arguments, shown.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    browse(f"--screenshot={tmp_path / 'shot.png'}")
    with Image.open(tmp_path / "shot.png") as image:
        colours = len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))
    assert colours > 1000  # the figure's noise is there
    document = browse("--dump-dom")
    assert document.count("<section>") == 5
    assert "玫瑰" in document
    assert document.count("<button") == 6, "the policy lets the page's script run"
    text = page.read_text(encoding="utf-8")
    click = "<script>document.querySelectorAll('button')[4].click()</script>"
    page.with_name("attacked.html").write_text(text.replace("</body>", f"{click}</body>"), encoding="utf-8")
    assert "aria-sort=" not in browse("--dump-dom", shown=page.with_name("attacked.html")).split("<section>")[-1], (
        "and no other one"
    )
    free = re.sub("<meta http-equiv=.*?>", "", text).replace("</body>", f"{click}</body>")
    page.with_name("clicked.html").write_text(free, encoding="utf-8")
    clicked = browse("--dump-dom", shown=page.with_name("clicked.html"))
    assert re.findall("<tr><td>(b10|b9|été|a)</td>", clicked) == SORTED[1][0]
    assert 'aria-sort="descending"><button type="button">images</button>' in clicked


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
