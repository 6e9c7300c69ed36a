"""Finds PaddleClas, puts it on `sys.path`, and determines which parts of it are present.

PaddleClas comes in three shapes: a git checkout (everything), the wheels up to 2.4.2 (no YAML files) and the wheels
2.4.3 to 2.6.0 (architectures and utilities, no training engine). In all of them the package is used as `ppcls`, the
folder that holds it being on `sys.path`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import sys
import types
from dataclasses import dataclass
from pathlib import Path

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.late_imports import late_imports

HOME = "PADDLECLAS_HOME"
HOW_TO_GET_ONE = (
    'either pip install --no-deps "paddleclas==2.4.2" (the last wheel with the training engine), '
    f"or set {HOME} to a git checkout of PaddleClas (release/2.6 or develop); "
    'pip install "ppcls-ext[train]" brings what it needs'
)


@dataclass(frozen=True)
class PaddleClas:
    """An installation or a checkout of PaddleClas.

    Attributes:
        path: the folder that holds `ppcls`.
        has_engine: whether it can train, evaluate, infer and export; otherwise it can only build models.
        version: its version, such as "2.4.2", or "unknown".
        source: how it was found.
    """

    path: Path
    has_engine: bool
    version: str
    source: str

    def __str__(self) -> str:
        return f"PaddleClas {self.version} at {self.path} ({self.source})"


def find() -> PaddleClas:
    """Finds the PaddleClas to use, without importing it.

    The order is: the `ppcls` that the program has imported already; $PADDLECLAS_HOME; an importable `ppcls`; the
    installed `paddleclas` wheel. Of the last two, one that has an engine is preferred.

    Raises:
        PpclsExtError: there is no PaddleClas, or $PADDLECLAS_HOME is not one.
    """
    home = _at_home()
    imported = sys.modules.get("ppcls")
    if imported is not None:
        folder = Path(next(iter(imported.__path__))).parent
        found = _describe(folder, "already imported")
        if found is None:
            raise PpclsExtError(f"the ppcls imported from {folder} is no PaddleClas: {HOW_TO_GET_ONE}")
        if home is not None and home.path != found.path:
            raise PpclsExtError(
                f"{HOME} is {home.path}, but ppcls is already imported from {found.path}: use one of them"
            )
        return found
    if home is not None:
        return home
    candidates = [found for found in (_importable(), _wheel()) if found is not None]
    if not candidates:
        raise PpclsExtError(
            f"no PaddleClas: {HOME} is not set, no module ppcls can be imported and no paddleclas is installed; "
            f"{HOW_TO_GET_ONE}"
        )
    return next((found for found in candidates if found.has_engine), candidates[0])


def activate(need_engine: bool = False) -> PaddleClas:
    """Makes `import ppcls` import the PaddleClas of `find`, and returns it.

    Its folder goes behind everything else on `sys.path`, as it also holds modules called `tools`, `tests` and `deploy`;
    only a folder with another `ppcls` comes later.

    Args:
        need_engine: whether architectures alone are not enough.

    Raises:
        PpclsExtError: there is no PaddleClas, or it has no engine although one is needed.
    """
    found = find()
    if need_engine and not found.has_engine:
        raise PpclsExtError(
            f"{found} has no training engine: the wheels 2.4.3 to 2.6.0 hold only ppcls/arch and ppcls/utils; "
            f"{HOW_TO_GET_ONE}"
        )
    importable = _importable()
    if importable is None or importable.path != found.path:
        rivals = (index for index, entry in enumerate(sys.path) if (Path(entry) / "ppcls").is_dir())
        sys.path.insert(next(rivals, len(sys.path)), str(found.path))
        importlib.invalidate_caches()
    return found


def is_there() -> bool:
    """Returns whether there is a PaddleClas; a $PADDLECLAS_HOME that is not one counts, and `find` refuses it."""
    return bool("ppcls" in sys.modules or os.environ.get(HOME) or _importable() or _wheel())


def theseus_layer() -> type:
    """Returns PaddleClas's base class of backbones, safe to instantiate.

    Its methods warn through PaddleClas's logger, which is None until a program sets it up. Where no program has, this
    function sets it up for warnings only; PaddleClas's engine sets its own level later.
    """
    activate()
    host_logger = import_host("ppcls.utils.logger")
    if host_logger._logger is None:
        host_logger.init_logger(log_level=logging.WARNING)
    return import_host("ppcls.arch.backbone.base.theseus_layer").TheseusLayer


def engine_class() -> type:
    """Returns the class of PaddleClas's engine, which trains, evaluates, infers or exports."""
    activate(need_engine=True)
    return import_host("ppcls.engine.engine").Engine


def import_host(name: str) -> types.ModuleType:
    """Imports a module of PaddleClas, without the packages that few runs use (see `late_imports`)."""
    with late_imports():
        return importlib.import_module(name)


def _at_home() -> PaddleClas | None:
    home = os.environ.get(HOME)
    if not home:
        return None
    found = _describe(Path(home).expanduser(), f"${HOME}")
    if found is None:
        raise PpclsExtError(
            f"{HOME} is {home}, which is no PaddleClas: expected a git checkout, a folder that holds ppcls/arch; "
            "correct it or unset it"
        )
    return found


def _importable() -> PaddleClas | None:
    spec = importlib.util.find_spec("ppcls")
    places = spec.submodule_search_locations or () if spec else ()
    found = (_describe(Path(place).parent, "importable as ppcls") for place in places)
    return next((paddleclas for paddleclas in found if paddleclas is not None), None)


def _wheel() -> PaddleClas | None:
    # find_spec does not import the package: importing it prints a page of model names
    spec = importlib.util.find_spec("paddleclas")
    if spec is None or spec.origin is None:
        return None
    return _describe(Path(spec.origin).parent, "installed wheel")


def _describe(path: Path, source: str) -> PaddleClas | None:
    path = path.resolve()
    if not (path / "ppcls" / "arch" / "__init__.py").is_file():
        return None
    return PaddleClas(path, (path / "ppcls" / "engine" / "engine.py").is_file(), _version(path), source)


def _version(path: Path) -> str:
    stated = path / "version.txt"  # of checkouts since 2.5
    if stated.is_file():
        return stated.read_text(encoding="utf-8").strip()
    try:
        installed = importlib.metadata.distribution("paddleclas")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
    is_installed = Path(str(installed.locate_file("paddleclas"))).resolve() == path
    return installed.version if is_installed else "unknown"
