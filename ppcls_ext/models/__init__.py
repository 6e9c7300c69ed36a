"""The models, and the one table of their factories."""

from ppcls_ext.models import fasternet, mobileone, repvgg

#: name → factory, e.g. `FACTORIES["RepVGG_B1g4"](class_num=10)`.
FACTORIES = {**mobileone.FACTORIES, **repvgg.FACTORIES, **fasternet.FACTORIES}

__all__ = ["FACTORIES"]
