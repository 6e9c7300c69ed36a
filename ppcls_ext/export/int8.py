"""int8 that keeps its accuracy: equalize, find ranges, correct biases, check.

Re-parameterized networks lose ten points with plain static quantization, because fused channels have very different
ranges. Here ranges are made alike first, exactly (`equalize`), activations get the range of least squared error
(`ranges`), and the mean errors of rounding are taken out of the biases (`bias_correction`).
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from tqdm import tqdm

from ppcls_ext import cpu
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export import checks
from ppcls_ext.export.bias_correction import correct_biases
from ppcls_ext.export.equalization import equalize
from ppcls_ext.export.graph import Network
from ppcls_ext.export.qdq import QuantizedNetwork, quantized_values, range_sources
from ppcls_ext.export.ranges import Histogram
from ppcls_ext.export.rounding import Moments
from ppcls_ext.export.statistics import measure_histograms, measure_limits

FEWEST, MOST = 32, 500
#: Of the pictures, how many calibrate; the others are for the check.
CALIBRATING = 0.5
AGREEMENT = 0.93
MINIMUM_OPSET = 13  # weights with a scale per channel


@dataclass(frozen=True)
class Int8Report:
    """What became of a network.

    Args:
        calibrated: pictures that it was calibrated on.
        checked: other pictures, on which the classes were compared.
        agreement: part of them for which int8 and fp32 name the same class.
        operators: of onnxruntime's graph, counted.
        size: part of the fp32 file's.
    """

    calibrated: int
    checked: int
    agreement: float
    operators: Counter[str]
    size: float

    def __str__(self) -> str:
        integer = ", ".join(f"{n} {name}" for name, n in self.operators.most_common() if name.startswith(("QL", "QG")))
        lines = [
            f"int8    {self.size:.2f} of fp32's size, calibrated on {self.calibrated} pictures",
            f"        the same class as fp32 on {self.agreement:.1%} of {self.checked} other pictures",
            f"        onnxruntime runs {integer}",
        ]
        if cpu.multiplies_bytes() is False:
            lines.append("note: this CPU has no instructions for int8 (VNNI): here int8 saves space, not time")
        return "\n".join(lines)


def quantize(
    model: onnx.ModelProto, pictures: np.ndarray, *, seed: int = 0, allow: bool = False, quiet: bool = False
) -> tuple[onnx.ModelProto, Int8Report]:
    """The int8 form of a classifier, checked.

    Args:
        model: fp32, as `export_onnx` writes it; left as it is.
        pictures: (N, 3, H, W) float32, prepared, 32 to 500 of what the network will see; half of them calibrate, the
            others check.
        seed: of the choice which do.
        allow: return the form even where it names other classes too often.
        quiet: show no progress.

    Returns:
        The model, whose metadata say "quantization", and what was measured.

    Raises:
        PpclsExtError: too few or too many pictures, a graph that is no classifier of the three families, or a form that
            differs too often or does not run in integers.
    """
    _check(model, pictures)
    order = np.random.default_rng(seed).permutation(len(pictures))
    count = int(len(pictures) * CALIBRATING)
    calibrating, checking = pictures[np.sort(order[:count])], pictures[np.sort(order[count:])]
    steps = 2 * len(calibrating) + sum(node.op_type in ("Conv", "Gemm") for node in model.graph.node)
    with tqdm(total=steps + 2 * len(checking), desc="int8", unit="step", disable=True if quiet else None) as bar:
        quantized = _quantize(model, calibrating, bar)
        agreeing = 0
        for ours, theirs in zip(checks.classes_of(quantized, checking), checks.classes_of(model, checking)):
            agreeing += ours == theirs
            bar.update(2)
    report = Int8Report(
        calibrated=len(calibrating),
        checked=len(checking),
        agreement=agreeing / len(checking),
        operators=checks.running_operators(quantized),
        size=quantized.ByteSize() / model.ByteSize(),
    )
    _require_good(report, allow)
    described = {"type": "int8", "agreement": round(report.agreement, 4), "pictures": count, "checked": len(checking)}
    quantized.metadata_props.add(key="quantization", value=json.dumps(described))
    return quantized, report


def _quantize(model: onnx.ModelProto, pictures: np.ndarray, bar: tqdm) -> onnx.ModelProto:
    network = Network(model)
    values = quantized_values(network)
    sources = range_sources(network, values)
    ranged = list(dict.fromkeys(sources.values()))
    limits = measure_limits(network, pictures, ranged, bar.update)
    factors = equalize(network, {name: limits[name].reach() for name in ranged})
    histograms = {
        name: Histogram((limits[name].low / factors[name]).min(), (limits[name].high / factors[name]).max())
        for name in ranged
    }
    moments = [Moments(node, network.constants[node.input[1]], len(pictures)) for node in network.weighted]
    outputs = [node.output[0] for node in network.weighted]
    means = measure_histograms(network, pictures, histograms, moments, outputs, bar.update)
    ranges = {name: histogram.range() for name, histogram in histograms.items()}
    covariances = {moment.node.name: moment.covariance() for moment in moments}
    quantized = QuantizedNetwork(network, {name: ranges[sources[name]] for name in values}, covariances)
    correct_biases(quantized, pictures, means, bar.update)
    return quantized.to_model()


def _check(model: onnx.ModelProto, pictures: np.ndarray) -> None:
    if not FEWEST <= len(pictures) <= MOST:
        raise PpclsExtError(
            f"int8 got {len(pictures)} calibration pictures: expected {FEWEST} to {MOST} like those it will see"
        )
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset < MINIMUM_OPSET:
        raise PpclsExtError(f"int8 needs opset {MINIMUM_OPSET} or later, got {opset}: leave out --opset")
    if any(node.op_type == "Erf" for node in model.graph.node):
        raise PpclsExtError(f"int8 needs GELU as one node, which opset {opset} has not: leave out --opset, or give 20")
    network = Network(model)
    if not network.weighted or any(node.input[1] not in network.constants for node in network.weighted):
        raise PpclsExtError("int8 needs fp32 weights in the graph: start from the fp32 file")


def _require_good(report: Int8Report, allow: bool) -> None:
    left = [name for name in checks.FLOAT_OPERATORS if report.operators[name]]
    if left:
        raise PpclsExtError(
            f"onnxruntime runs {', '.join(left)} of the int8 form in floats; nothing was written: update onnxruntime"
        )
    if report.agreement < AGREEMENT and not allow:
        raise PpclsExtError(
            f"int8 names the same class as fp32 on {report.agreement:.1%} of {report.checked} pictures, expected "
            f"{AGREEMENT:.0%}; nothing was written: give more pictures, or those it will see (--calibration), or keep "
            "it with --allow"
        )
