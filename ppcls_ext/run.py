"""`Run`: a trained run or a configuration, and all that can be done with it; `train` makes one.

The commands and notebooks call the same functions. Paddle and PaddleClas are loaded by the method that needs them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppcls_ext.config.folder import CONFIG, config_text, find_run, read_config
from ppcls_ext.config.lists import evaluate_on, images_in, list_at, list_of_run
from ppcls_ext.config.load import load_config, override
from ppcls_ext.config.numbered import LATEST, with_own_folder
from ppcls_ext.config.schedule import open_fields
from ppcls_ext.config.settings import RunSettings, open_config, open_run
from ppcls_ext.config.thresholds import own_thresholds
from ppcls_ext.config.train_options import DEFAULT, set_options
from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import PreparedImages, check_tta, network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.data.labelled import LabelledImages, labelled_images
from ppcls_ext.data.lists import MULTI_LABEL, ListEntry
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.opset import PRECISIONS, default_opset, require_precision
from ppcls_ext.files import atomic_write, require_within
from ppcls_ext.packages import require
from ppcls_ext.predict.answers import Choice, Classes, thresholds_of
from ppcls_ext.predict.classifier import BATCH, Classified, Classifier, classify
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.runtimes import is_exported
from ppcls_ext.progress import hidden, progress, ticks
from ppcls_ext.report.measured import (
    Comparison,
    Evaluated,
    check_topk,
    evaluate_file,
    least_probability,
    measures_of,
    size_of,
)

if TYPE_CHECKING:
    from ppcls_ext.data.image_input import ImageLike
    from ppcls_ext.export.formats import ExportedFile
    from ppcls_ext.export.pipeline import ExportReport
    from ppcls_ext.models.backbone import Backbone
    from ppcls_ext.predict.answers import Threshold
    from ppcls_ext.predict.evidence import Halves
    from ppcls_ext.training.engine import Engine, Loss
    from ppcls_ext.training.observers import Observer

logger = logging.getLogger("ppcls_ext")


class CheckedList(NamedTuple):
    """A list whose images were decoded.

    Attributes:
        path: the list file.
        images: number of images that it names.
        unreadable: the entries whose images cannot be read, each with the reason.
    """

    path: Path
    images: int
    unreadable: list[tuple[ListEntry, str]]


class Run:
    """A run that a training wrote, or a configuration.

    Args:
        source: the folder that a training wrote, a file of weights in it, a PaddleClas YAML file, or the name of a
            shipped configuration such as "ImageNet/RepVGG_A0". What is opened already is taken as it is.
        overrides: `A.B.1.C=value` texts, as behind -o.

    Attributes:
        settings: the configuration, typed: architecture, classes, image rule, lists, weights, recipe, folder.

    Raises:
        PpclsExtError: there is no such run or configuration, or it is damaged.
    """

    def __init__(self, source: str | os.PathLike | RunSettings, overrides: Sequence[str] = ()) -> None:
        self.settings = source if isinstance(source, RunSettings) else _open(source, overrides)

    def __repr__(self) -> str:
        return f"Run({self.settings.arch.name}, {str(self.folder)!r})"

    @property
    def folder(self) -> Path:
        """The folder of the run, or where a training with this configuration writes."""
        return self.settings.folder

    @cached_property
    def metadata(self) -> Metadata:
        """Architecture, image rule, class names, task and thresholds, as an exported file keeps them.

        Raises:
            PpclsExtError: the architecture is not this project's, the transforms cannot be described, or the file of
                class names is damaged.
        """
        settings = self.settings.deployed
        settings.require_ours()
        thresholds = own_thresholds(settings, settings.class_num or 0)
        return Metadata(
            settings.arch.name, settings.image_rule(), settings.class_names, task=settings.task, thresholds=thresholds
        )

    @cached_property
    def model(self) -> Backbone:
        """The model with its weights; see `RunSettings.build_model`."""
        require("paddle")
        from ppcls_ext.hosts.threads import use_all_cores

        use_all_cores()
        return self.settings.deployed.build_model()

    def predict(
        self, images: ImageLike | Sequence[ImageLike], topk: int | None = None, threshold: Threshold | None = None
    ) -> list[dict[str, list]]:
        """Classifies images with the run's weights, as the exported file would; see `Classifier`.

        Args:
            images: one or several: paths, Pillow images, or uint8 arrays (H, W, C), RGB where C is 3.
            topk: the most classes for each image.
            threshold: the score from which on an image shows a class.

        Returns:
            One dict per image: `class_ids` and `scores`, best first, and `label_names`, empty where they are unknown.

        Raises:
            PpclsExtError: an image cannot be read, or `topk` or a threshold is out of range.
        """
        return self.classifier()(images, topk, threshold)

    def classifier(self) -> Classifier:
        """The run's network as a classifier like that of its exported file.

        Raises:
            PpclsExtError: see `metadata`, or the weights do not fit.
        """
        metadata = self.metadata
        if "model" not in self.__dict__:
            require("paddle")
            import paddle

            paddle.set_device(self.settings.device)
        return self._classifier(metadata)

    def _classifier(self, metadata: Metadata) -> Classifier:
        from ppcls_ext.training.network import Network

        return Classifier.of(Network(self.model, metadata, self.settings.evaluates_in_bfloat16))

    def in_bfloat16(self) -> Run:
        """Returns this run with evaluations and predictions in mixed precision; see `ppcls_ext.mixed_precision`.

        Raises:
            PpclsExtError: its network cannot be computed so, or not on this machine.
        """
        require("paddle")
        from ppcls_ext.config.checks import precision_fault

        if self.settings.device == "cpu" and (fault := precision_fault(self.settings.config)):
            raise PpclsExtError(f"bf16: {fault}; leave it out")
        amp = {"use_amp": True, "level": "O1", "dtype": "bfloat16", "use_fp16_test": True}
        return Run(self.settings.changed("AMP", **amp))

    def classify(
        self,
        files: Sequence[Path],
        topk: int | None = None,
        threshold: Threshold | None = None,
        *,
        batch_size: int | None = None,
        keep: Callable[[np.ndarray], np.ndarray] | None = None,
        verbose: bool = False,
    ) -> Iterator[Classified]:
        """Classifies image files one after the other, as the exported file would, or else with PaddleClas's inference.

        Args:
            files: the image files.
            topk: the most classes of an image; `Infer.PostProcess.topk` where None and no threshold is given.
            threshold: the score from which on an image shows a class; see `Classifier`.
            batch_size: images per run.
            keep: called with each decoded image; returns what to keep of it.
            verbose: whether to show PaddleClas's own output.

        Yields:
            Each file, in order. The result of an own post-processing of PaddleClas's has its own keys.
        """
        settings = self.settings
        if settings.is_like_a_file:
            classifier = self.classifier()
            if topk is None and threshold is None:
                topk = settings.topk
            choose = Choice(classifier.metadata, topk, threshold)
            yield from classify(classifier, files, batch_size or BATCH, choose, keep)
            return
        fields: dict[str, Any] = {"batch_size": batch_size} if batch_size else {}
        if topk is not None:
            fields["PostProcess"] = {**settings.section("Infer").get("PostProcess", {}), "topk": topk}
        engine = build_engine(settings.changed("Infer", **fields), "infer", verbose)
        from ppcls_ext.training.inference import classify as classify_by_host

        yield from classify_by_host(engine, files, threshold, keep)

    def halves(self) -> Halves:
        """The model, cut before its head, for class activation maps."""
        from ppcls_ext.export.halves import split_model

        return split_model(self.model)

    def on(self, data: str | os.PathLike) -> Run:
        """Returns this run with other images to evaluate on.

        Args:
            data: an image list; a folder with one folder per class, named as the run's classes are, or with these in
                test/, val/ or train/, of which the first that is there is taken; or the folder of a run, whose
                evaluation's images are taken.

        Raises:
            PpclsExtError: there is no such list or folder, or a folder has the name of no class.
        """
        return Run(evaluate_on(self.settings, data))

    def evaluate(
        self,
        data: str | os.PathLike | None = None,
        *,
        topk: int | None = None,
        threshold: Threshold | None = None,
        tta: str | None = None,
        report: str | os.PathLike | bool = False,
        verbose: bool = False,
    ) -> Evaluated:
        """Evaluates the weights: with PaddleClas's metrics, and by macro F1, calibration and speed beside them.

        Args:
            data: other images than the configuration's; see `on`.
            topk: of a further accuracy; see `ppcls_ext.evaluate`.
            threshold: see `ppcls_ext.evaluate`.
            tta: test-time augmentation, "flip" or "ten-crop": this project's own preparation of the images then takes
                the place of PaddleClas's, as for an exported file; see `ppcls_ext.evaluate`.
            report: a folder to write a report to; True for "report-eval" in the run's folder.
            verbose: whether to show PaddleClas's own output.

        Returns:
            The measures: `print` shows them; `top1`, `f1_macro`, `metrics`, `per_class` and others hold them.

        Raises:
            PpclsExtError: the configuration is wrong, images cannot be read, or the weights do not fit.
        """
        settings = self.settings if data is None else self.on(data).settings
        sure = least_probability(settings.task, threshold)
        check_topk(topk, settings.task, settings.class_num)
        if threshold is not None and settings.task == MULTI_LABEL:
            if settings.class_num is None:
                raise PpclsExtError("threshold is for a network whose number of classes is known: give Arch.class_num")
            own = Classes(settings.task, settings.class_names, settings.thresholds)
            limits = thresholds_of(own, settings.class_num, threshold)
            settings = settings.changed("Global", thresholds=limits.tolist())
        place = self._own("report-eval") if report is True else report or None
        if tta is not None:
            return Run(settings)._evaluate_views(tta, topk, threshold, place, data)
        engine = build_engine(settings, "eval", verbose)
        collected = None
        if place:
            from ppcls_ext.training.reports import EvaluationReport

            collected = EvaluationReport(engine, place, data)
        engine.eval()
        page = None if collected is None else collected.write()
        metrics: dict[str, float] = {}
        for one in engine.evaluations:
            metrics = {one.metric: one.value, **one.metrics, **metrics}
        thresholds, images = engine.evaluations[0].thresholds, engine.evaluations[0].images
        found, seconds = None, 0.0
        if engine.answers is not None:
            found, seconds = engine.answers.found(thresholds, None, settings.class_names), engine.answers.seconds
        if found is not None:
            images = len(found.labels)
            if settings.task != MULTI_LABEL:  # whose measures the evaluation has
                metrics = {**metrics, **measures_of(found, topk)}
        elif topk is not None or sure is not None:
            raise PpclsExtError("topk and threshold need a network that gives one number a class for each image")
        name, size = _name_and_size(settings)
        return Evaluated(name, metrics, images, seconds, found, sure, size, None, engine.evaluations, page)

    def _evaluate_views(
        self,
        tta: str,
        topk: int | None,
        threshold: Threshold | None,
        report: str | os.PathLike | None,
        data: str | os.PathLike | None,
    ) -> Evaluated:
        """Evaluates with test-time augmentation: the network alone, as the runtimes of exported files run theirs."""
        metadata = dataclasses.replace(self.metadata, preprocessing=self.settings.image_rule("eval"))
        check_tta(tta, metadata.preprocessing)
        name, size = _name_and_size(self.settings)
        return evaluate_file(
            self._classifier(metadata),
            LabelledImages.of_list(list_of_run(self.settings, metadata.class_names, metadata.task)),
            name,
            topk=topk,
            threshold=threshold,
            tta=tta,
            size=size,
            report=report,
            data=data,
            settings=config_text(self.settings.config),
        )

    def infer(
        self,
        images: Sequence[str] = (),
        *,
        out: str | None = None,
        save_image: str | None = None,
        threshold: Threshold | None = None,
        verbose: bool = False,
    ) -> None:
        """Prints the classes of images, with PaddleClas's transforms and post-processing (the section `Infer`).

        Those of a multi-label run are the ones at or above their thresholds.

        Args:
            images: files, folders or patterns; those of `Infer.infer_imgs` where empty.
            out: a .csv or .json file for the results.
            save_image: a PNG file or a folder for drawings of the images with their classes.
            threshold: the score from which on an image shows a class; see `Classifier`.
            verbose: whether to show PaddleClas's own output.
        """
        given = {"infer_imgs": list(images), "save_dir": out, "save_image": save_image}
        changes = {field: value for field, value in given.items() if value}
        for field, option in (("save_dir", "--out FILE"), ("save_image", "--save-image PNG|FOLDER")):
            if field not in changes:
                self.settings.require_own_place("Infer", field, option)
        build_engine(self.settings.changed("Infer", **changes), "infer", verbose).infer(threshold)

    def export_model(self, *, verbose: bool = False) -> Path:
        """Writes the fused model for Paddle Inference, checks it, and prints the paths of the files.

        Returns:
            The folder, `Global.save_inference_dir`.
        """
        if self.settings.section("Global").get("save_inference_dir") == str(self.folder / "inference"):
            self._own("inference")
        engine = build_engine(self.settings, "export", verbose)
        folder = Path(engine.config["Global"]["save_inference_dir"])
        engine.export(describe=self._write_inference_yml if self.settings.deployed.arch.is_ours else None)
        return folder

    def _write_inference_yml(self, folder: Path) -> None:
        """Writes inference.yml, with which PaddleX and `predict` open the folder, where it can describe the program."""
        from ppcls_ext.predict.inference_yml import NAME, other_in_paddlex, to_inference_yml

        try:
            text = to_inference_yml(self.metadata)
        except PpclsExtError as error:
            logger.warning("no %s: %s", NAME, error)
            return
        with atomic_write(folder / NAME, "w", encoding="utf-8") as file:
            file.write(text)
        for remark in other_in_paddlex(self.metadata):
            logger.warning("%s: %s", NAME, remark)

    def export_onnx(
        self,
        output: str | os.PathLike | None = None,
        *,
        opset: int | None = None,
        batch: int | None = None,
        softmax: bool = True,
        precision: str = "float32",
        samples: Sequence[str] = (),
        calibration: str | None = None,
        calibration_images: int = 256,
        allow: bool = False,
        dynamic_size: bool = False,
    ) -> ExportReport:
        """Writes the fused model as an ONNX file once it is proved equal to the model.

        Args:
            output: the file; `onnx_file` where None.
            opset: version of ONNX's standard operators, 11 to 20; 17 by default, 20 for int8.
            batch: fixes the batch size; None leaves it free.
            softmax: end in "probabilities", or in "scores" of a multi-label run; otherwise in "logits".
            precision: "float32"; "float16", which stores the weights in half the space; or "int8", quantized, and
                checked that the classes stay the same.
            samples: images, folders or patterns to compare on, beside random input.
            calibration: for "int8", images like those it will see: a list, a folder or a run's folder; the
                configuration's training images where None.
            calibration_images: for "int8", how many of them, 32 to 500; half of them check the result.
            allow: for "int8", write the file even where it names other classes too often.
            dynamic_size: leave height and width free as well; not for "int8".

        Returns:
            What was written and how equal it is; `print` shows it, `path` is the file.

        Raises:
            PpclsExtError: an argument out of range, a package missing, a conversion that fails, forms that differ, or
                a file that cannot be written; nothing is left then.
        """
        require_precision(precision, dynamic_size)
        from ppcls_ext.hosts.threads import use_all_cores

        metadata = dataclasses.replace(self.metadata, dynamic_size=dynamic_size)
        rule = metadata.preprocessing
        images = PreparedImages(find_images(samples), rule) if samples else None
        require("paddle", "paddle2onnx", "onnx", "onnxslim", "onnxruntime")
        calibrating = np.empty(0)
        if precision == "int8":
            from ppcls_ext.export.int8 import require_count

            require_count(calibration_images)  # before many are read
            calibrating = self.calibration_images(calibration, calibration_images)
        use_all_cores()
        import paddle

        from ppcls_ext.export.pipeline import export_onnx, reduction

        paddle.set_device("cpu")  # what onnxruntime is compared with must not round differently on every machine
        width, height = rule.image_size
        return export_onnx(
            self.model,
            self.onnx_file(precision) if output is None else Path(output),
            image_shape=self.settings.section("Global").get("image_shape") or (rule.channels, height, width),
            opset=opset or default_opset(precision),
            batch=batch,
            softmax=softmax,
            metadata=metadata.to_properties(),
            samples=images,
            reduce=reduction(precision, calibrating, allow),
        )

    def export(
        self,
        to: str,
        output: str | os.PathLike | None = None,
        *,
        precision: str | None = None,
        samples: Sequence[str] = (),
        tensor_input: bool = False,
        calibration: str | None = None,
        calibration_images: int = 256,
        allow: bool = False,
        litertjs: str | None = None,
    ) -> ExportedFile | ExportReport:
        """Writes the fused model in another format, once it is proved: as an ONNX file, and that against the model.

        Args:
            to: "tflite", "coreml", "ncnn", "web", or "onnx".
            output: the file or package, with the format's ending; in the run's folder where None.
            precision: "float32", "float16" or "int8"; the usual one where None: "float32", for Core ML "float16".
            samples: images, folders or patterns to compare on, beside random input.
            tensor_input: of a .tflite, whether it takes normalised floats instead of pixels.
            calibration: for int8; see `export_onnx`, as the others.
            calibration_images: see `export_onnx`.
            allow: see `export_onnx`.
            litertjs: see `ppcls_ext.export.formats.export_file`.

        Raises:
            PpclsExtError: as of `export_onnx`, or the format cannot hold the network; nothing is left then.
        """
        from ppcls_ext.export import formats
        from ppcls_ext.export.formats import default_name, export_file

        formats.require_packages(to, tensor_input)
        formats.require_litertjs(to, litertjs)
        formats.require_precision_of(to, precision)
        formats.require_input(to, self.settings.channels, tensor_input)
        name = self.settings.deployed.arch.name
        options: dict[str, Any] = {"calibration": calibration, "calibration_images": calibration_images, "allow": allow}
        if to == "onnx":
            return self.export_onnx(output, precision=precision or "float32", samples=samples, **options)
        if output is None:
            file = default_name(name, to, precision)
            output = Path(file) if self.settings.given_folder is None else self._own(file)
        with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
            onnx_file = Path(folder, f"{name}.onnx")
            reduced = "int8" if precision == "int8" else "float32"  # halves are made by the format's own writer
            source = self.export_onnx(onnx_file, precision=reduced, samples=samples, **options)
            phones: dict[str, Any] = {"samples": samples, "tensor_input": tensor_input, "litertjs": litertjs}
            exported = export_file(onnx_file, to, Path(output), precision=precision, **phones)
        return dataclasses.replace(exported, source=source)

    def onnx_file(self, precision: str = "float32") -> Path:
        """Where `export_onnx` writes by default, each form to a file of its own.

        It is ARCH.onnx, ARCH_int8.onnx or ARCH_fp16.onnx in the run's folder, or in the working directory for a
        configuration.
        """
        name = f"{self.settings.deployed.arch.name}{PRECISIONS[require_precision(precision)]}.onnx"
        return Path(name) if self.settings.given_folder is None else self._own(name)

    def _own(self, name: str) -> Path:
        """The path of a file or folder in the run's folder; a link out of it is refused."""
        require_within(self.folder / name, self.folder)
        return self.folder / name

    def calibration_images(
        self, place: str | os.PathLike | None, count: int, rule: Preprocessing | None = None, seed: int = 0
    ) -> np.ndarray:
        """Prepares images like those that an int8 file will see.

        Args:
            place: an image list (labels may be missing), a folder with images in it or below it, or the folder of a
                training; None for the configuration's training images.
            count: how many images to draw at random; all of them where there are fewer.
            rule: how they become the network's input; the run's where None.
            seed: RNG seed of the draw.

        Returns:
            (N, C, H, W) float32.

        Raises:
            PpclsExtError: there are no images, or one cannot be read.
        """
        files = sorted(dict.fromkeys(images_in(place, self.settings)))
        chosen = np.sort(np.random.default_rng(seed).permutation(len(files))[:count])
        rule = self.metadata.preprocessing if rule is None else rule
        with progress("reading images") as report:
            tick, prepared = ticks(report, len(chosen)), []
            for index in chosen:
                prepared.append(network_input(files[index], rule))
                tick()
        return np.stack(prepared)

    def check_images(
        self,
        mode: str,
        report: Callable[[str, int, int], None] | None = None,
        *,
        data: str | os.PathLike | None = None,
        labels: str | os.PathLike | None = None,
        val_share: float = 0.2,
        split_seed: int = 0,
        verbose: bool = False,
    ) -> Iterator[CheckedList]:
        """Decodes every image of the plain lists that `mode` uses.

        Args:
            mode: "train" or "eval".
            report: called with (loader, images done, images in all).
            data: see `train`, as the others.
            labels: see `train`.
            val_share: see `train`.
            split_seed: see `train`.
            verbose: see `train`.

        Raises:
            PpclsExtError: the configuration is wrong, or has no plain image list.
        """
        from ppcls_ext.training.start import set_up

        settings = self.settings.changed("Global", overwrite=True)
        set_up()
        from ppcls_ext.config.prepare import prepare
        from ppcls_ext.data.image_files import check_images
        from ppcls_ext.training.images import with_images
        from ppcls_ext.training.terminal import quiet_host
        from ppcls_ext.weights.folder_lock import release

        settings = with_images(settings, data, labels, val_share, split_seed)
        if not verbose:
            quiet_host()
        lists = prepare(settings, mode).lists
        if mode == "train":
            release(self.folder)  # which `prepare` holds
        if not lists:
            raise PpclsExtError(
                "--check-images: DataLoader has no ImageNetDataset or MultiLabelDataset, so there is no list to check"
            )
        for loader, images in lists.items():
            faults = check_images(images, partial(report, loader) if report else None, settings.channels)
            yield CheckedList(images.path, len(images), faults)

    def train(
        self,
        data: str | os.PathLike | None = None,
        *,
        labels: str | os.PathLike | None = None,
        val_share: float = 0.2,
        split_seed: int = 0,
        report: bool = False,
        overwrite: bool = False,
        loss: Loss | None = None,
        observers: Sequence[Observer] = (),
        profiler_options: str | None = None,
        verbose: bool = False,
        quiet: bool = False,
        show_lr: bool = False,
    ) -> Run:
        """Trains with this configuration; see `ppcls_ext.train`, which opens it, too."""
        from ppcls_ext.training.images import with_images
        from ppcls_ext.training.start import set_up
        from ppcls_ext.weights.folder_lock import release

        began = time.monotonic()
        settings = self.settings.changed("Global", **_true(overwrite=overwrite, report=report))
        settings.config["profiler_options"] = profiler_options
        with hidden() if quiet else contextlib.nullcontext():
            set_up()
            # which need PaddleClas in place
            from ppcls_ext.hosts.paddleclas.log_file import withdraw_log
            from ppcls_ext.training.budget import with_epochs_that_fit

            settings = with_own_folder(settings)
            try:
                settings = with_images(settings, data, labels, val_share, split_seed, quiet)
                settings = with_epochs_that_fit(settings, began, quiet)
                engine = build_engine(settings, "train", verbose)
                if loss is not None:
                    engine.use_loss(loss)
            except BaseException:
                withdraw_log(settings.folder)
                release(settings.folder)
                raise
            engine.observers.extend(observers)
            if verbose:
                engine.train()
            else:
                from ppcls_ext.training.terminal import TrainingOnTerminal

                with TrainingOnTerminal(engine, quiet, show_lr).shown():
                    engine.train()
        return Run(open_run(engine.folder) if (engine.folder / CONFIG).is_file() else settings)


