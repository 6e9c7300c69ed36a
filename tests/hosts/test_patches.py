"""Changes of hosts: all of them go through `patch` and `patched`, and are few."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from ppcls_ext.hosts.adaptation import patched

PACKAGE = Path(__file__).resolve().parents[2] / "ppcls_ext"

#: Calls of `patch` and `patched` by file, each of which changes one attribute of a host.
PATCHES = {
    "hosts/dense.py": 2,
    "hosts/paddleclas/adaptations.py": 12,
    "hosts/paddleclas/image_lists.py": 1,
    "hosts/paddleclas/image_operators.py": 3,
    "hosts/paddleclas/loader_processes.py": 3,
    "hosts/paddleclas/log_file.py": 1,
    "hosts/paddleclas/optimizers.py": 4,
    "hosts/paddleclas/registry.py": 2,
    "hosts/paddleclas/safe_eval.py": 1,
    "hosts/paddleclas/safe_pickle.py": 1,
    "hosts/paddledet.py": 3,
    "hosts/paddleyolo.py": 5,
}
MOST = 38
#: The only file that may set attributes of anything.
SETTER = "hosts/adaptation.py"

#: Attributes set by other files below hosts/, of objects that were made for it. For the files outside of hosts/,
#: tests/test_architecture.py has the table.
EXCEPTIONS = {
    ("hosts/paddledet.py", "parameter.stop_gradient"),
    ("hosts/paddledet.py", "norm._use_global_stats"),
    ("hosts/paddledet.py", "norm.weight.stop_gradient"),
    ("hosts/paddledet.py", "norm.bias.stop_gradient"),
    ("hosts/paddleclas/optimizers.py", "self._coupled.coefficient"),
}


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def attributes_set(tree: ast.Module) -> Iterator[str]:
    """The attributes that a module sets or deletes on other objects than `self` and `cls`, and calls that may do so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, (ast.Store, ast.Del)):
            if not isinstance(node.value, ast.Name) or node.value.id not in ("self", "cls"):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr", "object.__setattr__"):
            yield ast.unparse(node)


def test_hosts_are_changed_by_patch_alone():
    files = [(file, tree) for file, tree in modules() if file.startswith("hosts/") and file != SETTER]
    assert {(file, target) for file, tree in files for target in attributes_set(tree)} == EXCEPTIONS


def test_the_patch_points_are_counted():
    found = Counter(
        file
        for file, tree in modules()
        if file != SETTER
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("patch", "patched")
    )
    assert found == PATCHES
    assert all(file.startswith("hosts/") for file in found)
    assert sum(found.values()) <= MOST


def test_versions_of_hosts_are_recognised_in_one_place():
    users = {file for file, tree in modules() for node in ast.walk(tree) if getattr(node, "attr", "") == "getsource"}
    assert users == {SETTER}, "use `mentions`"


def test_what_is_patched_for_a_while_is_as_before():
    host = SimpleNamespace(old=1)
    with patched(host, "old", 2), patched(host, "new", 3):
        assert (host.old, host.new) == (2, 3)
    assert vars(host) == {"old": 1}
