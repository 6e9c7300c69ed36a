"""Checks what an index of packages would get: changelog, sdist, wheel, metadata. Example: make release-check."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 2_000_000
"""Bytes of the wheel."""


def main() -> int:
    """Prints what is wrong, or "ready"."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "ppcls_ext" / "__init__.py").read_text(encoding="utf-8"))[1]
    faults = [*changelog_faults((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)]
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)[1]
    if cited != version:
        faults.append(f"CITATION.cff says version {cited}: expected {version}")
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, str(ROOT))
        (wheel,) = Path(folder).glob("*.whl")
        faults += wheel_faults(wheel, version)
        run(sys.executable, "-m", "twine", "check", "--strict", *map(str, Path(folder).iterdir()))
        size = wheel.stat().st_size
    print("\n".join(faults) or f"ready: ppcls_ext {version}, wheel of {size / 1e6:.1f} MB")
    return int(bool(faults))


def run(*command: str) -> None:
    """Runs a command; ends with its output where it fails."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def changelog_faults(text: str, version: str) -> Iterator[str]:
    """What is wrong with the first section of a changelog: it has the version, a date and no other open section."""
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    if not re.fullmatch(rf"{re.escape(version)} \(\d{{4}}-\d\d-\d\d\)", sections[0]):
        yield f'CHANGELOG.md begins with "{sections[0]}": expected "{version} (YEAR-MONTH-DAY)", the day of the release'
    for section in sections[1:]:
        if "unreleased" in section:
            yield f'CHANGELOG.md has the section "{section}" below the release'


def wheel_faults(path: Path, version: str) -> Iterator[str]:
    """What is wrong with a wheel: its contents, its metadata, its size."""
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        told = message_from_bytes(wheel.read(metadata))
    code = {file.relative_to(ROOT).as_posix() for file in (ROOT / "ppcls_ext").rglob("*.py")}
    pages = {f"ppcls_ext/pages/{page.relative_to(ROOT / 'docs').as_posix()}" for page in (ROOT / "docs").rglob("*.md")}
    for missing in sorted((code | pages | {"ppcls_ext/py.typed"}) - names):
        yield f"{path.name} lacks {missing}"
    for foreign in sorted(
        name for name in names if not name.startswith(("ppcls_ext/", f"ppcls_ext-{version}.dist-info/"))
    ):
        yield f"{path.name} holds {foreign}"
    if told["Version"] != version:
        yield f"{path.name} is version {told['Version']}: expected {version}"
    for field in ("Summary", "Requires-Python", "License-Expression", "Description-Content-Type"):
        if not told[field]:
            yield f"{path.name} has no {field}"
    for link in re.findall(r"\]\(([^)]+)\)", str(told.get_payload())):
        if "://" not in link:
            yield f"the description links to {link}, which no page of an index has: setup.py makes such links text"
    if path.stat().st_size > LARGEST:
        yield f"{path.name} has {path.stat().st_size:,} bytes: expected at most {LARGEST:,}"


if __name__ == "__main__":
    sys.exit(main())
