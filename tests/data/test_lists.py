"""The reader of PaddleClas lists: good lists, every fault, and arbitrary bytes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from ppcls_ext.data import lists
from ppcls_ext.data.image_files import check_images
from ppcls_ext.data.lists import ListEntry, overlap, read_list
from ppcls_ext.errors import PpclsExtError


@pytest.fixture
def root(tmp_path):
    """An image root with three images."""
    root = tmp_path / "root"
    (root / "jpg").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "my rose.jpg"):
        (root / "jpg" / name).write_bytes(name.encode())
    return root


def read(root, content, class_num=10, delimiter=" "):
    path = root / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_list(path, root, class_num, delimiter)


GOOD = "jpg/a.jpg 0\njpg/b.jpg 9\n"


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.rstrip("\n"),
        "\ufeff" + GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD + "\n \r\n\n",
        GOOD.replace("jpg/b", "  jpg/b"),
    ],
)
def test_good_lists(root, content):
    assert list(read(root, content)) == [ListEntry(root / "jpg/a.jpg", 0, 1), ListEntry(root / "jpg/b.jpg", 9, 2)]


@pytest.mark.parametrize(
    ("content", "delimiter", "is_plain"),
    [
        (GOOD, " ", True),
        (GOOD.rstrip("\n"), " ", True),
        (GOOD.replace("\n", "\r\n"), " ", True),
        (GOOD.replace("jpg/b", "  jpg/b"), " ", True),
        (GOOD.replace(" ", "\t"), "\t", True),
        ("jpg/my rose.jpg\t3\n", "\t", True),
        ("\ufeff" + GOOD, " ", False),
        (GOOD + "\n", " ", False),
        (GOOD + " \n", " ", False),
        ("jpg/my rose.jpg 3\n", " ", False),
        ("jpg/a.jpg 03\n", " ", False),
    ],
)
def test_lists_that_paddleclas_reads_alike(root, content, delimiter, is_plain):
    """PaddleClas's own way (`imagenet_dataset.py`) gives the same entries just where `is_plain` says so."""
    found = read(root, content, delimiter=delimiter)
    assert found.is_plain == is_plain
    with open(root / "list.txt", encoding="utf-8") as stream:
        fields = [line.strip().split(delimiter) for line in stream]
    host = [(root / line[0], line[1]) for line in fields if len(line) > 1]
    same = len(fields) == len(host) and host == [(entry.path, str(entry.label)) for entry in found]
    assert same == is_plain


def test_what_a_list_says_of_itself(root):
    found = read(root, GOOD)
    assert (found.path, found.image_root, found.delimiter) == (root / "list.txt", root, " ")
    assert found.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    assert len(found) == 2
    assert found.labels == {0, 9}
    assert found[-1] == found.entries[1]


@pytest.mark.parametrize("delimiter", [" ", "\t"])
def test_spaces_in_paths(root, delimiter):
    content = f"jpg/my rose.jpg{delimiter}3\n"
    assert list(read(root, content, delimiter=delimiter)) == [ListEntry(root / "jpg/my rose.jpg", 3, 1)]


def test_absolute_path(root, tmp_path):
    assert read(root, f"{root}/jpg/a.jpg 3")[0].path == root / "jpg/a.jpg"


def test_only_line_ends_end_a_line(root):
    (root / "a\x0b\x85b.jpg").write_bytes(b"")
    assert read(root, "a\x0b\x85b.jpg 1")[0].path == root / "a\x0b\x85b.jpg"


def test_any_integer_without_class_num(root):
    assert [entry.label for entry in read(root, "jpg/a.jpg -5\njpg/b.jpg 123456789012", class_num=None)] == [
        -5,
        123456789012,
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1: the list is empty"),
        ("\ufeff\n \n", ":1: the list is empty"),
        ("jpg/a.jpg 0\njpg/b.jpg\n", ":2: no label in 'jpg/b.jpg'"),
        ("jpg/a.jpg 0\n\njpg/b.jpg 1\n", ":2: no label in ''"),
        ("jpg/a.jpg\t0\n", r":1: no label in .*delimiter ' ' \(`delimiter` in the YAML"),
        ("jpg/a.jpg zero\n", ":1: label 'zero' is not an integer"),
        ("jpg/a.jpg 1.0\n", ":1: label '1.0' is not"),
        ("jpg/a.jpg 1_0\n", ":1: label '1_0' is not"),
        ("jpg/a.jpg ٣\n", ":1: label '٣' is not"),
        (f"jpg/a.jpg {'9' * 5000}\n", ":1: label '9+…?' is not"),
        ("jpg/a.jpg 9\njpg/a.jpg 10\n", r":2: label 10 is outside 0\.\.9 \(class_num is 10\)"),
        ("jpg/a.jpg -1\n", ":1: label -1 is outside"),
        ("jpg/a.jpg 0\njpg/x.jpg 0\njpg/y.jpg 0\n", ":2: no image file '.*/root/jpg/x.jpg' .2 of 3 are missing"),
        ("jpg 0\n", ":1: no image file"),
        (f"{'x' * 5000} 0\n", ":1: no image file"),
        ("a\0b 0\n", ":1: no image file"),
        (b"jpg/a.jpg 0\njpg/\xe4.jpg 0\n", ":2: not UTF-8 .byte 0xe4"),
        ("jpg/my rose.jpg\n", ":1: label 'rose.jpg' is not"),
        ("jpg/a.jpg  3\n", ":1: no image file '.*/root/jpg/a.jpg '"),
        ("jpg/a.jpg 3 4\n", ":1: no image file '.*/root/jpg/a.jpg 3'"),
    ],
)
def test_faults(root, content, message):
    with pytest.raises(PpclsExtError, match=rf"list\.txt{message}"):
        read(root, content)


