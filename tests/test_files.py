"""Writing through links, refusing what is no file, and leaving nothing behind."""

from __future__ import annotations

import ast
import os
import socket
import stat
import time
import tracemalloc
from pathlib import Path

import pytest

from ppcls_ext import files
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import FreeNames, atomic_write, read_regular
from tests.helpers import die_at


def put(path: Path, text: str = "new") -> None:
    with atomic_write(path, "w") as stream:
        stream.write(text)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_writes_through_links(tmp_path, there, relative):
    (tmp_path / "real").mkdir()
    target, middle, link = tmp_path / "real" / "file", tmp_path / "real" / "middle", tmp_path / "link"
    if there:
        target.write_text("old")
    middle.symlink_to("file")
    link.symlink_to(Path("real/middle") if relative else middle)
    put(link)
    assert target.read_text() == "new"
    assert link.is_symlink()
    assert middle.is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]
    assert sorted(os.listdir(tmp_path / "real")) == ["file", "middle"]


def test_a_link_in_a_circle(tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(PpclsExtError, match="cannot write"):
        put(tmp_path / "a")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a FIFO"),
        (os.mkdir, "a folder"),
        (make_socket, "a socket"),
        (lambda path: path.symlink_to("/dev/null"), "a device"),
        (lambda path: path.symlink_to(path.parent), "a folder"),
    ],
)
def test_what_is_no_file_is_refused_and_stays(tmp_path, monkeypatch, make, kind):
    monkeypatch.chdir(tmp_path)  # the name of a socket has to be short
    path = Path("out")
    make(path)
    before = os.lstat(path).st_mode
    with pytest.raises(PpclsExtError, match=f"cannot write .*: it is {kind}; expected a regular file or a new name"):
        put(path)
    assert os.lstat(path).st_mode == before
    assert os.listdir() == ["out"]


