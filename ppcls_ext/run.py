"""`Run`: a trained run or a configuration, and all that can be done with it; `train` makes one.

The commands and notebooks call the same functions. Paddle and PaddleClas are loaded by the method that needs them.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ppcls_ext.config.first_epoch import settle
from ppcls_ext.config.folder import CONFIG, LISTS, find_run, read_config
from ppcls_ext.config.lists import evaluate_on, folder_for_lists, images_in, use_lists
from ppcls_ext.config.load import load_config, override
from ppcls_ext.config.settings import RunSettings, open_config, open_run
from ppcls_ext.config.thresholds import own_thresholds
from ppcls_ext.config.train_options import DEFAULT, set_options
from ppcls_ext.config.weights import require_no_earlier_training
from ppcls_ext.data.class_folders import LABEL_LIST, TRAIN_LIST, VAL_LIST, kept_lists, make_lists
from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import PreparedImages, network_input
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.data.label_table import make_label_lists
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL, ListEntry
from ppcls_ext.errors import PpclsExtError, printable
from ppcls_ext.export.opset import DEFAULT_OPSET, INT8_OPSET
from ppcls_ext.files import atomic_write, require_within
from ppcls_ext.packages import require
from ppcls_ext.predict.classifier import Classifier
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.progress import progress, ticks

if TYPE_CHECKING:
    from ppcls_ext.data.image_input import ImageLike
    from ppcls_ext.export.pipeline import ExportReport, Reduce
    from ppcls_ext.models.backbone import Backbone
    from ppcls_ext.predict.answers import Threshold
    from ppcls_ext.predict.evidence import Halves
    from ppcls_ext.training.engine import Engine, Loss
    from ppcls_ext.training.evaluation import Evaluation
    from ppcls_ext.training.observers import Observer

logger = logging.getLogger("ppcls_ext")


class Evaluated(NamedTuple):
    """The results of `Run.evaluate`.

    Attributes:
        evaluations: one per number of images that a metric has seen, usually a single one.
        page: the report's HTML page; None where no report was asked for.
    """

    evaluations: list[Evaluation]
    page: Path | None

    def __str__(self) -> str:
        return "\n".join(map(str, self.evaluations))


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
        self.settings.require_ours()
        settings = self.settings
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
        return self.settings.build_model()

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
        return Classifier.of(_Network(self.model, self.metadata))(images, topk, threshold)

    def halves(self) -> Halves:
        """The model, cut before its head, for class activation maps."""
        from ppcls_ext.export.halves import split_model

        return split_model(self.model)

    def on(self, data: str | os.PathLike) -> Run:
        """Returns this run with other images to evaluate on.

        Args:
            data: an image list, or a folder with one folder per class, named as the run's classes are; or with these in
                test/, val/ or train/, of which the first that is there is taken.

        Raises:
            PpclsExtError: there is no such list or folder, or a folder has the name of no class.
        """
        return Run(evaluate_on(self.settings, data))

    def evaluate(
        self,
        data: str | os.PathLike | None = None,
        *,
        report: str | os.PathLike | bool = False,
        verbose: bool = False,
    ) -> Evaluated:
        """Evaluates the weights with PaddleClas's metrics.

        Args:
            data: other images than the configuration's; see `on`.
            report: a folder to write a report to; True for "report-eval" in the run's folder.
            verbose: whether to show PaddleClas's own output.

        Raises:
            PpclsExtError: the configuration is wrong, images cannot be read, or the weights do not fit.
        """
        settings = self.settings if data is None else self.on(data).settings
        engine = _build_engine(settings, "eval", verbose)
        collected = None
        if report:
            from ppcls_ext.training.reports import EvaluationReport

            collected = EvaluationReport(engine, self._own("report-eval") if report is True else report, data)
        engine.eval()
        return Evaluated(engine.evaluations, None if collected is None else collected.write())

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
        _build_engine(self.settings.changed("Infer", **changes), "infer", verbose).infer(threshold)

    def export_model(self, *, verbose: bool = False) -> Path:
        """Writes the fused model for Paddle Inference, checks it, and prints the paths of the files.

        Returns:
            The folder, `Global.save_inference_dir`.
        """
        if self.settings.section("Global").get("save_inference_dir") == str(self.folder / "inference"):
            self._own("inference")
        engine = _build_engine(self.settings, "export", verbose)
        folder = Path(engine.config["Global"]["save_inference_dir"])
        engine.export(describe=self._write_inference_yml if self.settings.arch.is_ours else None)
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
        samples: Sequence[str] = (),
        int8: bool = False,
        fp16: bool = False,
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
            samples: images, folders or patterns to compare on, beside random input.
            int8: quantize, and check that the classes stay the same.
            fp16: store the weights in half the space.
            calibration: with `int8`, images like those it will see: a list, a folder or a run's folder; the
                configuration's training images where None.
            calibration_images: with `int8`, how many of them; half of them check the result.
            allow: with `int8`, write the file even where it names other classes too often.
            dynamic_size: leave height and width free as well; not with `int8`.

        Raises:
            PpclsExtError: an argument out of range, a package missing, a conversion that fails, forms that differ, or
                a file that cannot be written; nothing is left then.
        """
        if int8 and fp16:
            raise PpclsExtError("int8 and fp16 exclude each other: choose one")
        from ppcls_ext.hosts.threads import use_all_cores

        if int8 and dynamic_size:
            raise PpclsExtError(
                "int8 and dynamic_size (--dynamic-size) exclude each other: int8 is calibrated and checked at one size"
            )
        metadata = dataclasses.replace(self.metadata, dynamic_size=dynamic_size)
        rule = metadata.preprocessing
        images = PreparedImages(find_images(samples), rule) if samples else None
        require("paddle", "paddle2onnx", "onnx", "onnxslim", "onnxruntime")
        reduce: Reduce | None = None
        if fp16:
            from ppcls_ext.export.float16 import reduce_to_float16

            reduce = reduce_to_float16
        elif int8:
            from ppcls_ext.export.int8 import quantize, require_count

            require_count(calibration_images)
            calibrating = self.calibration_images(calibration, calibration_images)
            reduce = partial(quantize, images=calibrating, allow=allow)
        use_all_cores()
        import paddle

        from ppcls_ext.export.pipeline import export_onnx

        paddle.set_device("cpu")  # what onnxruntime is compared with must not round differently on every machine
        width, height = rule.image_size
        return export_onnx(
            self.model,
            self.onnx_file(int8=int8, fp16=fp16) if output is None else Path(output),
            image_shape=self.settings.section("Global").get("image_shape") or (rule.channels, height, width),
            opset=opset or (INT8_OPSET if int8 else DEFAULT_OPSET),
            batch=batch,
            softmax=softmax,
            metadata=metadata.to_properties(),
            samples=images,
            reduce=reduce,
        )

    def onnx_file(self, *, int8: bool = False, fp16: bool = False) -> Path:
        """Where `export_onnx` writes by default, each form to a file of its own.

        It is ARCH.onnx, ARCH_int8.onnx or ARCH_fp16.onnx in the run's folder, or in the working directory for a
        configuration.
        """
        name = f"{self.settings.arch.name}{'_int8' if int8 else '_fp16' if fp16 else ''}.onnx"
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
        from ppcls_ext.training.terminal import quiet_host
        from ppcls_ext.weights.folder_lock import release

        settings = _with_lists(settings, data, labels, val_share, split_seed)
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
    ) -> Run:
        """Trains with this configuration; see `ppcls_ext.train`, which opens it, too."""
        settings = self.settings.changed("Global", **_true(overwrite=overwrite, report=report))
        settings.config["profiler_options"] = profiler_options
        if data is not None:
            from ppcls_ext.training.start import set_up

            set_up()
        settings = _with_lists(settings, data, labels, val_share, split_seed)
        engine = _build_engine(settings, "train", verbose)
        if loss is not None:
            engine.use_loss(loss)
        engine.observers.extend(observers)
        if verbose:
            engine.train()
        else:
            from ppcls_ext.training.terminal import TrainingOnTerminal

            with TrainingOnTerminal(engine).shown():
                engine.train()
        return Run(open_run(engine.folder) if (engine.folder / CONFIG).is_file() else settings)


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
    if resume:
        config["Global"]["checkpoints"] = "latest"
    return Run(RunSettings(config, folder, tuple(overrides)))


