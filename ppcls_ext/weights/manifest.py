"""The manifest of a checkpoint set: it lists the set's files, and only names that belong to the set are accepted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular

NEW = ".new"
WHAT_TO_DO = "use another checkpoint"
LARGEST = 1 << 24
"""Bytes of a manifest; a real one has about a thousand."""
#: The fields of the state that resuming reads, where present, and their types.
STATE: dict[str, Any] = {
    "epoch": int,
    "best_metric": (int, float),
    "best_by": str,
    "best_epoch": int,
    "evaluations": int,
    "differ": bool,
    "seed": int,
    "learning_rate": list,
    "loss_scaler": dict,
    "resumable": bool,
}


class Manifest(NamedTuple):
    """The content of a manifest.

    Attributes:
        written: the time of writing, in nanoseconds since 1970.
        state: the state that `SetWriter.commit` was given.
        files: {"size", "sha256"} of each file, by its name relative to the folder.
    """

    written: int
    state: dict[str, Any]
    files: dict[str, dict[str, Any]]


def manifest_path(prefix: Path) -> Path:
    """Returns the path of the manifest of the set `prefix` (its path without suffix)."""
    return prefix.with_name(f"{prefix.name}.json")


def belongs(prefix: Path, name: str) -> bool:
    """Returns whether a file `name`, relative to the folder, can be one of the set, as PaddleClas names them.

    A manifest is not a signature: the files that it lists are renamed and removed, so no name may lead elsewhere.
    """
    stem = re.escape(prefix.name)
    if not re.fullmatch(rf"{stem}(_student)?\.\w[\w.]*|{stem}/model\.\w[\w.]*", name) or name.endswith(NEW):
        return False
    within = "/" in name and (prefix.parent / name).parent.is_symlink()  # the run's folder itself may be a link
    return name != manifest_path(prefix).name and not within


def dump_manifest(state: Mapping[str, Any], files: Mapping[str, Any], written: int) -> bytes:
    """Returns the bytes of a manifest."""
    listed = {"written": written, "state": dict(state), "files": dict(files)}
    return json.dumps({"set": listed, "sha256": _digest(listed)}, indent=1).encode()


def read_manifest(prefix: Path) -> Manifest:
    """Reads and checks the manifest of a set.

    Raises:
        PpclsExtError: it is missing, not a regular file, damaged, or lists a name that cannot belong to this set.
    """
    path = manifest_path(prefix)
    try:
        manifest = json.loads(read_regular(path, LARGEST))
        listed = manifest["set"]
        if manifest["sha256"] != _digest(listed):
            raise ValueError("its checksum is wrong")
        return _checked(prefix, Manifest(listed["written"], listed["state"], listed["files"]))
    except OSError as error:
        raise PpclsExtError(f"cannot read the checkpoint's manifest {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PpclsExtError(f"the checkpoint's manifest {path} is damaged: {error}; {WHAT_TO_DO}") from None


def _checked(prefix: Path, manifest: Manifest) -> Manifest:
    typed = zip(manifest, (int, dict, dict), Manifest._fields)
    wrong = [field for value, kind, field in typed if type(value) is not kind]
    if wrong:
        raise ValueError(f"its {wrong[0]} is not a {Manifest.__annotations__[wrong[0]]}")
    for field, kinds in STATE.items():
        value = manifest.state.get(field)
        if value is not None and not (isinstance(value, kinds) and (kinds is bool or type(value) is not bool)):
            raise ValueError(f"its state has {field} {value!r}")
    if manifest.state.get("epoch", -1) < 0:
        raise ValueError("its state has no epoch")
    for name, facts in manifest.files.items():
        if not belongs(prefix, name):
            raise ValueError(f"it lists {name!r}, which is not a file of {prefix.name}")
        size, digest = facts["size"], facts["sha256"]
        if type(size) is not int or not isinstance(digest, str):
            raise ValueError(f"it lists no size and SHA-256 for {name}")
    return manifest


def _digest(listed: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()