def test_a_device_stays(tmp_path):
    with pytest.raises(PpclsExtError, match="/dev/null: it is a device"):
        put(Path("/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_permissions_stay(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    put(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    put(tmp_path / "new")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~umask


def test_failure_leaves_the_file_before(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    writing = atomic_write(path, "w")
    writing.__enter__().write("half")
    assert not writing.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def replace_folder(target: Path, text: str) -> None:
    with files.folder_at_once(target, "[abc]") as place:
        for name in ("a", "b", "c"):
            (place / name).write_text(text)


#: The operations before which a process is killed.
OPERATIONS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "ctypes.call_function")


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_is_replaced_at_once(tmp_path, there):
    seen = set()
    for step in range(60):
        target = tmp_path / str(step) / "report"
        if there:
            replace_folder(target, "old")
        killed = die_at(step, lambda target=target: replace_folder(target, "new"), OPERATIONS)
        found = {path.name: path.read_text() for path in target.iterdir()} if target.exists() else None
        assert found in ([dict.fromkeys("abc", "old")] if there else [None]) + [dict.fromkeys("abc", "new")]
        seen.add(str(found))
        if not killed:
            break
    assert not killed
    assert step > 8
    assert len(seen) == 2
    assert os.listdir(target.parent) == ["report"]


def test_a_folder_where_none_can_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    for text in ("old", "new"):
        replace_folder(tmp_path / "report", text)
    assert {path.read_text() for path in (tmp_path / "report").iterdir()} == {"new"}
    with pytest.raises(ZeroDivisionError), files.folder_at_once(tmp_path / "report", "[abc]"):
        1 / 0  # noqa: B018
    assert os.listdir(tmp_path) == ["report"]
    (tmp_path / "link").symlink_to("report")
    replace_folder(tmp_path / "link", "newer")
    assert (tmp_path / "link").is_symlink()
    assert {path.read_text() for path in (tmp_path / "report").iterdir()} == {"newer"}


def test_messages_name_the_folder_that_is_meant(tmp_path):
    (tmp_path / "report").mkdir()

    def fail():
        with files.folder_at_once(tmp_path / "report", "[abc]") as place:
            (place / "a").mkdir()
            put(place / "a")

    with pytest.raises(PpclsExtError, match=f"^cannot write {tmp_path}/report/a: it is a folder"):
        fail()


def test_a_folder_with_other_files_is_replaced_file_by_file(tmp_path, monkeypatch):
    target = tmp_path / "report"
    target.mkdir()
    for name in ("notes.txt", "a", "x"):
        (target / name).write_text("mine")

    def write():
        with files.folder_at_once(target, "[abcx]", first="b") as place:
            for name in ("a", "b"):
                (place / name).write_text("new")

    replaced = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda source, to: 1 / 0 if Path(to).name == "a" else replaced(source, to))
        with pytest.raises(ZeroDivisionError):
            write()
    assert (target / "b").read_text() == "new", "the first"
    write()
    assert {path.name: path.read_text() for path in target.iterdir()} == {"a": "new", "b": "new", "notes.txt": "mine"}
    monkeypatch.chdir(target)
    (target / "notes.txt").unlink()
    write()
    assert os.path.samefile(Path.cwd(), target), "a working directory stays"


def test_reading_ends(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(PpclsExtError, match="expected a regular file"):
            read_regular(path, 10)
    (tmp_path / "file").write_bytes(bytes(11))
    assert read_regular(tmp_path / "file", 11) == bytes(11)
    with pytest.raises(PpclsExtError, match="larger than the 10 bytes"):
        read_regular(tmp_path / "file", 10)


def test_no_more_is_read_than_the_limit(tmp_path):
    with open(tmp_path / "sparse", "wb") as stream:
        stream.truncate(1 << 26)
    tracemalloc.start()
    with pytest.raises(PpclsExtError, match="larger than the 10 bytes"):
        read_regular(tmp_path / "sparse", 10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


#: Files of the package that read without `read_regular` or `open_regular`, and why no pipe can hold them up.
READERS = {
    "weights/checkpoint_sets.py": "is_file before",
    "config/checks.py": "PaddleClas's own source",
    "config/lists.py": "read_list and read_class_names have read it before",
    "data/shards.py": "what open_regular opened",
    "data/flowers102.py": "is_file before; a download whose MD5 is known",
    "cpu.py": "of the system",
    "config/folder.py": "is_file before",
    "export/convert.py": "written by the conversion",
    "export/coreml.py": "written by coremltools before",
    "export/web_page.py": "the package's own page",
    "predict/video.py": "open_regular",
    "training/inference_program.py": "written by the export",
    "doctor.py": "of the system",
    "download.py": "the package's own cache",
    "export/program.py": "is_file before",
    "hosts/threads.py": "of the system",
    "hosts/paddleclas/log_file.py": "written, never read",
    "files.py": "open_regular itself; identical_files, whose files were found to be regular",
    "commands/pages.py": "the package's own pages",
    "hosts/paddleclas/locate.py": "PaddleClas's own version",
    "hosts/paddleclas/versions.py": "PaddleClas's own source",
    "report/page.py": "pictures of the report's own",
    "commands/datasets.py": "written before",
    "commands/main.py": "the null device",
    "predict/results.py": "open_regular",
    "predict/program_set.py": "is_file before; files of an export that was just written",
}


def test_files_of_the_user_are_read_where_no_pipe_holds_the_reader_up():
    package = Path(__file__).resolve().parents[1] / "ppcls_ext"
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            function = node.func if isinstance(node, ast.Call) else None
            reads = isinstance(function, ast.Attribute) and function.attr in ("read_bytes", "read_text")
            if reads or (isinstance(function, ast.Name) and function.id == "open"):
                found.add(path.relative_to(package).as_posix())
    assert found - set(READERS) == set(), "use read_regular, or say here why it cannot be a pipe"


#: Files of the package that write without `atomic_write`, and why nobody sees half of it.
WRITERS = {
    "weights/checkpoint_sets.py": "under names of its own, until the whole set is there",
    "data/flowers102.py": "in a folder aside, which is renamed",
    "data/dataset_folder.py": "in a folder aside, which is renamed",
    "data/shapes.py": "in a folder aside, which is renamed",
    "download.py": "a part of another name, and the lock",
    "export/program.py": "in a temporary folder",
    "export/formats.py": "in a folder aside, which is put in place as one",
    "predict/results.py": "under a name of its own, until all results are there",
    "training/inference_program.py": "in a folder aside, which is put in place as one",
}


def writes(node: ast.AST) -> bool:
    """Whether `node` is a call that writes a file under its final name."""
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Attribute):
        return node.func.attr in ("write_bytes", "write_text")
    modes = [*node.args[1:2], *(keyword.value for keyword in node.keywords if keyword.arg == "mode")]
    texts = [part.value for mode in modes for part in ast.walk(mode) if isinstance(part, ast.Constant)]
    return isinstance(node.func, ast.Name) and node.func.id == "open" and any(str(text)[0] in "wax" for text in texts)


def test_files_are_written_as_a_whole():
    package = Path(__file__).resolve().parents[1] / "ppcls_ext"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(writes(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found == set(WRITERS), "use atomic_write, or say here why nobody sees half of it"


def test_names_of_many_equal_stems_take_linear_time(tmp_path):
    names, start = FreeNames(tmp_path, []), time.process_time()
    taken = [names.take("cat", "-class-1") for _ in range(100_000)]
    assert time.process_time() - start < 60
    assert taken[:3] == ["cat-class-1.png", "cat-class-1-2.png", "cat-class-1-3.png"]
    assert len(set(taken)) == len(taken)


def test_names_that_collide_with_numbered_ones(tmp_path):
    names = FreeNames(tmp_path, [])
    stems = ["a", "a-2", "a", "a", "a-2", "a-3", "a-2-2", "a"]
    taken = [names.take(stem) for stem in stems]
    assert taken == ["a.png", "a-2.png", "a-3.png", "a-4.png", "a-2-2.png", "a-3-2.png", "a-2-2-2.png", "a-5.png"]


def test_a_source_is_not_written_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    for folder in (Path(), tmp_path, Path("link")):
        names = FreeNames(folder, ["a.png", "other/b.png"])
        assert [names.take("a"), names.take("b")] == ["a-2.png", "b.png"]


def test_a_stem_as_long_as_the_system_allows(tmp_path):
    names = FreeNames(tmp_path, [])
    for stem in ("n" * 255, "\u00fc" * 127, os.fsdecode(b"\xff" * 255)):
        for _ in range(2):
            (tmp_path / names.take(stem, "-class-12345")).touch(exist_ok=False)
