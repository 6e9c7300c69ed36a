"""Adaptations: changes to a host that are applied where a probe finds them needed."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any, NamedTuple


class Adaptation(NamedTuple):
    """One change to a host: PaddleClas, PaddleDetection or PaddleSeg.

    Attributes:
        name: the name that `apply_needed` reports.
        answers: the file of the host that the change is about.
        is_needed: the probe: whether the change is needed and not made yet.
        apply: makes the change.
    """

    name: str
    answers: str
    is_needed: Callable[[], bool]
    apply: Callable[[], None]


def apply_needed(adaptations: Iterable[Adaptation]) -> list[str]:
    """Applies those whose probe returns True, in order, and returns their names."""
    applied = []
    for adaptation in adaptations:
        if adaptation.is_needed():
            adaptation.apply()
            applied.append(adaptation.name)
    return applied


class Extended:
    """A module with additional names, for a single file of a host."""

    def __init__(self, module: ModuleType | Extended, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def raises(errors: type[Exception] | tuple[type[Exception], ...], call: Callable, *args: Any) -> bool:
    """Returns whether `call(*args)` raises one of `errors`; other exceptions pass through."""
    try:
        call(*args)
    except errors:
        return True
    return False


def mentions(code: ModuleType | Callable, text: str) -> bool:
    """Returns whether the source code of a module, class or function of a host contains `text`."""
    return text in inspect.getsource(code)


def patch(owner: Any, name: str, value: Any) -> None:
    """Gives a module or class of a host another attribute, for the rest of the process.

    Every change to a host goes through here or through `patched`, so that a search finds them all.
    """
    setattr(owner, name, value)


@contextlib.contextmanager
def patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives a module, class or object of a host another attribute inside the block; it may have none of this name."""
    originals = [getattr(owner, name)] if hasattr(owner, name) else []
    setattr(owner, name, value)
    try:
        yield
    finally:
        for original in originals:
            setattr(owner, name, original)
        if not originals:
            delattr(owner, name)
