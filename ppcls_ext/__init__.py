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
    from contextlib import AbstractContextManager

    from paddle import nn

    from ppcls_ext.averages import Averaged
    from ppcls_ext.data.image_input import ImageLike
    from ppcls_ext.data.image_rule import Preprocessing
    from ppcls_ext.export.pipeline import ExportReport
    from ppcls_ext.models.backbone import Backbone
    from ppcls_ext.predict.answers import Threshold
    from ppcls_ext.predict.classifier import Classifier
    from ppcls_ext.reparam.unfuse import Batches
    from ppcls_ext.report.measured import Comparison, Evaluated
    from ppcls_ext.run import Run
    from ppcls_ext.training.engine import Loss
    from ppcls_ext.training.observers import Observer
    from ppcls_ext.weights.loading import LoadReport, Source

__version__ = "0.2.0"
__all__ = [
    "Classifier",
    "Run",
    "average",
    "build",
    "compare",
    "evaluate",
    "export_onnx",
    "list_models",
    "load_weights",
    "mixed_precision",
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
    """Builds a model without PaddleClas's YAML, in train mode.

        >>> net = ppcls_ext.build("FasterNet_T0", class_num=5)
        >>> list(net(paddle.randn([2, 3, 64, 64])).shape)
        [2, 5]

    Args:
        name: one of `list_models()`.
        **kwargs: all may be left out:

            - `pretrained`: a file of weights (see `load_weights`) or its address, or True or "published" for the
              published ones, which are downloaded; by default the weights are random.
            - `class_num`: number of classes, 1000 by default; with another number than the weights' the classifier
              starts afresh; 0 leaves it out.
            - `in_channels`: channels of the images, 3 by default; with another number the weights' first convolution
              is adapted (see `load_weights`).
            - `fused`: True builds the deploy form, one convolution in the place of each block's branches.
            - `features_only`: True leaves the head out; the model returns a list of the four stages' maps, whose sizes
              are in its attributes `channels` and `strides`.
            - `return_stages`: True for the maps of all stages, or their indices: the model then returns a dict of
              "logits" and the maps by layer name; `return_patterns`: names of layers instead.
            - `stop_after`: name of the last layer that runs; `freeze_befor` (PaddleClas's spelling): name of a layer
              that gets no gradient, nor those before it.
            - `use_ssld`: PaddleClas's; no such weights are published for these models.

    Returns:
        A `paddle.nn.Layer`: images (N, `in_channels`, H, W) float32 in, logits (N, class_num) out; H and W are free.

    Raises:
        PpclsExtError: unknown name (the nearest ones are suggested) or argument, or the weights do not fit.
    """
    _require_paddle()
    from ppcls_ext.models.factories import build as build_model

    return build_model(name, **kwargs)


def mixed_precision(enabled: bool = True) -> AbstractContextManager[None]:
    """A context in which networks compute in bfloat16 what loses little by it.

    On a CPU with AVX-512 BF16 or AMX, which Paddle's own `paddle.amp.auto_cast` cannot use, convolutions of this
    package's models and blocks compute with bfloat16 maps and kernels and add in float32; between the layers of a model
    maps are bfloat16. Batch statistics, head, loss, parameters, their gradients and the optimizer stay float32: no
    scaling of the loss is needed. On a GPU it is `paddle.amp.auto_cast` in bfloat16.

    Args:
        enabled: false for a context without mixed precision, also inside of another one.

    Warns:
        UserWarning: the processor has no bfloat16 instructions, or Paddle no oneDNN: float32 is used.

    Example:
        >>> with ppcls_ext.mixed_precision():
        ...     loss = paddle.nn.functional.cross_entropy(net(images), labels)
        >>> loss.backward()
    """
    _require_paddle()
    from ppcls_ext.onednn.bfloat16 import mixed_precision as context

    return context(enabled)


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
    budget: str | None = None,
    out: str | os.PathLike | None = None,
    name: str | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    size: int | str | Sequence[int] | None = None,
    channels: int | None = None,
    seed: int | None = None,
    workers: int | None = None,
    device: str | None = None,
    bf16: bool = False,
    patience: int | None = None,
    weights: str | None = None,
    class_weights: str | None = None,
    sampler: str | None = None,
    freeze: str | None = None,
    best_by: str | None = None,
    resume: str | os.PathLike | bool = False,
    report: bool = False,
    overwrite: bool = False,
    loss: Loss | None = None,
    observers: Sequence[Observer] = (),
    profiler_options: str | None = None,
    verbose: bool = False,
    quiet: bool = False,
    show_lr: bool = False,
) -> Run:
    """Trains a model, shows its progress, and writes its settings, log and weights to `out/name`.

    Where that folder holds an earlier training, or another one is running there, the new one goes to `name-2`, `name-3`
    and so on, the first that is free.

    Args:
        source: a PaddleClas YAML file, or the name of a shipped configuration such as "MobileOne_S0", which is taken
            where there is `data` alone; with the path of a run to `resume`, that run's is.
        overrides: `A.B.1.C=value` texts, as behind -o.
        data: a folder of images, one folder per class, instead of the configuration's lists.
        labels: a CSV file, for several classes an image in `data` without such folders: in the first column the path
            of each image below `data`, then a 0 or 1 for each class, whose names stand in the first line.
        val_share: share of each class to evaluate on, where `data` has no val/.
        split_seed: RNG seed of that split.
        epochs: how many times each image is trained on (`Global.epochs`); where it is not given, weights are fine-tuned
            for fewer epochs the more images `data` has.
        budget: a time such as "30m" or "1h30m", for as many epochs as fit into it, and no more than `epochs`
            (`Global.budget`).
        out: the folder above the run's (`Global.output_dir`).
        name: of the run's folder; the model's where it is not given (`Global.run_name`).
        batch_size: images a step (`DataLoader.Train.sampler.batch_size` and that of `Eval`).
        lr: the highest learning rate (`Optimizer.lr.learning_rate`); where it is not given, it follows the batch size.
        size: side of the images, px, or (height, width), set in every place (`Global.image_size`).
        channels: of the images: 1 grey, 3 RGB, 4 RGBA, or any number of a TIFF file's bands (`Arch.in_channels`).
        seed: RNG seed of the whole training (`Global.seed`).
        workers: processes that load images (`DataLoader.Train.loader.num_workers` and that of `Eval`).
        device: "cpu", "gpu" or "auto" (`Global.device`).
        bf16: whether most is computed in bfloat16, on a processor that has it (`AMP.dtype`).
        patience: ends the training after so many epochs without a better evaluation (`Global.patience`).
        weights: to start from: a file, "published" or "none" (`Global.pretrained_model`).
        class_weights: in the loss, "balanced", "sqrt" or a file (`Recipe.class_weights`).
        sampler: "balanced" draws each class equally often (`DataLoader.Train.sampler.name`).
        freeze: "backbone" trains the classifier alone, "backbone:2" leaves out the stem and the first two of the four
            stages (`Recipe.freeze`).
        best_by: the metric that decides which epoch is the best, such as "f1_macro" (`Global.best_by`).
        resume: True goes on with the run of this name that was begun last, a path with the run in that folder.
        report: whether to write a report of the best evaluation.
        overwrite: whether to train anew in the place of an earlier training.
        loss: in the place of the configuration's, makes a scalar tensor of the network's outputs, mostly logits
            (N, classes), and the labels: (N, 1), or (N, classes) where images are mixed or show several classes.
        observers: follow the training; see `ppcls_ext.training.observers.Observer`, which is also the way to end it.
        profiler_options: for PaddleClas's profiler, such as "batch_range=[10, 20]".
        verbose: whether to show PaddleClas's own output.
        quiet: whether to show warnings and the result only.
        show_lr: whether to show the learning rate, too.

    Returns:
        The run, ready to be evaluated, exported or used for predictions.

    Raises:
        PpclsExtError: the configuration is wrong, or the training fails; nothing half-written is left.
    """
    _require_paddle()
    from ppcls_ext.run import open_training

    options = {
        "epochs": epochs,
        "budget": budget,
        "out": None if out is None else os.fspath(out),
        "name": name,
        "batch_size": batch_size,
        "lr": lr,
        "size": list(size) if isinstance(size, tuple) else size,
        "channels": channels,
        "seed": seed,
        "workers": workers,
        "device": device,
        "bf16": bf16 or None,
        "patience": patience,
        "weights": None if weights is None else str(weights),
        "class_weights": class_weights,
        "sampler": sampler,
        "freeze": freeze,
        "best_by": best_by,
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
        quiet=quiet,
        show_lr=show_lr,
    )


