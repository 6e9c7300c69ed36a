"""The proof of a file of another format: loaded as `predict` loads it, and compared with the ONNX graph behind it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from ppcls_ext.data.image_input import PreparedImages
from ppcls_ext.data.lists import SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import (
    NOISE_FACTOR,
    Agreement,
    Inputs,
    OnnxSession,
    agreement,
    classifier_inputs,
    nudged,
)
from ppcls_ext.export.float16 import TOLERANCE
from ppcls_ext.export.graph import with_logits
from ppcls_ext.export.net import Constant, Net, with_unsigned_weights, without_rounding
from ppcls_ext.predict.answers import scores_from
from ppcls_ext.predict.coreml_model import CoreMlModel
from ppcls_ext.predict.ncnn_model import NcnnModel
from ppcls_ext.predict.runtimes import ExportedModel, load
from ppcls_ext.progress import progress, ticks

#: The largest difference of a score that is allowed between runtimes that compute with the same numbers, and where one
#: convolves by Winograd's transformations, which round more.
SAME, WINOGRAD = 1e-5, 1e-4
#: The same where eight bits pass through operations that runtimes round differently.
ROUNDED = 0.05
ROUNDED_KINDS = ("add", "gelu")
#: Random images of coarse patches, and images of each kind that rounding noise is measured on.
PATCHES, FEW = 3, 4


class Proof(NamedTuple):
    """How equal a file is to the ONNX file that it was made of.

    Attributes:
        agreement: of the scores.
        difference: the largest, of `of`.
        allowed: the most that was allowed.
        of: "a score", or "a logit, as a part of the largest," where it computes in halves.
    """

    agreement: Agreement
    difference: float
    allowed: float
    of: str

    def __str__(self) -> str:
        same = "class" if self.agreement.labels is None else "decision"
        return (
            f"{self.of} differs from onnxruntime's by up to {self.difference:.1e}, allowed is {self.allowed:.1e}; the "
            f"same {same} for {self.agreement.same:.0%}"
        )


class _Answers(NamedTuple):
    """Outputs and logits (N, classes) of a file, and of the ONNX graph."""

    got: np.ndarray
    expected: np.ndarray
    got_logits: np.ndarray
    logits: np.ndarray


def prove(model: onnx.ModelProto, net: Net, runtime: str, place: Path, images: PreparedImages | None) -> Proof:
    """Compares a file with the ONNX graph that it was made of.

    Args:
        model: that graph.
        net: as it was read from the graph.
        runtime: a key of `RUNTIMES`.
        place: the file.
        images: real ones, beside random ones.

    Raises:
        PpclsExtError: the file cannot be loaded, or its answers differ too much.
    """
    network = load(runtime, place, threads=1)  # on a busy machine ncnn's threads wait for each other
    package = network if isinstance(network, CoreMlModel) else None
    if net.levels:
        model = without_rounding(model) if package else with_unsigned_weights(model)
    inputs = _inputs(net, images, getattr(network, "takes_pixels", False))
    session = OnnxSession(with_logits(model, model.SerializeToString()))
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    with progress("proving the file") as report:
        answers = _answers(network, session, inputs, batch, ticks(report, 2 * sum(map(len, inputs.values()))))
    few = {kind: np.stack(list(itertools.islice(values, FEW))) for kind, values in inputs.items()}
    if package and package.computes_in_halves:
        proof = _proof_of_halves(net, network, session, few, batch, answers)
    else:
        proof = _proof_of_scores(net, network, session, few, batch, answers)
    if package:
        require_weights(net.for_rgb() if package.takes_pixels else net, package.weights)
    if not proof.difference <= proof.allowed:
        raise PpclsExtError(f"{runtime}: {proof}; nothing was written")
    return proof


def require_weights(net: Net, weights: list[np.ndarray]) -> None:
    """Requires that a package's weights are those of the net, bit by bit, in the type that they have there.

    Raises:
        PpclsExtError: one differs; the answers alone would not show a single one.
    """
    constants = [
        (operation, constant)
        for operation in net.operations
        if operation.weight is not None
        for constant in operation.constants
    ]
    if len(constants) != len(weights):
        raise PpclsExtError(
            f"the package holds {len(weights)} weights and biases, expected {len(constants)}; nothing was written"
        )
    for (operation, constant), found in zip(constants, weights):
        scale = constant.scale
        if constant.stored.dtype == np.int8 and scale is not None:  # biases are floats there
            constant = Constant(constant.stored, scale.astype(found.dtype))
        if not np.array_equal(constant.floats.astype(found.dtype), found):
            raise PpclsExtError(
                f"the package holds other weights than the file, before {operation.outputs[0]}; nothing was written"
            )


def _inputs(net: Net, images: PreparedImages | None, takes_pixels: bool) -> Inputs:
    """Returns what a file is proved on: noise where it takes floats, random pixels, and real images."""
    rule, (channels, height, width) = net.metadata.preprocessing, net.size
    inputs = classifier_inputs(net.size, rule, images)
    if takes_pixels:
        del inputs["noise"]
    coarse = np.random.default_rng(1).integers(0, 256, (PATCHES, channels, 4, 4)).astype(np.float32)
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    mean, std = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (rule.mean, rule.std))
    inputs["patches"] = (coarse[:, :, rows][:, :, :, columns] * np.float32(rule.scale) - mean) / std
    return inputs


def _answers(network: Any, session: OnnxSession, inputs: Inputs, batch: int, tick: Callable[[], None]) -> _Answers:
    found = session.outputs(inputs, batch, tick)
    rows = []
    for image in itertools.chain.from_iterable(inputs.values()):
        rows.append(network.outputs(image[None]) if isinstance(network, CoreMlModel) else [network.run(image[None])])
        tick()
    columns = [np.concatenate(values) for values in zip(*rows)]
    return _Answers(columns[0], _joined(found[0]), columns[-1], _joined(found[-1]))


def _joined(kinds: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(kinds.values()))


def _moved(session: OnnxSession, few: dict[str, np.ndarray], batch: int, move: Callable, output: int) -> list:
    """Returns an output of the ONNX graph for some images, and for the same, moved a little."""
    changed = {kind: move(values).astype(np.float32) for kind, values in few.items()}
    return [_joined(session.outputs(values, batch)[output]) for values in (few, changed)]


def _proof_of_halves(
    net: Net, network: ExportedModel, session: OnnxSession, few: dict, batch: int, answers: _Answers
) -> Proof:
    """Compares logits: what rounding to halves does to them, softmax may make anything of."""
    largest = max(float(np.abs(answers.logits).max()), float(np.finfo(np.float32).tiny))
    still, moved = _moved(session, few, batch, lambda values: values.astype(np.float16), -1)
    noise = float(np.abs(moved - still).max()) / largest
    difference = float(np.abs(answers.got_logits - answers.logits).max()) / largest
    got, expected = (_scores(network, net, values) for values in (answers.got, answers.expected))
    allowed = max(TOLERANCE, NOISE_FACTOR * noise)
    return Proof(agreement(got, expected, net.metadata), difference, allowed, "a logit, as a part of the largest,")


def _proof_of_scores(
    net: Net, network: ExportedModel, session: OnnxSession, few: dict, batch: int, answers: _Answers
) -> Proof:
    got, expected = (_scores(network, net, values) for values in (answers.got, answers.expected))
    found = agreement(got, expected, net.metadata)
    if net.levels and not isinstance(network, CoreMlModel):
        # a level more or less is no rounding noise, and so none is allowed
        is_loose = any(operation.kind in ROUNDED_KINDS for operation in net.operations)
        if is_loose and net.metadata.task == SINGLE_LABEL:
            _require_same_class(got, expected)
        return Proof(found, found.change, ROUNDED if is_loose else SAME, "a score")
    random = np.random.default_rng(1)
    still, moved = _moved(session, few, batch, lambda values: nudged(values, random), 0)
    noise = float(np.abs(_scores(network, net, moved) - _scores(network, net, still)).max())
    limit = WINOGRAD if isinstance(network, NcnnModel) else SAME
    return Proof(found, found.change, max(limit, NOISE_FACTOR * noise), "a score")


def _scores(network: ExportedModel, net: Net, outputs: np.ndarray) -> np.ndarray:
    return scores_from(outputs, net.metadata.task) if network.ends_in_logits else outputs


def _require_same_class(got: np.ndarray, expected: np.ndarray) -> None:
    """Requires that the best class is the same, unless onnxruntime's second is as good but for `ROUNDED`."""
    if expected.shape[1] < 2:
        return
    second, best = np.sort(expected, axis=1)[:, -2:].T
    others = (got.argmax(axis=1) != expected.argmax(axis=1)) & (best - second > ROUNDED)
    if others.any():
        raise PpclsExtError(
            f"{others.sum()} of {len(got)} images get another class than onnxruntime gives them; nothing was written"
        )
