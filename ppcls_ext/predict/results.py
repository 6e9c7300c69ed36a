"""The predictions for many images, written to a file one by one: as CSV, or as one JSON document."""

from __future__ import annotations

import contextlib
import csv
import glob
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ppcls_ext.csv_table import CsvWriter, cell
from ppcls_ext.errors import Interrupted, PpclsExtError
from ppcls_ext.files import atomic_write, open_regular, require_plain

logger = logging.getLogger("ppcls_ext")

SUFFIXES = (".csv", ".json")
#: What is said of an image without a class.
NO_CLASS = "no class reaches its threshold"
COLUMNS = ("file_name", "rank", "class_id", "label_name", "score")


class JsonArray:
    """Writes the array that `json.dump(items, stream, …)` would write, item by item.

    Args:
        stream: open for writing text.
        indent: spaces of a level.
        is_begun: whether items stand in the stream already.
        **options: of `json.dumps`.
    """

    def __init__(self, stream: IO[str], indent: int, is_begun: bool = False, **options) -> None:
        self._stream, self._indent, self._is_begun, self._options = stream, indent, is_begun, options

    def add(self, item: object) -> None:
        """Writes one item."""
        text = json.dumps(item, indent=self._indent, **self._options)
        blanks = " " * self._indent
        self._stream.write(f"{',' if self._is_begun else '['}\n{blanks}" + text.replace("\n", f"\n{blanks}"))
        self._is_begun = True

    def end(self) -> None:
        """Writes the end of the array."""
        self._stream.write("\n]" if self._is_begun else "[]")


class ResultsWriter:
    """Writes results to an open file; see `write_results` for their form.

    Args:
        stream: open for writing UTF-8 with newline="", behind the results of `written`.
        is_csv: whether it is a table, or else a JSON document.
        written: the names of the images whose results stand in the file, in the file's form.

    Attributes:
        odd: number of names so far that are not UTF-8.
    """

    def __init__(self, stream: IO[str], is_csv: bool, written: frozenset[str] = frozenset()) -> None:
        self.odd = 0
        self._is_csv, self._written = is_csv, written
        self._table = CsvWriter(stream)
        self._array = JsonArray(stream, indent=1, is_begun=bool(written), ensure_ascii=False)
        if is_csv and not written:
            self._table.write(COLUMNS)

    def holds(self, file_name: str) -> bool:
        """Returns whether the results of an image stood in the file when it was opened."""
        return (cell(file_name) if self._is_csv else _escaped(file_name)) in self._written

    def add(self, result: dict[str, Any]) -> None:
        """Writes the result of one image."""
        name = _escaped(result["file_name"])
        self.odd += name != result["file_name"]
        if not self._is_csv:
            self._array.add({**result, "file_name": name})
            return
        for row in _rows(result):
            self._table.write(row)

    def add_all(self, results: Iterable[dict[str, Any]]) -> None:
        """Writes the results of several images."""
        for result in results:
            self.add(result)

    def end(self) -> None:
        """Writes what a complete file ends with."""
        if not self._is_csv:
            self._array.end()


@contextlib.contextmanager
def open_results(path: str | os.PathLike, resume: str | None = None) -> Iterator[ResultsWriter]:
    """Opens a file for results, which is complete under its name when the block ends; see `write_results`.

    Args:
        path: path of the file.
        resume: identifies the model and its options (`identity_of`), to go on with what is there: what the block wrote
            when it ended early stays in PATH.IDENTITY.part, and is taken up by the next call; without such a file the
            results in an existing `path` are.

    Raises:
        PpclsExtError: the file cannot be written, or what is there is not such a file, or of another model.
    """
    is_csv = Path(path).suffix.lower() == ".csv"
    if resume is None:
        with atomic_write(path, "w", encoding="utf-8", newline="") as stream:
            writer = ResultsWriter(stream, is_csv)
            yield writer
            writer.end()
    else:
        part = Path(f"{path}.{resume}.part")
        others = [other for other in glob.glob(f"{glob.escape(str(path))}.*.part") if other != str(part)]
        if others:
            raise PpclsExtError(
                f"{others[0]} holds results of another model, or with other options, up to where they were "
                "interrupted: finish it with these, or remove it"
            )
        with atomic_write(path) as whole:
            with _unfinished(Path(path), part, is_csv) as writer:
                yield writer
            with open(open_regular(part), "rb") as stream:
                shutil.copyfileobj(stream, whole)
        part.unlink()
    if writer.odd:
        logger.warning(
            "%s: %d file names are not UTF-8: they are written with escapes such as \\udcff", path, writer.odd
        )


