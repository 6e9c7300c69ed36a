"""Comparing one network's answers in several forms: as branches, fused, as an ONNX graph."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.predict.onnx_file import open_session
from ppcls_ext.reparam.reparameterizable import Reparameterizable

if TYPE_CHECKING:
    import onnx

#: The largest difference allowed between two forms, as a part of the largest value. float32 leaves about 1e-6;
#: a branch forgotten or a wrong epsilon shows as 1e-3 or more.
TOLERANCE = 1e-4
#: A change of the input that does to the output about what rounding errors do.
NUDGE = 1e-6
#: Where a network magnifies rounding errors beyond `TOLERANCE` / 10, ten times its own noise is allowed.
NOISE_FACTOR = 10

#: Images (N, C, H, W) or outputs (N, classes), float32, by kind of input.
ByKind = Mapping[str, np.ndarray]


def comparison_inputs(
    image_shape: tuple[int, int, int], rule: Preprocessing, samples: np.ndarray | None
) -> dict[str, np.ndarray]:
    """What networks are compared on: noise, images of random grey levels prepared by `rule`, and real samples.

    Args:
        image_shape: (C, H, W).
        rule: for its mean, std and scale.
        samples: (N, C, H, W), prepared; None where there are none.
    """
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (1, *image_shape)).astype(np.float32)
    mean, std = (np.reshape(np.float32(values), (3, 1, 1)) for values in (rule.mean, rule.std))
    inputs = {
        "noise": random.standard_normal((2, *image_shape), dtype=np.float32),
        "grey levels": (levels * np.float32(rule.scale) - mean) / std,
    }
    if samples is not None:
        inputs["samples"] = np.ascontiguousarray(samples, dtype=np.float32)
    return inputs


def largest_difference(got: ByKind, expected: ByKind) -> float:
    """The largest difference, as a part of the largest expected value of that kind; nan where a value is nan."""
    tiny = np.finfo(np.float32).tiny
    return float(
        np.max(
            [np.abs(got[kind] - values).max() / max(np.abs(values).max(), tiny) for kind, values in expected.items()]
        )
    )


def require_small(what: str, difference: float, allowed: float = TOLERANCE) -> None:
    """Raises PpclsExtError where `difference` is larger than `allowed`, or nan."""
    if not difference <= allowed:
        raise PpclsExtError(
            f"{what} differ by {difference:.1e} (relative), allowed is {allowed:.1e}; nothing was written"
        )


@paddle.no_grad()
def paddle_logits(model: nn.Layer, inputs: ByKind) -> dict[str, np.ndarray]:
    """Runs a model in Paddle, image by image, so that many samples need no more memory than one.

    Args:
        model: in eval mode.
        inputs: images.

    Raises:
        PpclsExtError: the model returns anything but (N, classes) of finite numbers.
    """
    logits = {kind: np.concatenate([_run(model, image) for image in images]) for kind, images in inputs.items()}
    if not all(np.isfinite(values).all() for values in logits.values()):
        raise PpclsExtError("the model's logits are not finite: the weights are damaged, or training diverged")
    return logits


def _run(model: nn.Layer, image: np.ndarray) -> np.ndarray:
    logits = model(paddle.to_tensor(image[None]))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise PpclsExtError(
            f"the model returns {got}, expected logits (N, classes): build it without return_stages and return_patterns"
        )
    return logits.numpy()


def branch_outputs(layer: Reparameterizable, x: Tensor) -> list[Tensor]:
    """What each branch of an unfused layer makes of `x: (N, C, H, W)`, one by one, as the layer is defined."""
    outputs = []
    for kernel, norm in layer.branches():
        y = x
        if kernel is not None:
            # a smaller kernel sits at the centre of the layer's
            padding = layer.padding - (layer.kernel_size - kernel.shape[-1]) // 2
            y = nn.functional.conv2d(x, kernel, None, layer.stride, padding, groups=layer.groups)
        outputs.append(norm(y))
    return outputs


class LayerComparison:
    """Makes an unfused layer sum its branches one by one, as it is defined, and compares the sum with the fused layer.

    In eval mode a layer may run its equivalent convolution already, so without this the fusion would be compared with
    itself. Sums are compared on equal inputs, which stays sharp where the whole network magnifies rounding errors (an
    untrained RepVGG_D2se turns 1e-7 into other logits altogether).

    Args:
        layer: unfused, in eval mode; it is changed.
        fused: the same layer, fused.
        name: of the layer, for the error.
    """

    def __init__(self, layer: Reparameterizable, fused: Reparameterizable, name: str) -> None:
        self.fused = fused
        self.name = name
        #: The largest so far, as a part of the largest value in a branch.
        self.difference = 0.0
        layer.register_forward_pre_hook(self._compare)

    def _compare(self, layer: Reparameterizable, inputs: tuple[Tensor, ...]) -> None:
        (x,) = inputs
        outputs = branch_outputs(layer, x)
        total = sum(outputs[1:], outputs[0])
        scale = max(float(output.abs().max()) for output in outputs)
        difference = float((self.fused.run_fused(x) - total).abs().max()) / max(scale, np.finfo(np.float32).tiny)
        require_small(f"the fused and the unfused layer {self.name}".rstrip(), difference)
        self.difference = max(self.difference, difference)
        # the layer goes on with the sum, where it would have run its equivalent convolution
        layer.run_fused = lambda _: total


def branch_form(model: nn.Layer, fused: nn.Layer) -> tuple[nn.Layer, list[LayerComparison]]:
    """A deep copy of `model` in eval mode that sums its branches one by one and compares each layer with `fused`.

    Returns:
        The copy, which raises PpclsExtError where a layer differs, and its comparisons.
    """
    reference = copy.deepcopy(model)
    reference.eval()
    fused_layers = dict(fused.named_sublayers(include_self=True))
    comparisons = [
        LayerComparison(layer, fused_layers[name], name)
        for name, layer in reference.named_sublayers(include_self=True)
        if isinstance(layer, Reparameterizable) and not layer.is_repped
    ]
    return reference, comparisons


def rounding_noise(model: nn.Layer, inputs: ByKind, logits: ByKind) -> float:
    """How far the logits of a model move when its input moves by `NUDGE`: about 1e-6 in healthy networks.

    Args:
        model: in eval mode.
        inputs: images.
        logits: the model's, for these images.
    """
    random = np.random.default_rng(1)
    nudged = {
        kind: (images * (1 + NUDGE * random.uniform(-1, 1, images.shape))).astype(np.float32)
        for kind, images in inputs.items()
    }
    return largest_difference(paddle_logits(model, nudged), logits)


class OnnxSession:
    """A graph in onnxruntime, loaded once for all comparisons.

    Args:
        network: a model, or a file's content; all outputs are computed.

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
        """All outputs, in order; `inputs`, by name, may hold more than the graph takes.

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

    def outputs(self, inputs: ByKind, batch: int) -> list[dict[str, np.ndarray]]:
        """Each output of a graph with one input, by kind of input.

        Args:
            inputs: images; different kinds share a batch, and the last one is filled up from the first ones.
            batch: images per run.

        Raises:
            PpclsExtError: onnxruntime fails on them, or an output has not one row an image.
        """
        images = np.concatenate(list(inputs.values()))
        count = -(-len(images) // batch) * batch
        filled = np.resize(images, (count, *images.shape[1:]))
        (name,) = self._names
        runs = [self.run({name: filled[start : start + batch]}) for start in range(0, count, batch)]
        for rows in (rows for outputs in runs for rows in outputs if len(rows) != batch):
            raise PpclsExtError(f"the graph gives {len(rows)} rows for a batch of {batch}; nothing was written")
        ends = np.cumsum([len(kind) for kind in inputs.values()])
        return [dict(zip(inputs, np.split(np.concatenate(rows), ends))) for rows in zip(*runs)]


def require_same_parameters(model: onnx.ModelProto, parameters: Mapping[str, np.ndarray]) -> None:
    """Compares every constant of a graph that bears a parameter's name with that parameter, bit by bit.

    Raises:
        PpclsExtError: one differs.
    """
    from onnx import numpy_helper

    for constant in model.graph.initializer:
        parameter = parameters.get(constant.name)
        if parameter is not None and not np.array_equal(numpy_helper.to_array(constant), parameter):
            raise PpclsExtError(f"the conversion changed the parameter {constant.name}; nothing was written")
