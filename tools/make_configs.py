"""Writes the files of configs/ from the table in ppcls_ext/config/shipped.py.

Example: python tools/make_configs.py
         python tools/make_configs.py --check   # say which files differ, write none
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ppcls_ext.commands.outcome import run
from ppcls_ext.config.downstream import config_files
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Writes or checks every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where a file differs from the table")
    check = parser.parse_args().check
    folder = ROOT / "configs"
    different = []
    files = config_files()
    for name, text in files.items():
        path = folder / name
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        different.append(name)
        if not check:
            with atomic_write(path, "w", encoding="utf-8") as stream:
                stream.write(text)
    extra = [str(path.relative_to(folder)) for path in folder.rglob("*.y*ml")]
    extra = sorted(set(extra) - set(files))
    if check and (different or extra):
        raise PpclsExtError(f"configs/ differs from the table: {different + extra}; run tools/make_configs.py")
    print(f"{len(files)} files, {len(different)} {'different' if check else 'written'}")
    if extra:
        raise PpclsExtError(
            f"configs/ holds files that the table does not: {extra}; remove them or add them to the table"
        )


if __name__ == "__main__":
    sys.exit(run(main))
