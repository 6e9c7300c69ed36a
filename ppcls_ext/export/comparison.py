"""How far two forms of a model are apart: branches, fused, converted, reduced, run by another runtime.

Every comparison of the package is made here: the inputs on which forms are compared, the differences of their outputs
(logits, maps, class indices, lists of detections), what rounding explains, and the agreement of classes. Nothing here
needs Paddle; `fusion_proof` compares layers inside Paddle.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Union

import numpy as np

from ppcls_ext.data.image_input import PreparedImages
from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.data.lists import SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.predict.answers import scores_from, thresholds_of
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.onnx_file import open_session

if TYPE_CHECKING:
    import onnx

#: The largest difference allowed between two forms, as a part of the largest value. float32 leaves about 1e-6;
#: a branch forgotten or a wrong epsilon shows as 1e-3 or more.
TOLERANCE = 1e-4
#: A change of the input that does to the output about what rounding errors do.
NUDGE = 1e-6
#: Where a network magnifies rounding errors beyond `TOLERANCE` / 10, ten times its own noise is allowed.
NOISE_FACTOR = 10
#: The least agreement of two forms that round differently: of the images with one class the part for which both name
#: the same; of those with several labels the part of the decisions that are the same, and of the labels that are found.
AGREEMENT = 0.93
#: Mean and standard deviation that PaddleDetection's and PaddleSeg's configurations normalize with; some (YOLOX) take
#: levels from 0 to 255 instead.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Part of the pixels of a map of class indices that may differ: where two classes score the same but for rounding.
TIES = 1e-3
#: Columns of PaddleDetection's lists: class, score, left, top, right, bottom.
DETECTION_COLUMNS = 6
#: Part of the rows of a list that must have a partner in the other list; all of fewer than 20 rows.
ROWS = 0.95
#: Distance from 1 of the scores of a list in which more boxes score 1 than it has rows.
SATURATED = 1e-6
TINY = float(np.finfo(np.float32).tiny)
NO_SCORES: Mapping[int, int] = MappingProxyType({})

#: Outputs (N, classes), float32, by kind of input.
ByKind = Mapping[str, np.ndarray]
#: Images (N, C, H, W), float32, by kind of input.
Inputs = Mapping[str, Union[np.ndarray, PreparedImages]]


def _no_tick() -> None:
    pass


def classifier_inputs(
    image_shape: tuple[int, int, int], rule: Preprocessing, samples: np.ndarray | PreparedImages | None
) -> dict[str, np.ndarray | PreparedImages]:
    """Returns the inputs that classifiers are compared on: noise, random grey levels prepared by `rule`, real samples.

    Args:
        image_shape: (C, H, W).
        rule: its mean, std and scale are used.
        samples: prepared images (N, C, H, W), or None.
    """
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (1, *image_shape)).astype(np.float32)
    mean, std = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (rule.mean, rule.std))
    inputs: dict[str, np.ndarray | PreparedImages] = {
        "noise": random.standard_normal((2, *image_shape), dtype=np.float32),
        "grey levels": (levels * np.float32(rule.scale) - mean) / std,
    }
    if samples is not None:
        is_array = isinstance(samples, np.ndarray)
        inputs["samples"] = np.ascontiguousarray(samples, dtype=np.float32) if is_array else samples
    return inputs


def random_images(batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    """Returns images (batch, 3, height, width) float32 by kind: noise, random levels as numbers and normalized."""
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (batch, 3, height, width)).astype(np.float32)
    noise = random.standard_normal(levels.shape).astype(np.float32)
    return {"noise": noise, "levels": levels, "normalised levels": normalized(levels)}


def normalized(levels: np.ndarray) -> np.ndarray:
    """Returns levels (N, 3, H, W) from 0 to 255, normalized with `MEAN` and `STD`."""
    mean, std = (np.asarray(values, np.float32).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return (levels / 255 - mean) / std


def nudged(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Returns `values`, each changed by up to `NUDGE` of itself."""
    return (values * (1 + NUDGE * random.uniform(-1, 1, values.shape))).astype(values.dtype)