def test_empty_delimiter(root):
    with pytest.raises(PpclsExtError, match="delimiter is empty"):
        read(root, GOOD, delimiter="")


@pytest.mark.parametrize(
    ("folder", "hint"),
    [
        ("dataset/flowers102", "prepare-flowers102 --download"),
        ("dataset/digits", "make-sample-dataset"),
        ("mine", "one image a line"),
    ],
)
def test_missing_list_or_root_says_what_makes_it(tmp_path, folder, hint):
    root = tmp_path / folder
    with pytest.raises(PpclsExtError, match=f"no list .*list.txt; .*{hint}"):
        read_list(root / "list.txt", root, 10)
    (tmp_path / "list.txt").write_text("a 1\n")
    with pytest.raises(PpclsExtError, match=f"no image root .*{folder}: not a folder; .*{hint}"):
        read_list(tmp_path / "list.txt", root, 10)


def test_list_that_is_a_folder(tmp_path):
    with pytest.raises(PpclsExtError, match=r"cannot read the list: .* is a folder"):
        read_list(tmp_path, tmp_path, 10)


LINE = st.text(st.sampled_from("ab/.jpg 0123456789-_\t\r\0,\u2028é"))


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    content=st.binary() | st.lists(LINE | st.just("jpg/a.jpg 1")).map(lambda lines: "\n".join(lines).encode()),
    class_num=st.none() | st.integers(0, 200),
    delimiter=st.sampled_from([" ", "\t", ",", ""]) | st.text(max_size=2),
)
@example(content=b"\xef\xbb\xbf", class_num=None, delimiter=" ")
@example(content=b"jpg/a.jpg 1\r\n", class_num=2, delimiter=" ")
def test_no_other_exception(root, content, class_num, delimiter):
    try:
        entries = read(root, content, class_num, delimiter)
    except PpclsExtError:
        return
    assert entries
    for entry in entries:
        assert entry.path.is_file()
        assert class_num is None or 0 <= entry.label < class_num


