"""The measures of a classifier on labelled images: one form of result, wherever its scores come from.

The network may run in PaddleClas's engine, as an exported file in any runtime, or anything else that gives scores.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ppcls_ext.data.image_input import TTA
from ppcls_ext.data.labelled import LabelledImages
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError, printable_name
from ppcls_ext.packages import require
from ppcls_ext.predict.answers import Threshold, check_threshold, thresholds_of
from ppcls_ext.predict.classifier import AHEAD, BATCH, Classifier, ahead
from ppcls_ext.progress import progress, ticks
from ppcls_ext.report import label_scores, predictions
from ppcls_ext.report.label_scores import LabelScores
from ppcls_ext.report.predictions import BINS, Answered, Predictions, Ranked, answered, macro_f1, ranked, reliability

#: The k of top-k where none is asked for.
DEFAULT_TOPK = 5
#: Rows whose ranks are taken at once.
ROWS = 256


class Evaluated(NamedTuple):
    """The measures of a classifier on labelled images; `print` shows them.

    Attributes:
        model: what was measured: the file, or the folder of a run.
        metrics: by name: "top1" and the like, "f1_macro" and "ece", the expected calibration error, of one class an
            image; "mAP", "f1_micro", "f1_macro", "hamming_distance" and "exact_match" of several. "loss" where a run
            has one.
        images: number of images.
        seconds: that measuring them took, decoding included.
        found: the answers; None where PaddleClas compares images with each other, as for retrieval.
        threshold: the least probability of an answer, where one is asked for; of one class an image.
        size: of the file, bytes; None where unknown.
        tta: test-time augmentation: "flip", "ten-crop" or None.
        evaluations: of a run: one `ppcls_ext.training.evaluation.Evaluation` per number of images that a metric of
            PaddleClas's has seen, usually a single one.
        page: the report's HTML page; None where no report was asked for.
    """

    model: str
    metrics: dict[str, float]
    images: int
    seconds: float
    found: Predictions | LabelScores | None
    threshold: float | None = None
    size: int | None = None
    tta: str | None = None
    evaluations: Sequence[Any] = ()
    page: Path | None = None

    @property
    def top1(self) -> float | None:
        """The share of images whose most probable class is the right one; None for several labels an image."""
        return self.metrics.get("top1")

    @property
    def f1_macro(self) -> float | None:
        """The mean F1 of the classes: those that have an image or are predicted; all of them for several labels."""
        return self.metrics.get("f1_macro")

    @property
    def ece(self) -> float | None:
        """The expected calibration error in 15 bins: the mean of `|confidence − accuracy|`; None for several labels."""
        return self.metrics.get("ece")

    @property
    def mAP(self) -> float | None:
        """The mean average precision of several labels an image; None for one."""
        return self.metrics.get("mAP")

    @property
    def images_per_second(self) -> float:
        """Images a second, decoding included."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def per_class(self) -> list[dict[str, Any]]:
        """A row per class: "class", "name", "images", "precision", "recall" and "f1", None where there is no value.

        For several labels an image also "average_precision" and "threshold".
        """
        if isinstance(self.found, LabelScores):
            return label_scores.per_class(self.found)
        rows = [] if self.found is None else predictions.per_class(self.found)
        return [
            {
                "class": row["class"],
                "name": row["name"],
                "images": row["pictures"],
                "precision": row["precision"],
                "recall": row["accuracy"],
                "f1": row["f1"],
            }
            for row in rows
        ]

    @property
    def answered(self) -> list[Answered]:
        """How many images are answered and how many of these right, by the least probability of an answer."""
        if not isinstance(self.found, Predictions):
            return []
        return answered(self.found) if self.threshold is None else answered(self.found, [self.threshold])

    def as_dict(self, per_class: bool = False) -> dict[str, Any]:
        """Returns the figures for a JSON document; with `per_class`, also the table of classes."""
        result = {
            "model": self.model,
            "images": self.images,
            "classes": None if self.found is None else self.found.classes,
            "metrics": {name: value if np.isfinite(value) else None for name, value in self.metrics.items()},
            "ece_bins": BINS if "ece" in self.metrics else None,
            "answered": [point._asdict() for point in self.answered],
            "images_per_second": self.images_per_second,
            "bytes": self.size,
            "tta": self.tta,
        }
        return {**result, "per_class": self.per_class} if per_class else result

    def __str__(self) -> str:
        lines = [str(evaluation) for evaluation in self.evaluations]
        known = {name for evaluation in self.evaluations for name in (evaluation.metric, *evaluation.metrics)}
        figures = {name: value for name, value in self.metrics.items() if name not in known}
        single = isinstance(self.found, Predictions)
        first = {name: value for name, value in figures.items() if not (single and name in ("f1_macro", "ece"))}
        text = ", ".join(f"{name} {value:.4f}" for name, value in first.items())
        if not lines:
            views = f" (tta: {self.tta})" if self.tta else ""
            lines, text = [f"{text} over {self.images} images{views}"], ""
        rest = [text] if text else []
        if single:
            rest.append(f"macro F1 {self.metrics['f1_macro']:.4f}")
            rest.append(f"calibration error {self.metrics['ece']:.4f} (ECE, {BINS} bins)")
        if self.images and self.seconds:
            rest.append(f"{self.images_per_second:.{0 if self.images_per_second > 10 else 1}f} images/s")
        lines += [", ".join(rest)] if rest else []
        if self.threshold is not None:
            lines += map(str, self.answered)
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)  # what a notebook shows


