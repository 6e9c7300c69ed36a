"""Several labels a picture."""

from __future__ import annotations

import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.locate import activate
from tests.options.table import MODELS

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("attributes", [False, True])
def test_multi_label(run, config, dataset, tmp_path, model, attributes):
    lines = (dataset / "train_list.txt").read_text().splitlines()
    labels = [f"{path}\t1,{label},{1 - int(label)}\n" for path, label in map(str.split, lines)]
    (tmp_path / "labels.txt").write_text("".join(labels))
    config["Arch"].update(name=model, class_num=3)
    config["Infer"]["PostProcess"]["class_id_map_file"] = None
    config["Global"]["use_multilabel"] = True
    for loader in config["DataLoader"].values():
        loader["dataset"].update(name="MultiLabelDataset", cls_label_path=str(tmp_path / "labels.txt"))
        if attributes:
            loader["dataset"]["label_ratio"] = True
    loss = {"weight": 1.0, **({"weight_ratio": True, "size_sum": True} if attributes else {})}
    config["Loss"] = {when: [{"MultiLabelLoss": loss}] for when in ("Train", "Eval")}
    config["Metric"] = {
        "Eval": [{"ATTRMetric": None}] if attributes else [{"HammingDistance": None}, {"AccuracyScore": None}]
    }
    if attributes and activate().version.startswith(("2.4", "2.5")):
        with pytest.raises(PpclsExtError, match=r"Loss.Train: MultiLabelLoss.weight_ratio does not work with"):
            run(config)
        return
    run(config)
    run(config, "eval")