def compare(
    models: Sequence[str | os.PathLike | Run | Classifier],
    data: str | os.PathLike | Run | None = None,
    *,
    announce: Callable[[Run], None] | None = None,
    runtime: str | None = None,
    bf16: bool = False,
    report: str | os.PathLike | bool | None = None,
    verbose: bool = False,
    **options: Any,
) -> Comparison:
    """Measures models on the same images; see `ppcls_ext.compare` and `ppcls_ext.evaluate`.

    Args:
        models: one or several.
        data: see `ppcls_ext.compare`.
        announce: called with each run before its turn.
        runtime: see `ppcls_ext.evaluate`, as the others.
        bf16: whether to compute in bfloat16.
        report: for one model alone.
        verbose: see `ppcls_ext.evaluate`.
        **options: `topk`, `threshold` and `tta`.
    """
    opened = [one if isinstance(one, (Run, Classifier)) or is_exported(one) else Run(one) for one in models]
    if bf16:
        opened = [one.in_bfloat16() if isinstance(one, Run) else one for one in opened]
    runs = [one for one in opened if isinstance(one, Run)]
    if runtime is not None and len(runs) == len(opened):
        raise PpclsExtError(f"runtime is for exported files, and {runs[0].folder} is a run: export it first")
    data = data if data is not None else next(iter(runs), None)
    if report and len(opened) != 1:
        raise PpclsExtError("a report is of one model alone: leave it out")
    results, images = Comparison(), _ImagesOf(data)
    for model in opened:
        if isinstance(model, Run):
            if announce is not None:
                announce(model)
            own = isinstance(data, Run) and data.folder == model.folder
            place = None if own else data.folder if isinstance(data, Run) else data
            results.append(model.evaluate(place, report=report or False, verbose=verbose, **options))
            continue
        name, size = "", None
        if not isinstance(model, Classifier):
            name, size = str(model), size_of(model)
            model = Classifier(model, runtime=runtime, bf16=bf16)
        name = name or model.metadata.architecture
        if data is None:
            raise PpclsExtError(
                f"{name}: say on which images (--data): a folder of class folders, an image list, or a run"
            )
        if report is True:
            raise PpclsExtError(f"{name} has no folder of its own for a report: say where (--report FOLDER)")
        where: dict[str, Any] = {"report": report or None, "data": data.folder if isinstance(data, Run) else data}
        results.append(evaluate_file(model, images(model.metadata), name, size=size, **where, **options))
    return results


