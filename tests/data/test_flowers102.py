"""Flowers102: the real 64 px source where there is one, hostile archives everywhere."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ppcls_ext.commands.datasets import make_flowers102 as main
from ppcls_ext.data import flowers102
from ppcls_ext.data.flowers102 import ARCHIVE, IMAGES, LABEL_LIST, LISTS, NAMES, extract, prepare
from ppcls_ext.data.lists import read_list
from ppcls_ext.download import file_md5
from ppcls_ext.errors import PpclsExtError

TOOL = Path(__file__).resolve().parents[2] / "tools" / "prepare_flowers102.py"
JPEG = b"\xff\xd8\xff\xe0 stands for an image"


@pytest.fixture(scope="module")
def source(shared):
    return shared / "flowers102_64"


@pytest.fixture(scope="module")
def dataset(source, tmp_path_factory):
    output = tmp_path_factory.mktemp("made") / "flowers102"
    assert prepare(output, source)
    return output


def tree(folder):
    return {str(file): (file.stat().st_mtime_ns, file.stat().st_size) for file in sorted(folder.rglob("*"))}


def test_layout(dataset):
    assert {file.name for file in dataset.iterdir()} == {"jpg", f"{ARCHIVE}.md5", LABEL_LIST, *LISTS}
    assert len(list((dataset / "jpg").iterdir())) == 8189
    entries = {name: read_list(dataset / name, dataset, 102) for name in LISTS}
    assert {name: len(lines) for name, lines in entries.items()} == {
        "train_list.txt": 1020,
        "val_list.txt": 1020,
        "test_list.txt": 6149,
        "train_extra_list.txt": 7169,
    }
    parts = [{entry.path for entry in entries[name]} for name in ("train_list.txt", "val_list.txt", "test_list.txt")]
    assert len(set.union(*parts)) == 8189 == sum(map(len, parts))
    assert {entry.path for entry in entries["train_extra_list.txt"]} == parts[0] | parts[2]
    # ten images of each class in the two official halves
    for name in ("train_list.txt", "val_list.txt"):
        labels = [entry.label for entry in entries[name]]
        assert all(labels.count(label) == 10 for label in range(102))


def test_known_lines(dataset):
    # PaddleClas's documentation shows the first, its quick start's predictions the second
    assert (dataset / "train_list.txt").read_bytes().startswith(b"jpg/image_06765.jpg 0\njpg/image_06755.jpg 0\n")
    assert "jpg/image_00001.jpg 76\n" in (dataset / "test_list.txt").read_text()


def test_class_names(dataset, source):
    official = json.loads((source / "cat_to_name.json").read_text())
    assert list(NAMES) == [official[str(label)] for label in range(1, 103)]
    lines = (dataset / LABEL_LIST).read_text(encoding="utf-8").splitlines()
    assert lines == [f"{label} {name}" for label, name in enumerate(NAMES)]
    assert lines[76] == "76 passion flower"


def test_images_are_the_archive_s(dataset, source):
    with tarfile.open(source / ARCHIVE) as tar:
        for member in (tar.next(), tar.next(), tar.next()):
            if member.isfile():
                assert (dataset / member.name).read_bytes() == tar.extractfile(member).read()


def test_second_run_touches_nothing(dataset, source, capsys):
    before = tree(dataset)
    assert main(["--source", str(source), "--output", str(dataset)]) is None
    assert "complete already: nothing to do" in capsys.readouterr().out
    assert tree(dataset) == before


def test_removed_list_comes_back(dataset, source):
    text = (dataset / "val_list.txt").read_bytes()
    (dataset / "val_list.txt").unlink()
    images = tree(dataset / "jpg")
    assert prepare(dataset, source)
    assert (dataset / "val_list.txt").read_bytes() == text
    assert tree(dataset / "jpg") == images


def test_changed_list_is_not_overwritten(dataset, source):
    path = dataset / "test_list.txt"
    text = path.read_bytes()
    path.write_bytes(text[:100])
    try:
        with pytest.raises(PpclsExtError, match=r"test_list.txt differs from the official split"):
            prepare(dataset, source)
        assert path.read_bytes() == text[:100]
    finally:
        path.write_bytes(text)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_damaged_images_are_not_called_complete(dataset, source, damage):
    path = dataset / "jpg" / "image_00007.jpg"
    content = path.read_bytes()
    damage(path)
    try:
        with pytest.raises(PpclsExtError, match=r"1 of 8189 images are missing or empty, the first is .*00007"):
            prepare(dataset, source)
    finally:
        path.write_bytes(content)


def test_images_of_another_archive_are_not_taken_for_these(source, tmp_path):
    (tmp_path / "jpg").mkdir()
    with pytest.raises(PpclsExtError, match=r"another origin .archive md5 unknown"):
        prepare(tmp_path, source)
    (tmp_path / f"{ARCHIVE}.md5").write_text(f"{'0' * 32}  {ARCHIVE}\n")
    with pytest.raises(PpclsExtError, match=r"another origin .archive md5 0{32}, this one is [0-9a-f]{32}"):
        prepare(tmp_path, source)
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"{ARCHIVE}.md5", "jpg"]


def test_killed_run_leaves_nothing_that_looks_finished(source, tmp_path):
    process = subprocess.Popen([sys.executable, TOOL, "--source", source, "--output", tmp_path])
    while not any(tmp_path.glob(".extracting.*/jpg/*")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [file.name[:12] for file in tmp_path.iterdir()] == [".extracting."]
    assert prepare(tmp_path, source)
    assert {file.name for file in tmp_path.iterdir()} == {"jpg", f"{ARCHIVE}.md5", LABEL_LIST, *LISTS}


def test_source_without_files(tmp_path):
    (tmp_path / ARCHIVE).write_bytes(b"")
    with pytest.raises(PpclsExtError, match=r"no imagelabels.mat, setid.mat"):
        prepare(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_source_with_a_wrong_mat(tmp_path):
    for name in flowers102.MD5:
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(
        PpclsExtError, match=r"imagelabels.mat: got md5 9dd4e461268c8034f5c8564e155c67a6, expected e0620be6"
    ):
        prepare(tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()


def test_missing_scipy_names_the_extra(source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(PpclsExtError, match=r"the package scipy.* is missing: .*ppcls-ext\[train\]"):
        prepare(tmp_path / "out", source)


def test_download_from_a_server(source, tmp_path, monkeypatch, capsys):
    """The whole way of --download; only the address and the archive's md5 are those of the 64 px source."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(source))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setitem(flowers102.MD5, ARCHIVE, file_md5(source / ARCHIVE))
    monkeypatch.chdir(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}).start()
        monkeypatch.setattr(flowers102, "URL", f"http://127.0.0.1:{httpd.server_port}/")
        main(["--download"])
        httpd.shutdown()
    output = capsys.readouterr().out
    assert "train_list.txt         1020 images" in output
    assert "next: ppcls-ext train -c MobileOne_S0" in output
    assert len(list(Path("dataset/flowers102/jpg").iterdir())) == 8189
    main(["--download"])  # the server is gone
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["--download", "--source", "x"]])
def test_exactly_one_origin(arguments):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2


