"""Maps between operations: the memory is (N, H, W, C), the tensor a view of the usual shape (N, C, H, W).

Handing such a view on costs nothing; any other operation gets a contiguous copy from Paddle by itself. In mixed
precision maps inside a net are bfloat16, of which Paddle computes nothing on a CPU: `as_float32` comes before that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer
from paddle.base.dygraph.base import in_sot_simulation_mode

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.onednn import bfloat16, operations
from ppcls_ext.onednn.find import VARIABLE, library
from ppcls_ext.onednn.memory import is_half

_TO_LAST, _FROM_LAST = [0, 2, 3, 1], [0, 3, 1, 2]


def is_traced() -> bool:
    """Whether operations are being recorded into a program, of Paddle's own operations only."""
    return in_sot_simulation_mode() or not paddle.in_dynamic_mode()


def learns(*parameters: Tensor) -> bool:
    """Whether gradients of any of these are being recorded: the layer trains, in whatever mode it runs."""
    return paddle.is_grad_enabled() and not all(value.stop_gradient for value in parameters)


def usable(*tensors: Tensor, training: bool, maps: int = 1) -> bool:
    """Whether oneDNN computes on these tensors: float32, on the CPU, in operations that run at once.

    `training`: whether the layer is in train mode, or `learns`. Otherwise gradients (of a map) are left to Paddle,
    whose graphs can be gone through twice, for the gradients of several classes, say; those of operations written in
    Python cannot. `maps`: how many of the first may be bfloat16, too.
    """
    # results are made on the current device, whatever the operands' is
    if is_traced() or library() is None or paddle.device.get_device() != "cpu":
        return False
    if not training and paddle.is_grad_enabled() and not all(value.stop_gradient for value in tensors):
        return False
    return all(
        _is_computed(value.dtype, number < maps) and value.place.is_cpu_place() and 0 not in value.shape
        for number, value in enumerate(tensors)
    )


def _is_computed(dtype: paddle.dtype, of_map: bool) -> bool:
    # `is` first: `==` takes five times as long
    return dtype is paddle.float32 or dtype == paddle.float32 or (of_map and dtype == paddle.bfloat16)


def to_channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) → contiguous (N, H, W, C); no copy where the memory is in that order already."""
    rows = x.transpose(_TO_LAST)
    if rows.is_contiguous():
        return rows
    return operations.channels_last(x.contiguous())


def from_channels_last(rows: Tensor) -> Tensor:
    """(N, H, W, C) → a view (N, C, H, W)."""
    return rows.transpose(_FROM_LAST)


def as_float32(x: Tensor) -> Tensor:
    """A bfloat16 map of ours as float32, for what computes in float32 alone; anything else as it is."""
    return _AsFloat32()(x) if is_bfloat16(x) else x


def is_bfloat16(x: Tensor) -> bool:
    """Whether it is a bfloat16 map of ours, which Paddle computes nothing of."""
    return not is_traced() and x.dtype == paddle.bfloat16 and x.place.is_cpu_place() and x.ndim == 4


def is_channels_last(x: Tensor) -> bool:
    """Whether a map (N, C, H, W) is a view of a channels-last one."""
    return not is_traced() and x.ndim == 4 and not x.is_contiguous() and x.transpose(_TO_LAST).is_contiguous()


def elementwise(function: Callable[..., Tensor], x: Tensor, *others: Tensor) -> Tensor:
    """`function(x, *others)`, elementwise and of tensors of four axes that broadcast, in `x`'s order of memory."""
    inputs = [as_float32(value) for value in (x, *others)]
    if is_channels_last(inputs[0]):
        return from_channels_last(function(*(value.transpose(_TO_LAST) for value in inputs)))
    return function(*inputs)


