"""A folder of its own for each test."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def own_folder(tmp_path_factory, monkeypatch):
    """A test writes where no other does: `output`, the configurations' folder, is relative and locked in training."""
    monkeypatch.chdir(tmp_path_factory.mktemp("run"))