def evaluate(
    model: str | os.PathLike | Run | Classifier,
    data: str | os.PathLike | Run | None = None,
    *,
    topk: int | None = None,
    threshold: Threshold | None = None,
    tta: str | None = None,
    runtime: str | None = None,
    bf16: bool = False,
    report: str | os.PathLike | bool | None = None,
    verbose: bool = False,
) -> Evaluated:
    """Measures a model on labelled images: accuracy, macro F1, calibration, precision and recall by class, speed.

    An exported file needs onnxruntime (or another runtime) and no Paddle; a run is evaluated by PaddleClas's engine.

        result = ppcls_ext.evaluate("m.onnx", "flowers/test")
        print(result)
        result.top1, result.f1_macro, result.ece, result.per_class[0]

    Args:
        model: an exported file, the folder that export-model wrote, a run or weights in it, or a `Classifier` or `Run`.
        data: a folder with one folder per class, named as the model's classes are, or with these in test/, val/ or
            train/, of which the first that is there is taken; an image list; or a run, whose evaluation's images are
            taken. May be left out for a run.
        topk: the k of a further accuracy; by default 5, left out where there are no more than 5 classes.
        threshold: of one class an image, the least probability of an answer: how many images are answered, and how
            many of these right. Of several, the score from which on an image shows a class, as for `Classifier`.
        tta: test-time augmentation, which averages the scores of several views: "flip" of the image and its mirror
            image, "ten-crop" of the centre, the corners and their mirror images.
        runtime: of a file: "onnxruntime" (the default), "openvino", "ncnn" or "paddle" (the default for a folder).
        bf16: whether to compute in bfloat16: of a run in mixed precision, of a file with "openvino".
        report: a folder to write a report to, with figures and one HTML page; True for "report-eval" in a run's folder.
        verbose: whether to show PaddleClas's own output, of a run.

    Returns:
        The measures: `print` shows them. See `ppcls_ext.report.measured.Evaluated` for its attributes.

    Raises:
        PpclsExtError: there is no such model or image, an image cannot be read, or a label has no class.
    """
    from ppcls_ext import run

    options: dict[str, Any] = {"topk": topk, "threshold": threshold, "tta": tta, "runtime": runtime, "bf16": bf16}
    return run.compare([model], data, report=report, verbose=verbose, **options)[0]