def _with_lists(
    settings: RunSettings,
    data: str | os.PathLike | None,
    labels: str | os.PathLike | None,
    val_share: float,
    split_seed: int,
) -> RunSettings:
    if data is None and labels is not None:
        raise PpclsExtError(f"labels (--labels) is {labels}: expected data (--data) too, the folder of the images")
    return settings if data is None else new_lists(settings, data, val_share, split_seed, labels)


def new_lists(
    settings: RunSettings,
    data: str | os.PathLike,
    val_share: float,
    split_seed: int,
    labels: str | os.PathLike | None = None,
) -> RunSettings:
    """A training's settings with the lists of a folder of images; the run's folder is held from here on.

    New lists are made aside, and go to the run's folder when the training begins; a resumed run keeps its own.

    Raises:
        PpclsExtError: another process trains in the folder, it holds an earlier training, or the images do not fit.
    """
    from paddle.distributed import get_rank

    from ppcls_ext.weights.folder_lock import hold, release

    folder, config = settings.folder, copy.deepcopy(settings.config)
    resumed, place = config["Global"].get("checkpoints") is not None, None
    channels = settings.channels
    try:
        if get_rank() == 0:
            hold(folder)
            settle(folder)
        if not (resumed or config["Global"].get("overwrite")):
            require_no_earlier_training(folder)
        if resumed and all((folder / LISTS / name).is_file() for name in (TRAIN_LIST, VAL_LIST, LABEL_LIST)):
            made = kept_lists(Path(data), folder / LISTS, SINGLE_LABEL if labels is None else MULTI_LABEL)
        else:
            place = folder_for_lists()
            with progress("reading images") as report:
                if labels is None:
                    made = make_lists(data, place, val_share, split_seed, report, channels=channels)
                else:
                    made = make_label_lists(data, labels, place, val_share, split_seed, report, channels)
            for line in made._replace(folder=folder / LISTS).lines():
                print(printable(line))
        use_lists(config, made)
        override(config, settings.overrides)  # the user's own settings win
    except BaseException:
        release(folder)
        raise
    return dataclasses.replace(settings, config=config, made_lists=place)


