"""What PaddleClas needs to run on today's Python, Paddle and NumPy.

Each adaptation says which file of PaddleClas it answers and is applied only where a probe shows that the file fails; a
PaddleClas that needs none gets none.
"""

from __future__ import annotations

from ppcls_ext.hosts.adaptation import apply_needed
from ppcls_ext.hosts.paddleclas.adaptations import devices, labels, pictures, removed_names, scalars
from ppcls_ext.hosts.paddleclas.locate import activate

ADAPTATIONS = tuple(
    adaptation for module in (removed_names, scalars, labels, pictures, devices) for adaptation in module.ADAPTATIONS
)


def apply() -> list[str]:
    """Applies what the PaddleClas in use needs; once applied, a second call finds nothing to do.

    Returns:
        The names of the adaptations applied by this call.

    Raises:
        PpclsExtError: there is no PaddleClas with an engine.
    """
    activate(need_engine=True)
    return apply_needed(ADAPTATIONS)
