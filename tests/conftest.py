"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
