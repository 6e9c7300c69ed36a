"""PaddleClas: where it is, what it needs on this Paddle, and how our models get into it.

`replaced` maps the names that `register` took over from PaddleClas to PaddleClas's own factories.
"""

from ppcls_ext.hosts.paddleclas.registry import replaced

__all__ = ["replaced"]