def relative_difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference as a part of the largest expected value; nan where a value is nan."""
    return float(np.abs(got - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))


def largest_difference(got: ByKind, expected: ByKind) -> float:
    """Returns the largest `relative_difference` of any kind of input; nan where a value is nan."""
    return float(np.max([relative_difference(got[kind], values) for kind, values in expected.items()]))


def require_small(what: str, difference: float, allowed: float = TOLERANCE) -> None:
    """Raises PpclsExtError where `difference` is larger than `allowed`, or nan."""
    if not difference <= allowed:
        raise PpclsExtError(
            f"{what} differ by {difference:.1e} (relative), allowed is {allowed:.1e}; nothing was written"
        )


def output_difference(
    got: Sequence[np.ndarray], expected: Sequence[np.ndarray], scores: Mapping[int, int] = NO_SCORES
) -> float:
    """Returns the largest difference of any output, as a part of its largest value; nan where a value is nan.

    Args:
        got: one form's outputs.
        expected: the other form's.
        scores: power by number of the output, for outputs between 0 and 1, which are raised to it and compared
            absolutely.

    Raises:
        PpclsExtError: number or shapes of the outputs differ.
    """
    # ONNX files have 1-element outputs where Paddle has 0-D ones
    got, expected = ([np.atleast_1d(values) for values in outputs] for outputs in (got, expected))
    shapes = [[tuple(values.shape) for values in outputs] for outputs in (got, expected)]
    if len(got) != len(expected) or not all(map(_may_differ_in_rows, *shapes)):
        raise PpclsExtError(f"the outputs' shapes differ: {shapes[0]}, expected {shapes[1]}; nothing was written")
    counts = [_are_counts(number, got) and _are_counts(number, expected) for number in range(len(got))]
    return float(
        np.max(
            [
                _difference(*pair, scores.get(number, 0))
                for number, pair in enumerate(zip(got, expected))
                if not counts[number]
            ],
            initial=0.0,
        )
    )


def _may_differ_in_rows(got: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Returns whether shapes are equal, or those of two lists of detections of nearly the same length."""
    if len(got) == len(expected) == 2 and got[1] == expected[1] == DETECTION_COLUMNS:
        return min(got[0], expected[0]) >= ROWS * max(got[0], expected[0])
    return got == expected


def _are_counts(number: int, outputs: Sequence[np.ndarray]) -> bool:
    """Returns whether an output says how many detections the images of a batch have: they are counted themselves."""
    values = outputs[number]
    lists = [rows for rows in outputs if rows.ndim == 2 and rows.shape[1] == DETECTION_COLUMNS]
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        return False
    return any(len(rows) == values.sum() for rows in lists)


def require_same(
    what: str,
    got: Sequence[np.ndarray],
    run: Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]],
    inputs: Mapping,
    scores: Mapping[int, int] = NO_SCORES,
) -> float:
    """Requires that `got` differs from `run(inputs)` by no more than rounding explains.

    Args:
        what: the two forms, for the error.
        got: one form's outputs.
        run: the other form.
        inputs: by name; those of four axes are images.
        scores: power by number of the output, for outputs between 0 and 1, which are raised to it and compared
            absolutely.

    Returns:
        The largest difference.

    Raises:
        PpclsExtError: they differ.
    """
    expected = run(inputs)
    difference = output_difference(got, expected, scores)
    allowed = TOLERANCE
    if not difference <= allowed:
        # images that a model was not trained on, levels instead of normalized ones, may magnify rounding errors
        random = np.random.default_rng(1)
        moved = run({name: nudged(value, random) if value.ndim == 4 else value for name, value in inputs.items()})
        if all(_may_differ_in_rows(one.shape, other.shape) for one, other in zip(moved, expected)):
            allowed = max(allowed, NOISE_FACTOR * output_difference(moved, expected, scores))
    require_small(what, difference, allowed)
    return difference


def _difference(got: np.ndarray, expected: np.ndarray, power: int = 0) -> float:
    if expected.size == 0:
        return 0.0
    if np.issubdtype(expected.dtype, np.integer) and expected.ndim > 1:
        share = float((got != expected).mean())
        return 0.0 if share <= TIES else share
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    if expected.ndim == 2 and expected.shape[1] == DETECTION_COLUMNS:
        return _difference_of_rows(got, expected)
    if power:
        return float(np.abs(got**power - expected**power).max())
    return relative_difference(got, expected)


