"""Export to ONNX: fuse, convert, simplify, compare, and only then write the file.

Before the file there are four comparisons: every fused layer with its branches, the fused model with the unfused one,
the parameters in the graph with the model's, and what onnxruntime makes of the file's bytes with Paddle's answers. Any
failure leaves the disk as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle import nn

import ppcls_ext
from ppcls_ext.data.image_input import ImageLike, PreparedImages
from ppcls_ext.data.image_rule import SIZE, STRIDE, Preprocessing, read_size, size_text
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL, TASKS, require_class_names
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export import comparison, convert, fusion_proof
from ppcls_ext.export.comparison import ByKind, Inputs, OnnxSession, largest_difference, require_small
from ppcls_ext.export.graph import with_logits
from ppcls_ext.export.opset import DEFAULT_OPSET, OPSETS, default_opset, opset_of, require_precision
from ppcls_ext.export.written_file import WrittenFile, write_file
from ppcls_ext.packages import require
from ppcls_ext.predict.answers import check_threshold, sigmoid, thresholds_of
from ppcls_ext.predict.answers import softmax as softmax_of
from ppcls_ext.predict.metadata import LOGITS, OUTPUTS, PROBABILITIES, SCORES, Metadata
from ppcls_ext.progress import progress, ticks
from ppcls_ext.reparam.fuse import reparameterize

if TYPE_CHECKING:
    import onnx

#: Makes of the proved fp32 graph the one that is written instead, and a report on it.
Reduce = Callable[["onnx.ModelProto"], "tuple[onnx.ModelProto, object]"]

#: Side before the crop, relative to the crop: ImageNet's usual 256 : 224.
MARGIN = 256 / 224
DEFAULT_SIZE = 224  # px
#: Eight bits may round differently in another batch, and small differences grow on the way through the layers.
SAME_REDUCED = 0.1


@dataclass(frozen=True)
class ExportReport(WrittenFile):
    """Describes a written file and how equal it is to the model; differences are parts of the largest value.

    Args:
        layer_difference: between fused and unfused layers on equal inputs; None where the model came fused.
        fused_difference: between the fused and the unfused model's logits; None where the model came fused.
        onnx_differences: between onnxruntime's and Paddle's logits, by batch.
        size_differences: the same of a file for any size, by height and width of other images; empty else.
        noise: how far the logits move when the input moves by 1e-6; rounding errors do about as much.
        reduced: the report of `reduce`; None where the file is fp32.
    """

    layer_difference: float | None
    fused_difference: float | None
    onnx_differences: Mapping[int, float]
    noise: float
    reduced: object | None = None
    size_differences: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([super().__str__(), *self.differences()])

    def differences(self) -> list[str]:
        """Returns the lines that say how equal the file is, without those on the file itself."""
        differences = {
            "fused layers, from the sums of their branches": self.layer_difference,
            "fused model, from the unfused model": self.fused_difference,
            **{f"onnxruntime, from Paddle, batch {n}": value for n, value in self.onnx_differences.items()},
            **{f"onnxruntime, from Paddle, at {n} px": value for n, value in self.size_differences.items()},
            f"for comparison: Paddle, the input changed by {comparison.NUDGE:.0e}": self.noise,
        }
        whose = "the logits" if self.reduced is None else "the logits in fp32"
        lines = [
            f"largest differences of {whose}, relative to the largest logit:",
            *(f"  {value:.1e}  {what}" for what, value in differences.items() if value is not None),
        ]
        if self.noise * comparison.NOISE_FACTOR > comparison.TOLERANCE:
            lines.append("note: this model magnifies rounding errors; only its layers and parameters compare sharply")
        if self.reduced is not None:
            lines.append(str(self.reduced))
        return lines


def export_onnx(
    model: nn.Layer,
    output: str | Path,
    *,
    image_shape: tuple[int, int, int] = (3, 224, 224),
    opset: int = DEFAULT_OPSET,
    batch: int | None = None,
    softmax: bool = True,
    metadata: Mapping[str, str],
    samples: np.ndarray | PreparedImages | None = None,
    reduce: Reduce | None = None,
) -> ExportReport:
    """Writes the fused form of a classifier as an ONNX file that has been proved equal to the model.

    Args:
        model: maps images to logits (N, classes); it is left unchanged.
        output: the file to write; an older file stays until the new one is proved and complete.
        image_shape: (C, H, W) of the input.
        opset: of ONNX's standard operators, 11 to 20.
        batch: fixed batch size N; None leaves it free, under the name "batch".
        softmax: whether the output is "probabilities", or "scores" of a multi-label model, instead of "logits".
        metadata: `Metadata(…).to_properties()`; versions and opset are added. With its `dynamic_size` height and width
            are left free, and compared at three sizes.
        samples: real images, prepared, (N, C, H, W) float32, to compare on in addition to random ones; as
            `PreparedImages` they are read one by one.
        reduce: makes int8 or fp16 of the proved fp32 graph (`int8.quantize`, `float16.reduce_to_float16`), which is
            then written instead.

    Raises:
        PpclsExtError: an argument out of range, a package missing, a conversion that fails, forms that differ, or a
            file that cannot be written.
    """
    described = _check_arguments(output, image_shape, opset, batch, metadata, samples)
    require("paddle2onnx", "onnx", "onnxslim", "onnxruntime")
    from ppcls_ext.export import simplify

    fused = reparameterize(model)
    inputs = comparison.classifier_inputs(image_shape, described.preprocessing, samples)
    batches = [batch] if batch else [1, 3]
    images = sum(map(len, inputs.values()))
    with progress("comparing the forms") as report:
        tick = ticks(report, images * (3 + len(batches)))
        logits = fusion_proof.paddle_logits(fused, inputs, tick)
        classes = logits["noise"].shape[1]
        if described.class_names is not None:
            require_class_names(described.class_names, classes, "the metadata")
        thresholds_of(described, classes)  # raises where there are not as many
        ending = OUTPUTS[described.task] if softmax else LOGITS
        noise = fusion_proof.rounding_noise(fused, inputs, logits, tick)
        allowed = max(comparison.TOLERANCE, comparison.NOISE_FACTOR * noise)
        reference, comparisons = fusion_proof.branch_form(model, fused)
        fused_difference = largest_difference(logits, fusion_proof.paddle_logits(reference, inputs, tick))
        require_small("the fused and the unfused model's logits", fused_difference, allowed)

        parameters = fused.state_dict()
        channels, *sides = image_shape
        spec = (batch, channels, *((None, None) if described.dynamic_size else sides))
        raw = convert.convert(convert.InferenceModel(fused, ending), spec, opset)
        names = {parameter.name: name for name, parameter in parameters.items()}
        onnx_model = simplify.simplify(raw, described.architecture, names, ending)
        versions = {
            "ppcls_ext_version": ppcls_ext.__version__,
            "paddle_version": paddle.__version__,
            "paddle2onnx_version": version("paddle2onnx"),
            "opset": str(opset_of(onnx_model)),
        }
        simplify.set_properties(onnx_model, {**metadata, **versions})

        simplify.check(onnx_model)
        comparison.require_same_parameters(onnx_model, {name: value.numpy() for name, value in parameters.items()})
        content, reduced = onnx_model.SerializeToString(deterministic=True), None
        session = OnnxSession(with_logits(onnx_model, content))
        sizes = _other_sizes(image_shape) if described.dynamic_size else ()
        size_differences = {
            size_text(*shape[1:]): _compare_at(shape, fused, session, ending, allowed) for shape in sizes
        }
        onnx_differences = {n: _compare_with_paddle(session, inputs, logits, n, ending, allowed, tick) for n in batches}
    del session
    if reduce:
        onnx_model, reduced = reduce(onnx_model)
        content = onnx_model.SerializeToString(deterministic=True)
        _require_same_at_every_batch(content, inputs, batches, ending)
    return ExportReport(
        **vars(write_file(onnx_model, content, output)),
        layer_difference=max(comparison.difference for comparison in comparisons) if comparisons else None,
        fused_difference=fused_difference if comparisons else None,
        onnx_differences=onnx_differences,
        noise=noise,
        reduced=reduced,
        size_differences=size_differences,
    )


def _other_sizes(image_shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Two further shapes, neither square nor of the same proportions."""
    channels, height, width = image_shape
    return [(channels, height + STRIDE, width), (channels, height, width + 2 * STRIDE)]


