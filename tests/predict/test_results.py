"""Results in files: written one by one, taken up where they were interrupted; one name cannot lose them."""

from __future__ import annotations

import csv
import io
import json
import os
import tracemalloc

import pytest

from ppcls_ext.errors import Interrupted, PpclsExtError
from ppcls_ext.files import atomic_write
from ppcls_ext.predict.results import JsonArray, identity_of, open_results, write_results

ODD = os.fsdecode(b"a\xff.png")
RESULTS = [
    {"file_name": name, "class_ids": [1, 0], "scores": [0.75, 0.25], "label_names": ["菊", "rose"]}
    for name in ("good.png", ODD, "=cmd.png")
]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_name_that_is_not_utf8_is_escaped_and_said(tmp_path, caplog, monkeypatch, suffix):
    monkeypatch.setattr("ppcls_ext.predict.results.logger.propagate", True)
    path = tmp_path / f"results{suffix}"
    write_results(path, RESULTS)
    text = path.read_text(encoding="utf-8")
    names = (
        [row["file_name"] for row in csv.DictReader(text.splitlines())][::2]
        if suffix == ".csv"
        else [result["file_name"] for result in json.loads(text)]
    )
    assert names == ["good.png", "a\\udcff.png", "'=cmd.png" if suffix == ".csv" else "=cmd.png"]
    assert f"{path}: 1 file names are not UTF-8" in caplog.text


@pytest.mark.parametrize("length", [240, 255])
def test_long_names(tmp_path, length):
    path = tmp_path / ("n" * (length - 4) + ".csv")
    write_results(path, RESULTS[:1])
    assert path.is_file()
    umlauts = tmp_path / ("ü" * 125 + ".csv")
    write_results(umlauts, RESULTS[:1])
    assert umlauts.is_file()


def test_too_long_a_name_is_said(tmp_path):
    with pytest.raises(PpclsExtError, match="choose a shorter name"), atomic_write(tmp_path / ("n" * 300), "w") as file:
        file.write("x")
    assert not list(tmp_path.iterdir())


def answers(count: int) -> list[dict]:
    """Results with one, several and no classes, and names of all kinds."""
    names = ["a b.png", 'é,"q".png', "=cmd.png", "two\nlines.png", "菊花.png", ODD, "'=x.png"]
    return [
        {
            "file_name": f"{index}/{names[index % len(names)]}" if index % 2 else f"{names[index % len(names)]}{index}",
            "class_ids": list(range(index % 4)),
            "scores": [round(1 / (rank + 2), 5) for rank in range(index % 4)],
            "label_names": ["=rose", "tu\x1blip", ""][: index % 4],
        }
        for index in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 9])
