"""Fixtures shared by all tests."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import tempfile
from pathlib import Path

import pytest

from tests.multi_label_run import multi_label_run, multi_label_settings  # noqa: F401
from tests.tiny_dataset import base_config, config, config_file, dataset, registered, run_tool  # noqa: F401
from tests.tiny_net import METADATA, PIXELS, make_net
from tests.tiny_run import tiny_run, tiny_settings  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


@pytest.hookimpl(trylast=True)  # after pytest's own, which lets faults be printed among thousands of lines
def pytest_configure(config):  # noqa: F811 named so by pytest
    """Where a process of pytest-xdist dies of a fault, its stack is kept for the end of the output."""
    worker = getattr(config, "workerinput", {}).get("workerid")
    folder = config.cache.mkdir("faults")
    if worker is not None:
        config.faults = open(folder / f"{worker}.txt", "w")  # noqa: SIM115 as long as the process lives
        faulthandler.enable(file=config.faults)
    else:
        for path in folder.glob("*.txt"):
            path.unlink()


def pytest_terminal_summary(terminalreporter):
    """Prints the faults of processes that died."""
    for path in sorted(terminalreporter.config.cache.mkdir("faults").glob("*.txt")):
        if text := path.read_text(errors="replace"):
            terminalreporter.section(f"the fault that ended {path.stem}")
            terminalreporter.write_line("\n".join(text.splitlines()[:30]))


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
