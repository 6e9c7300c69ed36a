"""What has to happen before Paddle and PaddleClas are used."""

from __future__ import annotations

import os

from ppcls_ext.hosts.threads import use_all_cores


def set_up() -> None:
    """What has to happen before Paddle and PaddleClas are used: threads, adaptations, safe loading, models.

    Raises:
        PpclsExtError: there is no PaddleClas with an engine.
    """
    # Paddle's C++ notes and warnings on how it runs a model; its errors are shown
    os.environ.setdefault("GLOG_minloglevel", "2")
    from ppcls_ext.hosts.paddleclas.locate import activate, engine_class

    activate(need_engine=True)
    use_all_cores()
    from ppcls_ext.hosts.paddleclas.late_imports import late_imports

    with late_imports():
        from ppcls_ext.config.evaluation import guard
        from ppcls_ext.hosts.paddleclas import adaptations
        from ppcls_ext.hosts.paddleclas.bounded_resizing import bound_resizing
        from ppcls_ext.hosts.paddleclas.registry import register
        from ppcls_ext.models.factories import FACTORIES
        from ppcls_ext.weights.in_paddle import read_without_running

        adaptations.apply()
        engine_class()  # imports what runs, which can be guarded then
        read_without_running()
        guard()
        bound_resizing()
        register(FACTORIES)
