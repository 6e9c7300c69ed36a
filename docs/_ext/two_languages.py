"""The switch between English and Chinese, links from one to the other, and a search that finds Chinese words."""

from __future__ import annotations

import os
import re
from pathlib import Path

from docutils import nodes
from myst_parser.slugs import github_slugify
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.search import SearchLanguage, languages
from sphinx.util import logging

DOCS = Path(__file__).resolve().parents[1]
CHINESE = r"[\u3400-\u9fff]+"


class ChineseByPairs(SearchLanguage):
    """Chinese text as pairs of characters, in the index and in the query.

    Sphinx's own splits the pages into words, with jieba, but not the query, so that only a query of exactly one such
    word is found.
    """

    lang = "zh"
    language_name = "Chinese"
    js_splitter_code = r"""
var splitQuery = (query) =>
  (query.match(/[\u3400-\u9fff]+|[\p{Letter}\p{Number}_]+/gu) || []).flatMap((run) =>
    /[\u3400-\u9fff]/.test(run)
      ? run.length < 3 ? [run] : Array.from({ length: run.length - 1 }, (_, i) => run.slice(i, i + 2))
      : [run]);
"""

    def split(self, text: str) -> list[str]:
        """Returns the pairs of each run of Chinese characters, and other words as they are."""
        pairs = [run[start : start + 2] for run in re.findall(CHINESE, text) for start in range(max(1, len(run) - 1))]
        return pairs + re.findall(r"\w+", re.sub(CHINESE, " ", text))

    def word_filter(self, word: str) -> bool:
        """Every word counts."""
        return True


def _other_language(app: Sphinx, pagename: str, _template: str, context: dict, _doctree: object) -> None:
    """Tells the template where the same page in the other language is; its first page where there is none."""
    is_chinese = app.srcdir == DOCS / "zh"
    page = pagename if (DOCS / ("" if is_chinese else "zh") / f"{pagename}.md").is_file() else "index"
    up = "../" * pagename.count("/")
    context["other_language"] = f"{up}../{page}.html" if is_chinese else f"{up}zh/{page}.html"


def _link_to_english(app: Sphinx, doctree: nodes.document) -> None:
    """Turns a Chinese page's links to English pages, which another build makes, into plain ones; checks anchors."""
    for link in list(doctree.findall(pending_xref)):
        page = Path(f"{link['reftarget']}.md")
        if link.get("refdomain") != "doc" or not page.is_absolute():  # a page of this build is relative
            continue
        here = (DOCS / "zh" / app.env.docname).parent
        address = os.path.relpath(page.with_suffix(".html"), here)
        if anchor := link["reftargetid"]:
            titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8").replace("`", ""), re.MULTILINE)
            if anchor not in map(github_slugify, titles):
                logging.getLogger(__name__).warning("%s has no heading #%s", page, anchor, location=link)
            address += f"#{nodes.make_id(anchor)}"
        link.replace_self(nodes.reference("", "", *link.children, internal=False, refuri=address))


def setup(app: Sphinx) -> dict:
    """Called by Sphinx."""
    languages["zh"] = ChineseByPairs
    app.connect("html-page-context", _other_language)
    app.connect("doctree-read", _link_to_english)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
