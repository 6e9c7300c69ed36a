"""The pages of the documentation that the package carries, and which one helps with an error."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import ppcls_ext
from ppcls_ext.errors import PpclsExtError

PACKAGE = Path(ppcls_ext.__file__).parent
#: In a wheel the pages are in the package, where setup.py copies them to; in a checkout they are in docs/.
FOLDERS = (PACKAGE / "pages", PACKAGE.parent / "docs")
#: Module, or module:function → the page that helps with an error raised there; most errors need none.
HELPS = {
    "config/best": "configuration",
    "config/checks:_check_sync_bn": "distributed",
    "config/recipe": "configuration",
    "data/class_folders": "own-images",
    "data/label_table": "multi-label",
    "data/lists": "files",
    "export/int8": "quantize",
    "hosts/checkouts": "downstream",
    "hosts/paddleclas/locate": "install",
    "hosts/paddlex": "deploy",
    "packages": "install",
    "predict/runtimes": "deploy",
    "reparam/fuse": "blocks",
    "reparam/unfuse": "fine-tune",
    "training/checkpoints": "files",
    "training/class_weights": "imbalance",
    "weights/bounded": "weights",
    "weights/checkpoint_sets": "files",
    "weights/files": "weights",
    "weights/loading": "weights",
    "weights/published": "weights",
}


class Page(NamedTuple):
    """One page of the documentation.

    Attributes:
        topic: its short address, behind `ppcls-ext docs`.
        title: its first heading.
        group: the heading in the index that it stands below.
        path: of its Markdown file.
    """

    topic: str
    title: str
    group: str
    path: Path

    def text(self) -> str:
        """Its text for a terminal: links lead to topics, and nothing of the site is left."""
        text = self.path.read_text(encoding="utf-8")
        text = text.replace("<!-- train options -->", "`ppcls-ext train --help` lists them.")
        text = re.sub(r"<!--.*?-->\n?", "", without_proofs(text), flags=re.DOTALL)
        text = re.sub(r"^!\[.*\]\(.*\)\n+", "", text, flags=re.MULTILINE)
        text = re.sub(r"\{py:\w+\}`~?([^`]+)`", r"`\1`", text)
        return re.sub(r"\[([^\]]+)\]\(([\w./]+)\.md(?:#[\w-]*)?\)", self._told, text)

    def _told(self, link: re.Match[str]) -> str:
        target = (self.path.parent / link[2]).resolve()
        chinese = "--chinese " if target.parents[1].name == "zh" else ""
        return f"{link[1]} (`ppcls-ext docs {chinese}{_topic(target.name)}`)"


def without_proofs(text: str) -> str:
    """Leaves out the last column, of tests, of tables that have one."""
    return re.sub(r"^(\|.*\|)[^|\n]*\|$", r"\1", text, flags=re.MULTILINE) if "| test |\n" in text else text


def _topic(stem: str) -> str:
    return stem.replace("_", "-")


def find_pages(language: str = "") -> dict[str, Page]:
    """Returns the pages by topic, in the order of the index, but for those that are made from the code.

    Args:
        language: "zh" for the Chinese pages.

    Raises:
        PpclsExtError: there are none.
    """
    roots = (folder / language for folder in FOLDERS)
    root = next((folder for folder in roots if (folder / "index.md").is_file()), PACKAGE)
    index = (root / "index.md").read_text(encoding="utf-8") if root != PACKAGE else ""
    found, group = {}, ""
    for caption, name in re.findall(r"^(?::caption: (.+)|(\w+/\w+))$", index, re.MULTILINE):
        if caption:
            group = caption
            continue
        path = root / f"{name}.md"
        text = path.read_text(encoding="utf-8")
        if "{eval-rst}" not in text and "<!-- commands -->" not in text:
            found[_topic(path.stem)] = Page(_topic(path.stem), text.partition("\n")[0].lstrip("# "), group, path)
    if not found:
        what = "no Chinese pages yet: leave --chinese out" if language else "no pages: install the package again"
        raise PpclsExtError(f"there are {what}")
    return found


def near(word: str, pages: dict[str, Page]) -> list[str]:
    """Returns the topics of the pages that name `word` most often, at most five."""
    counts = Counter({topic: page.text().lower().count(word.lower()) for topic, page in pages.items()})
    return [topic for topic, count in counts.most_common(5) if count]


def page_for(error: BaseException) -> str | None:
    """Returns the topic that helps with an error, by the place that raised it; None where there is none."""
    if not isinstance(error, PpclsExtError) or error.__traceback__ is None:
        return None
    code = _innermost(error.__traceback__).tb_frame.f_code
    path = Path(code.co_filename)
    if PACKAGE not in path.parents:
        return None
    module = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return HELPS.get(f"{module}:{code.co_name}") or HELPS.get(module)


def _innermost(traceback: TracebackType) -> TracebackType:
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback
