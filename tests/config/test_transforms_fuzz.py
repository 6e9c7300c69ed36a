"""Whatever stands below transforms, losses and metrics is checked, or refused with its place."""

from __future__ import annotations

import contextlib
import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppcls_ext.config.host_classes import resolve
from ppcls_ext.data.image_rule import rule_from_transforms
from ppcls_ext.errors import PpclsExtError

NAMES = ["ResizeImage", "NormalizeImage", "RandomErasing", "OpSampler", "RandomApply", "MixupOperator", "CropImage"]
EVIL = ["open", "__import__", "eval", "exit", "np", "random", "Image", "__class__", "os.system", "(lambda: 0)", "nn"]
KEYS = ["scale", "EPSILON", "sl", "name", "transforms", "size", "transform_ops", "base_loss_name", "prob", "mean"]
TEXTS = ["1.0/255.0", "1/0", "__import__('os').abort()", "9**9**9", "(" * 300, "-" * 300 + "1", "os.abort()", ""]

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*TEXTS, *NAMES, *EVIL]),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.sampled_from([*NAMES, *EVIL, *KEYS]) | st.text(max_size=4), below, max_size=3)
    ),
    max_leaves=10,
)
PLACES = ["transform_ops", "batch_transform_ops", "transform_ops_weak"]
SECTIONS = ("DataLoader", "Infer", "Loss", "Metric")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), transforms=st.lists(VALUES, max_size=3), other=VALUES)
def test_any_transforms(registered, place, transforms, other):
    config = {
        "Global": {},
        "DataLoader": {"Train": {"dataset": {place: copy.deepcopy(transforms)}}},
        "Infer": {"transforms": copy.deepcopy(transforms)},
        "Loss": {"Train": [other]},
        "Metric": {"Eval": [other]},
    }
    try:
        resolve(config, SECTIONS)
    except PpclsExtError:
        return
    for section in (config["DataLoader"]["Train"]["dataset"][place], config["Infer"]["transforms"]):
        tops = {name for item in section if isinstance(item, dict) for name in item}
        assert not tops & set(EVIL)
        assert all(isinstance(item, dict) for item in section)


@settings(max_examples=200, deadline=None)
@given(
    transforms=st.lists(
        st.dictionaries(st.sampled_from(["DecodeImage", "ToCHWImage", *NAMES]), VALUES, min_size=1, max_size=1)
        | VALUES,
        max_size=6,
    )
)
def test_any_transforms_as_a_rule(transforms):
    with contextlib.suppress(PpclsExtError):
        rule_from_transforms(transforms)


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("evil", EVIL)
def test_nested_random_apply(registered, depth, evil):
    """RandomApply within RandomApply: each level is looked up in the module that evaluates it."""
    transforms = [{evil: {"name": "evilmod"}}]
    for _ in range(depth):
        transforms = [{"RandomApply": {"p": 1.0, "transforms": transforms}}]
    with pytest.raises(PpclsExtError, match=r"^Infer\.transforms\.0"):
        resolve({"Global": {}, "Infer": {"transforms": transforms}}, ("Infer",))
