"""ppcls_ext: re-parameterizable backbones for PaddleClas.

MobileOne, RepVGG and FasterNet train with many branches and are shipped as plain convolutions. Importing this package
imports neither Paddle nor PaddleClas; each function does so when it is called.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from paddle import nn

    from ppcls_ext.data.image_input import ImageLike
    from ppcls_ext.data.image_rule import Preprocessing
    from ppcls_ext.export.pipeline import ExportReport
    from ppcls_ext.models.backbone import Backbone
    from ppcls_ext.predict.classifier import Classifier
    from ppcls_ext.reparam.unfuse import Batches
    from ppcls_ext.run import Run
    from ppcls_ext.training.engine import Loss
    from ppcls_ext.training.observers import Observer
    from ppcls_ext.weights.loading import LoadReport, Source

__version__ = "0.1.0"
__all__ = [
    "Classifier",
    "Run",
    "build",
    "export_onnx",
    "list_models",
    "load_weights",
    "register",
    "register_in_paddledet",
    "register_in_paddleseg",
    "register_in_paddlex",
    "reparameterize",
    "train",
    "unfuse",
]


def register() -> None:
    """Publishes every factory in PaddleClas's backbone registry; calling it again changes nothing.

    Raises:
        PpclsExtError: no PaddleClas is found.
    """
    _require_paddle()
    from ppcls_ext.hosts.paddleclas.registry import register as publish
    from ppcls_ext.models.factories import FACTORIES

    publish(FACTORIES)


def register_in_paddledet() -> None:
    """Publishes every model as a backbone of PaddleDetection; calling it again changes nothing.

    Also adapts PaddleDetection to this Paddle and NumPy where it fails, and makes its export fuse with proof.

    Raises:
        PpclsExtError: no PaddleDetection is found, or a wheel that does not train on Paddle 3.
    """
    from ppcls_ext.hosts.paddledet import register as publish

    publish()


def register_in_paddleseg() -> None:
    """Publishes every model as a backbone of PaddleSeg; see `register_in_paddledet`."""
    from ppcls_ext.hosts.paddleseg import register as publish

    publish()


def register_in_paddlex() -> None:
    """Lets `paddlex.create_model` open what `export-model` wrote; see `ppcls_ext.hosts.paddlex`.

    Raises:
        PpclsExtError: PaddleX is missing or too old.
    """
    from ppcls_ext.hosts.paddlex import register_in_paddlex as bind

    bind()


def list_models() -> list[str]:
    """Names of all factories, e.g. "MobileOne_S0", "RepVGG_B1g4", "FasterNet_T0"."""
    from ppcls_ext.models.table import MODELS

    return list(MODELS)


def build(name: str, **kwargs: Any) -> Backbone:
    """Builds a model without PaddleClas's YAML.

    Args:
        name: one of `list_models()`.
        **kwargs: `pretrained`, `class_num`, `fused`, `in_channels`, `features_only`, … (see the factory's
            docstring).

    Raises:
        PpclsExtError: unknown name (the nearest ones are suggested) or argument.
    """
    _require_paddle()
    from ppcls_ext.models.factories import build as build_model

    return build_model(name, **kwargs)


def __getattr__(name: str) -> Any:
    """`Classifier` and `Run` are loaded when they are used: a class cannot import as late as a function."""
    if name == "Classifier":
        from ppcls_ext.predict.classifier import Classifier

        return Classifier
    if name == "Run":
        from ppcls_ext.run import Run

        return Run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def train(
    source: str | os.PathLike | None = None,
    overrides: Sequence[str] = (),
    *,
    data: str | os.PathLike | None = None,
    labels: str | os.PathLike | None = None,
    val_share: float = 0.2,
    split_seed: int = 0,
    epochs: int | None = None,
    out: str | os.PathLike | None = None,
    name: str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    size: int | str | Sequence[int] | None = None,
    channels: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    patience: int | None = None,
    weights: str | None = None,
    class_weights: str | None = None,
    sampler: str | None = None,
    resume: str | os.PathLike | bool = False,
    report: bool = False,
    overwrite: bool = False,
    loss: Loss | None = None,
    observers: Sequence[Observer] = (),
    profiler_options: str | None = None,
    verbose: bool = False,
) -> Run:
    """Trains a model, shows its progress, and writes its settings, log and weights to `output_dir/ARCH`.

    Args:
        source: a PaddleClas YAML file, or the name of a shipped configuration such as "MobileOne_S0", which is taken
            where there is `data` alone; with the path of a run to `resume`, that run's is.
        overrides: `A.B.1.C=value` texts, as behind -o.
        data: a folder of images, one folder per class, instead of the configuration's lists.
        labels: a CSV file, for several classes an image in `data` without such folders: in the first column the path
            of each image below `data`, then a 0 or 1 for each class, whose names stand in the first line.
        val_share: share of each class to evaluate on, where `data` has no val/.
        split_seed: RNG seed of that split.
        epochs: how many times each image is trained on (`Global.epochs`).
        out: the folder above the run's (`Global.output_dir`).
        name: of the run's folder; the model's where it is not given (`Global.run_name`).
        batch_size: images a step (`DataLoader.Train.sampler.batch_size` and that of `Eval`).
        lr: the highest learning rate (`Optimizer.lr.learning_rate`).
        size: side of the images, px, or (height, width), set in every place (`Global.image_size`).
        channels: of the images: 1 grey, 3 RGB, 4 RGBA, or any number of a TIFF file's bands (`Arch.in_channels`).
        seed: RNG seed of the whole training (`Global.seed`).
        workers: processes that load images (`DataLoader.Train.loader.num_workers` and that of `Eval`).
        device: "cpu", "gpu" or "auto" (`Global.device`).
        patience: ends the training after so many epochs without a better evaluation (`Global.patience`).
        weights: to start from: a file, "published" or "none" (`Global.pretrained_model`).
        class_weights: in the loss, "balanced", "sqrt" or a file (`Recipe.class_weights`).
        sampler: "balanced" draws each class equally often (`DataLoader.Train.sampler.name`).
        resume: True goes on with the run of this configuration, a path with the run in that folder.
        report: whether to write a report of the best evaluation.
        overwrite: whether to train anew where an earlier training's checkpoints are.
        loss: in the place of the configuration's, makes a scalar tensor of the network's outputs, mostly logits
            (N, classes), and the labels: (N, 1), or (N, classes) where images are mixed or show several classes.
        observers: follow the training; see `ppcls_ext.training.observers.Observer`, which is also the way to end it.
        profiler_options: for PaddleClas's profiler, such as "batch_range=[10, 20]".
        verbose: whether to show PaddleClas's own output.

    Returns:
        The run, ready to be evaluated, exported or used for predictions.

    Raises:
        PpclsExtError: the configuration is wrong, or the training fails; nothing half-written is left.
    """
    _require_paddle()
    from ppcls_ext.run import open_training

    options = {
        "epochs": epochs,
        "out": None if out is None else os.fspath(out),
        "name": name,
        "batch_size": batch_size,
        "lr": lr,
        "size": list(size) if isinstance(size, tuple) else size,
        "channels": channels,
        "seed": seed,
        "workers": workers,
        "device": device,
        "patience": patience,
        "weights": None if weights is None else str(weights),
        "class_weights": class_weights,
        "sampler": sampler,
    }
    run = open_training(source, overrides, data=data, resume=resume, **options)
    return run.train(
        data,
        labels=labels,
        val_share=val_share,
        split_seed=split_seed,
        report=report,
        overwrite=overwrite,
        loss=loss,
        observers=observers,
        profiler_options=profiler_options,
        verbose=verbose,
    )


def reparameterize(model: nn.Layer) -> nn.Layer:
    """A fused deep copy of `model` in eval mode; see `ppcls_ext.reparam.fuse.reparameterize`."""
    _require_paddle()
    from ppcls_ext.reparam.fuse import reparameterize as fuse_copy

    return fuse_copy(model)


def load_weights(
    model: nn.Layer, source: Source, *, allow_other_classes: bool = False, allow_other_channels: bool = False
) -> LoadReport:
    """Loads weights, all of them or none; see `ppcls_ext.weights.loading.load_weights`."""
    _require_paddle()
    from ppcls_ext.weights.loading import load_weights as load

    return load(model, source, allow_other_classes=allow_other_classes, allow_other_channels=allow_other_channels)


def unfuse(model: nn.Layer, batches: Batches) -> nn.Layer:
    """A trainable form, with branches, of a fused model; see `ppcls_ext.reparam.unfuse.unfuse`."""
    _require_paddle()
    from ppcls_ext.reparam.unfuse import unfuse as give_branches

    return give_branches(model, batches)


def export_onnx(
    model: nn.Layer,
    path: str | os.PathLike,
    *,
    size: int | str | Sequence[int] | None = None,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    task: str = "single-label",
    thresholds: Sequence[float] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    samples: Sequence[ImageLike] = (),
    opset: int = 17,
    batch: int | None = None,
    softmax: bool = True,
    dynamic_size: bool = False,
) -> ExportReport:
    """Fuses a classifier, converts it to ONNX and writes the file once it is proved equal to the model.

    Args:
        model: images (N, C, H, W) in, C being its `in_channels`, or 3, logits (N, classes) out; left as it is.
        path: the file to write; an older one stays until the new one is proved and complete.
        size: side of the square that the model sees, px, or (height, width); 224 where None.
        class_names: by class index, to be kept in the file: a list, or a dict with the indices as its keys.
        task: "single-label" for a model whose images have one class each, or "multi-label".
        thresholds: of a multi-label model, the score of each class from which on an image shows it, kept in the file.
        preprocessing: how an image becomes the input, kept in the file: fields of
            `ppcls_ext.data.image_rule.Preprocessing`, such as `{"mean": (0.5, 0.5, 0.5)}`, in the place of ImageNet's
            (short side resized to 256 / 224 of the size, centre crop, ImageNet's mean and std); or a whole
            `Preprocessing`.
        samples: images to compare on, beside random input: paths, Pillow images or uint8 arrays (H, W, C).
        opset: of ONNX's standard operators, 11 to 20.
        batch: fixes N; None leaves it free.
        softmax: end in "probabilities", or in "scores" of a multi-label model; otherwise in "logits".
        dynamic_size: leave height and width free as well; `Classifier` then keeps the whole of each image.

    Returns:
        What was written and how equal it is; `print` shows it.

    Raises:
        PpclsExtError: an argument out of range, a package missing, a conversion that fails, forms that differ, or a
            file that cannot be written; nothing is left then.
    """
    _require_paddle()
    from ppcls_ext.export.pipeline import export_with_rule as export

    return export(
        model,
        Path(path),
        size=size,
        class_names=class_names,
        task=task,
        thresholds=thresholds,
        preprocessing=preprocessing,
        samples=samples,
        opset=opset,
        batch=batch,
        softmax=softmax,
        dynamic_size=dynamic_size,
    )


def _require_paddle() -> None:
    from ppcls_ext.packages import require

    require("paddle")