def _compare_at(
    image_shape: tuple[int, int, int], fused: nn.Layer, session: OnnxSession, output: str, allowed: float
) -> float:
    """Compares onnxruntime with Paddle on images of another shape; see `_compare_with_paddle`."""
    noise = np.random.default_rng(0).standard_normal((2, *image_shape), dtype=np.float32)
    logits = fusion_proof.paddle_logits(fused, {"noise": noise}, lambda: None)
    return _compare_with_paddle(session, {"noise": noise}, logits, 2, output, allowed, lambda: None)


def export_with_rule(
    model: nn.Layer,
    path: str | Path,
    *,
    size: int | str | Sequence[int] | None = None,
    class_names: Sequence[str] | Mapping[int, str] | None = None,
    task: str = SINGLE_LABEL,
    thresholds: Sequence[float] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    precision: str = "float32",
    samples: Sequence[ImageLike] = (),
    opset: int | None = None,
    batch: int | None = None,
    softmax: bool = True,
    dynamic_size: bool = False,
) -> ExportReport:
    """See `ppcls_ext.export_onnx`."""
    require_precision(precision, dynamic_size)
    if task not in TASKS:
        raise PpclsExtError(f"task is {task!r}: expected {' or '.join(TASKS)}")
    if thresholds is not None and task != MULTI_LABEL:
        raise PpclsExtError(f"thresholds are for a {MULTI_LABEL} model: leave them out, or give task={MULTI_LABEL!r}")
    rule = _image_rule(size, preprocessing, getattr(model, "in_channels", None))
    width, height = rule.image_size
    names = None if class_names is None else _names_by_index(class_names)
    limits = None if thresholds is None else tuple(map(check_threshold, thresholds))
    arch = getattr(model, "arch", type(model).__name__)
    metadata = Metadata(arch, rule, names, task=task, thresholds=limits, dynamic_size=dynamic_size)
    images = PreparedImages(samples, rule) if len(samples) else None
    calibrating = images[:] if images is not None and precision == "int8" else np.empty(0)
    return export_onnx(
        model,
        path,
        image_shape=(rule.channels, height, width),
        opset=default_opset(precision) if opset is None else opset,
        batch=batch,
        softmax=softmax,
        metadata=metadata.to_properties(),
        samples=images,
        reduce=reduction(precision, calibrating),
    )


