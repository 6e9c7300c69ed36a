"""The command docs: the pages of the documentation, from the package itself."""

from __future__ import annotations

import sys
import webbrowser
from collections.abc import Sequence

from ppcls_ext.commands.options import command_parser
from ppcls_ext.commands.pages import PACKAGE, Page, find_pages, near
from ppcls_ext.errors import PpclsExtError, shown

#: Where `make docs` writes the site.
SITE = PACKAGE.parent / "build" / "docs"


def main(argv: Sequence[str] | None = None) -> None:
    """`ppcls-ext docs`."""
    parser = command_parser("docs", "docs", "docs own-images", "docs quantize --open")
    parser.add_argument("topic", nargs="?", metavar="TOPIC", help="the page to print; without it, all pages are listed")
    parser.add_argument("--chinese", action="store_true", help="the Chinese pages")
    built = "open the page in the browser, where `make docs` has built the site"
    parser.add_argument("--open", action="store_true", help=built)
    args = parser.parse_args(argv)
    language = "zh" if args.chinese else ""
    pages = find_pages(language)
    if args.topic is not None and args.topic not in pages:
        found = near(args.topic, pages)
        hint = f"it stands in {', '.join(found)}" if found else "ppcls-ext docs lists all"
        raise PpclsExtError(f"no page is called {shown(args.topic)}: {hint}")
    page = pages.get(args.topic)
    if args.open:
        _open(page, language)
    elif page is None:
        print("\n".join(_listed(pages)))
        option = "--chinese " * args.chinese
        print(f"ppcls-ext docs {option}TOPIC prints a page; all options of a command: ppcls-ext COMMAND --help")
    else:
        print(page.text(), end="")


def _listed(pages: dict[str, Page]) -> list[str]:
    width = max(map(len, pages))
    lines = []
    for group in dict.fromkeys(page.group for page in pages.values()):
        lines += [group, *(f"  {one.topic:<{width}}  {one.title}" for one in pages.values() if one.group == group), ""]
    return lines


def _open(page: Page | None, language: str) -> None:
    name = "index" if page is None else f"{page.path.parent.name}/{page.path.stem}"
    path = SITE / language / f"{name}.html"
    if not path.is_file():
        raise PpclsExtError(f"no {path}: run make docs in a checkout, or leave --open out to read the page here")
    if not webbrowser.open(path.as_uri()):
        print(f"no browser: {path}", file=sys.stderr)
