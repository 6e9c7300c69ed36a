"""The options -c and -o: reads a PaddleClas YAML file, or a shipped one, and applies `-o` overrides to it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ppcls_ext.config_table.shipped import shipped
from ppcls_ext.configuration.overrides import apply_override
from ppcls_ext.configuration.picture_size import set_picture_size
from ppcls_ext.configuration.spelling import KNOWN, check_spelling, check_structure
from ppcls_ext.configuration.yaml_file import parse_yaml, read_yaml


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> dict:
    """The configuration `path`, changed by `overrides`.

    Args:
        path: a YAML file in PaddleClas's layout, or the name of a shipped one, such as "ImageNet/RepVGG_A0".
        overrides: `A.B.1.C=value` texts. A number in the path counts the items of a list from 0; missing sections are
            made. The value is a Python literal (`1e-3`, `[1, 5]`, `None`), `true`, `false` or `null`, a YAML list or
            mapping in brackets, plain arithmetic where a number stood before, and else a string; it may hold `=`.

    Raises:
        PpclsExtError: the file is missing or no YAML mapping, an override fits nothing, or a section or field is
            misspelt. The message names the line of the file or the path in it.
    """
    text = None if Path(path).is_file() else shipped(os.fspath(path))
    config = read_yaml(Path(path)) if text is None else parse_yaml(text, Path(path))
    return override(config, overrides)


def override(config: dict, overrides: Iterable[str]) -> dict:
    """Applies `overrides` to `config`, in place, checks the spelling and does what `Global.image_size` asks for.

    Raises:
        PpclsExtError: see `load_config`.
    """
    for text in overrides:
        apply_override(config, text)
    check_structure(config)
    for section in KNOWN:
        check_spelling(section, config.get(section) if section else config)
    set_picture_size(config)
    return config