@contextlib.contextmanager
def _unfinished(path: Path, part: Path, is_csv: bool) -> Iterator[ResultsWriter]:
    """Yields a writer behind the results that `part`, or else `path`, holds; they stay in `part` whatever happens."""
    require_plain(part)
    if not part.exists() and path.exists():
        written, end = _read_written(path, is_csv)
        with open(open_regular(path), "rb") as finished, atomic_write(part) as stream:
            _copy(finished, stream, end)
        logger.info("%s holds the results of %d images, of whatever model: they stay", path, len(written))
    elif part.exists():
        # the results of the last image may be incomplete
        written, end = _read_written(part, is_csv, but_the_last=True)
        os.truncate(part, end)
        logger.info("%s holds the results of %d images: they are taken up", part, len(written))
    else:
        written = frozenset()
    with open(part, "a", encoding="utf-8", newline="") as stream:
        writer = ResultsWriter(stream, is_csv, written)
        try:
            yield writer
        except KeyboardInterrupt as error:
            raise Interrupted(
                f"{str(error) or 'interrupted'}: the results so far are in {part}; the same command goes on from there"
            ) from error
        writer.end()


def _copy(source: IO[bytes], target: IO[bytes], left: int) -> None:
    while left and (piece := source.read(min(left, 1 << 20))):
        target.write(piece)
        left -= len(piece)


def _read_written(path: Path, is_csv: bool, but_the_last: bool = False) -> tuple[frozenset[str], int]:
    """Returns the names of the images whose results are in a file, and where in it these end."""
    names: dict[str, None] = {}
    end = before = 0  # of the last image's results, and of those before it
    last = None
    try:
        with open(open_regular(path), "rb") as stream:
            for name, place in (_csv_images if is_csv else _json_images)(stream, but_the_last):
                if name != last:
                    names[name], last, before = None, name, end
                end = place
    except (OSError, ValueError, TypeError, LookupError, csv.Error) as error:
        raise PpclsExtError(
            f"cannot go on with {path}: it is not a file of results that predict wrote ({error}); choose another name"
        ) from error
    if but_the_last and last is not None:
        del names[last]
        end = before
    return frozenset(names), end if names else 0


def _csv_images(stream: IO[bytes], may_be_cut: bool) -> Iterator[tuple[str, int]]:
    """Yields the name of each row's image, and the row's end; a row that is cut off is none, where it may be so."""
    head = stream.readline()
    whole = ",".join(COLUMNS).encode() + b"\r\n"
    if head != whole and not (may_be_cut and whole.startswith(head)):
        raise ValueError(f"its first line is not {','.join(COLUMNS)}")
    end = len(head)
    for line in stream:
        if may_be_cut and not line.endswith(b"\r\n"):
            return
        (row,) = csv.reader([line.decode("utf-8")])
        if len(row) != len(COLUMNS):
            raise ValueError(f"a row has {len(row)} cells")
        end += len(line)
        yield row[0], end


def _json_images(stream: IO[bytes], may_be_cut: bool) -> Iterator[tuple[str, int]]:
    """Yields the name of each image and the end of its results, of a document in the form of `ResultsWriter`."""
    head = stream.readline()
    if head not in (b"[\n", b"[]", *((b"", b"[") if may_be_cut else ())):
        raise ValueError("its first line is not [")
    end, item = len(head), b""
    for line in stream:
        end += len(line)
        item += line
        if line.startswith(b" }"):
            yield json.loads(item.rstrip(b",\n"))["file_name"], end - len(line) + len(b" }")
            item = b""
    if not may_be_cut and head != b"[]" and item != b"]":
        raise ValueError("its last line is not ]")


def identity_of(model: str | os.PathLike, *options: object) -> str:
    """Returns a short name for a model and its options: a digest of the file's content, or of those in its folder."""
    digest = hashlib.sha256(repr(options).encode())
    path = Path(model)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            with open(open_regular(file), "rb") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
    return digest.hexdigest()[:8]


def write_results(path: str | os.PathLike, results: Iterable[dict[str, Any]]) -> None:
    """Writes a .csv file with a line per image and class, best first, or else one JSON document.

    An image without a class has one line, on which only its name stands. The cells of a .csv file are those of
    `csv_table.cell`.

    Args:
        path: path of the file.
        results: for each image "file_name", "class_ids", "scores" and "label_names", which may be empty. Names that are
            not UTF-8 are written with escapes, which a log line says.

    Raises:
        PpclsExtError: the file cannot be written.
    """
    with open_results(path) as writer:
        writer.add_all(results)


def _escaped(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _rows(result: dict[str, Any]) -> Iterator[tuple]:
    names = result.get("label_names") or [""] * len(result["class_ids"])
    for rank, (index, name, score) in enumerate(zip(result["class_ids"], names, result["scores"]), 1):
        yield result["file_name"], rank, index, name, score
    if not result["class_ids"]:
        yield result["file_name"], "", "", "", ""
