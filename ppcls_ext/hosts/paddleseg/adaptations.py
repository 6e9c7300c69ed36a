"""Changes to PaddleSeg, in the order in which they are applied."""

from __future__ import annotations

from ppcls_ext.hosts.adaptation import Adaptation
from ppcls_ext.hosts.dense.adaptations import SCALARS
from ppcls_ext.hosts.dense.nets import are_exports_proved, prove_exports


def _exports_are_unproved() -> bool:
    from paddleseg.core import export

    return not are_exports_proved(export)


def _proved_exports() -> None:
    from paddleseg.core import export

    prove_exports(export, arguments=lambda inputs: inputs[next(iter(inputs))])


PADDLESEG = (
    SCALARS,  # paddleseg/core/train.py ends in paddle.flops
    Adaptation("proved exports", "paddleseg/core/export.py", _exports_are_unproved, _proved_exports),
)
