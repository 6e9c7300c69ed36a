"""A file under suspicion: nowhere beyond its end, and no more memory than its size explains."""

from __future__ import annotations

import io

import numpy as np
import pytest

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.bounded import BoundedFile, widen_bfloat16


@pytest.fixture
def file() -> BoundedFile:
    return BoundedFile(io.BytesIO(bytes(10)))


@pytest.mark.parametrize("position", [-1, 11, 1 << 62])
def test_places_outside(file, position):
    with pytest.raises(ValueError, match="outside of the file"):
        file.seek(position)
    assert file.seek(10) == 10


def test_what_is_made_is_paid(file):
    file.allowance = 400
    assert widen_bfloat16(np.zeros(60, "u2"), file).dtype == np.float32
    with pytest.raises(PpclsExtError, match="unfolds to more than 16 times its own size"):
        widen_bfloat16(np.zeros(60, "u2"), file)