class Comparison(list[Evaluated]):
    """Several results on the same images; `print` shows them as a table."""

    def __str__(self) -> str:
        return "\n".join(table(self))

    def __repr__(self) -> str:
        return str(self)


def check_topk(topk: int | None, task: str, classes: int | None) -> None:
    """Raises PpclsExtError unless a top-k accuracy says something: of one class an image, and more than k classes."""
    if topk is None:
        return
    if task == MULTI_LABEL:
        raise PpclsExtError("topk is for one class an image, and this net tells several: leave it out")
    if type(topk) is not int or topk < 1 or topk >= (classes or topk + 1):
        known = f", and there are {classes} classes" if classes else ""
        raise PpclsExtError(f"topk is {topk!r}{known}: expected a whole number from 1 that is less than their number")


def measures_of(found: Predictions | LabelScores, topk: int | None = None) -> dict[str, float]:
    """Computes the metrics of answers; see `Evaluated.metrics`.

    Args:
        found: the answers to labelled images.
        topk: the k of a further accuracy, of one class an image; None for 5, left out where there are no more classes.
    """
    if isinstance(found, LabelScores):
        return label_scores.measures(found)
    k = DEFAULT_TOPK if topk is None else topk
    ks = [1, *([k] if 1 < k < found.classes else [])]
    accuracies = {f"top{k}": found.accuracy(k) for k in ks}
    return {**accuracies, "f1_macro": macro_f1(found), "ece": reliability(found).error}


def evaluate_file(
    classifier: Classifier,
    images: LabelledImages,
    model: str,
    *,
    topk: int | None = None,
    threshold: Threshold | None = None,
    tta: str | None = None,
    size: int | None = None,
    report: str | os.PathLike | None = None,
    data: str | os.PathLike | None = None,
    settings: str | None = None,
) -> Evaluated:
    """Measures a classifier on labelled images.

    Args:
        classifier: of an exported file, or of any network.
        images: the images.
        model: its name in the result.
        topk: see `measures_of`.
        threshold: of one class an image, the least probability of an answer, a number; of several, the score from which
            on an image shows a class, in the place of the file's own (see `Classifier.__call__`).
        tta: test-time augmentation, whose views' scores are averaged: "flip" or "ten-crop"; see `network_inputs`.
        size: of the file, bytes.
        report: a folder to write a report to.
        data: what the images are, for the report.
        settings: of the model, as text, for the report; the metadata where None.

    Raises:
        PpclsExtError: an image cannot be read, a label has no class, or an option is out of range; or a report cannot
            be written.
    """
    metadata, labels = classifier.metadata, images.labels
    if report is not None:
        require_report(report)
    classifier.check_tta(tta)
    sure = least_probability(metadata.task, threshold)
    parts: list[Any] = []
    begin, classes, at = time.perf_counter(), 0, 0
    rows = _scores(classifier, images.files, tta)
    with progress("evaluating") as shown:
        tick = ticks(shown, len(images.files))
        while some := [row for row in itertools.islice(rows, ROWS) if tick() is None]:
            scores = np.stack(some)
            if not at:
                classes = scores.shape[1]
                check_topk(topk, metadata.task, classes)
                _require_known(images, metadata.task, classes)
            true = labels[at : at + len(some)]
            parts.append(scores if metadata.task == MULTI_LABEL else ranked(scores, true))
            at += len(some)
    seconds = time.perf_counter() - begin
    found: Predictions | LabelScores
    if metadata.task == MULTI_LABEL:
        limits = thresholds_of(metadata, classes, threshold).tolist()
        found = LabelScores(images.files, labels, np.concatenate(parts), limits, metadata.class_names).check()
    else:
        ranks: list[Ranked] = parts
        found = Predictions.of_batches(images.files, labels, ranks, classes, metadata.class_names).check()
    metrics = measures_of(found, topk)
    if np.isnan(metrics.get("mAP", 0.0)):
        raise PpclsExtError("no evaluated image shows any class, so that mAP says nothing: evaluate on others")
    result = Evaluated(model, metrics, len(labels), seconds, found, sure, size, tta)
    if report is None:
        return result
    if settings is None:
        settings = "\n".join(f"{key}: {value}" for key, value in metadata.to_properties().items())
    return result._replace(page=_write_report(result, report, settings, data))