def _difference_of_rows(got: np.ndarray, expected: np.ndarray) -> float:
    """Returns the distance from which `ROWS` of the rows of two lists of detections, in any order, have a partner.

    Rounding decides the order of equal scores and which of two equal boxes is kept, mostly on images of noise. It
    decides neither the score of a box that both lists hold nor the best score of a class: these always count. Class
    and score are compared as they are, boxes as parts of the largest coordinate.

    On levels that a detector was not trained on every row of a long list may score 1: then rounding chooses all rows.
    """
    scale = np.array([1, 1, *[max(np.abs(expected[:, 2:]).max(), TINY)] * 4], np.float64)
    apart = np.abs(got[:, None] - expected[None]) / scale
    distances, scores = apart.max(axis=2), apart[:, :, 1]
    same_box = np.delete(apart, 1, axis=2).max(axis=2) <= TOLERANCE
    others = np.where(same_box, scores, np.inf).min(axis=1)
    chosen = all(len(rows) > 20 and np.abs(rows[:, 1] - 1).max() <= SATURATED for rows in (got, expected))
    return float(
        np.max(
            [
                *(0 if chosen else _largest_but_few(distances.min(axis=axis)) for axis in (0, 1)),
                others[same_box.any(axis=1)].max(initial=0),
                np.abs(_best_scores(got, expected) - _best_scores(expected, got)).max(),
            ]
        )
    )


def _largest_but_few(distances: np.ndarray) -> float:
    """Returns the largest of the distances, without those of the rows that may be others."""
    return np.sort(distances)[-1 - int(len(distances) * (1 - ROWS) + 1e-9)]


