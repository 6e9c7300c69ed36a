"""Puts our models where PaddleClas looks for architectures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from ppcls_ext.host.locate import activate

logger = logging.getLogger("ppcls_ext")

#: PaddleClas's own factories of the names that `register` took over: name → original.
replaced: dict[str, Callable] = {}


def register(factories: Mapping[str, Callable]) -> None:
    """Publishes factories, by name, in PaddleClas's registry; a second call changes nothing.

    PaddleClas has no registry but the modules themselves: `build_model` takes `getattr(ppcls.arch, name)`, and
    `RecModel` and `DistillationModel` evaluate the name inside `ppcls.arch`; `ppcls.arch.backbone` is what lists the
    architectures. Names that PaddleClas has too are taken over with one log line; `replaced` keeps the originals.

    Raises:
        PpclsExtError: there is no PaddleClas.
    """
    paddleclas = activate()
    import ppcls.arch

    taken_over = []
    for name, factory in factories.items():
        original = getattr(ppcls.arch, name, None)
        if original is factory:
            continue
        if original is not None:
            replaced.setdefault(name, original)
            taken_over.append(name)
        for module in (ppcls.arch, ppcls.arch.backbone):
            setattr(module, name, factory)
    if taken_over:
        logger.warning(
            "ppcls_ext replaces %s of PaddleClas %s, which fuse wrongly, in part or not at all "
            "(the originals: ppcls_ext.host.replaced)",
            ", ".join(taken_over),
            paddleclas.version,
        )
