"""report.html: figures, tables and settings in one self-contained file, whose tables sort by their columns."""

from __future__ import annotations

import base64
import datetime
import hashlib
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.errors import printable_name
from ppcls_ext.files import atomic_write
from ppcls_ext.predict.latency import machine

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --back: #fff; --line: #ddd; --band: #f6f6f6; --link: #2a6fbb }
@media (prefers-color-scheme: dark) {
  :root { --ink: #ddd; --back: #181a1b; --line: #444; --band: #232627; --link: #7db4f0 }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1250px; padding: 0 1em;
  color: var(--ink); background: var(--back) }
h1 { font-size: 1.6em; overflow-wrap: anywhere }
h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid var(--line) }
img { max-width: 100%; height: auto; border: 1px solid var(--line); background: #fff }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: 2px 10px; text-align: left; vertical-align: top; overflow-wrap: anywhere }
tbody tr:nth-child(even) { background: var(--band) }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td[title] { text-decoration: underline dotted; cursor: help }
thead th { position: sticky; top: 0; background: var(--back); white-space: nowrap }
thead button { all: unset; cursor: pointer; color: var(--link) }
thead button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
thead button::after { content: " \\2195"; opacity: 0.5 }
th[aria-sort=ascending] button::after { content: " \\2191"; opacity: 1 }
th[aria-sort=descending] button::after { content: " \\2193"; opacity: 1 }
pre { background: var(--band); padding: 1em; overflow-x: auto; font-size: 12px }
.scroll { max-height: 28em; overflow: auto }
@media print {
  body { max-width: none; margin: 0 }
  .scroll { max-height: none; overflow: visible }
  pre { white-space: pre-wrap }
  thead th { position: static }
  thead button::after { content: "" }
  tr, img { break-inside: avoid }
  h2 { break-after: avoid }
}
"""

#: Makes a button of each column's head. Empty cells stay last; equal ones keep their order; the first click shows the
#: largest numbers, or the first texts.
_SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const isNumber = head.classList.contains("number");
    const compare = isNumber ? (a, b) => a - b : new Intl.Collator(undefined, { numeric: true }).compare;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const usual = isNumber ? "descending" : "ascending", other = isNumber ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === usual ? other : usual;
      const sign = order === "ascending" ? 1 : -1;
      for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const keyed = [...body.rows].map((row) => {
        const cell = row.cells[column];
        const text = cell.textContent;
        return { row, empty: text === "", key: isNumber ? Number(cell.dataset.value ?? text) : text };
      });
      keyed.sort((a, b) => a.empty - b.empty || (a.empty ? 0 : sign * compare(a.key, b.key)));
      body.append(...keyed.map(({ row }) => row));
    });
  });
}
"""
#: The browser loads nothing from elsewhere, and runs no other script than that one.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
    f"script-src 'sha256-{base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()}'"
)

Rows = Sequence[Mapping[str, object]]

#: Facts that stand behind the results.
CIRCUMSTANCES = ("duration", "machine", "versions")
#: Headings of columns that are called otherwise in the CSV files.
HEADINGS = {"pictures": "images", "f1": "F1"}


class Shortened(NamedTuple):
    """A value of the summary that is shown in short; the whole stands in the cell's title.

    Attributes:
        text: what is shown.
        whole: what it is short for.
    """

    text: str
    whole: str


class Page:
    """An HTML page that grows section by section.

    Args:
        title: title of the page.
        summary: name → value, shown as a table at the top.
    """

    def __init__(self, title: str, summary: Mapping[str, object]) -> None:
        self._title = title
        rows = "".join(f"<tr><th>{_text(name)}</th>{_fact(value)}</tr>" for name, value in summary.items())
        self._parts = [f"<h1>{_text(title)}</h1>\n<table><tbody>{rows}</tbody></table>"]

    def add_image(self, heading: str, path: str | os.PathLike) -> None:
        """Adds a PNG file, embedded."""
        data = base64.b64encode(Path(path).read_bytes()).decode("ascii")
        self._add(heading, f'<img alt="{_text(heading)}" src="data:image/png;base64,{data}">')

    def add_table(self, heading: str, rows: Rows) -> None:
        """Adds a table whose columns are the keys of the first row, and which sorts by each of them."""
        if not rows:
            self._add(heading, "<p>none</p>")
            return
        head = "".join(_head(name, [row.get(name) for row in rows]) for name in rows[0])
        body = "\n".join("<tr>" + "".join(_cell(row.get(name)) for name in rows[0]) + "</tr>" for row in rows)
        table = f'<table class="sortable"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>'
        self._add(heading, f'<div class="scroll" tabindex="0">{table}</div>')

    def add_text(self, heading: str, text: str) -> None:
        """Adds text as it is, such as a configuration."""
        self._add(heading, f'<pre class="scroll" tabindex="0">{_text(text)}</pre>')

    def write(self, path: str | os.PathLike) -> None:
        """Writes the page, atomically."""
        body = "\n".join(self._parts)
        with atomic_write(path, "w", encoding="utf-8") as stream:
            stream.write(
                f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(self._title)}</title>'
                f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
                '<meta name="viewport" content="width=device-width, initial-scale=1">'
                f"<style>{_STYLE}</style></head>\n<body>\n{body}\n<script>{_SCRIPT}</script></body></html>\n"
            )

    def _add(self, heading: str, content: str) -> None:
        self._parts.append(f"<section><h2>{_text(heading)}</h2>\n{content}</section>")


def begin_page(
    title: str, facts: Mapping[str, object], measured: Mapping[str, object], figures: Mapping[str, Path]
) -> Page:
    """Returns the page of an evaluation with its summary and its first figures.

    Args:
        title: title of the page.
        facts: rows of the summary: what was evaluated, or the metric that has chosen the epoch; None for what there
            is not. Where "weights" is the path of a file, with or without the suffix .pdparams, its checksum is added.
        measured: further rows, the results; numbers with a fraction are written with four digits.
        figures: heading → PNG file, such as the training's curves; one that is not there is left out.
    """
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z")
    known = {name: value for name, value in facts.items() if value is not None}
    summary: dict[str, object] = {"date": now, **known, **measured}
    for name in CIRCUMSTANCES:  # behind the results
        if name in known:
            summary[name] = summary.pop(name)
    summary.setdefault("machine", machine())
    weights = str(facts.get("weights") or "")
    file = next((path for path in (Path(weights), Path(f"{weights}.pdparams")) if weights and path.is_file()), None)
    if file is not None:
        digest = _checksum(file)
        summary["weights"] = Shortened(f"{file} (SHA-256 {digest[:12]}…)", f"SHA-256 {digest}")
    page = Page(title, summary)
    for heading, path in figures.items():
        if path.is_file():
            page.add_image(heading, path)
    return page


def _checksum(path: Path) -> str:
    """Returns the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _text(value: object) -> str:
    return html.escape(str(value))


def _fact(value: object) -> str:
    if isinstance(value, Shortened):
        return f'<td title="{_text(value.whole)}">{_text(value.text)}</td>'
    return f"<td>{_text(f'{value:.4f}' if isinstance(value, float) else value)}</td>"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _head(name: str, values: Sequence[object]) -> str:
    numbers = all(value is None or _is_number(value) for value in values)
    heading = HEADINGS.get(name, name.replace("_", " "))
    return f'<th scope="col"{" class=number" if numbers else ""}>{_text(heading)}</th>'


def _cell(value: object) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, float):
        return f'<td class="number" data-value="{value:.9g}">{value:.4f}</td>'
    if _is_number(value):
        return f'<td class="number">{value}</td>'
    return f"<td>{_text(printable_name(value))}</td>"
