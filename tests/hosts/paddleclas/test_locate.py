"""Finding PaddleClas: each case in a fresh Python, since an imported `ppcls` stays."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CHECKOUT = os.environ.get("PADDLECLAS_HOME")
needs_checkout = pytest.mark.skipif(not CHECKOUT, reason="needs a PaddleClas checkout: set PADDLECLAS_HOME to it")


def run_python(
    code: str, home: str | Path | None = None, path: str | Path | None = None, isolated: bool = False
) -> str:
    """What `code` prints; its exception's message where it fails. `isolated`: without installed packages."""
    env = {name: value for name, value in os.environ.items() if name not in ("PADDLECLAS_HOME", "PYTHONPATH")}
    if home is not None:
        env["PADDLECLAS_HOME"] = str(home)
    env["PYTHONPATH"] = os.pathsep.join(str(entry) for entry in (ROOT, path) if entry)
    flags = ["-S"] if isolated else []
    result = subprocess.run(
        [sys.executable, *flags, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True, timeout=120
    )
    return result.stdout.strip() if result.returncode == 0 else result.stderr.strip().splitlines()[-1]


def make_paddleclas(folder: Path, engine: bool = True, version: str | None = None) -> Path:
    """A folder with the files by which a PaddleClas is known."""
    for file in ["arch/__init__.py", *(["engine/engine.py"] if engine else [])]:
        (folder / "ppcls" / file).parent.mkdir(parents=True)
        (folder / "ppcls" / file).touch()
    (folder / "ppcls" / "__init__.py").touch()
    if version:
        (folder / "version.txt").write_text(version + "\n")
    return folder


FIND = (
    "from ppcls_ext.hosts.paddleclas.locate import find; "
    "print(find().path, find().has_engine, find().version, find().source)"
)
ACTIVATE = (
    "from ppcls_ext.hosts.paddleclas.locate import activate; activate(need_engine={}); import importlib.util; "
    "print(*importlib.util.find_spec('ppcls').submodule_search_locations); "
)


@pytest.fixture(scope="module")
def wheel() -> Path:
    """Folder of the installed wheel."""
    spec = importlib.util.find_spec("paddleclas")
    if spec is None or spec.origin is None:
        pytest.skip("needs the paddleclas wheel")
    return Path(spec.origin).resolve().parent


def test_home_comes_first(tmp_path):
    home = make_paddleclas(tmp_path / "home", version="2.6.0")
    other = make_paddleclas(tmp_path / "other")
    assert run_python(FIND, home, other) == f"{home} True 2.6.0 $PADDLECLAS_HOME"
    assert run_python(ACTIVATE.format(True), home, other) == str(home / "ppcls")


def test_importable_comes_before_the_wheel_where_it_has_an_engine(tmp_path, wheel):
    with_engine = make_paddleclas(tmp_path / "a")
    without = make_paddleclas(tmp_path / "b", engine=False)
    assert run_python(FIND, path=with_engine) == f"{with_engine} True unknown importable as ppcls"
    assert run_python(FIND, path=without).startswith(str(wheel))
    assert run_python(ACTIVATE.format(False), path=without) == str(wheel / "ppcls"), "the one found is the one imported"


def test_wheel_is_found_without_importing_it(wheel):
    found = run_python(FIND + "; import sys; print('paddleclas' in sys.modules, 'paddle' in sys.modules)")
    assert found.splitlines() == [f"{wheel} True 2.4.2 installed wheel", "False False"]


@pytest.mark.parametrize("content", [None, "empty folder"])
def test_home_that_is_no_checkout_is_an_error(tmp_path, content):
    home = tmp_path / "home"
    if content:
        home.mkdir()
    message = run_python(FIND, home)
    assert f"PADDLECLAS_HOME is {home}" in message
    assert "correct it or unset it" in message


def test_no_engine_anywhere_names_what_was_found_and_both_ways_out(tmp_path):
    home = make_paddleclas(tmp_path, engine=False, version="2.6.0")
    message = run_python(ACTIVATE.format(True), home)
    for part in (
        f"PaddleClas 2.6.0 at {home} ($PADDLECLAS_HOME)",
        "no training engine",
        "paddleclas==2.4.2",
        "develop",
    ):
        assert part in message
    assert run_python(ACTIVATE.format(False), home) == str(home / "ppcls")


def test_no_paddleclas_at_all():
    message = run_python(FIND, isolated=True)
    for part in ("no PaddleClas", "PADDLECLAS_HOME is not set", "paddleclas==2.4.2"):
        assert part in message


def test_another_imported_ppcls_is_an_error(tmp_path):
    home, other = make_paddleclas(tmp_path / "home"), make_paddleclas(tmp_path / "other")
    message = run_python("import ppcls; " + FIND, home, other)
    assert f"already imported from {other}" in message
    assert run_python("import ppcls; " + FIND, path=other) == f"{other} True unknown already imported"


def test_folder_of_paddleclas_shadows_nothing(tmp_path):
    home, mine = make_paddleclas(tmp_path / "home"), tmp_path / "mine"
    for folder in (home, mine):
        (folder / "tools").mkdir(parents=True)
        (folder / "tools" / "__init__.py").touch()
    code = ACTIVATE.format(True) + "import tools; print(tools.__file__)"
    assert run_python(code, home, mine).splitlines()[-1] == str(mine / "tools" / "__init__.py")


def test_models_build_on_a_paddleclas_without_engine(tmp_path, wheel):
    """The shape of the wheels 2.4.3 to 2.6.0: only `arch` and `utils`, and no `ppcls/__init__.py`."""
    (tmp_path / "ppcls").mkdir()
    for part in ("arch", "utils"):
        (tmp_path / "ppcls" / part).symlink_to(wheel / "ppcls" / part)
    code = (
        "import ppcls_ext; model = ppcls_ext.build('MobileOne_S0', class_num=2); ppcls_ext.register(); "
        "import ppcls.arch, importlib.util; print(importlib.util.find_spec('ppcls.engine'), "
        "type(ppcls.arch.MobileOne_S0(class_num=2)) is type(model), ppcls.arch.__file__)"
    )
    assert run_python(code, tmp_path).splitlines()[-1] == f"None True {tmp_path}/ppcls/arch/__init__.py"


@needs_checkout
def test_checkout():
    assert run_python(FIND, CHECKOUT).startswith(f"{Path(CHECKOUT).resolve()} True ")
