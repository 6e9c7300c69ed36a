"""A field in a wrong section."""

from __future__ import annotations

import pytest

from ppcls_ext.config.load import load_config
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


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("DataLoader.Trian.sampler.batch_size=8", "DataLoader.Train"),
        ("DataLoader.Train.datset.image_root=x", "DataLoader.Train.dataset"),
        ("DataLoader.Train.loader.num_worker=2", "DataLoader.Train.loader.num_workers"),
        ("Loss.Trian=[]", "Loss.Train"),
        ("Metric.Evall=[]", "Metric.Eval"),
        ("AMP.use_ampp=True", "AMP.use_amp"),
    ],
)
def test_names_between_a_section_and_what_is_built(config_file, override, near):
    with pytest.raises(PpclsExtError, match=f" is unknown: did you mean {near}\\?".replace(".", "\\.")):
        load_config(config_file, [override])


@pytest.mark.parametrize("field", ["loader.num_workers", "loader.use_shared_memory", "dataset.name", "sampler"])
def test_what_a_loader_needs(config, field):
    from ppcls_ext.config.checks import require_fields

    node, (*above, last) = config["DataLoader"]["Train"], field.split(".")
    for part in above:
        node = node[part]
    del node[last]
    with pytest.raises(PpclsExtError, match=rf"the configuration has no DataLoader\.Train\.{field}"):
        require_fields(config, "train")
