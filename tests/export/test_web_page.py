"""The web page: what it holds, and what it does in a browser, where one is installed."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from ppcls_ext.commands import export as command
from ppcls_ext.commands.outcome import run
from ppcls_ext.data.image_input import network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.formats import export_file
from ppcls_ext.export.web_page import model_in_page, web_page
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.metadata import Metadata
from tests.export.test_formats import by_onnx, needs
from tests.helpers import sample_pictures

RULE = Preprocessing(resize_short=36, crop=(32, 32))
NAMES = ('a <b> & "c" \'</script>', "矢车菊", "tulip", "rose", "a very long name " * 8)


one_net = pytest.mark.parametrize("fp32", ["MobileOne"], indirect=True)


@pytest.fixture(scope="session")
def litertjs():
    """The folder of @litertjs/core, which `.ci/run` installs where there is npm."""
    folder = Path(os.environ.get("PPCLS_EXT_LITERTJS", "node_modules/@litertjs/core"))
    if not (folder / "package.json").is_file():
        pytest.skip("needs LiteRT.js: npm install @litertjs/core, or PPCLS_EXT_LITERTJS with its folder")
    needs("tflite")
    return str(folder)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def describe(model: onnx.ModelProto, **changes) -> onnx.ModelProto:
    """The model with class names, and other changes, in its metadata."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    metadata = dataclasses.replace(Metadata("MobileOne_S0", RULE, NAMES), **changes)
    properties = {entry.key: entry.value for entry in made.metadata_props}
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, {**properties, **metadata.to_properties()})
    return made


