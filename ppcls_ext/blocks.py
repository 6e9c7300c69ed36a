"""Blocks for any Paddle network, with branches while it trains; `ppcls_ext.reparameterize` makes each one convolution.

docs/howto/blocks.md builds a detector's head and an encoder from them.
"""

from __future__ import annotations

from ppcls_ext.layers.rep_blocks import MobileOneBlock, RepVGGBlock
from ppcls_ext.layers.rep_conv import RepConv

__all__ = ["MobileOneBlock", "RepConv", "RepVGGBlock"]
