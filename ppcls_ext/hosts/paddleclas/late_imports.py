"""Delays the import of packages that PaddleClas imports at its start and few runs use, until they are first used.

PaddleClas imports scikit-learn for multi-label metrics, matplotlib for one loss and SciPy for one augmentation
(`ppcls/metric/metrics.py`, `ppcls/utils/metrics.py`, `ppcls/loss/afdloss.py`, `ppcls/data/preprocess/ops/fmix.py`),
which takes half of the seconds before its first line. While it is imported, stand-ins take their place, which load the
real module when one of its names is called or looked into. Packages that are loaded already, or are not installed, are
left alone.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Iterator
from typing import Any

LATE = {
    "sklearn": ("metrics", "preprocessing", "model_selection", "decomposition"),
    "matplotlib": ("pyplot",),
    "scipy": ("stats",),
}


@contextlib.contextmanager
def late_imports() -> Iterator[None]:
    """Gives modules that are imported inside the block stand-ins for `LATE`; later imports find the real packages."""
    names = set()
    for package, modules in LATE.items():
        if package not in sys.modules and importlib.util.find_spec(package) is not None:
            names |= {package, *(f"{package}.{module}" for module in modules)}
    finder = _Finder(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in names:
            if isinstance(sys.modules.get(name), _LateModule):
                del sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name in self.names else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _LateModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _LateModule(types.ModuleType):
    def __getattr__(self, name: str) -> _Late:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Late(self.__name__, name)


class _Late:
    """Stands for one name of a module, and loads the module when it is called or one of its attributes is read."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def _real(self) -> Any:
        return getattr(importlib.import_module(self._module), self._name)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._real()(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)
