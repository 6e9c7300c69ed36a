"""metrics.csv: a row per epoch of a training."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write, read_regular

LARGEST = 1 << 26
"""Bytes of a file; a row has about a hundred."""
#: First columns; a training's own metrics follow, each as train_NAME or eval_NAME.
COLUMNS = ("epoch", "step", "learning_rate", "images_per_second", "train_loss", "eval_loss")


def read_metrics(path: str | os.PathLike) -> list[dict[str, float | None]]:
    """The rows of a metrics file, None where a cell is empty; no rows where there is no file.

    Raises:
        PpclsExtError: it cannot be read, or a cell is no number.
    """
    if not Path(path).exists():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(read_regular(path, LARGEST).decode("utf-8"), newline="")))
        return [{name: float(cell) if cell else None for name, cell in row.items()} for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise PpclsExtError(f"cannot read {path}: {error}; move it away, and a new one is begun") from error


def add_metrics(path: str | os.PathLike, row: Mapping[str, float | None]) -> list[dict[str, float | None]]:
    """Adds a row in the place of those of its epoch and later ones, which a resumed training does again.

    Args:
        path: the file.
        row: with an "epoch".

    Returns:
        All rows.
    """
    rows = [old for old in read_metrics(path) if (old.get("epoch") or 0) < row["epoch"]]
    rows.append(dict(row))
    names = [*COLUMNS, *(name for row in rows for name in row if name not in COLUMNS)]
    write_table(path, list(dict.fromkeys(names)), rows)
    return rows


def write_table(path: str | os.PathLike, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Writes rows as CSV, atomically; numbers with six digits, None as an empty cell."""
    with atomic_write(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(row.get(name)) for name in columns])


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
