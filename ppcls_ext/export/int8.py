"""int8 that keeps its accuracy: equalize, find ranges, correct biases, check.

Re-parameterized networks lose ten points with plain static quantization, because fused channels have very different
ranges. Here the channels' ranges are made similar first, exactly (`equalization`), activations get the range of least
squared error and weights are rounded so that their errors cancel (`calibration`), and the biases compensate the mean
errors that remain (`qdq`).
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ppcls_ext import cpu
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.calibration import Histogram, Moments, Progress, measure_histograms, measure_limits
from ppcls_ext.export.comparison import AGREEMENT, Agreement, agreement, scores_of
from ppcls_ext.export.equalization import equalize
from ppcls_ext.export.graph import WEIGHTED, Graph
from ppcls_ext.export.opset import CHANNEL_SCALES_OPSET, GELU_OPSET, opset_of
from ppcls_ext.export.qdq import QuantizedGraph, correct_biases, quantized_values, range_sources
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.onnx_file import open_session
from ppcls_ext.progress import progress, ticks

#: Number of images that `quantize` takes.
FEWEST, MOST = 32, 500
#: The part of the images that calibrates; the others check the result.
CALIBRATING = 0.5
#: Operators that onnxruntime runs in floats; none of them may be left.
FLOAT_OPERATORS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


@dataclass(frozen=True)
class Int8Report:
    """Describes the int8 form of a model.

    Args:
        calibrated: number of images that it was calibrated on.
        answers: how far int8 and fp32 agree on other images.
        operators: of onnxruntime's graph, counted.
        size: of the file, as a part of the fp32 file's.
    """

    calibrated: int
    answers: Agreement
    operators: Counter[str]
    size: float

    @property
    def checked(self) -> int:
        """The number of other images."""
        return self.answers.images

    @property
    def agreement(self) -> float:
        """The part of these with the same class; of a multi-label model, of their decisions that are the same."""
        return self.answers.same

    def __str__(self) -> str:
        integer = ", ".join(f"{n} {name}" for name, n in self.operators.most_common() if name.startswith(("QL", "QG")))
        lines = [
            f"int8    {self.size:.2f} of fp32's size, calibrated on {self.calibrated} images",
            f"        {self.answers}",
            f"        onnxruntime runs {integer}",
        ]
        if cpu.multiplies_bytes() is False:
            lines.append("note: this CPU has no instructions for int8 (VNNI): here int8 saves space, not time,")
            lines.append("and sums that saturate make it agree less with fp32 than on other CPUs")
        return "\n".join(lines)


def quantize(
    model: onnx.ModelProto, images: np.ndarray, *, seed: int = 0, allow: bool = False, quiet: bool = False
) -> tuple[onnx.ModelProto, Int8Report]:
    """Returns the int8 form of a classifier, checked.

    Args:
        model: fp32, as `export_onnx` writes it; it is left unchanged.
        images: (N, C, H, W) float32, prepared, 32 to 500 like those that the model will see; half of them calibrate,
            the others check.
        seed: of the random split into the two halves.
        allow: return the form even if it agrees too little; see `comparison.AGREEMENT`.
        quiet: show no progress.

    Returns:
        The model, whose metadata have the key "quantization", and the report.

    Raises:
        PpclsExtError: too few or too many images, a graph that is not a classifier of the three families, or a form
            that differs too often or does not run in integers.
    """
    _check_arguments(model, images)
    metadata = Metadata.from_properties({entry.key: entry.value for entry in model.metadata_props})
    order = np.random.default_rng(seed).permutation(len(images))
    count = int(len(images) * CALIBRATING)
    calibrating, checking = images[np.sort(order[:count])], images[np.sort(order[count:])]
    weighted = sum(node.op_type in WEIGHTED for node in model.graph.node)
    with progress("int8", "steps") if not quiet else contextlib.nullcontext(_no_report) as shown:
        tick = ticks(shown, 2 * len(calibrating) + 2 * weighted + 2 * len(checking))
        quantized = _quantize(model, calibrating, tick)
        ours, theirs = [], []
        for row, other in zip(scores_of(quantized, checking, metadata), scores_of(model, checking, metadata)):
            ours.append(row)
            theirs.append(other)
            tick(2)
    found = agreement(np.stack(ours), np.stack(theirs), metadata)
    report = Int8Report(
        calibrated=len(calibrating),
        answers=found,
        operators=running_operators(quantized),
        size=quantized.ByteSize() / model.ByteSize(),
    )
    _require_good(report, allow)
    described = {"type": "int8", "agreement": round(found.same, 4), "pictures": count, "checked": len(checking)}
    if found.labels is not None:
        described.update(found=round(found.found, 4), largest_change=round(found.change, 4))
    quantized.metadata_props.add(key="quantization", value=json.dumps(described))
    return quantized, report


def running_operators(model: onnx.ModelProto) -> Counter[str]:
    """Returns the operators of the graph that onnxruntime makes of a model on this machine, counted."""
    with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
        path = str(Path(folder, "optimized.onnx"))
        open_session(model, optimized=path)
        return Counter(node.op_type for node in onnx.load(path).graph.node)


def _no_report(done: int, total: int) -> None:
    pass


def _quantize(model: onnx.ModelProto, images: np.ndarray, tick: Progress) -> onnx.ModelProto:
    graph = Graph(model)
    graph.unshare_constants()
    values = quantized_values(graph)
    sources = range_sources(graph, values)
    ranged = list(dict.fromkeys(sources.values()))
    limits = measure_limits(graph, images, ranged, tick)
    factors = equalize(graph, {name: limits[name].reach() for name in ranged})
    histograms = {
        name: Histogram((limits[name].low / factors[name]).min(), (limits[name].high / factors[name]).max())
        for name in ranged
    }
    moments = [Moments(node, graph.constants[node.input[1]], len(images)) for node in graph.weighted]
    outputs = [node.output[0] for node in graph.weighted]
    means = measure_histograms(graph, images, histograms, moments, outputs, tick)
    ranges = {name: histogram.range() for name, histogram in histograms.items()}
    covariances = {moment.node.name: moment.covariance() for moment in moments}
    quantized = QuantizedGraph(graph, {name: ranges[sources[name]] for name in values}, covariances, tick)
    correct_biases(quantized, images, means, tick)
    return quantized.to_model()


def require_count(images: int) -> None:
    """Raises PpclsExtError where an int8 form cannot be made with so many images."""
    if not FEWEST <= images <= MOST:
        raise PpclsExtError(f"int8 got {images} calibration images: expected {FEWEST} to {MOST} like those it will see")


def _check_arguments(model: onnx.ModelProto, images: np.ndarray) -> None:
    require_count(len(images))
    opset = opset_of(model)
    if opset < CHANNEL_SCALES_OPSET:
        raise PpclsExtError(f"int8 needs opset {CHANNEL_SCALES_OPSET} or later, got {opset}: leave out --opset")
    if any(node.op_type == "Erf" for node in model.graph.node):
        raise PpclsExtError(
            f"int8 needs GELU as one node, which opset {opset} has not: leave out --opset, or give {GELU_OPSET}"
        )
    graph = Graph(model)
    if not graph.weighted or any(node.input[1] not in graph.constants for node in graph.weighted):
        raise PpclsExtError("int8 needs fp32 weights in the graph: start from the fp32 file")


def _require_good(report: Int8Report, allow: bool) -> None:
    left = [name for name in FLOAT_OPERATORS if report.operators[name]]
    if left:
        raise PpclsExtError(
            f"onnxruntime runs {', '.join(left)} of the int8 form in floats; nothing was written: update onnxruntime"
        )
    if not report.answers.is_enough and not allow:
        raise PpclsExtError(
            f"int8 gives {report.answers}, expected {AGREEMENT:.0%}; nothing was written: give more images, or those "
            "it will see (--calibration), or keep it with --allow"
        )