class Page:
    """A page that a browser has opened, and all that it asked for and complained of."""

    def __init__(self, browser, path: Path, locale: str = "en-US") -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.tab = browser.new_page(locale=locale)
        self.tab.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(path.as_uri())
        self.tab.evaluate("classifier.ready")

    def choose(self, file: Path) -> dict:
        """Chooses a file as a person would, and returns scores and input as numbers beside what is shown."""
        self.tab.set_input_files("#file", str(file))
        self.wait_until(lambda: self.tab.is_visible("#answer"))
        found = self.tab.evaluate(
            "async () => { const image = await classifier.read(document.getElementById('file').files[0]);"
            " const {scores, input} = await classifier.classify(image); return {scores, input: Array.from(input)}; }"
        )
        return {key: np.array(value, np.float32) for key, value in found.items()}

    def wait_until(self, is_so) -> None:
        """Waits, without `wait_for_function`: the page's policy forbids code from strings."""
        end = time.monotonic() + 120
        while not is_so():
            assert time.monotonic() < end, self.tab.inner_text("body")
            self.tab.wait_for_timeout(20)

    def rows(self) -> list[tuple[str, str]]:
        names, scores = (self.tab.locator(f"#classes {part}").all_inner_texts() for part in ("th", "td:last-child"))
        return list(zip(names, scores))


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Images of the kinds that a canvas changes: with alpha, of one row of grey, turned by EXIF, and plain ones."""
    folder, rng = tmp_path_factory.mktemp("files"), np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 4), dtype=np.uint8), "RGBA").resize((90, 61))
    coarse.save(folder / "alpha.png")
    coarse.convert("RGB").save(folder / "plain.jpg", quality=90)
    coarse.convert("L").save(folder / "grey.png")
    exif = Image.Exif()
    exif[0x112] = 6
    coarse.convert("RGB").save(folder / "turned.jpg", exif=exif)
    coarse.convert("RGB").save(folder / "lossless.webp", lossless=True)
    return sorted(folder.iterdir())


def export(model, folder: Path, litertjs: str) -> Path:
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    return export_file(folder / "net.onnx", "web", litertjs=litertjs).path


def test_in_a_browser(fp32, files, litertjs, browser, tmp_path):
    """The same input, bit for bit, the same answers, no request that leaves the page, no complaint."""
    page = Page(browser, export(describe(fp32), tmp_path, litertjs))
    classifier = Classifier(tmp_path / "net.onnx")
    for file in files:
        found = page.choose(file)
        expected = network_input(file, RULE)
        np.testing.assert_array_equal(found["input"].reshape(32, 32, 3), expected.transpose(1, 2, 0), err_msg=file.name)
        scores = classifier.scores(expected[None])[0]
        np.testing.assert_allclose(found["scores"], scores, atol=1e-5, err_msg=file.name)
        best = int(scores.argmax())
        assert page.rows()[0] == (" ".join(NAMES[best].split()), f"{100 * scores[best]:.1f} %")
    assert not page.errors
    assert {address.partition(":")[0] for address in page.requests} <= {"file", "blob", "data"}


@one_net
def test_an_image_of_four_inks(fp32, files, litertjs, browser, tmp_path):
    """Which browsers turn into RGB by formulas of their own: to two levels."""
    Image.open(files[-1]).convert("CMYK").save(tmp_path / "inks.jpg", quality=95)
    page = Page(browser, export(describe(fp32), tmp_path, litertjs))
    got = page.choose(tmp_path / "inks.jpg")["input"].reshape(32, 32, 3)
    levels = (got - network_input(tmp_path / "inks.jpg", RULE).transpose(1, 2, 0)) * RULE.std / RULE.scale
    assert np.abs(levels).max() <= 2.01


@one_net
def test_eight_bits_in_a_browser(fp32, files, litertjs, browser, tmp_path):
    from ppcls_ext.export.int8 import quantize
    from tests.export.conftest import make_pictures

    model = quantize(describe(fp32), make_pictures(64), allow=True, quiet=True)[0]
    page = Page(browser, export(model, tmp_path, litertjs))
    found = page.choose(files[0])["scores"]
    expected = by_onnx(model, [network_input(files[0], RULE)])[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@one_net
def test_no_image(fp32, litertjs, browser, tmp_path):
    (tmp_path / "no image.jpg").write_text("text")
    page = Page(browser, export(describe(fp32), tmp_path, litertjs))
    page.tab.set_input_files("#file", str(tmp_path / "no image.jpg"))
    page.wait_until(lambda: "no image.jpg cannot be read" in page.tab.inner_text("#state"))
    assert page.tab.locator("#answer").is_hidden()


@one_net
def test_chinese_keyboard_and_phone(fp32, files, litertjs, browser, tmp_path):
    page = Page(browser, export(describe(fp32), tmp_path, litertjs), locale="zh-CN")
    assert "图片" in page.tab.inner_text("label")
    page.tab.set_viewport_size({"width": 320, "height": 600})
    page.choose(files[0])
    assert page.tab.evaluate("document.documentElement.scrollWidth <= 320"), "a name pushes the page out of the screen"
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate("document.activeElement.id") == "file"
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate("document.activeElement.id") == "camera"


@pytest.mark.slow
def test_imagenet_in_a_browser(shared, litertjs, browser, tmp_path):
    """Apple's network: the class of each of the 20 images is onnxruntime's."""
    import ppcls_ext

    model = ppcls_ext.build("MobileOne_S0", fused=True, pretrained=str(shared / "weights" / "mobileone_s0.pth.tar"))
    ppcls_ext.export_onnx(model, tmp_path / "s0.onnx")
    page = Page(browser, export_file(tmp_path / "s0.onnx", "web", litertjs=litertjs).path)
    classifier = Classifier(tmp_path / "s0.onnx")
    for file, _ in sample_pictures(shared):
        expected = network_input(file, classifier.metadata.preprocessing)
        found = page.choose(file)
        np.testing.assert_array_equal(found["input"].reshape(224, 224, 3), expected.transpose(1, 2, 0))
        assert found["scores"].argmax() == classifier.scores(expected[None]).argmax()
    assert not page.errors


# what needs no browser


@one_net
def test_the_page_holds_the_model(fp32, litertjs, tmp_path):
    page = export(describe(fp32), tmp_path, litertjs).read_bytes()
    assert model_in_page(page)[4:8] == b"TFL3"
    # the build that needs no relaxed SIMD, which browsers lack, and no threads, which a page from the disk may not have
    wasm = gzip.decompress(base64.b64decode(page.partition(b'id="wasm">')[2].partition(b"</script>")[0]))
    assert wasm == (Path(litertjs) / "wasm" / "litert_wasm_compat_internal.wasm").read_bytes()
    assert b"http" not in page.partition(b'id="sources"')[0].replace(b"http-equiv", b"")
    meta = json.loads(page.partition(b'id="meta">')[2].partition(b"</script>")[0])
    assert tuple(meta["names"]) == NAMES
    with pytest.raises(PpclsExtError, match="damaged"):
        model_in_page(page.replace(b'id="model">', b'id="model">*'))


def test_several_labels(litertjs):
    metadata = Metadata("RepVGG_A0", RULE, ("a", "b"), task="multi-label", thresholds=(0.3, 0.6))
    page = web_page(b"model", metadata, ends_in_logits=True, litertjs=litertjs)
    meta = json.loads(page.partition(b'id="meta">')[2].partition(b"</script>")[0])
    assert (meta["several"], meta["thresholds"], meta["logits"]) == (True, [0.3, 0.6], True)


@one_net
def test_refused(fp32, tmp_path, litertjs, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "net.onnx"
    path.write_bytes(describe(fp32).SerializeToString())
    assert run(lambda: command.main([str(path), "--to", "web"])) == 1
    assert "npm install @litertjs/core" in capsys.readouterr().err
    assert run(lambda: command.main([str(path), "--to", "web", "--litertjs", str(tmp_path)])) == 1
    assert "package.json" in capsys.readouterr().err
    assert run(lambda: command.main([str(path), "--to", "tflite", "--litertjs", litertjs])) == 1
    assert "for a web page" in capsys.readouterr().err
    rule = dataclasses.replace(RULE, backend="cv2", interpolation="bicubic")
    path.write_bytes(describe(fp32, preprocessing=rule).SerializeToString())
    assert run(lambda: command.main([str(path), "--to", "web", "--litertjs", litertjs])) == 1
    assert "bicubic" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
