"""The factories of all models; loading them loads Paddle and PaddleClas's base class."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.models.factory import Factory
from ppcls_ext.models.table import MODELS

#: name → factory, e.g. `FACTORIES["RepVGG_B1g4"](class_num=10)`.
FACTORIES: dict[str, Factory] = {
    name: importlib.import_module(f"ppcls_ext.models.{model.family}").FACTORIES[name] for name, model in MODELS.items()
}


def build(name: str, **kwargs: Any) -> Backbone:
    """See `ppcls_ext.build`."""
    if name not in FACTORIES:
        nearest = difflib.get_close_matches(str(name), FACTORIES, n=3, cutoff=0.4) or list(FACTORIES)[:3]
        raise PpclsExtError(f"no model is called {name!r}: did you mean {', '.join(nearest)}?")
    return FACTORIES[name](**kwargs)