def _true(**switches: bool) -> dict[str, bool]:
    return {name: value for name, value in switches.items() if value}


class _Network:
    """A model as the runtimes of exported files are; see `ppcls_ext.predict.runtimes.ExportedModel`."""

    batch: int | None = None
    ends_in_logits: bool = True

    def __init__(self, model: Backbone, metadata: Metadata) -> None:
        self._model, self.metadata = model, metadata
        width, height = metadata.preprocessing.image_size
        self.image_shape = [metadata.preprocessing.channels, height, width]
        model.eval()

    def run(self, images: np.ndarray) -> np.ndarray:
        """(N, classes) of prepared images (N, C, H, W)."""
        import paddle

        with paddle.no_grad():
            return self._model(paddle.to_tensor(images)).numpy()


def _open(source: str | os.PathLike, overrides: Sequence[str]) -> RunSettings:
    path = Path(source)
    if path.is_dir() or ((path.parent / CONFIG).is_file() and path.suffix in ("", ".pdparams")):
        return open_run(source, overrides)
    return open_config(source, overrides)


def _build_engine(settings: RunSettings, mode: str, verbose: bool) -> Engine:
    from ppcls_ext.training.start import set_up

    set_up()
    from ppcls_ext.training.engine import Engine
    from ppcls_ext.training.terminal import quiet_host

    if not verbose:
        quiet_host()
    return Engine(settings, mode, is_shown=not verbose)
