"""`make release-check`: what it says of a changelog; tests/test_wheel.py looks at the wheel itself."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
import yaml

import ppcls_ext
from tools import release_check

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# Changelog\n\n## 0.2.0 (2026-11-29)\n\n- All.\n", []),
        ("# Changelog\n\n## 0.2.0 (unreleased)\n", ['begins with "0.2.0 (unreleased)"']),
        ("# Changelog\n\n## 0.3.0 (2026-11-29)\n", ['begins with "0.3.0 (2026-11-29)"']),
        ("## 0.2.0 (2026-11-29)\n## 0.1.0 (unreleased)\n", ['the section "0.1.0 (unreleased)" below the release']),
    ],
)
def test_changelog(text, said):
    faults = list(release_check.changelog_faults(text, "0.2.0"))
    assert len(faults) == len(said)
    assert all(part in fault for part, fault in zip(said, faults))


def test_a_wheel_that_lacks_something_or_links_to_a_file(tmp_path):
    path = tmp_path / "ppcls_ext-0.2.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tests/test_all.py", "")
        wheel.writestr("ppcls_ext-0.2.0.dist-info/METADATA", "Version: 0.1.0\n\n[more](docs/index.md)\n")
    faults = "\n".join(release_check.wheel_faults(path, "0.2.0"))
    for part in (
        "lacks ppcls_ext/__init__.py",
        "lacks ppcls_ext/pages/howto/own_images.md",
        "holds tests/test_all.py",
        "is version 0.1.0: expected 0.2.0",
        "has no Summary",
        "the description links to docs/index.md",
    ):
        assert part in faults


def test_citation():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited["version"] == ppcls_ext.__version__
    assert re.findall(r"abs/([\d.]+)", str(cited["references"])) == ["2206.04040", "2101.03697", "2303.03667"]
