"""Reading a YAML file strictly."""

from __future__ import annotations

import difflib
from pathlib import Path

import yaml

from ppcls_ext.bounded_yaml import BoundedLoader, Refused, load_yaml
from ppcls_ext.config_table.shipped import nearest
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular

LARGEST = 1 << 18
"""Bytes of a file. PaddleClas's own have up to 10,000."""


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file.

    Raises:
        PpclsExtError: there is no such file, or it holds anything else; names the line.
    """
    try:
        text = read_regular(path, LARGEST).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise PpclsExtError(f"no configuration {path}; {_suggest_file(path)}") from None
    except OSError as error:
        raise PpclsExtError(f"cannot read configuration {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise PpclsExtError(f"configuration {path} is not text in UTF-8") from None
    except PpclsExtError as error:
        raise PpclsExtError(f"cannot read the configuration: {error}") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> dict:
    """The mapping in a text; `path` is what errors call it.

    Raises:
        PpclsExtError: it holds anything else; names the line.
    """
    try:
        config = load_yaml(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PpclsExtError(
            f"{path}:{line}: {'' if isinstance(error, Refused) else 'not YAML: '}{error.problem}"
        ) from None
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise PpclsExtError(
            f"{path}:1: expected sections (Global:, Arch:, …), got {type(config).__name__}: no PaddleClas configuration"
        )
    return config


class _StrictLoader(BoundedLoader):
    """A loader that refuses a key given twice instead of dropping the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _suggest_file(path: Path) -> str:
    folder = path.parent
    names = sorted(file.name for file in folder.glob("*.y*ml")) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:5]
    found = [str(folder / name) for name in near] or [f"no YAML file in {folder}"]
    ours = nearest(path.as_posix()) or ["MobileOne_S0", "ImageNet/RepVGG_A0", "…"]
    return f"near it: {', '.join(found)}; shipped ones go by name: {', '.join(f'-c {name}' for name in ours)}"
