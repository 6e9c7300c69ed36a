"""The reader of PaddleClas lists: good lists, every fault, and arbitrary bytes."""

from __future__ import annotations

import copy
import hashlib
import os
from pathlib import Path

import numpy as np
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


def test_what_a_list_says_of_itself(root):
    found = read(root, GOOD)
    assert (found.path, found.image_root, found.delimiter) == (root / "list.txt", root, " ")
    assert found.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    assert len(found) == 2
    assert found.labels == {0, 9}
    assert found[-1] == found[1] == ListEntry(root / "jpg/b.jpg", 9, 2)
    assert found[:5] == tuple(found)
    assert list(found.names()) == ["jpg/a.jpg", "jpg/b.jpg"]
    assert copy.deepcopy(found) is found
    assert str(found) == f"2 images of {root / 'list.txt'}"


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


def line_by_line(path: Path, root: Path, class_num: int | None, delimiter: str, task: str) -> list[ListEntry]:
    """`read_list` as it was before it parsed many lines at once, but for the files that must exist."""
    found = []
    for number, line in enumerate(lists.read_lines(path), 1):
        where = f"{path}:{number}"
        if task == lists.MULTI_LABEL:
            image, label = lists._parse_several(line, where, class_num)
            class_num = len(label)
        else:
            image, label = lists._parse(line, where, class_num, delimiter)
        found.append(ListEntry(Path(root, image), label, number))
    return found


PATHS = "jpg/a.jpg|jpg//b.jpg|jpg/my rose.jpg|./jpg/a.jpg|jpg/a.jpg 1\n|jpg/a.jpg\t0,1\n|\ufeff|\u3000|\xa0|\x1c|\x85|é"
PARTS = f"{PATHS}| |\t|,|0|1|12|-3|007|{'9' * 18}|{'9' * 19}|\n|\r\n|\r|\n\n"
SETTINGS = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}


@settings(max_examples=300, **SETTINGS)
@given(
    content=st.lists(st.sampled_from(PARTS.split("|")), max_size=12).map("".join),
    class_num=st.sampled_from([None, 2, 13]),
    delimiter=st.sampled_from([" ", "\t", ",", "1", "é", "//", "\n", "-"]),
    task=st.sampled_from(lists.TASKS),
    piece=st.sampled_from([1, 5, 20, 1 << 20]),
)
def test_many_lines_at_once_are_read_as_one_by_one(root, content, class_num, delimiter, task, piece):
    path = root / "list.txt"
    path.write_bytes(content.encode())
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lists, "PIECE", piece)
        patch.setattr(lists, "_which_exist", lambda images, report: np.ones(len(images), bool))
        for read in (read_list, line_by_line):
            try:
                results.append(list(read(path, root, class_num, delimiter, task)))
            except PpclsExtError as error:
                results.append(str(error))
    assert results[0] == results[1]


def test_plain_lines_are_parsed_at_once(root, monkeypatch):
    """Their time is that of NumPy: none of them may reach the parser of single lines."""
    monkeypatch.setattr(lists, "_parse", None)
    monkeypatch.setattr(lists, "_parse_several", None)
    assert len(read(root, "\ufeff" + "jpg/a.jpg 3\r\njpg/my rose.jpg 9\n" * 500 + "\n \n")) == 1000
    assert len(read_several(root, SEVERAL * 9)) == 18


@pytest.mark.parametrize("count", [1, 100])
def test_files_are_found_as_a_look_at_each_finds_them(root, tmp_path, count):
    """Links, folders, FIFOs and odd spellings; alone, and among so many that their folders are listed."""
    (root / "jpg" / "link.jpg").symlink_to(root / "jpg" / "a.jpg")
    (root / "jpg" / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    (root / "jpg" / "circle.jpg").symlink_to(root / "jpg" / "circle.jpg")
    (root / "jpg" / "folder.jpg").mkdir()
    os.mkfifo(root / "jpg" / "fifo.jpg")
    (root / "more").symlink_to(root / "jpg")
    good = "jpg/a.jpg jpg/link.jpg more/a.jpg jpg//a.jpg jpg/../jpg/a.jpg jpg/a.jpg/".split()
    bad = "jpg/nowhere.jpg jpg/circle.jpg jpg/folder.jpg jpg/fifo.jpg gone/a.jpg jpg/ jpg/a.jpg/b".split()
    for name in (*good, f"{root}/jpg/a.jpg"):
        assert len(read(root, f"{name} 1\n" * count)) == count
    for name in bad:
        with pytest.raises(PpclsExtError, match=rf":1: no image file .*\({count} of {count} are missing"):
            read(root, f"{name} 1\n" * count)


def test_many_files_are_found_by_listing(root, monkeypatch):
    for index in range(100):
        (root / "jpg" / f"{index}.jpg").write_bytes(b"")
    asked = []
    isfile = os.path.isfile
    monkeypatch.setattr(os.path, "isfile", lambda path: asked.append(path) or isfile(path))
    assert len(read(root, "".join(f"jpg/{index}.jpg 1\n" for index in range(100)))) == 100
    assert asked == []


def test_progress_ends_with_all_lines(root):
    seen = []
    (root / "list.txt").write_text(GOOD * 50)
    read_list(root / "list.txt", root, 10, report=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (100, 100)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_overlap_of_lists_of_many_images(root, monkeypatch):
    """Beyond a number of images the paths alone are compared, however they are spelt."""
    for name in ("c.jpg", "d.jpg"):
        (root / "jpg" / name).write_bytes(b"same")
    train = read(root, "jpg/a.jpg 1\njpg/c.jpg 1\n")
    evaluation = read(root, f"./jpg//a.jpg 1\njpg/d.jpg 1\n{root}/jpg/a.jpg 1\n")
    assert overlap(train, evaluation) == [str(root / "jpg/a.jpg"), f"{root}/jpg/d.jpg = {root}/jpg/c.jpg"]
    monkeypatch.setattr(lists, "LARGEST_COMPARED", 4)
    assert overlap(train, evaluation) == [str(root / "jpg/a.jpg")]


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
    "content",
    [
        SEVERAL,
        SEVERAL.rstrip("\n"),
        SEVERAL.replace("\n", "\r\n"),
        "\ufeff" + SEVERAL,
        SEVERAL + "\n \n",
        SEVERAL.replace("0,1", "0, 1"),
    ],
)
def test_several_labels_an_image(root, content):
    found = read_several(root, content)
    assert list(found) == [ListEntry(root / "jpg/a.jpg", (0, 1, 1), 1), ListEntry(root / "jpg/b.jpg", (0, 0, 0), 2)]
    assert [entry.classes for entry in found] == [(1, 2), ()]
    assert (found.labels, found.delimiter, found.task) == ({1, 2}, "\t", "multi-label")
    assert list(read_several(root, content, None)) == list(found), "as many as the first line has"


def test_one_line_of_many_labels_takes_no_memory_for_all(root):
    """An array of the first line's length for each of the others would take 2 TB."""
    line = f"jpg/a.jpg\t{','.join('01' * 500_000)}\n"
    with pytest.raises(PpclsExtError, match=r":2: 1 labels; expected 1000000"):
        read_several(root, line + "jpg/a.jpg\t1\n" * 2_000_000, None)


def test_a_gigabyte_of_blank_lines_takes_no_memory_for_all(root, monkeypatch):
    monkeypatch.setattr(lists.np, "empty", lambda *args: pytest.fail("an array for all lines"))
    with pytest.raises(PpclsExtError, match=r":2: no label in ''"):
        read(root, "jpg/a.jpg 1\n" + "\n" * 10**6 + "jpg/a.jpg 1\n")


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