class Operation:
    """An operation on maps with a gradient. Subclasses compute with `operations`; one object serves one call.

    What Paddle promises to operations, and takes for promised of them, is held to here, for all of them: parameters are
    contiguous, gradients share no memory, a result changed in place or differentiated in a way that operations written
    in Python cannot serve is refused.

    Attributes:
        maps: how many of the first inputs are maps (N, C, H, W); the others are parameters.
        mixes: whether mixed precision rounds them to bfloat16; otherwise maps are computed with as they are.
    """

    maps, mixes = 1, True

    def forward(self, *inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The result (N, H, W, C), and what the gradient needs beside the inputs."""
        raise NotImplementedError

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        """The gradients of the inputs (maps as views), from that of the result (N, H, W, C).

        Those that are not needed may be None or anything; several may be one tensor.
        """
        raise NotImplementedError

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The result as a view (N, C, H, W), recorded for gradients where any is wanted."""
        start = next((number for number, value in enumerate(inputs) if not value.stop_gradient), None)
        if start is None or not paddle.is_grad_enabled():
            with paddle.no_grad() if paddle.is_grad_enabled() else contextlib.nullcontext():
                return from_channels_last(_handed_on(self.forward(*self.prepared(inputs))[0]))
        result = _Node.apply([*inputs[start:], *inputs[:start]], self, start)
        result.register_hook(_refuse_second_time())
        return result

    def prepared(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The inputs as they are computed with: maps of one kind of numbers, bfloat16 where that is wanted."""
        maps = list(inputs[: self.maps])
        if (self.mixes and bfloat16.is_on()) or any(is_half(x) for x in maps):
            maps = [_rounded(x) for x in maps]
        return self.dense([*maps, *inputs[self.maps :]])

    def dense(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The inputs, with contiguous copies of parameters that are views with gaps or of another order."""
        return [
            value if number < self.maps or value.is_contiguous() else value.contiguous()
            for number, value in enumerate(inputs)
        ]


class _AsFloat32(Operation):
    mixes = False

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        return bfloat16.to_float32(to_channels_last(x)), []

    def backward(self, grad: Tensor, inputs: list[Tensor], saved: list[Tensor], needed: list[bool]) -> list[Any]:
        return [from_channels_last(grad)]


def _rounded(x: Tensor) -> Tensor:
    """A map (N, C, H, W) in bfloat16."""
    return x if is_half(x) else from_channels_last(bfloat16.to_bfloat16(to_channels_last(x)))


def _handed_on(rows: Tensor) -> Tensor:
    """A result (N, H, W, C) as the next layer can read it."""
    return bfloat16.to_float32(rows) if is_half(rows) and not bfloat16.stays() else rows


def _refuse_second_time() -> Callable[[Tensor], None]:
    """A hook on an operation's result, which Paddle calls before it goes through the operation's node.

    What such a node needs is gone after the first time, whatever `retain_graph` says, and the second time ends the
    process (fluid/eager/pylayer/py_layer_node.cc, `ctx_ = nullptr`).
    """
    times: list[None] = []

    def hook(_: Tensor) -> None:
        if times:
            raise PpclsExtError(
                "a graph with oneDNN's operations cannot be gone through twice, which retain_graph=True asks for: "
                f"compute the result anew, or set {VARIABLE}=0"
            )
        times.append(None)

    return hook


class _Node(PyLayer):
    """Takes all inputs in one list, which starts with one that needs a gradient.

    Paddle (fluid/eager/pylayer/py_layer_node.cc) refuses gradients of single arguments that `paddle.grad` doesn't ask
    for, but looks at a list's first only.
    """

    @staticmethod
    def forward(ctx: Any, rotated: Sequence[Tensor], operation: Operation, start: int) -> Tensor:
        count = len(rotated)
        inputs = [*rotated[count - start :], *rotated[: count - start]]
        prepared = operation.prepared(inputs)
        result, saved = operation.forward(*prepared)
        ctx.mixed = is_half(prepared[0])
        ctx.rounded = [ctx.mixed and not is_half(value) for value in inputs[: operation.maps]]
        kept = [*prepared[: operation.maps], *inputs[operation.maps :]] if ctx.mixed else inputs
        ctx.save_for_backward(*kept, *saved)
        ctx.versions = [value.inplace_version for value in (*kept, *saved)]
        ctx.operation, ctx.start, ctx.count = operation, start, count
        ctx.needed = [not value.stop_gradient for value in inputs]  # as it is now: Paddle decides here, too
        return from_channels_last(_handed_on(result))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> list[Tensor | None]:
        values, start, operation = ctx.saved_tensor(), ctx.start, ctx.operation
        inputs, saved = list(values[: ctx.count]), list(values[ctx.count :])
        needed = ctx.needed
        if ctx.versions != [value.inplace_version for value in values]:
            raise PpclsExtError(
                "a tensor that a gradient needs was changed in place after it was used: change a copy of it instead"
            )
        if paddle.is_grad_enabled():
            raise PpclsExtError(
                f"oneDNN computes no gradients of gradients, which create_graph=True asks for: set {VARIABLE}=0"
            )
        rows = to_channels_last(grad)
        if ctx.mixed:
            rows = bfloat16.to_bfloat16(rows)
        grads = operation.backward(rows, operation.dense(inputs), saved, needed)
        for number, was_rounded in enumerate(ctx.rounded):
            if was_rounded and needed[number]:
                grads[number] = from_channels_last(bfloat16.to_float32(to_channels_last(grads[number])))
        grads = _of_their_own([value if need else None for value, need in zip(grads, needed)], [grad, *values])
        return [*grads[start:], *grads[:start]]


def _of_their_own(grads: list[Tensor | None], others: list[Tensor]) -> list[Tensor | None]:
    """The gradients, with a copy of each that lies in the memory of another one or of what was there before.

    Paddle adds to gradients, scales and clips them in place, once for each owner.
    """
    taken = {value.data_ptr() for value in others}
    result: list[Tensor | None] = []
    for value in grads:
        if value is not None:
            if value.data_ptr() in taken:
                is_view = is_channels_last(value)
                value = from_channels_last(value.transpose(_TO_LAST).clone()) if is_view else value.clone()
            taken.add(value.data_ptr())
        result.append(value)
    return result
