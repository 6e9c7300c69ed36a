"""PaddleClas's log: where it cannot be written, a command does without and says so once."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from ppcls_ext.hosts.paddleclas.log_file import log_in, withdraw_log


@pytest.fixture
def host_log(registered):
    """PaddleClas's logger, with the handlers that it had before when the test is over."""
    from ppcls.utils import logger

    logger.init_logger()
    before = logger._logger.handlers[:]
    yield logger
    logger._logger.handlers[:] = before


def open_log(folder: Path) -> None:
    import ppcls.engine.engine as host

    with log_in(folder):
        host.init_logger(log_file="output/Net/eval.log")


def test_lines_go_to_the_runs_own_file_once(host_log, tmp_path):
    open_log(tmp_path / "Net")
    open_log(tmp_path / "Net")
    host_log.info("some – line")
    (line,) = (tmp_path / "Net" / "eval.log").read_text(encoding="utf-8").splitlines()
    assert line.endswith("ppcls INFO: some – line")


def test_the_log_of_what_was_not_built_goes_if_it_is_new(host_log, tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "eval.log").write_text("before\n")
    for name in ("new", "old"):
        open_log(tmp_path / name)
        host_log.info("line")
        withdraw_log(tmp_path / name)
    host_log.info("another")
    assert not list((tmp_path / "new").iterdir())
    first, second = (tmp_path / "old" / "eval.log").read_text().splitlines()
    assert first == "before"
    assert second.endswith("line")


@pytest.mark.parametrize("place", ["file/Net", "n" * 300])
def test_where_no_file_can_be_opened(host_log, tmp_path, caplog, place):
    """As on a disk that is read-only."""
    (tmp_path / "file").touch()
    open_log(tmp_path / place)
    host_log.info("line")
    (message,) = [record.getMessage() for record in caplog.records if record.name == "ppcls_ext"]
    assert message.startswith("warning: no log ")


def test_a_disk_that_is_full(host_log, tmp_path, caplog, capsys):
    open_log(tmp_path)
    handler = host_log._logger.handlers[-1]
    handler.close()
    handler.baseFilename = "/dev/full"
    handler.stream = open("/dev/full", "a")  # noqa: SIM115
    for _ in range(3):
        host_log.info("line")
    messages = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert messages == ["warning: /dev/full ends here: [Errno 28] No space left on device"]
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.forks
def test_processes_that_are_forked_while_a_thread_writes(host_log, tmp_path):
    """A buffer's lock would be copied in the state that it is in, and the process wait for ever."""
    open_log(tmp_path)
    log = logging.Logger("forked")
    log.addHandler(host_log._logger.handlers[-1])
    assert Path(log.handlers[0].baseFilename) == tmp_path / "eval.log"
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            log.info("x" * 10_000)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(60):
            child = os.fork()
            if not child:
                log.info(f"process {number}")
                os._exit(0)
            end = time.monotonic() + 20
            while os.waitpid(child, os.WNOHANG) == (0, 0):
                if time.monotonic() > end:
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
                    pytest.fail(f"process {number} waits for ever")
                time.sleep(0.001)
    finally:
        ended.set()
        thread.join()
    text = (tmp_path / "eval.log").read_text(encoding="utf-8")
    assert all(f"process {number}" in text for number in range(60))
