"""What PaddleClas's own programs read of our exports."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from PIL import Image

import ppcls_ext
from tests.helpers import needs_converter, randomise_norms
from tests.options.table import MODELS

pytestmark = pytest.mark.slow
CHECKOUT = os.environ.get("PADDLECLAS_HOME")
needs_checkout = pytest.mark.skipif(not CHECKOUT, reason="needs a PaddleClas checkout: set PADDLECLAS_HOME to it")


@pytest.fixture(scope="module", params=MODELS)
def exported(request, base_config, run_tool, tmp_path_factory) -> Path:
    """A folder with the export in the old format, the weights, the configuration and a picture of 32 px."""
    folder = tmp_path_factory.mktemp("exported")
    paddle.seed(0)
    model = ppcls_ext.build(request.param, class_num=10)
    randomise_norms(model, 0)
    paddle.save(model.state_dict(), str(folder / "w.pdparams"))
    config = {**copy.deepcopy(base_config), "Arch": {"name": request.param, "class_num": 10}}
    config["Infer"]["PostProcess"]["class_id_map_file"] = None
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    options = ["-o", "Global.pretrained_model=w", "Global.save_inference_dir=inference"]
    done = run_tool("export_model", "-c", "config.yml", "--format", "pdmodel", *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "inference" / "inference.pdmodel").is_file()
    return folder


@pytest.fixture(scope="module")
def expected(exported, run_tool) -> list[int]:
    """Our own answer: the five best classes of the picture."""
    options = ["-o", "Global.pretrained_model=w", "Infer.infer_imgs=picture.png", "Infer.PostProcess.topk=5"]
    options += ["Infer.PostProcess.class_id_map_file=null"]
    done = run_tool("infer", "-c", "config.yml", *options, cwd=exported)
    assert done.returncode == 0, done.stderr
    return json.loads(re.search(r"'class_ids': (\[[\d, ]+\])", done.stdout)[1])


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


@needs_checkout
def test_predict_cls(exported, expected):
    deploy = Path(CHECKOUT, "deploy")
    config = yaml.safe_load((deploy / "configs" / "inference_cls.yaml").read_text())
    config["Global"].update(
        infer_imgs=str(exported / "picture.png"),
        inference_model_dir=str(exported / "inference"),
        **{"use_gpu": False, "enable_mkldnn": False},
    )
    normalize = {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.5] * 3, "order": "", "channel_num": 3}
    config["PreProcess"]["transform_ops"] = [{"NormalizeImage": normalize}, {"ToCHWImage": None}]
    config["PostProcess"] = {"main_indicator": "Topk", "Topk": {"topk": 5, "class_id_map_file": None}}
    (exported / "predict.yml").write_text(yaml.safe_dump(config))
    said = run(deploy / "python" / "predict_cls.py", "-c", exported / "predict.yml", cwd=deploy)
    assert json.loads(re.search(r"class id\(s\): (\[[\d, ]+\])", said)[1]) == expected


def test_the_paddleclas_package_reads_it(exported):
    pytest.importorskip("paddleclas", reason="needs the paddleclas wheel")
    code = (
        "import paddleclas; model = paddleclas.PaddleClas(inference_model_dir='inference', use_gpu=False); "
        "print('answer', next(model.predict('picture.png'))[0]['class_ids'])"
    )
    said = run("-W", "ignore", "-c", code, cwd=exported)
    assert len(json.loads(re.search(r"answer (\[.*\])", said)[1])) == 5


@needs_converter
def test_stock_paddle2onnx(exported, expected):
    import onnxruntime
    from paddle2onnx import export

    folder = exported / "inference"
    files = [str(folder / f"inference.{suffix}") for suffix in ("pdmodel", "pdiparams")]
    content = export(*files, save_file=None, opset_version=17, optimize_tool="None")
    session = onnxruntime.InferenceSession(content)
    picture = np.asarray(Image.open(exported / "picture.png"), "float32").transpose(2, 0, 1) / 127.5 - 1
    (scores,) = session.run(None, {session.get_inputs()[0].name: picture[None]})
    assert np.argsort(-scores[0])[:5].tolist() == expected


@needs_checkout
def test_inference_yml_of_develop(run_tool, base_config, dataset, tmp_path, monkeypatch):
    """`Global.export_for_fd`: the list of classes is named from PaddleClas's folder, as in PaddleClas's own files."""
    config = {**copy.deepcopy(base_config), "Arch": {"name": "FasterNet_T0", "class_num": 1000}}
    names = "ppcls/utils/imagenet1k_label_list.txt"
    config["Infer"] = {**config["Infer"], "PostProcess": {"name": "Topk", "topk": 2, "class_id_map_file": names}}
    config["Infer"]["transforms"] = [{"ResizeImage": {"size": 32}}, *config["Infer"]["transforms"]]
    (tmp_path / "config.yml").write_text(yaml.safe_dump(config))
    done = run_tool("export_model", "-c", "config.yml", "-o", "Global.export_for_fd=True", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if "export_for_fd" not in Path(CHECKOUT, "ppcls", "engine", "engine.py").read_text():  # 2.5
        assert "Global.export_for_fd is left out: PaddleClas" in done.stderr
        return
    written = yaml.safe_load((tmp_path / "inference" / "inference.yml").read_text())
    assert written["PostProcess"]["Topk"]["label_list"][:1] == ["tench, Tinca tinca"]