@pytest.mark.parametrize(("indent", "options"), [(1, {"ensure_ascii": False}), (2, {"allow_nan": False})])
def test_an_array_item_by_item_is_the_array_at_once(count, indent, options):
    stream, items = io.StringIO(), answers(count)
    array = JsonArray(stream, indent, **options)
    for item in items:
        array.add(item)
    array.end()
    assert stream.getvalue() == json.dumps(items, indent=indent, **options)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_results_do_not_gather_in_memory(tmp_path, suffix):
    result = {"class_ids": [1, 2, 3], "scores": [0.5, 0.25, 0.25], "label_names": ["a" * 50] * 3}
    write_results(tmp_path / f"first{suffix}", [])
    tracemalloc.start()
    try:
        write_results(tmp_path / f"r{suffix}", ({"file_name": f"{n:09d}", **result} for n in range(4000)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / f"r{suffix}").stat().st_size > 4 * peak


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_failure_leaves_the_results_before(tmp_path, suffix):
    path = tmp_path / f"r{suffix}"
    write_results(path, answers(2))
    before = path.read_bytes()
    with pytest.raises(KeyError, match="file_name"):
        write_results(path, [*answers(2), {}])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def resumed(path, results, identity="1234abcd", until=None) -> int:
    """Writes results as predict does; returns how many were not there. `until`: where the user interrupts."""
    with open_results(path, identity) as writer:
        left = [result for result in results if not writer.holds(result["file_name"])]
        for index, result in enumerate(left):
            if index == until:
                raise KeyboardInterrupt
            writer.add(result)
    return len(left)


@pytest.mark.parametrize("suffix", [".csv", ".json"])
@pytest.mark.parametrize("until", [0, 1, 2, 5])
def test_an_interrupted_file_is_taken_up(tmp_path, suffix, until):
    path, results = tmp_path / f"r{suffix}", answers(12)
    write_results(path, results)
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(Interrupted, match=rf"interrupted: the results so far are in .*r\{suffix}\.1234abcd\.part; the"):
        resumed(path, results, until=until)
    assert [file.name for file in tmp_path.iterdir()] == [f"r{suffix}.1234abcd.part"]
    # the last image is done again: its results may be incomplete
    assert resumed(path, results) == 12 - max(until - 1, 0)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_file_that_is_cut_off_anywhere_is_taken_up(tmp_path, suffix):
    path, results = tmp_path / f"r{suffix}", answers(4)
    write_results(path, results)
    whole = path.read_bytes()
    path.unlink()
    for length in range(0, len(whole), 1 if suffix == ".csv" else 7):
        path.with_name(f"{path.name}.1234abcd.part").write_bytes(whole[:length])
        resumed(path, results)
        assert path.read_bytes() == whole, length
        path.unlink()


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_new_images_are_added_to_a_finished_file(tmp_path, suffix, caplog, monkeypatch):
    monkeypatch.setattr("ppcls_ext.predict.results.logger.propagate", True)
    caplog.set_level("INFO", logger="ppcls_ext")
    path, results = tmp_path / f"r{suffix}", answers(9)
    write_results(path, results[:4])
    assert resumed(path, results) == 5
    assert f"{path} holds the results of 4 images, of whatever model: they stay" in caplog.text
    added = path.read_bytes()
    write_results(path, results)
    assert added == path.read_bytes()
    assert resumed(path, results) == 0
    assert added == path.read_bytes()


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_results_of_another_model_are_not_mixed_in(tmp_path, suffix):
    path, results = tmp_path / f"r{suffix}", answers(4)
    with pytest.raises(Interrupted):
        resumed(path, results, until=2)
    (part,) = tmp_path.iterdir()
    before = part.read_bytes()
    with pytest.raises(PpclsExtError, match="holds results of another model, or with other options"):
        resumed(path, results, identity="another0")
    assert part.read_bytes() == before
    assert list(tmp_path.iterdir()) == [part]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("r.csv", b"name;score\r\na.png;1\r\n"),
        ("r.csv", b"file_name,rank,class_id,label_name,score\r\na.png,1\r\n"),
        ("r.csv", b"file_name,rank,class_id,label_name,score\r\n\xff,1,2,3,4\r\n"),
        ("r.csv", b""),
        ("r.json", b'{"a": 1}'),
        ("r.json", b'[\n {\n  "a": 1\n }\n]'),
        ("r.json", b'[\n {\n  "file_name": "a"\n },'),
        ("r.json", b"[\n {\n  nonsense\n }\n]"),
        ("r.json", b""),
    ],
)
def test_what_predict_did_not_write_is_refused_and_stays(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PpclsExtError, match=f"cannot go on with .*{name}: it is not a file of results"):
        resumed(tmp_path / name, answers(2))
    assert (tmp_path / name).read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_identity_of_a_model(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"weights")
    (tmp_path / "n.onnx").write_bytes(b"weights")
    first = identity_of(tmp_path / "m.onnx", 5, None)
    assert first == identity_of(tmp_path / "n.onnx", 5, None)
    assert first != identity_of(tmp_path / "m.onnx", 4, None)
    whole = identity_of(tmp_path)
    (tmp_path / "n.onnx").write_bytes(b"others")
    assert identity_of(tmp_path / "n.onnx", 5, None) != first
    assert identity_of(tmp_path) != whole
