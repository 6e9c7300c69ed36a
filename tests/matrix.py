"""`make matrix`: each Python found, with the oldest and the newest Paddle, and once the lowest versions of all.

For every pair a fresh virtual environment gets the package and what it needs, and runs the fast tests and the chain
train → eval → infer → export → ONNX → predict. The outcomes go into FOLDER/matrix.json and, with --readme, into the
section "Tested with" of README.md, which shows what ran and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PYTHONS = ("3.9", "3.10", "3.11", "3.12", "3.13")
PADDLES = ("3.0.0", "newest", "lowest")
#: The Python of the run with the lowest versions of all packages: the oldest, for which they have wheels.
LOWEST = "3.9"
SHOWN = ("paddlepaddle", "numpy", "paddle2onnx", "onnx", "onnxslim", "onnxruntime")
CHAIN = ("tests/test_end_to_end.py", "tests/host/test_adaptations.py", "-k", "not checkout")
BEGIN, END = "<!-- matrix: written by make matrix -->", "<!-- end of matrix -->"


def main() -> int:
    """Runs what is asked for, one environment after the other; exit code 1 where anything failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT / ".matrix", help="of the environments (default: .matrix)")
    parser.add_argument("--only", nargs="*", metavar="PYTHON-PADDLE", help="such as 3.12-newest or 3.9-lowest")
    parser.add_argument("--chain-only", action="store_true", help="leave the fast tests out")
    parser.add_argument("--keep", action="store_true", help="use environments of an earlier run")
    parser.add_argument("--readme", action="store_true", help='write the results into README.md, "Tested with"')
    args = parser.parse_args()
    results = _read(args.folder / "matrix.json")
    for name, python in _cells(args.only):
        print(f"== {name}", flush=True)
        results[name] = {**results.get(name, {}), **_run(name, python, args)}
        args.folder.joinpath("matrix.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"   {results[name]}", flush=True)
    table = _table(results)
    print(table)
    if args.readme:
        _write_readme(table)
    return int(any(outcome.get(what, "").startswith("FAILED") for outcome in results.values() for what in RUNS))


def _cells(only: list[str] | None) -> Iterator[tuple[str, str]]:
    """Names and interpreters of the environments to run."""
    for python in PYTHONS:
        for paddle in PADDLES:
            name = f"{python}-{paddle}"
            if (paddle == "lowest" and python != LOWEST) or (only and name not in only):
                continue
            executable = _find(python)
            if executable is None:
                print(f"== {name}: no python{python} here, left out")
            else:
                yield name, executable


def _find(python: str) -> str | None:
    """An interpreter of that version: on the PATH, or one of pyenv's, whose commands there may be switched off."""
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{python}.*/bin/python"))
    for executable in (shutil.which(f"python{python}"), *map(str, installed)):
        if executable and subprocess.run([executable, "-c", ""], capture_output=True).returncode == 0:
            return executable
    return None


def _run(name: str, python: str, args: argparse.Namespace) -> dict[str, str]:
    venv = (args.folder / name).absolute()
    if not (args.keep and (venv / "done").exists()):
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([python, "-m", "venv", venv], check=True)
        fault = _install(venv, name.partition("-")[2])
        if fault:
            return {"install": f"FAILED: {fault}"}
        (venv / "done").touch()
    outcome = {"install": "passed", **_versions(venv)}
    for what, arguments in RUNS.items():
        if what == "fast tests" and args.chain_only:
            continue
        outcome[what] = _test(venv, what, arguments)
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


def _test(venv: Path, what: str, arguments: tuple[str, ...]) -> str:
    """pytest's last line, after "passed: " or "FAILED: "; the whole output is in a file beside the environment."""
    done = subprocess.run(
        [venv / "bin" / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={"OMP_NUM_THREADS": "1", **os.environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    Path(f"{venv}-{what.replace(' ', '-')}.log").write_text(done.stdout, encoding="utf-8")
    last = re.sub(
        r" in [\d.]+s.*|, \d+ (deselected|warnings?)|[= ]*$|^[= ]*",
        "",
        (done.stdout.strip().splitlines() or ["nothing"])[-1],
    )
    return f"{'FAILED' if done.returncode else 'passed'}: {last}"


RUNS: dict[str, tuple[str, ...]] = {"chain": CHAIN, "fast tests": ("-n", "auto")}


def _read(path: Path) -> dict[str, dict[str, str]]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _table(results: dict[str, dict[str, str]]) -> str:
    """The results in Markdown, one row an environment."""
    header = ("Python", *SHOWN, *RUNS)
    rows = [header, ["---"] * len(header)]
    for name in sorted(results, key=lambda name: [int(part) for part in name.partition("-")[0].split(".")]):
        outcome = results[name]
        if not outcome["install"].startswith("passed"):
            rows.append([name, outcome["install"], *[""] * (len(header) - 2)])
            continue
        python, _, paddle = name.partition("-")
        label = f"{python}, lowest versions" if paddle == "lowest" else python
        tested = [outcome.get(what, "not run").removeprefix("passed: ") for what in RUNS]
        rows.append([label, *(outcome[package] for package in SHOWN), *tested])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _write_readme(table: str) -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
