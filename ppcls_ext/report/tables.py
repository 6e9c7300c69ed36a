"""Tables in CSV: metrics.csv, which has a row per epoch of a training, and those of a report."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppcls_ext.csv_table import CsvWriter
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write, read_regular

LARGEST = 1 << 26
"""Bytes of a metrics file; a row has about a hundred."""
#: The first columns; the training's own metrics follow, as train_NAME or eval_NAME.
COLUMNS = ("epoch", "step", "learning_rate", "images_per_second", "train_loss", "eval_loss")


def read_metrics(path: str | os.PathLike) -> list[dict[str, float | None]]:
    """Returns the rows of a metrics file, None for an empty cell; no rows where there is no file.

    Raises:
        PpclsExtError: the file cannot be read, or a cell is not a number.
    """
    if not Path(path).exists():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(read_regular(path, LARGEST).decode("utf-8"), newline="")))
        return [{name: float(cell) if cell else None for name, cell in row.items()} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise PpclsExtError(f"cannot read {path}: {error}; move it away, and a new one is begun") from error


def add_metrics(path: str | os.PathLike, row: Mapping[str, float | None]) -> list[dict[str, float | None]]:
    """Adds a row, which replaces the rows of its epoch and later ones: a resumed training repeats them.

    Args:
        path: the metrics file.
        row: its cells by column; "epoch" is one of them.

    Returns:
        All rows of the file.
    """
    epoch = row["epoch"] or 0
    rows = [old for old in read_metrics(path) if (old.get("epoch") or 0) < epoch]
    rows.append(dict(row))
    names = [*COLUMNS, *(name for row in rows for name in row if name not in COLUMNS)]
    write_table(path, list(dict.fromkeys(names)), rows)
    return rows


def write_table(path: str | os.PathLike, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows as CSV, atomically; numbers with six digits, None as an empty cell."""
    with atomic_write(path, "w", encoding="utf-8", newline="") as stream:
        writer = CsvWriter(stream)
        writer.write(columns)
        for row in rows:
            writer.write(_cell(row.get(name)) for name in columns)


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