class _ImagesOf:
    """The labelled images of a place, looked up once for classifiers of the same classes."""

    def __init__(self, data: str | os.PathLike | Run | None) -> None:
        self.data = data
        self._known: dict[Any, LabelledImages] = {}

    def __call__(self, metadata: Metadata) -> LabelledImages:
        key = metadata.class_names, metadata.task
        if key not in self._known:
            self._known[key] = self._find(*key)
        return self._known[key]

    def _find(self, names: tuple[str, ...] | None, task: str) -> LabelledImages:
        assert self.data is not None, "checked by compare"
        if isinstance(self.data, Run):
            return LabelledImages.of_list(list_of_run(self.data.settings, names, task))
        if (listed := list_at(Path(self.data), names, task)) is not None:
            return LabelledImages.of_list(listed)
        return labelled_images(self.data, names, task)


def open_training(
    source: str | os.PathLike | None,
    overrides: Sequence[str] = (),
    *,
    data: str | os.PathLike | None = None,
    resume: str | os.PathLike | bool = False,
    **options: Any,
) -> Run:
    """Opens the configuration of a training; see `ppcls_ext.train`.

    Args:
        source: see `Run`.
        overrides: see `Run`.
        data: the folder of images that will be trained on; with it, the source may be left out.
        resume: whether to go on, or the folder of the run to go on with.
        **options: short options; see `ppcls_ext.config.train_options`.

    Raises:
        PpclsExtError: there is no such configuration or run, or an option is wrong.
    """
    folder = None
    if source is None and data is not None and not isinstance(resume, (str, os.PathLike)):
        source = DEFAULT
        logger.info("no architecture is named: %s is trained; ppcls-ext models lists the others", DEFAULT)
    if isinstance(resume, (str, os.PathLike)):
        run = find_run(resume)
        folder = run.folder
        config = read_config(folder) if source is None else load_config(source)
        run.adopt(config)
    elif source is None:
        raise PpclsExtError("expected a configuration to train, data (--data), or resume with the folder of a run")
    else:
        config = load_config(source)
    set_options(config, options, overrides)
    override(config, overrides)
    if folder is not None:  # where it is, whatever --out and --name say
        config["Global"].update(output_dir=str(folder.parent), run_name=folder.absolute().name)
    if resume:
        config["Global"]["checkpoints"] = LATEST
    fields = frozenset() if data is None else open_fields(source, options, overrides)
    settings = RunSettings(config, folder, tuple(overrides), open_fields=fields)
    _ = settings.recipe  # what is wrong with it is said before anything is loaded
    return Run(settings)