def _best_scores(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Returns the best score of each class in either list; scores below the end of the other list count as that end."""
    end = max(rows[:, 1].min(), others[:, 1].min())
    kinds = np.union1d(rows[:, 0], others[:, 0])
    return np.array([rows[rows[:, 0] == kind, 1].max(initial=end) for kind in kinds])


class OnnxSession:
    """A graph in onnxruntime, loaded once for all comparisons.

    Args:
        network: a model, or the content of a file.

    Raises:
        PpclsExtError: onnxruntime does not take it.
    """

    def __init__(self, network: onnx.ModelProto | bytes) -> None:
        try:
            self._session = open_session(network)
        except Exception as error:  # onnxruntime's kinds have no common base
            raise PpclsExtError(f"onnxruntime cannot run the graph ({one_line(error)}); nothing was written") from error
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns all outputs, in order; `inputs`, by name, may contain more than the graph takes.

        Raises:
            PpclsExtError: onnxruntime fails on them.
        """
        try:
            return self._session.run(None, {name: inputs[name] for name in self._names})
        except Exception as error:  # as above
            batch = len(inputs[self._names[0]])
            raise PpclsExtError(
                f"onnxruntime cannot run the graph at batch {batch} ({one_line(error)}); nothing was written"
            ) from error

    def outputs(self, inputs: Inputs, batch: int, tick: Callable[[], None] = _no_tick) -> list[dict[str, np.ndarray]]:
        """Returns each output of a graph with one input, by kind of input.

        Args:
            inputs: images; different kinds share a batch, and the last one is filled up from its first ones.
            batch: images per run.
            tick: called after each image.

        Raises:
            PpclsExtError: onnxruntime fails on them, or an output has not one row an image.
        """
        (name,) = self._names
        images = itertools.chain.from_iterable(inputs.values())
        runs = []
        while some := list(itertools.islice(images, batch)):
            runs.append(self.run({name: np.resize(np.stack(some), (batch, *some[0].shape))}))
            for rows in runs[-1]:
                if len(rows) != batch:
                    raise PpclsExtError(f"the graph gives {len(rows)} rows for a batch of {batch}; nothing was written")
            for _ in some:
                tick()
        ends = np.cumsum([len(kind) for kind in inputs.values()])
        return [dict(zip(inputs, np.split(np.concatenate(rows), ends))) for rows in zip(*runs)]


def require_same_parameters(model: onnx.ModelProto, parameters: Mapping[str, np.ndarray]) -> None:
    """Requires that every constant of a graph with the name of a parameter equals that parameter, bit by bit.

    Raises:
        PpclsExtError: one differs.
    """
    from onnx import numpy_helper

    for constant in model.graph.initializer:
        parameter = parameters.get(constant.name)
        if parameter is not None and not np.array_equal(numpy_helper.to_array(constant), parameter):
            raise PpclsExtError(f"the conversion changed the parameter {constant.name}; nothing was written")


class Agreement(NamedTuple):
    """How far the answers of two forms of a classifier agree.

    Attributes:
        images: number of images.
        labels: number of labels of each; None where each image has one class.
        same: part of the images for which both name the same class; with several labels, of all decisions (one for
            each image and label) the part in which both are on the same side of the label's threshold.
        found: with several labels, twice the number of those that both find as a part of those that each finds: most
            decisions are no, and so a form that finds nothing would have most in common with any other. 1 where neither
            finds any.
        change: the largest difference of a score.
    """

    images: int
    labels: int | None
    same: float
    found: float
    change: float

    @property
    def is_enough(self) -> bool:
        """Whether forms that round differently may differ so much; see `AGREEMENT`."""
        return min(self.same, self.found) >= AGREEMENT

    def __str__(self) -> str:
        if self.labels is None:
            return f"the same class as fp32 on {self.same:.1%} of {self.images} other images"
        return (
            f"the same decision as fp32 on {self.same:.1%} of {self.images} × {self.labels} labels of other images, "
            f"{self.found:.1%} of the labels found in common, scores changed by up to {self.change:.3f}"
        )


class AgreementCounts:
    """Counts how far the scores of two forms of a classifier agree, batch by batch.

    Args:
        metadata: of the classifier.
    """

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._images = self._decisions = self._same = self._both = self._each = 0
        self._change, self._labels = 0.0, 0

    def add(self, got: np.ndarray, expected: np.ndarray) -> None:
        """Adds the scores (N, classes) of both forms for the same images.

        Raises:
            PpclsExtError: one has more classes, or there are thresholds for another number of classes.
        """
        if got.shape != expected.shape:
            raise PpclsExtError(
                f"one has {got.shape[1]} classes, the other {expected.shape[1]}: expected the same network"
            )
        self._images += len(got)
        self._change = max(self._change, float(np.abs(got - expected).max()))
        if self._metadata.task == SINGLE_LABEL:
            self._decisions += len(got)
            self._same += int((got.argmax(axis=1) == expected.argmax(axis=1)).sum())
            return
        self._labels = got.shape[1]
        thresholds = thresholds_of(self._metadata, self._labels)
        ours, theirs = got >= thresholds, expected >= thresholds
        self._decisions += ours.size
        self._same += int((ours == theirs).sum())
        self._both += int(2 * (ours & theirs).sum())
        self._each += int(ours.sum() + theirs.sum())

    def result(self) -> Agreement:
        """Returns what was counted, of at least one image."""
        found = self._both / self._each if self._each else 1.0
        return Agreement(self._images, self._labels or None, self._same / self._decisions, found, self._change)


def agreement(got: np.ndarray, expected: np.ndarray, metadata: Metadata) -> Agreement:
    """Compares the scores (N, classes) of two forms of a classifier; errors as of `AgreementCounts.add`."""
    counts = AgreementCounts(metadata)
    counts.add(got, expected)
    return counts.result()


def scores_of(model: onnx.ModelProto, images: np.ndarray, metadata: Metadata) -> Iterator[np.ndarray]:
    """Yields the scores (classes,) that a model gives each of `images` (N, 3, H, W)."""
    running = open_session(model)
    (value,), (output,) = running.get_inputs(), running.get_outputs()
    batch = value.shape[0] if isinstance(value.shape[0], int) else 1
    for start in range(0, len(images), batch):
        given = images[start : start + batch]
        filled = np.resize(given, (batch, *given.shape[1:]))
        rows = running.run(None, {value.name: filled})[0][: len(given)]
        yield from scores_from(rows, metadata.task) if metadata.ends_in_logits(output.name) else rows
