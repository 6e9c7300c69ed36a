"""A field in a wrong section."""

from __future__ import annotations

import pytest

from ppcls_ext.configuration.load import load_config
from ppcls_ext.errors import PpclsExtError


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("Global.use_sync_bn=True", "Global.use_sync_bn is unknown: it belongs in Arch"),
        ("Global.stop_after=flatten", "Global.stop_after is unknown: it belongs in Arch"),
        ("Infer.epochs=3", "Infer.epochs is unknown: it belongs in Global"),
    ],
)
def test_a_field_of_another_section(config_file, override, message):
    with pytest.raises(PpclsExtError) as caught:
        load_config(config_file, [override])
    assert str(caught.value).startswith(message)


def test_a_field_outside_the_sections(config_file, caplog):
    load_config(config_file, ["epochs=3"])
    assert "epochs stands outside the sections and is left out: it belongs in Global" in caplog.text


def test_fields_that_stand_in_several_sections(config_file):
    assert load_config(config_file, ["Global.class_num=2", "Global.infer_imgs=x.jpg"])["Global"]["class_num"] == 2