def _true(**switches: bool) -> dict[str, bool]:
    return {name: value for name, value in switches.items() if value}


def _name_and_size(settings: RunSettings) -> tuple[str, int | None]:
    """The weights of a configuration, or else its folder, and the bytes of the file."""
    weights = settings.section("Global").get("pretrained_model")
    behind = ", in bfloat16" if settings.evaluates_in_bfloat16 else ""
    if not isinstance(weights, str):
        return f"{settings.folder}{behind}", None
    files = [path for path in (Path(weights), Path(f"{weights}.pdparams")) if path.is_file()]
    return f"{weights}{behind}", size_of(files[0]) if files else None


def _open(source: str | os.PathLike, overrides: Sequence[str]) -> RunSettings:
    path = Path(source)
    if path.is_dir() or ((path.parent / CONFIG).is_file() and path.suffix in ("", ".pdparams")):
        return open_run(source, overrides)
    return open_config(source, overrides)


def build_engine(settings: RunSettings, mode: str, verbose: bool) -> Engine:
    """The engine of a mode, "train", "eval", "infer" or "export"; `verbose` shows PaddleClas's own output."""
    from ppcls_ext.training.start import set_up

    set_up()
    from ppcls_ext.training.engine import Engine
    from ppcls_ext.training.terminal import quiet_host

    if not verbose:
        quiet_host()
    return Engine(settings, mode, is_shown=not verbose)
