"""ppcls_ext.config.thresholds: which thresholds a multi-label run is exported and used with."""

from __future__ import annotations

import pytest

import ppcls_ext
from ppcls_ext.config.folder import KEY
from ppcls_ext.config.thresholds import own_thresholds
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.checkpoint_sets import SetWriter

GIVEN, POST_PROCESS = "Global.thresholds=[0.1,0.2,0.3]", "Infer.PostProcess.threshold=0.4"


@pytest.fixture
def kept(multi_label_run):
    """The run, whose training chose thresholds."""
    facts = ppcls_ext.Run(multi_label_run).settings.trained_with()
    weights = multi_label_run / "best_model.pdparams"
    writer = SetWriter(multi_label_run / "best_model")
    writer.add(weights, weights.read_bytes())
    writer.commit({"epoch": 1, KEY: {**facts, "thresholds": [0.6, 0.7, 0.8]}})
    return multi_label_run


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], (0.6, 0.7, 0.8)),
        ([POST_PROCESS], (0.4, 0.4, 0.4)),
        ([POST_PROCESS, GIVEN], (0.1, 0.2, 0.3)),
        ([GIVEN], (0.1, 0.2, 0.3)),
    ],
)
def test_what_is_given_counts_before_what_was_chosen(overrides, expected, kept):
    assert ppcls_ext.Run(kept, overrides).metadata.thresholds == expected


def test_none_are_known(multi_label_run, tiny_settings):
    assert ppcls_ext.Run(multi_label_run).metadata.thresholds is None
    with pytest.raises(
        PpclsExtError, match=r"threshold is \[0\.5\]: expected a number from 0 to 1, or 3, one for each"
    ):
        _ = ppcls_ext.Run(multi_label_run, ["Infer.PostProcess.threshold=[0.5]"]).metadata


def test_single_label_has_none(tiny_run):
    settings = ppcls_ext.Run(tiny_run, ["Infer.PostProcess.threshold=0.5"]).settings
    assert own_thresholds(settings, 2) is None
