"""The exponential moving average of all weights and running statistics (MobileOne, arXiv 2206.04040: decay 0.9995).

After each update t = 0, 1, … of the weights w, `average = d·average + (1 − d)·w`, in float32. With `warmup`,
`d = min(decay, (1 + t) / (10 + t))`: a short training would otherwise end with an average of mostly initial weights
(0.9995 keeps 82 % of them over 400 updates), and a long one does not notice.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import paddle
from paddle import Tensor, nn

from ppcls_ext.config.recipe import Ema
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.files import read_weight_file


class Average:
    """The moving average of a model's state.

    Args:
        model: whose present state is the first average.
        settings: decay and warm-up.
    """

    def __init__(self, model: nn.Layer, settings: Ema) -> None:
        self._decay, self._warmup = settings
        self._trained = model.state_dict()
        self.state: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in self._trained.items()}

    @paddle.no_grad()
    def update(self, step: int) -> None:
        """Takes in the model's state after the update number `step`, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step)) if self._warmup else self._decay
        for name, average in self.state.items():
            # three plain operations: lerp_ broadcasts, which is six times slower on large tensors
            average.add_(self._trained[name].subtract(average).scale_(1 - decay))

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """The model holds the average inside, and its trained state again outside, whatever happens."""
        trained = {name: tensor.detach().clone() for name, tensor in self._trained.items()}
        try:
            self._set(self.state)
            yield
        finally:
            self._set(trained)

    def load(self, path: str | os.PathLike) -> None:
        """Takes the average from a file written beside a checkpoint.

        Raises:
            PpclsExtError: it cannot be read or is another model's.
        """
        arrays = read_weight_file(path).tensors
        expected = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        if {name: array.shape for name, array in arrays.items()} != expected:
            raise PpclsExtError(f"{path} does not fit: expected the average of this model, {len(expected)} tensors")
        for name, array in arrays.items():
            self.state[name].set_value(array)

    @paddle.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self._trained.items():
            paddle.assign(values[name], output=tensor)