def compare(
    models: Sequence[str | os.PathLike | Run | Classifier],
    data: str | os.PathLike | Run | None = None,
    **options: Any,
) -> Comparison:
    """Measures several models on the same labelled images.

        print(ppcls_ext.compare([run, "m.onnx", "m_int8.onnx"], "flowers/test"))

    Args:
        models: each as for `evaluate`.
        data: see `evaluate`; the evaluation's images of the first run among the models where it is left out.
        **options: those of `evaluate`: `topk`, `threshold`, `tta`, `runtime` of the files, `bf16`, `verbose`.

    Returns:
        A list of the results, which `print` shows as a table: size, top-1, macro F1, calibration error, images/s.

    Raises:
        PpclsExtError: as for `evaluate`.
    """
    from ppcls_ext import run

    return run.compare(models, data, **options)


def average(runs: Sequence[str | os.PathLike | Run], **options: Any) -> Averaged:
    """Makes one run of several: the average of their weights, evaluated, to be exported as any other.

        made = ppcls_ext.average(["output/MobileOne_S0", "output/MobileOne_S0-2", "output/MobileOne_S0-3"])
        print(made)
        made.run.export_onnx()

    Trainings of one network that began with the same weights have an average that is often better than the best of them
    (model soups, arXiv 2203.05482); those that began with random weights have not. Running statistics are computed
    anew, from training images of the first run.

    Args:
        runs: at least two folders that trainings wrote, or weights in them; their network, classes and images are the
            same.
        **options: `out`, the folder above the new run's (else the first run's); `name`, of the new run's folder (else
            the first run's with -average, numbered where it is taken); `overwrite`, to replace a run of that name;
            `verbose`, to show PaddleClas's own output.

    Returns:
        The new run, and the evaluations of the parts and of their average, which `print` shows.

    Raises:
        PpclsExtError: the runs differ in more than their training, weights are missing or not finite, or the run cannot
            be written.
    """
    from ppcls_ext import averages

    return averages.average(runs, **options)


