"""Images in shards: the layout, the lists that lead into them, and every damage."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from ppcls_ext.commands import datasets
from ppcls_ext.data.lists import overlap, read_class_names, read_list
from ppcls_ext.data.packing import pack_folder
from ppcls_ext.data.shards import Member, find_member, read_member, write_shards
from ppcls_ext.errors import PpclsExtError

LIMIT = 1 << 20


@pytest.fixture
def folder(tmp_path):
    """Ten images of each of two classes, with names that a tar file or a list could misread."""
    for label, name in enumerate(("red", "green")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(10):
            colour = (index + 1, 0, 0) if label == 0 else (0, index + 1, 0)
            names = {1: " blanks  in it.png", 2: f"{'long' * 40}.PNG", 3: "ü 花.png", 4: "a.tar", 5: "two.dots.png"}
            Image.new("RGB", (8, 8), colour).save(tmp_path / "images" / name / names.get(index, f"{index}.png"), "png")
    (tmp_path / "images" / "red" / "a.tar").rename(tmp_path / "images" / "red" / "4.jpeg")
    (tmp_path / "images" / "green" / "a.tar").rename(tmp_path / "images" / "green" / "4.jpeg")
    return tmp_path / "images"


def test_all_images_and_labels_are_in_the_shards(folder, tmp_path):
    made = pack_folder(folder, tmp_path / "packed", 3, 0.2, 0)
    assert made.classes == read_class_names(tmp_path / "packed" / "label_list.txt") == ("green", "red")
    names = sorted(path.name for path in (tmp_path / "packed").iterdir())
    lists = ["label_list.txt", "train_list.txt", "val_list.txt"]
    assert names == sorted([*(f"train-{index:06}.tar" for index in range(3)), "val-000000.tar", *lists])
    read = {
        part: read_list(tmp_path / "packed" / f"{part}_list.txt", tmp_path / "packed", 2) for part in ("train", "val")
    }
    assert [len(images) for images in read.values()] == [16, 4]
    found = {}
    for images in read.values():
        for entry in images:
            member = find_member(str(entry.path))
            assert Path(member.shard).parent == tmp_path / "packed"
            name = str(entry.path).partition(f"{member.start}+{member.size}/")[2]
            found[name] = read_member(member, LIMIT)
            assert name.startswith(made.classes[entry.label])
    assert found == {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}
    assert overlap(read["train"], read["val"]) == []


def test_the_layout_is_webdatasets(folder, tmp_path):
    """Two files for each image, one behind the other, with one key before the first dot, which no two images share."""
    pack_folder(folder, tmp_path / "packed", 2, 0.2, 0)
    keys, labels = [], []
    for path in sorted((tmp_path / "packed").glob("train-*.tar")):
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            for image, label in zip(members[::2], members[1::2]):
                key, suffix = image.name.split(".")
                assert suffix in ("png", "jpeg")
                assert label.name == f"{key}.cls"
                keys.append(key)
                labels.append(int(archive.extractfile(label).read()))
        assert set(labels) == {0, 1}, "each shard has of all classes"
    assert len(set(keys)) == len(keys) == 16


def test_the_same_images_make_the_same_bytes(folder, tmp_path):
    for name in ("a", "b"):
        pack_folder(folder, tmp_path / name, 2, 0.2, 0)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def damage(shard: Path, kind: str) -> None:
    data = shard.read_bytes()
    shard.unlink()
    if kind == "FIFO":
        os.mkfifo(shard)
    elif kind == "folder":
        shard.mkdir()
    elif kind != "missing":
        shifted = data[tarfile.BLOCKSIZE :] + data[: tarfile.BLOCKSIZE]
        shard.write_bytes({"cut": data[:1000], "another": shifted, "zeros": bytes(len(data)), "empty": b""}[kind])


@pytest.mark.parametrize("kind", ["missing", "FIFO", "folder", "cut", "another", "zeros", "empty"])
def test_damaged_shards(tmp_path, kind):
    images = [("a.png", 0), ("b/c.png", 1)]
    paths = write_shards(tmp_path, "train", images, {"a.png": b"1" * 900, "b/c.png": b"2" * 700}.get, 1)
    (tmp_path / "list.txt").write_text("".join(f"{path} 1\n" for path in paths))
    assert len(read_list(tmp_path / "list.txt", tmp_path, 2)) == 2
    member = find_member(str(tmp_path / paths[1]))
    assert read_member(member, LIMIT) == b"2" * 700
    damage(tmp_path / "train-000000.tar", kind)
    told = r"No such file|is a FIFO|is a folder|holds no file of 700 bytes at \d+: it is damaged, or not the one"
    with pytest.raises((OSError, PpclsExtError), match=told):
        read_member(member, LIMIT)
    if kind not in ("another", "zeros"):  # of the same size: noticed where it is read
        with pytest.raises(
            PpclsExtError, match=r"list\.txt:\d: no image file '.*train-000000\.tar/\d+\+\d+/.*are missing"
        ):
            read_list(tmp_path / "list.txt", tmp_path, 2)


@pytest.mark.parametrize(
    "line", ["train-000000.tar/0+5/a", "train-000000.tar/99999999+5/a", "train-000000.tar/512+99999/a"]
)
def test_lines_that_lead_beyond_a_shard(tmp_path, line):
    write_shards(tmp_path, "train", [("a.png", 0)], lambda path: b"12345", 1)
    member = find_member(str(tmp_path / line))
    with pytest.raises(PpclsExtError, match=r"train-000000\.tar holds no file of \d+ bytes at \d+"):
        read_member(member, LIMIT)


def test_no_more_is_read_than_the_limit(tmp_path):
    with open(tmp_path / "a.tar", "wb") as stream:
        stream.truncate(5 << 30)
    with pytest.raises(PpclsExtError, match="are more than the 1,048,576 that are read"):
        read_member(Member(str(tmp_path / "a.tar"), 512, 4 << 30), LIMIT)


def test_a_folder_whose_name_ends_with_tar(tmp_path):
    (tmp_path / "a.tar" / "b").mkdir(parents=True)
    (tmp_path / "a.tar" / "b" / "c.jpg").touch()
    (tmp_path / "list.txt").write_text("a.tar/b/c.jpg 1\n")
    assert len(read_list(tmp_path / "list.txt", tmp_path, 2)) == 1
    assert find_member("a.tar/b/c.jpg") is None


@pytest.mark.parametrize("shards", [0, -1, 17, 10**7])
def test_a_number_of_shards_that_does_not_fit(folder, tmp_path, shards):
    with pytest.raises(PpclsExtError, match=r"shards of 16 images: expected at least one image in each shard"):
        pack_folder(folder, tmp_path / "packed", shards, 0.2, 0)
    assert not (tmp_path / "packed").exists()


def test_nothing_of_others_is_replaced(folder, tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "notes.txt").touch()
    with pytest.raises(PpclsExtError, match=r"holds notes\.txt, which belongs to no packed data set"):
        pack_folder(folder, tmp_path / "packed", 2, 0.2, 0)
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["notes.txt"]


def test_packed_again_the_old_shards_are_gone(folder, tmp_path):
    for shards in (5, 2):
        pack_folder(folder, tmp_path / "packed", shards, 0.2, 0)
    assert len(list((tmp_path / "packed").glob("train-*.tar"))) == 2


def test_the_command(folder, tmp_path, capsys):
    datasets.pack([str(folder), "--shards", "2", "--output", str(tmp_path / "packed")])
    said = capsys.readouterr().out
    assert "2 classes, 16 images to train on, 4 to evaluate on" in said
    assert f"image_root: {tmp_path / 'packed'}" in said
