"""The report of several labels an image: its files, for few and many classes, a perfect net and absent classes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ppcls_ext.report.label_report import NAMED, write_label_report
from ppcls_ext.report.label_scores import LabelScores

pytest.importorskip("matplotlib")


def scores_of(folder, classes: int, right: bool = False) -> LabelScores:
    """Eight images, of which one is gone."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (8, classes))
    labels[:, 1] = 0
    scores = labels * 0.8 + 0.1 if right else rng.random((8, classes))
    paths = [str(folder / f"{index}.png") for index in range(8)]
    for path in paths[1:]:
        Image.fromarray(rng.integers(0, 255, (9, 12, 3), "uint8")).save(path)
    names = ["a rose", "<b>", "$x_1$", *(f"name {index}" for index in range(3, classes))]
    return LabelScores(paths, labels, scores, (0.5,) * classes, names)


@pytest.mark.parametrize("classes", [3, NAMED + 1])
def test_files(tmp_path, classes):
    found = scores_of(tmp_path, classes)
    page = write_label_report(found, tmp_path / "report", "net: evaluation", "Global: {}").read_text(encoding="utf-8")
    rows = (tmp_path / "report" / "per_class.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "class,name,images,average_precision,threshold,precision,recall,f1"
    assert len(rows) == classes + 1
    assert rows[2].startswith("1,<b>,0,,0.5,0,,"), "a class that no image shows has neither AP nor recall nor F1"
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    for words in ("mAP", "macro F1", "exact match", "Most confidently wrong", "Average precision"):
        assert words in page
    for name in ("average_precision.png", "mistakes.png"):
        with Image.open(tmp_path / "report" / name) as drawn:
            assert drawn.convert("L").getextrema()[0] < 100, "not blank"


def test_a_perfect_net_has_no_mistakes(tmp_path):
    folder = tmp_path / "report"
    write_label_report(scores_of(tmp_path, 3), folder, "net", "")
    assert (folder / "mistakes.png").is_file()
    page = write_label_report(scores_of(tmp_path, 3, right=True), folder, "net", "").read_text(encoding="utf-8")
    assert not (folder / "mistakes.png").exists(), "an older one does not stay"
    assert "Most confidently wrong" not in page
