"""The time that a training may take: its spelling, and what it cannot be combined with."""

from __future__ import annotations

import pytest

from ppcls_ext.config.budget import read_budget, read_time
from ppcls_ext.config.load import load_config
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import PpclsExtError


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("90s", 90), ("2h", 7200), ("1h1m1s", 3661), ("0h1s", 1)]
)
def test_times(text, seconds):
    assert read_time(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "30", "m", "30 m", "-5m", "0m", "1.5h", "30m1h", "٣m", 30, None, True, "9" * 99 + "s"]
)
def test_what_is_no_time(text):
    assert read_time(text) is None


def settings_with(section: str, **fields) -> RunSettings:
    return RunSettings(load_config("MobileOne_S0")).changed("Global", budget="30m").changed(section, **fields)


def test_a_budget_is_read():
    assert read_budget(RunSettings(load_config("MobileOne_S0"))) is None
    assert read_budget(settings_with("Global")) == 1800


@pytest.mark.parametrize(
    ("section", "fields", "what"),
    [
        ("Global", {"budget": "soon"}, "'soon': expected a time such as 30m"),
        ("Global", {"budget": 30}, "30: expected a time"),
        ("Global", {"checkpoints": "latest"}, "is resumed"),
        ("Global", {"train_mode": "progressive"}, "a loop of its own"),
        ("Global", {"eval_mode": "retrieval"}, "not classification"),
        ("Global", {"use_dali": True}, "use_dali"),
        ("Recipe", {"progressive": [{"epoch": 1, "size": 32}]}, "names epochs itself"),
        ("Optimizer", {"lr": {"name": "Piecewise"}}, "names epochs itself"),
    ],
)
def test_what_goes_with_no_budget(section, fields, what):
    with pytest.raises(PpclsExtError, match=rf"Global\.budget \(--budget\) is .*{what}"):
        read_budget(settings_with(section, **fields))


def test_several_optimizers_are_looked_through():
    settings = settings_with("Global")
    settings.config["Optimizer"] = [{"AdamW": {"scope": "Arch", "lr": {"name": "Step"}}}]
    with pytest.raises(PpclsExtError, match="names epochs itself"):
        read_budget(settings)
