"""`make matrix`: each Python found, with the oldest and the newest Paddle, and once the lowest versions of all.

For every pair a fresh virtual environment gets the package and what it needs, and runs the fast tests and the chain
train → eval → infer → export → ONNX → predict. The outcomes of all runs so far are kept in tests/matrix.json, row by
row as they come; the section "Tested with" of docs/reference/paddleclas.md shows them and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD, PAGE = ROOT / "tests" / "matrix.json", ROOT / "docs" / "reference" / "paddleclas.md"
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
#: The lowest versions of all packages have wheels for the oldest Python only.
ROWS = ("3.9-lowest", *(f"{python}-{paddle}" for python in PYTHONS for paddle in ("3.0.0", "newest")))
SHOWN = ("paddlepaddle", "numpy", "paddle2onnx", "onnx", "onnxslim", "onnxruntime")
RUNS: dict[str, tuple[str, ...]] = {
    "chain": ("tests/test_end_to_end.py", "tests/hosts/paddleclas/test_adaptations.py", "-k", "not checkout"),
    "fast tests": ("-n", "auto"),
}
BEGIN, END = "<!-- matrix: written by make matrix -->", "<!-- end of matrix -->"
Outcome = dict[str, str]


def main() -> int:
    """Runs what is asked for, one environment after the other; exit code 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "rows", nargs="*", metavar="PYTHON-PADDLE", help="3.12-newest, 3.12-3.1.1, 3.9-lowest… (default: all)"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / ".matrix", help="of the environments (default: .matrix)")
    parser.add_argument("--chain-only", action="store_true", help="leave the fast tests out")
    parser.add_argument("--keep", action="store_true", help="use environments of an earlier run")
    parser.add_argument("--failed", action="store_true", help="the same, and run only the tests that failed there")
    args = parser.parse_args()
    wrong = [row for row in args.rows if not re.fullmatch(r"3\.\d+-(newest|lowest|3\.\d+\.\d+)", row)]
    if wrong:
        parser.error(f"{', '.join(wrong)}: expected PYTHON-PADDLE, such as 3.12-newest, 3.12-3.1.1 or 3.9-lowest")
    failed = False
    for row in args.rows or ROWS:
        python = _find(row.partition("-")[0])
        if python is None:
            print(f"== {row}: no such Python here, left out")
            failed = failed or bool(args.rows)
            continue
        print(f"== {row}", flush=True)
        known = json.loads(RECORD.read_text(encoding="utf-8"))
        outcome = _run(row, python, args, known.get(row, {}))
        keep({**json.loads(RECORD.read_text(encoding="utf-8")), row: outcome})  # another run may have added its rows
        print(f"   {outcome}", flush=True)
        failed = failed or any(text.startswith("FAILED") for text in outcome.values())
    print(table(json.loads(RECORD.read_text(encoding="utf-8"))))
    return int(failed)


def _find(python: str) -> str | None:
    """An interpreter of that version: on the PATH, or one of pyenv's, whose commands there may be switched off."""
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{python}.*/bin/python"))
    for executable in (shutil.which(f"python{python}"), *map(str, installed)):
        if executable and subprocess.run([executable, "-c", ""], capture_output=True).returncode == 0:
            return executable
    return None


def _run(row: str, python: str, args: argparse.Namespace, known: Outcome) -> Outcome:
    """The outcome of a row. What an earlier run with the same versions tested and this one does not, stays."""
    venv = (args.folder / row).absolute()
    if not ((args.keep or args.failed) and (venv / "done").exists()):
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([python, "-m", "venv", venv], check=True)
        fault = _install(venv, row.partition("-")[2])
        if fault:
            return {"install": f"FAILED: {fault}"}
        (venv / "done").touch()
    outcome = {"install": "passed", **_versions(venv)}
    if outcome.items() <= known.items():
        outcome = dict(known)
    for what in RUNS:
        earlier = outcome.get(what, "")
        if (args.failed and not earlier.startswith("FAILED")) or (args.chain_only and what != "chain"):
            continue
        outcome[what] = _test(venv, what, earlier if args.failed else "")
    return outcome


