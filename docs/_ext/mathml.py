"""Formulas as MathML, which browsers show by themselves: no script, no network, neither when built nor when read."""

from __future__ import annotations

from docutils.nodes import Element, SkipNode
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def _inline(self: HTML5Translator, node: Element) -> None:
    self.body.append(tex2mathml(node.astext()))
    raise SkipNode


def _block(self: HTML5Translator, node: Element) -> None:
    text = node.astext()
    self.body.append(tex2mathml(rf"\begin{{aligned}}{text}\end{{aligned}}" if r"\\" in text else text, as_block=True))
    raise SkipNode


def setup(app: Sphinx) -> dict:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("config-inited", lambda _, config: setattr(config, "html_math_renderer", "mathml"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
