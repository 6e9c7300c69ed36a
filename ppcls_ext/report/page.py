"""report.html: figures, tables and settings in one self-contained file."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppcls_ext.errors import printable_name
from ppcls_ext.files import atomic_write

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1250px; padding: 0 1em; color: #222 }
h1 { font-size: 1.6em } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd }
img { max-width: 100%; height: auto; border: 1px solid #eee }
table { border-collapse: collapse; font-size: 13px } td, th { padding: 2px 10px; text-align: left }
tr:nth-child(even) { background: #f6f6f6 } td.number { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 12px }
.scroll { max-height: 28em; overflow: auto }
"""

Rows = Sequence[Mapping[str, object]]


class Page:
    """An HTML page that grows section by section.

    Args:
        title: title of the page.
        summary: name → value, shown as a table at the top.
    """

    def __init__(self, title: str, summary: Mapping[str, object]) -> None:
        self._title = title
        rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in summary.items())
        self._parts = [f"<h1>{_text(title)}</h1>\n<table>{rows}</table>"]

    def add_image(self, heading: str, path: str | os.PathLike) -> None:
        """Adds a PNG file, embedded."""
        data = base64.b64encode(Path(path).read_bytes()).decode("ascii")
        self._add(heading, f'<img alt="{_text(heading)}" src="data:image/png;base64,{data}">')

    def add_table(self, heading: str, rows: Rows) -> None:
        """Adds a table whose columns are the keys of the first row."""
        if not rows:
            self._add(heading, "<p>none</p>")
            return
        head = "".join(f"<th>{_text(name.replace('_', ' '))}</th>" for name in rows[0])
        body = "\n".join("<tr>" + "".join(_cell(row.get(name)) for name in rows[0]) + "</tr>" for row in rows)
        self._add(heading, f'<div class="scroll"><table><tr>{head}</tr>\n{body}</table></div>')

    def add_text(self, heading: str, text: str) -> None:
        """Adds text as it is, such as a configuration."""
        self._add(heading, f'<pre class="scroll">{_text(text)}</pre>')

    def write(self, path: str | os.PathLike) -> None:
        """Writes the page, atomically."""
        body = "\n".join(self._parts)
        with atomic_write(path, "w", encoding="utf-8") as stream:
            stream.write(
                f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(self._title)}</title>'
                f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
            )

    def _add(self, heading: str, content: str) -> None:
        self._parts.append(f"<section><h2>{_text(heading)}</h2>\n{content}</section>")


def _text(value: object) -> str:
    return html.escape(str(value))


def _cell(value: object) -> str:
    if value is None:
        return "<td></td>"
    if isinstance(value, (int, float)):
        return (
            f'<td class="number">{value:.4f}</td>' if isinstance(value, float) else f'<td class="number">{value}</td>'
        )
    return f"<td>{_text(printable_name(value))}</td>"