def reparameterize(model: nn.Layer) -> nn.Layer:
    """Fuses a copy of a model: each block's branches become one convolution that computes the same.

        >>> net = ppcls_ext.build("MobileOne_S0", class_num=5)
        >>> fused = ppcls_ext.reparameterize(net)
        >>> len(net.parameters()), len(fused.parameters())
        (1097, 88)
        >>> images = paddle.randn([1, 3, 64, 64])
        >>> _ = net.eval()  # batch normalisation by its running statistics, which are what is fused
        >>> bool(paddle.allclose(net(images), fused(images), atol=1e-4))
        True

    Args:
        model: any `paddle.nn.Layer` that holds this project's layers, or is one; fused or not. It is left as it was.

    Returns:
        A deep copy in eval mode without training branches; its outputs are the model's in eval mode up to rounding.

    Raises:
        PpclsExtError: a layer holds something that one convolution cannot compute, such as a batch normalisation that
            was replaced; the message names it.
    """
    _require_paddle()
    from ppcls_ext.reparam.fuse import reparameterize as fuse_copy

    return fuse_copy(model)


def load_weights(
    model: nn.Layer, source: Source, *, allow_other_classes: bool = False, allow_other_channels: bool = False
) -> LoadReport:
    """Loads weights into a model, all of them or none.

    The naming (this project's, PaddleClas's, the official PyTorch one, timm's), prefixes such as `module.`, the layout
    and the form are recognised by the content; pickles are read without running what is in them.

        >>> net = ppcls_ext.build("FasterNet_T0", class_num=5)
        >>> weights = {name: value.numpy() for name, value in net.state_dict().items()}
        >>> print(ppcls_ext.load_weights(net, weights))
        loaded 114 tensors (PaddleClas names)

    Args:
        model: one of this project's models, fused as the weights are.
        source: a path (.pdparams, .pth, .pth.tar, .pt, .safetensors or .npz; a path without a suffix means .pdparams),
            or a mapping of names to NumPy arrays. Mappings, .npz and .safetensors in official naming have PyTorch's
            layouts.
        allow_other_classes: whether the classifier may keep its initial values where the weights have another number of
            classes, or no classifier.
        allow_other_channels: whether weights for images of 3 channels may be adapted to a model for C: the kernels of
            the first convolutions are summed for C = 1, else repeated in turn and scaled by 3 / C.

    Returns:
        A `LoadReport`: the names in `loaded`, those that kept their initial values in `fresh`, those in the source that
        the model does not need in `unused`, and the source's `naming` and `prefix`; `print` shows it in one line.

    Raises:
        PpclsExtError: the file cannot be read, its tensors are not exactly the model's (the message names the first
            differences), or one is not finite; the model is unchanged.
    """
    _require_paddle()
    from ppcls_ext.weights.loading import load_weights as load

    return load(model, source, allow_other_classes=allow_other_classes, allow_other_channels=allow_other_channels)


def unfuse(model: nn.Layer, batches: Batches) -> nn.Layer:
    """Gives a fused model its branches back, so that it can be trained as an unfused one.

    Most published weights are fused, and plain convolutions without batch normalisation fine-tune badly. The first
    branch gets the fused kernel, the others start small; batch normalisations are set from calibration images.

        >>> fused = ppcls_ext.build("MobileOne_S0", class_num=5, fused=True)
        >>> net = ppcls_ext.unfuse(fused, paddle.randn([8, 3, 64, 64]))
        >>> len(fused.parameters()), len(net.parameters()), net.training
        (88, 1097, True)

    Args:
        model: fused, from `build(…, fused=True)`; it is left as it was.
        batches: calibration images, prepared as for training: tensors or arrays (N, 3, H, W) float32, or a loader's
            lists that begin with one; some hundred images are enough. One batch may come alone.

    Returns:
        The unfused model, in train mode. In eval mode its output equals the fused model's up to rounding.

    Raises:
        PpclsExtError: the model is not fused or not from `build`, or there are no batches or some of another shape.
    """
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
    precision: str = "float32",
    samples: Sequence[ImageLike] = (),
    opset: int | None = None,
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
        precision: "float32"; "float16", which stores the weights in half the space; or "int8", quantized with `samples`
            and checked that the classes stay the same.
        samples: images to compare on, beside random input: paths, Pillow images or uint8 arrays (H, W, C). "int8" needs
            32 to 500 like those it will see; half of them calibrate, the others check.
        opset: of ONNX's standard operators, 11 to 20; None for 17, or 20 for "int8".
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
        precision=precision,
        samples=samples,
        opset=opset,
        batch=batch,
        softmax=softmax,
        dynamic_size=dynamic_size,
    )


def _require_paddle() -> None:
    from ppcls_ext.packages import require

    require("paddle")
