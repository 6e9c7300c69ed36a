"""What an adaptation is, and what its probes are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple


class Adaptation(NamedTuple):
    """One change to a host: PaddleClas, or another one below `hosts/`.

    Attributes:
        name: what `apply_needed` reports.
        answers: the file of the host that fails without it.
        is_needed: the probe.
        apply: makes the change.
    """

    name: str
    answers: str
    is_needed: Callable[[], bool]
    apply: Callable[[], None]


def apply_needed(adaptations: Iterable[Adaptation]) -> list[str]:
    """Applies those whose probe says so, in order; gives their names."""
    applied = []
    for adaptation in adaptations:
        if adaptation.is_needed():
            adaptation.apply()
            applied.append(adaptation.name)
    return applied


class Extended:
    """A module with more in it, for one file of a host alone."""

    def __init__(self, module: ModuleType | Extended, **names: Any) -> None:
        self._module = module
        vars(self).update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def raises(errors: type[Exception] | tuple[type[Exception], ...], call: Callable, *args: Any) -> bool:
    """Whether `call(*args)` raises one of `errors`; what else it raises passes through."""
    try:
        call(*args)
    except errors:
        return True
    return False
