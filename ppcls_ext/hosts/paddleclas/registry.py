"""Publishes our models, data sets and samplers where PaddleClas looks them up by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ppcls_ext.hosts.adaptation import patch
from ppcls_ext.hosts.paddleclas.locate import activate

logger = logging.getLogger("ppcls_ext")

#: PaddleClas's own factories of the names that `register` took over: name → original.
replaced: dict[str, Callable] = {}
_told: set[str] = set()


def register(factories: Mapping[str, Callable]) -> None:
    """Publishes factories, by name, in PaddleClas's registry; a second call changes nothing.

    The modules themselves are PaddleClas's registry: `build_model` takes `getattr(ppcls.arch, name)`, `RecModel` and
    `DistillationModel` evaluate the name inside `ppcls.arch`, and `ppcls.arch.backbone` lists the architectures. Names
    that PaddleClas has too are taken over; `replaced` keeps the originals, and `tell_replaced` logs it where one of
    them is built.

    Raises:
        PpclsExtError: there is no PaddleClas.
    """
    activate()
    import ppcls.arch

    for name, factory in factories.items():
        original = getattr(ppcls.arch, name, None)
        if original is factory:
            continue
        if original is not None:
            replaced.setdefault(name, original)
        for module in (ppcls.arch, ppcls.arch.backbone):
            patch(module, name, factory)


def publish(kind: type, within: str = "") -> None:
    """Makes a class known to PaddleClas, which looks up its name.

    Args:
        kind: a data set or a sampler, which it looks for in `ppcls.data`, or an operator on images.
        within: the name of the module in `ppcls.data` where it looks for operators.
    """
    import ppcls.data

    patch(getattr(ppcls.data, within) if within else ppcls.data, kind.__name__, kind)


def tell_replaced(name: str) -> None:
    """Logs once, in one line, that the model built under this name is not PaddleClas's own."""
    if name in replaced and name not in _told:
        _told.add(name)
        logger.warning(
            "%s is ppcls_ext's: PaddleClas's own fuses wrongly, in part or not at all "
            "(ppcls_ext.hosts.paddleclas.replaced has it)",
            name,
        )