def reduction(precision: str, calibrating: np.ndarray, allow: bool = False) -> Reduce | None:
    """Returns what makes the fp32 graph one of a precision.

    Args:
        precision: a key of `PRECISIONS`.
        calibrating: for "int8", (N, 3, H, W) float32, images like those it will see; half of them check the result.
        allow: for "int8", whether to keep a form that names other classes too often.

    Raises:
        PpclsExtError: too few or too many images for "int8".
    """
    if precision == "float16":
        from ppcls_ext.export.float16 import reduce_to_float16

        return reduce_to_float16
    if precision == "int8":
        from ppcls_ext.export.int8 import quantize, require_count

        require_count(len(calibrating))
        return partial(quantize, images=calibrating, allow=allow)
    return None


def _names_by_index(class_names: Sequence[str] | Mapping[int, str]) -> tuple[str, ...]:
    if isinstance(class_names, Mapping):
        if sorted(class_names, key=str) != sorted(range(len(class_names)), key=str):
            keys = ", ".join(map(repr, list(class_names)[:3]))
            raise PpclsExtError(f"class_names has the keys {keys}, …: expected the whole numbers from 0, one a class")
        return tuple(str(class_names[index]) for index in range(len(class_names)))
    if isinstance(class_names, str):
        raise PpclsExtError(f"class_names is {class_names!r}: expected a list of names, one a class")
    return tuple(map(str, class_names))


