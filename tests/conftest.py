"""Fixtures shared by all tests."""

from __future__ import annotations

import faulthandler
import logging
import os
import resource
import signal
import tempfile
from pathlib import Path

import pytest

from tests.multi_label_run import multi_label_run, multi_label_settings  # noqa: F401
from tests.tiny_dataset import base_config, config, config_file, dataset, registered, run_tool  # noqa: F401
from tests.tiny_net import METADATA, PIXELS, make_net
from tests.tiny_run import tiny_run, tiny_settings  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


class LastTest:
    """Keeps, for the end of the output, what a process of pytest-xdist was at, and of what fault it died if it did.

    pytest itself lets the fault be printed among thousands of lines. No fault means that it was killed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.stream = path, open(path, "w")  # noqa: SIM115 for as long as the process lives
        faulthandler.enable(file=self.stream)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.stream.seek(0)
        self.stream.truncate()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
        self.stream.write(f"{nodeid}, after up to {peak} MiB; {os.sysconf('SC_AVPHYS_PAGES') >> 8} MiB were free\n")
        self.stream.flush()

    def pytest_unconfigure(self) -> None:
        self.path.unlink()


@pytest.hookimpl(trylast=True)  # after pytest's own, which enables it for stderr
def pytest_configure(config):  # noqa: F811 named so by pytest
    """Begins to keep what processes of pytest-xdist do."""
    worker = getattr(config, "workerinput", {}).get("workerid")
    if not hasattr(config, "cache"):  # -p no:cacheprovider
        return
    folder = config.cache.mkdir("last_tests")
    if worker is not None:
        config.pluginmanager.register(LastTest(folder / f"{worker}.txt"))
    else:
        for path in folder.glob("*.txt"):
            path.unlink()


def pytest_collection_modifyitems(items):
    """Puts tests that fork first: of a process that has trained large networks a copy takes ten times as long."""
    items.sort(key=lambda item: item.get_closest_marker("forks") is None)


def pytest_terminal_summary(terminalreporter):
    """Shows what processes that died were at."""
    if not hasattr(terminalreporter.config, "cache"):
        return
    for path in sorted(terminalreporter.config.cache.mkdir("last_tests").glob("*.txt")):
        terminalreporter.section(f"{path.stem} died")
        terminalreporter.write_line("\n".join(path.read_text(errors="replace").splitlines()[:30]))


@pytest.fixture(scope="session", autouse=True)
def nothing_left_in_tmp(tmp_path_factory):
    """Temporary files of the tests' processes, also of those that are killed, go away with pytest's own folder."""
    folder = str(tmp_path_factory.mktemp("tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True)
def nothing_of_a_command():
    """A command that a test runs in this process sets up the log and signals: the next test finds them as before."""
    numbers = [
        getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGCHLD") if hasattr(signal, name)
    ]
    before, logger = [signal.getsignal(number) for number in numbers], logging.getLogger("ppcls_ext")
    handlers, propagate, level = logger.handlers[:], logger.propagate, logger.level
    yield
    for number, handler in zip(numbers, before):
        if handler is not None:  # one of C's stays
            signal.signal(number, handler)
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


@pytest.fixture(autouse=True)
def no_progress(monkeypatch):
    """On a slow machine anything may take longer than two seconds: what a test sees must not depend on it."""
    monkeypatch.setattr("ppcls_ext.progress.FIRST", 3600.0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and reference outputs; without one the test is skipped, saying so."""
    named = os.environ.get("PPCLS_EXT_SHARED")
    folder = Path(named) if named else ROOT.parent / "shared"
    if not folder.is_dir():
        if named:
            pytest.fail(f"PPCLS_EXT_SHARED={named} is not a folder")
        pytest.skip("needs the shared material: set PPCLS_EXT_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The network of seed 0, its file for any batch, and the report."""
    pytest.importorskip("paddle2onnx", reason="needs paddle2onnx, which has no wheel for Python 3.13")
    from ppcls_ext.export.pipeline import export_onnx

    net, path = make_net(), tmp_path_factory.mktemp("exported") / "tiny.onnx"
    report = export_onnx(net, path, image_shape=(3, PIXELS, PIXELS), metadata=METADATA.to_properties())
    return net, path, report
