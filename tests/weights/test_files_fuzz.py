"""Damaged weight files end in arrays or in a clear line, never in anything else, and never take much memory."""

from __future__ import annotations

import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.bounded import ALLOWED_GROWTH, MIB
from ppcls_ext.weights.files import read_weights
from tests.weights.files.make_files import contents

FILES = Path(__file__).parent / "files"
TYPES = contents()["types"]


def saved(save, **options) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **TYPES, **options)
    return buffer.getvalue()


WHOLE = [
    *(path.read_bytes() for path in sorted(FILES.glob("*.legacy.pth"))),
    *(pickle.dumps(TYPES, protocol) for protocol in (2, 4, 5)),
    safetensors.numpy.save(TYPES),
    saved(np.savez),
    saved(np.savez_compressed),
    (FILES / "views.zip.pth").read_bytes(),
]
ZIPS = [path.read_bytes() for path in sorted(FILES.glob("*.zip.pth"))] + [saved(np.savez)]

# Edits as (kind, place, value); places and values count modulo what there is
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["set", "set", "set", "flip", "fill", "cut", "repeat", "splice"]),
        st.integers(0, 1 << 16),
        st.integers(0, 255),
    ),
    min_size=1,
    max_size=6,
)


def edited(content: bytes, edits: list[tuple[str, int, int]], other: bytes) -> bytes:
    for kind, place, value in edits:
        at = place % (len(content) + 1)
        length = value % 24
        head, tail = content[:at], content[at:]
        content = {
            "set": head + bytes([value]) + tail[1:],
            "flip": head + bytes([tail[0] ^ 1 << value % 8] if tail else []) + tail[1:],
            "fill": head + bytes([0xFF if value % 2 else 0] * min(8, len(tail))) + tail[8:],
            "cut": head + tail[length:],
            "repeat": head + tail[:length] * 2 + tail[length:],
            "splice": head + other[at : at + length] + tail,
        }[kind]
    return content


def rezipped(content: bytes, which: int, edits: list[tuple[str, int, int]]) -> bytes:
    """Edits one member and packs again: past the checksum, where the damage is well made."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(buffer, "w") as target:
        names = source.namelist()
        # The pickle is where most of the structure is
        chosen = names[which % len(names)] if which % 3 == 0 else names[0]
        for name in names:
            member = source.read(name)
            target.writestr(name, edited(member, edits, content) if name == chosen else member)
    return buffer.getvalue()


def check(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message, weights = "", {}
    tracemalloc.start()
    try:
        weights = read_weights(path)
    except PpclsExtError as error:
        message = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 * MIB + ALLOWED_GROWTH * len(content)
    assert bool(message) != bool(weights)
    assert message.isprintable()  # which excludes line breaks
    for name, array in weights.items():
        assert (type(name), type(array)) == (str, np.ndarray)
        assert array.dtype.kind in "fiub"


many = settings(
    max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@many
@given(base=st.sampled_from(WHOLE), other=st.sampled_from(WHOLE), edits=EDITS)
def test_damaged_files(tmp_path, base, other, edits):
    check(tmp_path / "weights", edited(base, edits, other))


@many
@given(base=st.sampled_from(ZIPS), which=st.integers(0, 100), edits=EDITS)
def test_damage_inside_of_archives(tmp_path, base, which, edits):
    check(tmp_path / "weights", rezipped(base, which, edits))


@many
@given(
    base=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\3\4", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."]),
    rest=st.binary(max_size=80),
)
def test_noise(tmp_path, base, rest):
    check(tmp_path / "weights", base + rest)


@pytest.mark.parametrize("content", [*WHOLE, *ZIPS])
def test_undamaged_files_are_read(tmp_path, content):
    """The ground that the damage starts from."""
    (tmp_path / "weights").write_bytes(content)
    assert read_weights(tmp_path / "weights")
