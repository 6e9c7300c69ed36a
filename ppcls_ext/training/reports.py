"""Figures, tables and pages about a training and an evaluation, beside the checkpoints."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Union, cast

import numpy as np
import paddle
import paddle.distributed as dist

from ppcls_ext.config.best import BestBy
from ppcls_ext.config.folder import KEY, config_text, versions
from ppcls_ext.data.image_rule import parse_scale
from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError, one_line, printable
from ppcls_ext.hosts.paddleclas.image_lists import is_image_list
from ppcls_ext.packages import require
from ppcls_ext.predict.latency import machine
from ppcls_ext.report.charts import draw_class_counts, draw_curves
from ppcls_ext.report.evaluation_report import require_own_report, write_evaluation_report
from ppcls_ext.report.figures import drawable
from ppcls_ext.report.image_figures import LARGEST_SHEET, as_rgb, draw_sheet, to_pixels
from ppcls_ext.report.label_report import write_label_report
from ppcls_ext.report.label_scores import LabelScores
from ppcls_ext.report.predictions import Predictions
from ppcls_ext.report.tables import add_metrics
from ppcls_ext.training.evaluation import Answers
from ppcls_ext.training.observers import Epoch, Observer
from ppcls_ext.training.terminal import count_of, duration

logger = logging.getLogger("ppcls_ext")

#: Share of a training's time that drawing its curves may take; the last curves are drawn in any case.
SHARE = 0.01
SHOWN = 4  # classes below an image of the first batch
OUT_OF_ORDER = (
    "--report needs the images in the order of their list, and DataLoader.Eval shuffles them: set its "
    "sampler.shuffle to false"
)


def require_reportable(engine: Any) -> Any:
    """Checks that a report can be written of an engine's evaluations.

    Args:
        engine: ours, built in its mode "train" or "eval".

    Returns:
        The data set that it evaluates on.

    Raises:
        PpclsExtError: the evaluation is of another kind than a list of images, in its order, or matplotlib, which draws
            reports, is missing.
    """
    require("matplotlib")  # before the work, not behind it
    loader = getattr(engine, "eval_dataloader", None)
    dataset = getattr(loader, "dataset", None)
    if engine.eval_mode != "classification" or not is_image_list(dataset) or dist.get_world_size() > 1:
        raise PpclsExtError(
            "--report needs an evaluation on a list of images (ImageNetDataset or MultiLabelDataset, "
            "Global.eval_mode classification) in one process"
        )
    if getattr(getattr(loader, "batch_sampler", None), "shuffle", False):
        raise PpclsExtError(OUT_OF_ORDER)
    return dataset


def _answers_for_report(engine: Any, dataset: Any, names: list[str] | None) -> Predictions | LabelScores:
    """The answers of the engine's last evaluation, with the paths of the images.

    Raises:
        PpclsExtError: the images were not evaluated in the order of their list, or the network gives other answers
            than a row of classes for each.
    """
    labels = engine.answers.labels
    if not np.array_equal(labels, np.asarray(dataset.labels)[: len(labels)]):
        raise PpclsExtError(OUT_OF_ORDER)
    paths = [str(path) for path in dataset.images[: len(labels)]]
    return cast(Union[Predictions, LabelScores], engine.answers.found(engine.evaluations[0].thresholds, paths, names))


class EvaluationReport:
    """Collects the answers of an evaluation that is to come, and writes the report (the option --report).

    Args:
        engine: ours, built in its mode "eval".
        target: the folder to write to; True for "report-eval" in the run's folder, where "report" is the training's.
        data: other images than the configuration's, as the user has named them.

    Raises:
        PpclsExtError: matplotlib is missing, the evaluation is of a kind that has no report, or the folder holds other
            files than a report's.
    """

    def __init__(self, engine: Any, target: str | os.PathLike | bool, data: str | os.PathLike | None = None) -> None:
        self._engine, self._dataset, self._data = engine, require_reportable(engine), data
        engine.answers = Answers(engine.task, needed=True)
        self._begun = time.monotonic()
        self._folder = engine.folder / "report-eval" if isinstance(target, bool) else Path(target)
        require_own_report(self._folder)

    def write(self) -> Path:
        """Writes the report; returns its page."""
        engine = self._engine
        names = engine.settings.trained_with("eval")["class_names"]
        evaluation = _answers_for_report(engine, self._dataset, names)
        figures = {"Curves": engine.folder / "curves.png"}
        if self._data is None:
            figures["Images a class"] = engine.folder / "data.png"
        own = engine.settings.dataset("Eval").get("cls_label_path")
        facts = {
            "weights": engine.settings.section("Global").get("pretrained_model"),
            "evaluated on": own if self._data is None else f"{self._data} (--data)",
            "duration": duration(time.monotonic() - self._begun),
            **_circumstances(),
        }
        title = f"{engine.config['Arch']['name']}: evaluation"
        settings = config_text(engine.settings.config)
        return _write_report(evaluation, self._folder, title, settings, figures, facts)


class TrainingReport(Observer):
    """Writes metrics.csv, curves.png, data.png and batch.png into the folder of a run.

    No failure to write or draw ends a training: the first is logged, and the training goes on without further ones.
    Only the first process writes.

    Args:
        engine: ours, built in its mode "train"; with `Global.report`, a report of the best evaluation is written.
        facts: what the weights are trained with, under `config.folder.KEY`.

    Raises:
        PpclsExtError: that evaluation is of a kind that has no report, or matplotlib is missing for it.
    """

    def __init__(self, engine: Any, facts: dict[str, Any]) -> None:
        self._engine, self._names = engine, facts[KEY]["class_names"]
        self._reports = bool(engine.config["Global"].get("report"))
        if self._reports:
            self._dataset = require_reportable(engine)
            engine.answers = Answers(engine.task, needed=True)
            require_own_report(engine.folder / "report")
        self._best: Any = None
        self._best_by: BestBy | None = engine.best_by
        self._chosen: dict[str, str] = {}
        self._begun = time.monotonic()
        self._trained = self._drawn = 0.0  # seconds
        self._rows: list[dict] = []
        self._is_first = True  # the batch that comes next
        self._off: set[str] = set()

    def begin(self) -> None:
        """Draws how many images each class has."""
        self._begun = time.monotonic()
        self._draw(self._data)

    def first_batch(self, images: Any, labels: Any) -> None:
        """Draws the first batch of the training."""
        if self._is_first:
            self._is_first = False
            self._draw(self._draw_batch, images, labels)

    def epoch(self, epoch: Epoch) -> None:
        """Adds a row to metrics.csv and draws the curves, unless drawing takes too much of the time."""
        self._trained += epoch.seconds
        self._try("rows are added to metrics.csv", self._add_row, epoch)
        if self._reports and epoch.evaluation is not None:
            self._try("answers are kept for the report", self._keep_answers, epoch)
        if self._drawn <= SHARE * self._trained:
            self._draw(self._curves)

    def end(self) -> None:
        """Draws the curves of the whole training, and writes the report of its best evaluation."""
        self._draw(self._end)

    def _draw(self, draw: Callable[..., None], *args: Any) -> None:
        start = time.monotonic()
        self._try("images of this training are drawn", draw, *args)
        self._drawn += time.monotonic() - start

    def _try(self, what: str, write: Callable[..., None], *args: Any) -> None:
        if what in self._off:
            return
        try:
            write(*args)
        except Exception as error:  # no reason to lose a training
            self._off.add(what)
            logger.warning("no further %s: %s", what, one_line(error))

    def _data(self) -> None:
        loaders = {"train": self._engine.train_dataloader, "evaluation": getattr(self._engine, "eval_dataloader", None)}
        datasets: dict[str, Any] = {name: getattr(loader, "dataset", None) for name, loader in loaders.items()}
        labels = {name: dataset.labels for name, dataset in datasets.items() if is_image_list(dataset)}
        images = {name: len(values) for name, values in labels.items()}
        if self._engine.task == MULTI_LABEL:
            labels = {name: np.nonzero(np.asarray(values))[1] for name, values in labels.items()}
        classes = self._engine.config["Arch"].get("class_num") or 1000
        if labels:
            draw_class_counts(labels, self._names, classes, self._engine.place / "data.png", images)

    def _draw_batch(self, images: Any, labels: Any) -> None:
        images, labels = images.numpy(), labels.numpy()
        if self._engine.task == MULTI_LABEL and labels.ndim == 3:
            labels = labels[:, 0]  # with `label_ratio`, the classes' shares stand below
        if images.ndim == 4:
            pixels = _pixels(images[:LARGEST_SHEET], self._engine.config["DataLoader"]["Train"]["dataset"])
            captions = [self._caption(label) for label in labels.reshape(len(labels), -1)[:LARGEST_SHEET]]
            title = (
                f"first batch: {len(images)} images of {images.shape[3]} × {images.shape[2]} px, as the net sees them"
            )
            draw_sheet(list(as_rgb(pixels)), captions, title, self._engine.place / "batch.png")

    def _caption(self, label: np.ndarray) -> list[str]:
        if self._engine.task == MULTI_LABEL:
            shown = [self._name(int(index)) for index in np.flatnonzero(label > 0.5)]
            more = [f"and {len(shown) - SHOWN + 1} more"] if len(shown) > SHOWN else []
            return [*shown[: SHOWN - len(more)], *more] or ["no class"]
        if len(label) == 1:
            return [self._name(int(label[0]))]
        parts = [index for index in np.argsort(-label, kind="stable")[:2] if label[index] > 0]
        return [f"{label[index]:.0%} {self._name(int(index))}" for index in parts]

    def _name(self, index: int) -> str:
        names = self._names or []
        return drawable(names[index] if index < len(names) else "", f"class {index}")

    def _add_row(self, epoch: Epoch) -> None:
        self._rows = add_metrics(self._engine.folder / "metrics.csv", self._row(epoch))

    def _keep_answers(self, epoch: Epoch) -> None:
        if epoch.is_best and epoch.evaluation is not None:
            self._best = _answers_for_report(self._engine, self._dataset, self._names)
            self._chosen = {"best by": f"{self._best_by}: {epoch.evaluation.value:.4f} in epoch {epoch.number}"}

    def _row(self, epoch: Epoch) -> dict[str, float]:
        row = {
            "epoch": epoch.number,
            "step": epoch.number * len(self._engine.train_dataloader),
            "learning_rate": epoch.learning_rate,
            "images_per_second": epoch.images / max(epoch.seconds, 1e-9),
            **{f"train_{name}": value for name, value in epoch.train.items()},
        }
        if epoch.evaluation is not None:
            values = {epoch.evaluation.metric: epoch.evaluation.value, **epoch.evaluation.metrics}
            row.update({f"eval_{name}": value for name, value in values.items()})
        if epoch.best is not None and self._best_by is not None:
            row[f"best_{self._best_by.name}"] = epoch.best
        return row

    def _curves(self) -> None:
        if self._rows:
            by = self._best_by or BestBy("top1", "max")
            draw_curves(self._rows, self._engine.folder / "curves.png", by.name, by.mode == "max")

    def _end(self) -> None:
        self._curves()
        folder = self._engine.folder
        if self._reports and self._best is None and not self._off:
            print("report: none, as no evaluation of this training was its best (Global.eval_interval)")
        if self._best is not None:
            figures = {"Curves": folder / "curves.png", "Images a class": folder / "data.png"}
            figures["First training batch"] = folder / "batch.png"
            title = f"{self._engine.config['Arch']['name']}: best evaluation"
            settings = config_text(self._engine.settings.config)
            resumed = " since it was resumed" if self._engine.resumed else ""
            facts = {
                "weights": folder / "best_model.pdparams",
                **self._chosen,
                "duration": f"{duration(time.monotonic() - self._begun)}{resumed}, evaluations included",
                "computed in": str(self._engine.precision),
                **_circumstances(),
            }
            page = _write_report(self._best, folder / "report", title, settings, figures, facts)
            print(f"report: {printable(str(page))}")


def _circumstances() -> dict[str, str]:
    """Returns the rows of a report's summary that tell the machine and the versions."""
    device, threads = paddle.device.get_device(), os.environ.get("OMP_NUM_THREADS", "")
    on = count_of(int(threads), "thread") if threads.isdecimal() and device == "cpu" else device
    installed = ", ".join(f"{package} {version}" for package, version in versions().items())
    return {"machine": f"{machine()}, {on}", "versions": installed}


def _write_report(
    found: Predictions | LabelScores,
    folder: Path,
    title: str,
    settings: str,
    figures: dict[str, Path],
    facts: Mapping[str, object] | None = None,
) -> Path:
    if isinstance(found, LabelScores):
        return write_label_report(found, folder, title, settings, figures, facts)
    return write_evaluation_report(found, folder, title, settings, figures, facts)


def _pixels(images: np.ndarray, dataset: dict) -> np.ndarray:
    """Network inputs as images: their normalisation undone where it can be read, else stretched to all levels."""
    for operator in dataset.get("transform_ops") or ():
        named = operator if isinstance(operator, dict) else {}
        options = named.get("NormalizeImage") or named.get("NormalizeChannels")
        if options:
            mean, std = options.get("mean") or (0.485, 0.456, 0.406), options.get("std") or (0.229, 0.224, 0.225)
            scale = 1 / 255 if options.get("scale") is None else parse_scale(options["scale"])
            return to_pixels(images, mean, std, scale)
    low, high = float(images.min()), float(images.max())
    return to_pixels((images - low) / max(high - low, 1e-9), (0, 0, 0), (1, 1, 1))
