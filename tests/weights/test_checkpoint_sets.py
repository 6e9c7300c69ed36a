"""A set of checkpoint files is never a mixture, whenever the process dies; damage is found, and named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights import checkpoint_sets as sets
from ppcls_ext.weights.checkpoint_sets import SetWriter, find_newest, finish, intact, read_set

SUFFIXES = (".pdparams", ".ema.pdparams", ".pdopt", ".pdstates")


def write(prefix: Path, epoch: int, suffixes: tuple[str, ...] = SUFFIXES, resumable: bool = True) -> None:
    writer = SetWriter(prefix)
    try:
        for suffix in suffixes:
            writer.add(Path(f"{prefix}{suffix}"), content(epoch, suffix))
        writer.commit({"epoch": epoch, "resumable": resumable})
    finally:
        writer.close()


def content(epoch: int, suffix: str) -> bytes:
    return f"{suffix} of epoch {epoch}".encode() * 100


def epoch_of(prefix: Path) -> int:
    """The epoch of a set, all of whose files are of that epoch."""
    found = read_set(prefix)
    epoch = found.state["epoch"]
    for suffix in SUFFIXES:
        assert found.file(suffix).read_bytes() == content(epoch, suffix)
        assert intact(Path(f"{prefix}{suffix}")) == found.file(suffix)
    return epoch


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


COMPLETE = sorted(["latest.json", *(f"latest{suffix}" for suffix in SUFFIXES)])


def test_plain_names_hold_the_set(tmp_path):
    write(tmp_path / "latest", 1)
    write(tmp_path / "latest", 2)
    assert listing(tmp_path) == COMPLETE
    for suffix in SUFFIXES:
        assert (tmp_path / f"latest{suffix}").read_bytes() == content(2, suffix), "for other tools"


def test_files_of_an_older_set_do_not_stay(tmp_path):
    write(tmp_path / "latest", 1)
    write(tmp_path / "latest", 2, suffixes=(".pdparams",))
    assert listing(tmp_path) == ["latest.json", "latest.pdparams"]


def die_at(step: int, save, half: bool) -> bool:
    """Runs `save` in a process that kills itself before its file operation number `step`; whether it was killed.

    Args:
        half: where that operation is the writing of a file, half of the file is written first.
    """
    child = os.fork()
    if child == 0:
        left = step
        real_write = sets._write_new

        def count(operation):
            def counted(*arguments, **options):
                nonlocal left
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return operation(*arguments, **options)

            return counted

        def write_new(path, data):
            nonlocal left
            left -= 1
            if left < 0:
                if half:
                    sets._new(path).write_bytes(bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            real_write(path, data)

        for name in ("replace", "fsync", "unlink", "open"):
            setattr(os, name, count(getattr(os, name)))
        sets._write_new = write_new
        try:
            save()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


@pytest.mark.forks
@pytest.mark.parametrize("half", [False, True])
def test_killed_at_any_moment_either_set_is_complete(tmp_path, half):
    seen = set()
    for step in range(100):
        folder = tmp_path / str(step)
        prefix = folder / "latest"
        write(prefix, 1)
        killed = die_at(step, lambda prefix=prefix: write(prefix, 2), half)
        epoch = epoch_of(prefix)
        assert epoch == find_newest(folder)[0].state["epoch"]
        seen.add(epoch)
        if not killed:
            break
        # whoever comes next: puts it in order, is killed while doing so, or saves again
        die_at(step % 3, lambda prefix=prefix: finish(prefix), half)
        assert epoch_of(prefix) == epoch
        finish(prefix)
        assert epoch_of(prefix) == epoch
        assert listing(folder) == COMPLETE
        die_at(step, lambda prefix=prefix: write(prefix, 3), half)
        write(prefix, 4)
        assert epoch_of(prefix) == 4
        assert listing(folder) == COMPLETE
    assert step > 15, "every file operation of a save was hit"
    assert not killed
    assert seen == {1, 2}


@pytest.mark.forks
def test_killed_twice_in_a_row(tmp_path):
    """Also the files of an interrupted save that has not been put in order are not written over."""
    for first in range(30):
        prefix = tmp_path / str(first) / "latest"
        write(prefix, 1)
        if not die_at(first, lambda prefix=prefix: write(prefix, 2), half=True):
            break
        before = epoch_of(prefix)
        for second in range(0, 12, 3):
            die_at(second, lambda prefix=prefix: write(prefix, 3), half=True)
            assert epoch_of(prefix) in (before, 3)
    assert first > 15


def test_killed_in_the_first_save(tmp_path):
    prefix = tmp_path / "latest"
    assert die_at(6, lambda: write(prefix, 1), half=True)
    assert find_newest(tmp_path) == (None, [])
    write(prefix, 2)
    assert listing(tmp_path) == COMPLETE


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "bytes long"), (change_a_bit, "changed"), (Path.unlink, "missing")],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_is_found(tmp_path, damage, message, suffix):
    prefix = tmp_path / "latest"
    write(prefix, 1)
    damage(Path(f"{prefix}{suffix}"))
    with pytest.raises(PpclsExtError, match=rf"latest{suffix} is damaged: it is .*{message}"):
        read_set(prefix)
    with pytest.raises(PpclsExtError, match="is damaged"):
        intact(Path(f"{prefix}{suffix}"))


@pytest.mark.parametrize("damage", [truncate, change_a_bit, lambda path: path.write_text("[]")])
def test_damaged_manifest_is_found(tmp_path, damage):
    write(tmp_path / "latest", 1)
    damage(tmp_path / "latest.json")
    with pytest.raises(PpclsExtError, match=r"manifest .*latest\.json is damaged"):
        read_set(tmp_path / "latest")
    found, faults = find_newest(tmp_path)
    assert found is None
    assert len(faults) == 1


def test_every_bit_of_a_manifest_matters(tmp_path):
    """No change of one digit or letter of the manifest passes."""
    write(tmp_path / "latest", 1)
    path = tmp_path / "latest.json"
    good = path.read_bytes()
    for index in range(0, len(good), 7):
        if good[index : index + 1].isalnum():
            path.write_bytes(good[:index] + (b"7" if good[index] != ord("7") else b"8") + good[index + 1 :])
            with pytest.raises(PpclsExtError):
                read_set(tmp_path / "latest")


def test_order_in_which_sets_are_resumed_from(tmp_path):
    write(tmp_path / "epoch_10", 10)
    write(tmp_path / "epoch_9", 9)
    write(tmp_path / "latest", 8)
    write(tmp_path / "best_model", 10, resumable=False)
    (tmp_path / "settings.json").write_text("{}")
    assert find_newest(tmp_path)[0].prefix.name == "latest", "the only one that every epoch renews"
    truncate(tmp_path / "latest.pdopt")
    found, faults = find_newest(tmp_path)
    assert found.prefix.name == "epoch_9", "written last"
    assert len(faults) == 1
    assert "latest.pdopt" in faults[0]
    (tmp_path / "epoch_9.json").unlink()
    truncate(tmp_path / "epoch_10.pdparams")
    found, faults = find_newest(tmp_path)
    assert found is None
    assert len(faults) == 2


def test_sets_in_folders_of_their_own(tmp_path):
    write(tmp_path / "latest" / "latest", 3)
    assert find_newest(tmp_path)[0].prefix == tmp_path / "latest" / "latest"


def test_files_below_the_prefix(tmp_path):
    """PaddleClas develop writes best_model/model.pdparams with best_model.pdparams."""
    for epoch in (1, 2):
        writer = SetWriter(tmp_path / "best_model")
        writer.add(tmp_path / "best_model" / "model.pdparams", content(epoch, "model"))
        writer.commit({"epoch": epoch, "resumable": True})
    assert (tmp_path / "best_model" / "model.pdparams").read_bytes() == content(2, "model")
    assert listing(tmp_path / "best_model") == ["model.pdparams"]
    read_set(tmp_path / "best_model")


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(["mount", *options], capture_output=True).returncode:
        pytest.skip("needs to mount a tmpfs: run as root where mounting is allowed")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def attempt(prefix: Path) -> str | None:
    try:
        write(prefix, 2)
    except PpclsExtError as error:
        return str(error)
    return None


def test_full_disk_keeps_the_set_before(small_disk):
    prefix = small_disk / "latest"
    write(prefix, 1)
    for room in range(0, 24 * 1024, 4096):
        filler = small_disk / "filler"
        filler.write_bytes(b"")
        stat = os.statvfs(small_disk)
        filler.write_bytes(bytes(stat.f_bavail * stat.f_bsize - room))
        message = attempt(prefix)
        if message is None:
            break
        assert "No space left on device; make room, then resume with the same command and --resume" in message
        assert epoch_of(prefix) == 1
        assert listing(small_disk) == sorted([*COMPLETE, "filler"]), "no partial file"
        failed = room
    assert failed > 0, "files of the set were written before there was no more room"
    assert epoch_of(prefix) == 2


def test_a_failed_first_save_leaves_nothing(small_disk):
    """Neither an empty best_model/, where PaddleClas develop writes, nor talk of checkpoints that are not there."""
    writer = SetWriter(small_disk / "best_model")
    (small_disk / "best_model").mkdir()  # PaddleClas's save_model does so
    with pytest.raises(PpclsExtError, match=r"make room, then begin again: .* holds no checkpoint to resume from"):
        writer.add(small_disk / "best_model" / "model.pdparams", bytes(1 << 20))
    writer.close()
    assert listing(small_disk) == []
    (small_disk / "best_model").mkdir()
    (small_disk / "best_model" / "notes").write_text("the user's")
    SetWriter(small_disk / "best_model").close()
    assert listing(small_disk) == ["best_model"]


def test_manifest_is_readable_by_others(tmp_path):
    write(tmp_path / "latest", 1)
    manifest = json.loads((tmp_path / "latest.json").read_text())
    assert set(manifest["set"]["files"]) == {f"latest{suffix}" for suffix in SUFFIXES}
    assert manifest["set"]["state"]["epoch"] == 1