def entries(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [ListEntry(folder / name, 0, line) for line, name in enumerate(files, 1)]


def test_overlap(tmp_path):
    head = b"h" * 10_000
    a = entries(tmp_path, {"same": b"1", "twin": head + b"2", "near": head + b"3" + head, "size": b"45"})
    b = entries(
        tmp_path,
        {"same": b"1", "copy": head + b"2", "other": b"x" + head[1:] + b"3" + head, "more": b"46", "none": b"789"},
    )
    assert overlap(a, b) == [f"{tmp_path}/same", f"{tmp_path}/copy = {tmp_path}/twin"]
    assert overlap(a, a) == [str(entry.path) for entry in a]
    assert overlap(a[:1], b[1:]) == []
    assert overlap([], b) == overlap(a, []) == []


def test_overlap_with_an_image_that_both_hold(tmp_path):
    a = entries(tmp_path, {"one": b"1"})
    b = entries(tmp_path, {"one": b"1", "again": b"1"})
    assert overlap(a, b) == [f"{tmp_path}/one", f"{tmp_path}/again = {tmp_path}/one"]


def test_check_images(tmp_path):
    Image.effect_noise((64, 64), 50).save(tmp_path / "good.jpg")
    Image.effect_noise((64, 64), 50).save(tmp_path / "good.png")
    jpeg, png = (tmp_path / "good.jpg").read_bytes(), (tmp_path / "good.png").read_bytes()
    broken_pixels = bytearray(png)
    broken_pixels[len(png) // 2] ^= 0xFF
    images = entries(
        tmp_path,
        {
            "good.jpg": jpeg,
            "cut.jpg": jpeg[: len(jpeg) // 2],
            "good.png": png,
            "bits.png": bytes(broken_pixels),
            "empty.jpg": b"",
            "text.jpg": b"<html>not found</html>",
        },
    )
    images.append(ListEntry(tmp_path / "gone.jpg", 0, 7))
    seen = []
    bad = check_images(images, lambda done, total: seen.append((done, total)))
    assert [entry.path.name for entry, _ in bad] == ["cut.jpg", "bits.png", "empty.jpg", "text.jpg", "gone.jpg"]
    assert "truncated" in bad[0][1]
    assert all(reason for _, reason in bad)
    assert seen == [(done, 7) for done in range(1, 8)]


@pytest.mark.parametrize("kind", ["FIFO", "endless device"])
def test_list_that_has_no_end(tmp_path, kind):
    path = tmp_path / "list.txt" if kind == "FIFO" else Path("/dev/zero")
    if kind == "FIFO":
        os.mkfifo(path)
    with pytest.raises(PpclsExtError, match=r"cannot read the list: .* is a (FIFO|device)"):
        read_list(path, tmp_path, None)


def test_list_that_is_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "LARGEST_LIST", 10)
    (tmp_path / "list.txt").write_text("picture.png 0\n")
    with pytest.raises(PpclsExtError, match="larger than the 10 bytes"):
        read_list(tmp_path / "list.txt", tmp_path, None)


def test_a_long_line_is_shown_in_part(tmp_path):
    (tmp_path / "list.txt").write_text("x" * 1_000_000 + "\n")
    with pytest.raises(PpclsExtError, match=r"no label in 'xxx.*…'") as caught:
        read_list(tmp_path / "list.txt", tmp_path, None)
    assert len(str(caught.value)) < 1000


SEVERAL = "jpg/a.jpg\t0,1,1\njpg/b.jpg\t0,0,0\n"


def read_several(root, content, class_num=3):
    path = root / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_list(path, root, class_num, " ", lists.MULTI_LABEL)


@pytest.mark.parametrize(
    ("content", "is_plain"),
    [
        (SEVERAL, True),
        (SEVERAL.rstrip("\n"), True),
        (SEVERAL.replace("\n", "\r\n"), True),
        ("\ufeff" + SEVERAL, False),
        (SEVERAL + "\n \n", False),
        (SEVERAL.replace("0,1", "0, 1"), False),
    ],
)
def test_several_labels_an_image(root, content, is_plain):
    found = read_several(root, content)
    assert list(found) == [ListEntry(root / "jpg/a.jpg", (0, 1, 1), 1), ListEntry(root / "jpg/b.jpg", (0, 0, 0), 2)]
    assert [entry.classes for entry in found] == [(1, 2), ()]
    assert (found.labels, found.is_plain, found.delimiter, found.task) == ({1, 2}, is_plain, "\t", "multi-label")
    assert list(read_several(root, content, None)) == list(found), "as many as the first line has"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("jpg/b.jpg 0,0,1", r"no labels in 'jpg/b.jpg 0,0,1'; expected path, a tab and"),
        ("jpg/b.jpg", r"no labels in 'jpg/b.jpg'"),
        ("", r"no labels in ''"),
        ("jpg/b.jpg\t", r"no labels"),
        ("jpg/b.jpg\t1", r"1 labels; expected 3, one for each class"),
        ("jpg/b.jpg\t0,0,1,0", r"4 labels; expected 3"),
        ("jpg/b.jpg\t0,0,", r"label '' in '0,0,': expected a 0 or 1"),
        ("jpg/b.jpg\t0;0;1", r"label '0;0;1' in "),
        ("jpg/b.jpg\t0 0 1", r"label '0 0 1' in "),
        ("jpg/b.jpg\t0,0,2", r"label '2' in "),
        ("jpg/b.jpg\t0,-1,1", r"label '-1' in "),
        ("jpg/b.jpg\t0,1.0,1", r"label '1.0' in "),
        ("jpg/b.jpg\t0,\u0661,1", r"label '\u0661' in "),
        ("jpg/b.jpg\t0\t0,1", r"'.*' holds several tabs, and PaddleClas's MultiLabelDataset splits it at each"),
        ("jpg/c.jpg\t0,0,1", r"no image file '.*c\.jpg' \(1 of 3 are missing\)"),
    ],
)
@pytest.mark.parametrize("class_num", [3, None])
def test_faults_of_several_labels(root, line, reason, class_num):
    with pytest.raises(PpclsExtError, match=rf"^{root / 'list.txt'}:2: {reason}") as caught:
        read_several(root, f"jpg/a.jpg\t0,1,1\n{line}\njpg/b.jpg\t0,0,0\n", class_num)
    assert "\n" not in str(caught.value)


@given(st.binary(max_size=60) | st.text("a/.jpg\t0,1 \n", max_size=60).map(str.encode))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_of_several_labels(root, content):
    try:
        found = read_several(root, content)
    except PpclsExtError as error:
        found, said = [], str(error)
        assert said.count("\n") == 0
    assert all(len(entry.label) == 3 and entry.path.is_file() for entry in found)
