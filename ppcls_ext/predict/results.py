"""The predictions for many images, written to a file."""

from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ppcls_ext.files import atomic_write

logger = logging.getLogger("ppcls_ext")

SUFFIXES = (".csv", ".json")
#: What is said of an image without a class.
NO_CLASS = "no class reaches its threshold"
COLUMNS = ("file_name", "rank", "class_id", "label_name", "score")


def write_results(path: str | os.PathLike, results: Sequence[dict[str, Any]]) -> None:
    """Writes a .csv file with a line per image and class, best first, or else one JSON document.

    An image without a class has one line, on which only its name stands.

    Args:
        path: path of the file.
        results: for each image "file_name", "class_ids", "scores" and "label_names", which may be empty. Names that are
            not UTF-8 are written with escapes, which a log line says.

    Raises:
        PpclsExtError: the file cannot be written.
    """
    odd = sum(_escaped(result["file_name"]) != result["file_name"] for result in results)
    if odd:
        logger.warning("%s: %d file names are not UTF-8: they are written with escapes such as \\udcff", path, odd)
    results = [{**result, "file_name": _escaped(result["file_name"])} for result in results]
    if Path(path).suffix.lower() != ".csv":
        with atomic_write(path, "w", encoding="utf-8") as stream:
            json.dump(results, stream, indent=1, ensure_ascii=False)
        return
    with atomic_write(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(row for result in results for row in _rows(result))


def _escaped(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _rows(result: dict[str, Any]) -> Iterator[tuple]:
    names = result.get("label_names") or [""] * len(result["class_ids"])
    for rank, (index, name, score) in enumerate(zip(result["class_ids"], names, result["scores"]), 1):
        yield result["file_name"], rank, index, name, score
    if not result["class_ids"]:
        yield result["file_name"], "", "", "", ""