def _install(venv: Path, paddle: str) -> str:
    """What went wrong, in one line; nothing where all was installed."""
    constraints = venv / "constraints.txt"
    constraints.write_text(
        {"newest": "", "lowest": _lowest()}.get(paddle, f"paddlepaddle=={paddle}\n"), encoding="utf-8"
    )
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints]
    for arguments in (["--upgrade", "pip"], ["--editable", f"{ROOT}[dev]"], ["--no-deps", "paddleclas==2.4.2"]):
        done = subprocess.run([*pip, *arguments], capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return errors[0] if errors else f"pip ended with {done.returncode}"
    return ""


def _lowest() -> str:
    """Constraints that turn each lower bound of setup.py into the version itself."""
    text = (ROOT / "setup.py").read_text(encoding="utf-8")
    return "".join(f"{name}=={version}\n" for name, version in re.findall(r"['\"]([\w-]+)>=([\d.]+)", text))


def _versions(venv: Path) -> dict[str, str]:
    listed = subprocess.run(
        [venv / "bin" / "python", "-m", "pip", "list", "--format", "json"], capture_output=True, text=True, check=True
    )
    installed = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
    return {name: installed.get(name, "none") for name in SHOWN}


def _test(venv: Path, what: str, earlier: str) -> str:
    """pytest's counts, after "passed: " or "FAILED: "; the whole output is in a file beside the environment.

    After an earlier outcome only what failed then runs, and the counts are of both.
    """
    cache = venv / f"cache of the {what}"
    # named one by one: --last-failed leaves out files that could not be imported
    which = (*json.loads((cache / "v/cache/lastfailed").read_text()), "-n", "auto") if earlier else RUNS[what]
    done = subprocess.run(
        [venv / "bin" / "python", "-m", "pytest", "-q", "-o", f"cache_dir={cache}", *which],
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1", **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    Path(f"{venv}-{what.replace(' ', '-')}.log").write_text(done.stdout, encoding="utf-8")
    return f"{'FAILED' if done.returncode else 'passed'}: {counts(done.stdout, earlier)}"


def counts(output: str, earlier: str) -> str:
    """How many tests failed, passed and were skipped; those that failed earlier are counted as they are now."""
    pattern = r"(\d+) (failed|passed|skipped|error)"
    last = (output.strip().splitlines() or [""])[-1]
    now = Counter({kind: int(count) for count, kind in re.findall(pattern, last)})
    if not now:
        return last or "nothing"
    before = Counter({kind: int(count) for count, kind in re.findall(pattern, earlier)})
    rerun = before.pop("failed", 0) + before.pop("error", 0)
    total = before + now
    text = ", ".join(f"{total[kind]} {kind}" for kind in ("failed", "error", "passed", "skipped") if total[kind])
    return f"{text} ({rerun} run twice)" if rerun else text


def keep(outcomes: dict[str, Outcome]) -> None:
    """Writes the outcomes into the record, sorted, and their table into the page."""
    ordered = {row: outcomes[row] for row in sorted(outcomes, key=_order)}
    RECORD.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(ordered)}\n{END}{rest.split(END)[1]}", encoding="utf-8")


def _order(row: str) -> tuple[list[int], str]:
    python, _, paddle = row.partition("-")
    return [int(part) for part in python.split(".")], {"lowest": "0", "newest": "9"}.get(paddle, paddle)


def table(outcomes: dict[str, Outcome]) -> str:
    """The outcomes in Markdown, one row an environment."""
    header = ("Python", *SHOWN, *RUNS)
    rows = [header, ["---"] * len(header)]
    for row, outcome in outcomes.items():
        label = row.removesuffix("-lowest") + ", lowest versions" if row.endswith("-lowest") else row.partition("-")[0]
        if outcome["install"] != "passed":
            rows.append([row, outcome["install"], *[""] * (len(header) - 2)])
            continue
        tested = [outcome.get(what, "not run").removeprefix("passed: ") for what in RUNS]
        rows.append([label, *(outcome[package] for package in SHOWN), *tested])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