def least_probability(task: str, threshold: Threshold | None) -> float | None:
    """Returns the least probability of an answer, of one class an image; None where none is asked for.

    Raises:
        PpclsExtError: it is no number from 0 to 1.
    """
    if threshold is None or task != SINGLE_LABEL:
        return None
    values = list(threshold.items()) if isinstance(threshold, Mapping) else [(None, threshold)]
    if len(values) != 1 or values[0][0] is not None:
        raise PpclsExtError("thresholds of single classes are for several labels an image: give one number for all")
    return check_threshold(values[0][1])


def _scores(classifier: Classifier, files: Iterable[str], tta: str | None) -> Iterator[np.ndarray]:
    """Yields the scores (classes,) of each file, the mean over its views."""
    size, views = classifier.batch or BATCH, TTA[tta] if tta else 1
    prepare = partial(classifier.views, tta=tta)
    inputs = itertools.chain.from_iterable(ahead(prepare, files, AHEAD * max(1, size // views)))
    batches = iter(lambda: list(itertools.islice(inputs, size)), [])
    rows = itertools.chain.from_iterable(classifier.scores_of(batch) for batch in batches)
    while some := list(itertools.islice(rows, views)):
        yield some[0] if views == 1 else np.mean(some, axis=0)


def _require_known(images: LabelledImages, task: str, classes: int) -> None:
    if task == MULTI_LABEL:
        if images.labels.shape[1] != classes:
            raise PpclsExtError(
                f"the list has {images.labels.shape[1]} labels an image, and the network tells {classes} classes"
            )
    elif (highest := int(images.labels.argmax())) >= 0 and images.labels[highest] >= classes:
        raise PpclsExtError(
            f"{images.files[highest]} is of class {images.labels[highest]}, and the network tells the classes 0 to "
            f"{classes - 1}: give a list of its own classes"
        )


def require_report(folder: str | os.PathLike) -> None:
    """Checks, before the work, that a report can be written.

    Raises:
        PpclsExtError: matplotlib is missing, or the folder holds other files than a report's.
    """
    require("matplotlib")
    from ppcls_ext.report.evaluation_report import require_own_report

    require_own_report(Path(folder))


def _write_report(result: Evaluated, folder: str | os.PathLike, settings: str, data: str | os.PathLike | None) -> Path:
    """Writes the report of a result; returns its page."""
    from ppcls_ext.report.evaluation_report import write_evaluation_report
    from ppcls_ext.report.label_report import write_label_report

    facts = {"weights": result.model, "test-time augmentation": result.tta, "evaluated on": data}
    facts = {name: str(value) for name, value in facts.items() if value is not None}
    title = f"{Path(result.model).name}: evaluation"
    if isinstance(result.found, LabelScores):
        return write_label_report(result.found, folder, title, settings, None, facts)
    assert result.found is not None, "as evaluate_file makes it"
    return write_evaluation_report(result.found, folder, title, settings, None, facts)


def size_of(path: str | os.PathLike) -> int:
    """Returns the bytes of a file, or of the files in a folder."""
    path = Path(path)
    files = [file for file in path.iterdir() if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def table(results: Sequence[Evaluated]) -> list[str]:
    """Returns the lines of a table: a row for each result."""
    head = ["model", "MiB", *_columns(results), "images/s"]
    rows = [[printable_name(result.model), *_cells(result, head[1:])] for result in results]
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in (head, *rows)
    ]


#: Heading → metric, in the order of a table's columns.
COLUMNS = {"mAP": "mAP", "top-1": "top1", "macro F1": "f1_macro", "ECE": "ece"}


def _columns(results: Sequence[Evaluated]) -> list[str]:
    there = set().union(*(result.metrics for result in results))
    columns = [heading for heading, name in COLUMNS.items() if name in there]
    return [*columns, *(["answered", "of them right"] if any(one.threshold is not None for one in results) else [])]


def _cells(result: Evaluated, head: Sequence[str]) -> list[str]:
    values = {heading: result.metrics.get(name) for heading, name in COLUMNS.items()}
    cells = {heading: "" if value is None else f"{value:.4f}" for heading, value in values.items()}
    cells["MiB"] = "" if result.size is None else f"{result.size / 2**20:.2f}"
    cells["images/s"] = f"{result.images_per_second:.1f}"
    if result.threshold is not None:
        (point,) = result.answered
        cells["answered"] = f"{point.share:.1%}"
        cells["of them right"] = "" if point.accuracy is None else f"{point.accuracy:.1%}"
    return [cells.get(heading, "") for heading in head]


def class_table(result: Evaluated) -> list[str]:
    """Returns the lines of a table of the classes, those with the least F1 first, those without an image last."""
    rows = sorted(result.per_class, key=lambda row: (row["f1"] is None, row["f1"], row["class"]))
    names = [printable_name(row["name"]) for row in rows]
    width = max(map(len, ["class", *names]))
    lines = [f"{'class':<{width}}  precision  recall      F1  images"]
    for name, row in zip(names, rows):
        values = ("–" if row[key] is None else f"{row[key]:.4f}" for key in ("precision", "recall", "f1"))
        precision, recall, f1 = values
        lines.append(f"{name:<{width}}  {precision:>9}  {recall:>6}  {f1:>6}  {row['images']:>6}")
    return lines