def test_tool_from_another_folder(tmp_path):
    done = subprocess.run([sys.executable, TOOL, "--source", "nowhere"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere: no 102flowers.tgz")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


def archive(path, files, compression="gz"):
    """A tar file with these members: a name, or a TarInfo, → content."""
    with tarfile.open(path, f"w:{compression}") as tar:
        for member, content in files:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = [(name, JPEG) for name in IMAGES]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("../evil.jpg", JPEG)], "unexpected member '../evil.jpg'"),
        ([("jpg/../../evil.jpg", JPEG)], "unexpected member"),
        ([("/tmp/evil.jpg", JPEG)], "unexpected member"),
        ([("jpg/image_08190.jpg", JPEG)], "unexpected member"),
        ([("jpg/image_00001.jpg.sh", JPEG)], "unexpected member"),
        ([("image_00001.jpg", JPEG)], "unexpected member"),
        ([(link("jpg/image_00001.jpg", "/etc/passwd", tarfile.SYMTYPE), b"")], "unexpected member"),
        ([(link("jpg/image_00001.jpg", "/etc/passwd", tarfile.LNKTYPE), b"")], "unexpected member"),
        ([(link("jpg", "/tmp", tarfile.SYMTYPE), b"")], "unexpected member 'jpg'"),
        ([("jpg/image_00001.jpg", JPEG)] * 2, "unexpected member"),
        ([("jpg/image_00001.jpg", b"GIF89a")], "jpg/image_00001.jpg is not a JPEG image"),
        ([("jpg/image_00001.jpg", b"")], "not a JPEG"),
        ([("jpg/image_00001.jpg", JPEG)], "8188 of 8189 images are missing, the first is jpg/image_00002.jpg"),
        ([], "8189 of 8189 images are missing"),
    ],
)
def test_bad_archive(tmp_path, members, message):
    bad = archive(tmp_path / ARCHIVE, members)
    with pytest.raises(PpclsExtError, match=message):
        extract(bad, tmp_path / "a" / "out", "0" * 32)
    assert sorted(file.name for file in tmp_path.rglob("*")) == [ARCHIVE, "a", "out"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of an archive with all 8189 names."""
    folder = tarfile.TarInfo("./jpg/")
    folder.type = tarfile.DIRTYPE
    return archive(tmp_path_factory.mktemp("whole") / ARCHIVE, [(folder, b""), *GOOD]).read_bytes()


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_damaged_archive(tmp_path, damage):
    content = archive(tmp_path / ARCHIVE, GOOD[:100]).read_bytes()
    middle = len(content) // 2
    bad = {
        "empty": b"",
        "text": b"not an archive",
        "cut": content[:middle],
        "flipped": content[:middle] + bytes(byte ^ 0xFF for byte in content[middle:]),
    }
    (tmp_path / ARCHIVE).write_bytes(bad[damage])
    with pytest.raises(PpclsExtError, match=f"{ARCHIVE} is damaged"):
        extract(tmp_path / ARCHIVE, tmp_path / "out", "0" * 32)
    assert list((tmp_path / "out").iterdir()) == []


def test_wrong_checksum_at_the_end_of_the_archive(tmp_path, whole):
    (tmp_path / ARCHIVE).write_bytes(whole[:-8] + bytes(byte ^ 0xFF for byte in whole[-8:-4]) + whole[-4:])
    with pytest.raises(PpclsExtError, match=f"{ARCHIVE} is damaged"):
        extract(tmp_path / ARCHIVE, tmp_path / "out", "0" * 32)
    assert list((tmp_path / "out").iterdir()) == []


def test_good_archive(tmp_path, whole):
    (tmp_path / ARCHIVE).write_bytes(whole)
    extract(tmp_path / ARCHIVE, tmp_path / "out", "0" * 32)
    assert len(list((tmp_path / "out" / "jpg").iterdir())) == 8189
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "out" / "jpg").stat().st_mode & 0o777 == 0o777 & ~umask


def test_unwritable_output(tmp_path):
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(PpclsExtError, match="cannot extract"):
        extract(archive(tmp_path / ARCHIVE, []), tmp_path / "out", "0" * 32)
