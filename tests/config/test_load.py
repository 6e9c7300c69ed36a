"""The YAML file and its overrides."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from ppcls_ext.config.load import load_config
from ppcls_ext.errors import PpclsExtError


@pytest.fixture
def path(tmp_path) -> Path:
    file = tmp_path / "MobileOne_S0.yml"
    file.write_text(
        "Global: {epochs: 3, lr: 0.1, device: gpu, output_dir: null}\n"
        "Arch: {name: MobileOne_S0}\n"
        "Metric: {Eval: [{TopkAcc: {topk: [1, 5]}}]}\n"
    )
    return file


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("-0.5", -0.5),
        ("True", True),
        ("true", True),
        ("false", False),
        ("None", None),
        ("null", None),
        ("[1,2]", [1, 2]),
        ("1,5", (1, 5)),
        ("[a, b]", ["a", "b"]),
        ("{a: 1}", {"a": 1}),
        ("{'a': 1}", {"a": 1}),
        ("gpu", "gpu"),
        ("'3'", "3"),
        ("a=b=c", "a=b=c"),
        ("/data/x=1,y=2/best_model", "/data/x=1,y=2/best_model"),
        ("", ""),
        ("1/255", "1/255"),
        ("2026-11-22", "2026-11-22"),
        ("exit()", "exit()"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
    ],
)
def test_value(path, text, value):
    got = load_config(path, [f"Global.device={text}"])["Global"]["device"]
    assert got == value
    assert type(got) is type(value)


def test_arithmetic_where_a_number_stood(path):
    assert load_config(path, ["Global.lr=0.1/4"])["Global"]["lr"] == 0.025


def test_paths(path):
    config = load_config(path, ["Metric.Eval.0.TopkAcc.topk.1=3", "Global.epochs=7", "Optimizer.lr.name=Cosine"])
    assert config["Metric"]["Eval"][0]["TopkAcc"]["topk"] == [1, 3]
    assert config["Global"]["epochs"] == 7
    assert config["Optimizer"] == {"lr": {"name": "Cosine"}}, "missing sections are made"
    assert config["Arch"] == {"name": "MobileOne_S0"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Global.epochs", "expected A.B.C=value"),
        ("=3", "expected A.B.C=value"),
        ("Global..epochs=3", "expected A.B.C=value"),
        ("Global.epochs.x=3", "Global.epochs is 3, which has no fields"),
        ("Metric.Eval.1.x=3", "Metric.Eval is a list of 1: expected 0 to 0, not 1"),
        ("Metric.Eval.x=3", "Metric.Eval is a list of 1: expected 0 to 0, not x"),
        ("Global.device=[1,", "neither a Python nor a YAML list"),
        ("Global.epoch=3", "Global.epoch is unknown: did you mean Global.epochs?"),
        ("Gloabl.epochs=3", "Gloabl is unknown: did you mean Global?"),
        ("Arch.clas_num=3", "Arch.clas_num is unknown: did you mean Arch.class_num?"),
    ],
)
def test_bad_override(path, override, message):
    with pytest.raises(PpclsExtError) as error:
        load_config(path, [override])
    assert message in str(error.value)


def test_missing_file_names_the_near_ones(path):
    with pytest.raises(PpclsExtError, match=r"no configuration .*MobileOne_S1.yml; near it: .*MobileOne_S0.yml"):
        load_config(path.with_name("MobileOne_S1.yml"))


def test_hidden_files_are_not_suggested(tmp_path):
    (tmp_path / ".pre-commit-config.yaml").write_text("repos: []\n")
    with pytest.raises(PpclsExtError, match="near it: no YAML file in"):
        load_config(tmp_path / "nonsense.yml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Global:\n  a: 1\n b: 2\n", ":3: not YAML"),
        (b"Global: {a: 1\n", ":2: not YAML"),
        (b"Global: !!python/object/apply:os.getcwd []\n", ":1: not YAML"),
        (b"- 1\n- 2\n", ":1: expected sections (Global:, Arch:, …), got list"),
        (b"", ":1: expected sections (Global:, Arch:, …), got NoneType"),
        (b"Global:\n  epochs: 1\n  epochs: 2\n", ":3: not YAML: epochs is given twice"),
        (b"\xff\xfe\x00", "not text in UTF-8"),
    ],
)
def test_bad_file(tmp_path, content, message):
    path = tmp_path / "bad.yml"
    path.write_bytes(content)
    with pytest.raises(PpclsExtError) as error:
        load_config(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_yaml_merge_keys_still_work(tmp_path):
    path = tmp_path / "merged.yml"
    path.write_text("Global: &g {a: 1, b: 2}\nArch: {<<: *g, b: 3}\n")
    assert load_config(path)["Arch"] == {"a": 1, "b": 3}


@pytest.mark.skipif("PADDLECLAS_HOME" not in os.environ, reason="needs a checkout: set PADDLECLAS_HOME to it")
def test_paddleclas_own_files_load_as_they_are():
    files = sorted(Path(os.environ["PADDLECLAS_HOME"], "ppcls", "configs").rglob("*.yaml"))[::16]
    assert len(files) > 10
    for file in files:
        assert load_config(file) == yaml.safe_load(file.read_text(encoding="utf-8")), file
