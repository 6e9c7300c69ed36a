"""Files of measured latencies: a table as JSON, CSV and Markdown, and a drawing."""

from __future__ import annotations

import datetime
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.csv_table import CsvWriter
from ppcls_ext.files import atomic_write
from ppcls_ext.predict.latency import machine
from ppcls_ext.predict.runtimes import with_version
from ppcls_ext.report.charts import draw_latency, drawn_latencies


def write_latencies(
    folder: Path, rows: list[dict[str, Any]], turns: int, published: Mapping[str, tuple[float, int]]
) -> Iterator[Path]:
    """Writes bench.json, bench.csv, bench.md, and bench.png where accuracies are published for what was measured.

    Args:
        folder: where to write.
        rows: from `ppcls_ext.predict.latency.measure_files`.
        turns: the number of turns that the rows are medians of.
        published: published top-1 accuracies by model, %, and the side of the images that they are of, px.

    Yields:
        The path of each file, once it is written.
    """
    table = io.StringIO()
    writer = CsvWriter(table, newline="\n")
    writer.write(rows[0])
    for row in rows:
        writer.write(row[name] for name in rows[0])
    versions = ", ".join(map(with_version, dict.fromkeys(row["runtime"].partition("-")[0] for row in rows)))
    about: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions,
        "turns": turns,
    }
    texts = {
        "bench.json": json.dumps({**about, "rows": rows}, indent=2),
        "bench.csv": table.getvalue(),
        "bench.md": _markdown(rows, about),
    }
    for name, text in texts.items():
        with atomic_write(folder / name, "w", encoding="utf-8") as file:
            file.write(text)
        yield folder / name
    shown = drawn_latencies(rows, published)
    if shown:
        draw_latency(shown, published, about["machine"], folder / "bench.png")
        yield folder / "bench.png"


def _markdown(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """The measurements as a page: a row for each model, size and number of threads, a column for each way to run it."""
    ways = list(dict.fromkeys((row["form"], row["runtime"]) for row in rows))
    cases: dict[tuple, dict[tuple, float]] = {}
    for row in rows:
        case = row["model"], row["px"], row["threads"]
        cases.setdefault(case, {})[row["form"], row["runtime"]] = row["median"]
    header = ["model", "px", "threads", *(f"{form}, {runtime}" for form, runtime in ways)]
    lines = [header, ["---"] * len(header)]
    for case, found in cases.items():
        lines.append([*map(str, case), *(f"{found[way]:.2f}" if way in found else "" for way in ways)])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        "# Latency\n\nWritten by `ppcls-ext bench`: ms per image, medians of "
        f"{about['turns']} turns, {about['date']}, {about['machine']}, {about['versions']}.\n\n{table}\n"
    )