def _image_rule(
    size: int | str | Sequence[int] | None,
    preprocessing: Preprocessing | Mapping[str, Any] | None,
    channels: int | None,
) -> Preprocessing:
    """Returns ImageNet's rule at `size` px, with the fields of `preprocessing` instead of its own.

    `channels` are those of the model's images; None where it does not tell.
    """
    sides = read_size(DEFAULT_SIZE if size is None else size)
    if sides is None:
        raise PpclsExtError(f"size is {size!r}: expected a whole number of {SIZE}")
    if isinstance(preprocessing, Preprocessing):
        if size is not None and preprocessing.image_size != sides[::-1]:
            raise PpclsExtError(f"size is {size} px, and preprocessing makes images of {preprocessing.image_size} px")
        _require_channels(preprocessing, channels)
        return preprocessing
    height, width = sides
    fields: dict[str, Any] = {"crop": (width, height), **({} if channels is None else {"channels": channels})}
    if height == width:
        fields["resize_short"] = round(height * MARGIN)
    else:
        fields.update(resize_short=None, resize=(round(width * MARGIN), round(height * MARGIN)))
    fields.update(preprocessing or {})
    known = [field.name for field in dataclasses.fields(Preprocessing)]
    unknown = sorted(set(fields) - set(known))
    if unknown:
        raise PpclsExtError(f"preprocessing has no {', '.join(unknown)}: expected {', '.join(known)}")
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    rule = Preprocessing(**values)
    _require_channels(rule, channels)
    return rule


def _require_channels(rule: Preprocessing, channels: int | None) -> None:
    if channels not in (None, rule.channels):
        raise PpclsExtError(
            f"the model takes images of {channels} channels, and preprocessing makes {rule.channels}: expected "
            f"channels={channels}"
        )


def _compare_with_paddle(
    session: OnnxSession,
    inputs: Inputs,
    logits: ByKind,
    batch: int,
    output: str,
    allowed: float,
    tick: Callable[[], None],
) -> float:
    """Returns the logits' largest relative difference; raises where they or the scores differ too much.

    The session's first output is the file's, the last one the logits.
    """
    answers = session.outputs(inputs, batch, tick)
    difference = largest_difference(answers[-1], logits)
    require_small(f"onnxruntime's and Paddle's logits at batch {batch}", difference, allowed)
    if output != LOGITS:
        function = sigmoid if output == SCORES else softmax_of
        expected = {kind: function(values) for kind, values in logits.items()}
        # logits that are d apart make probabilities with ratios of up to exp(2 d), scores of up to exp(d)
        scale = max(float(np.abs(values).max()) for values in logits.values())
        what = f"onnxruntime's and Paddle's {output} at batch {batch}"
        require_small(what, largest_difference(answers[0], expected), allowed * max(1.0, 2 * scale))
    return difference


def _require_same_at_every_batch(content: bytes, inputs: Inputs, batches: Sequence[int], output: str) -> None:
    """Raises where the answers of int8 or fp16 change with the batch, or probabilities do not sum up to 1."""
    session = OnnxSession(content)
    few = {kind: images[:2] for kind, images in inputs.items()}
    found = {batch: session.outputs(few, batch)[0] for batch in batches}
    for batch, answers in found.items():
        difference = largest_difference(answers, found[batches[0]])
        require_small(f"its answers at batch {batches[0]} and {batch}", difference, SAME_REDUCED)
        if output == PROBABILITIES:
            sums = {kind: rows.sum(axis=1) for kind, rows in answers.items()}
            ones = {kind: np.ones(len(rows)) for kind, rows in answers.items()}
            require_small(f"the sums of its probabilities at batch {batch} and 1", largest_difference(sums, ones))


def _check_arguments(
    output: str | Path,
    image_shape: tuple[int, int, int],
    opset: int,
    batch: int | None,
    metadata: Mapping[str, str],
    samples: np.ndarray | PreparedImages | None,
) -> Metadata:
    if Path(output).is_dir():
        raise PpclsExtError(f"{output} is a folder: expected the name of the file to write")
    if opset not in OPSETS:
        raise PpclsExtError(f"opset is {opset}: expected {OPSETS[0]} to {OPSETS[-1]}")
    if batch is not None and (type(batch) is not int or batch < 1):
        raise PpclsExtError(f"batch is {batch!r}: expected a whole number from 1, or none for any batch")
    described = Metadata.from_properties(metadata)
    width, height = described.preprocessing.image_size
    channels = described.preprocessing.channels
    if list(np.ravel(image_shape)) != [channels, height, width]:
        raise PpclsExtError(
            f"image_shape is {image_shape}, but the transforms make images of shape {(channels, height, width)}: "
            "change Global.image_shape or the sizes in Infer.transforms"
        )
    if samples is not None and (len(samples.shape) != 4 or samples.shape[1:] != tuple(image_shape) or not len(samples)):
        raise PpclsExtError(f"samples have shape {samples.shape}: expected (N, {', '.join(map(str, image_shape))})")
    return described
