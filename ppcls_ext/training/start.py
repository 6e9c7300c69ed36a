"""Sets up Paddle and PaddleClas, before anything uses them."""

from __future__ import annotations

import os

from ppcls_ext.hosts.threads import use_all_cores


def set_up() -> None:
    """Sets up threads, adaptations, safe loading and models, before anything uses Paddle or PaddleClas.

    Raises:
        PpclsExtError: there is no PaddleClas with an engine.
    """
    # Paddle's C++ notes and warnings on how it runs a model; its errors are shown
    os.environ.setdefault("GLOG_minloglevel", "2")
    from ppcls_ext.hosts.paddleclas.locate import activate

    activate(need_engine=True)
    use_all_cores()
    from ppcls_ext.hosts.paddleclas.late_imports import late_imports

    with late_imports():
        from ppcls_ext.hosts.paddleclas import adaptations, samplers
        from ppcls_ext.hosts.paddleclas.registry import register
        from ppcls_ext.models.factories import FACTORIES

        samplers.publish()
        adaptations.apply()
        register(FACTORIES)
