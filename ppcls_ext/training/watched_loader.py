"""A data loader whose batches are looked at on their way to the training or evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


class WatchedLoader:
    """A data loader that shows each batch to a function and then hands it out; in everything else it is that loader.

    Args:
        loader: Paddle's or PaddleClas's, or another one of these.
        show: called with each batch; what it raises ends the iteration.
    """

    def __init__(self, loader: Any, show: Callable[[Any], None]) -> None:
        self._loader, self._show = loader, show

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            self._show(batch)
            yield batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
