"""The numbers and switches of a configuration: finite, and within what the engine can do with them."""

from __future__ import annotations

import contextlib
import math
import re
from typing import Any

from ppcls_ext.configuration.expressions import walk
from ppcls_ext.configuration.literals import read_literal
from ppcls_ext.errors import PpclsExtError

#: Whole numbers, by path: the least and the greatest.
WHOLE = {
    r"Global\.(epochs|print_batch_step|eval_interval|update_freq|iter_per_epoch)": (1, 10**9),
    r"Global\.save_interval": (-1, 10**9),  # -1, as some of PaddleClas's files have it, is none, as 0
    r"Global\.start_eval_epoch": (0, 10**9),
    r"Global\.seed": (0, 2**32 - 1),
    r"(Global|Arch)\.(.+\.)?class_num": (0, 10**7),
    r"DataLoader\.(.+\.)?sampler\.batch_size": (1, 10**6),
    r"DataLoader\.(.+\.)?loader\.num_workers": (0, 10**4),
    r"Infer\.batch_size": (1, 10**6),
    r"Infer\.PostProcess\.(.+\.)?topk": (1, 10**7),
    r"Global\.image_shape\.\d+": (1, 10**6),
}
#: Numbers that may be fractions: the least, and whether it is allowed itself.
REAL = {
    r"Optimizer\.(.+\.)?(learning_rate|warmup_epoch|warmup_start_lr|eta_min|end_lr)": 0.0,
    r"Optimizer\.(.+\.)?(weight_decay|coeff|clip_norm|momentum|beta1|beta2|epsilon|rho)": 0.0,
    r"(UnLabel)?Loss\.\w+\.\d+\.\w+\.weight": -math.inf,
}
SWITCHES = (
    r"Global\.(eval_during_train|use_visualdl|use_dali|use_multilabel|overwrite)",
    r"DataLoader\.(.+\.)?sampler\.(drop_last|shuffle)",
)
#: Where nothing, or false, means none.
OPTIONAL = r"Global\.(seed|save_interval|iter_per_epoch|start_eval_epoch|class_num)|Optimizer\..+|.*class_num"
BITS_64 = 2**63


def check_numbers(config: dict, sections: tuple[str, ...]) -> None:
    """Checks the numbers of these sections.

    Raises:
        PpclsExtError: one is no number, not finite, or out of range; with its path in the YAML.
    """
    for path, parent, key in walk({section: config[section] for section in sections if section in config}, ""):
        if isinstance(parent, dict) and not isinstance(key, str):
            raise PpclsExtError(f"{path} is a field named by a {type(key).__name__}: names are texts, quote it")
        _check_number(path, parent[key])


def _check_number(path: str, given: Any) -> None:
    value = _read(given)
    if isinstance(value, float) and not math.isfinite(value):
        raise PpclsExtError(f"{path} is {given}: expected a finite number")
    if type(value) is int and abs(value) >= BITS_64:
        raise PpclsExtError(f"{path} is too large a number: expected one of 64 bits")
    if value in (None, False) and re.fullmatch(OPTIONAL, path):
        return
    for pattern, (least, greatest) in WHOLE.items():
        if re.fullmatch(pattern, path) and not _is_whole(value, least, greatest):
            raise PpclsExtError(f"{path} is {given!r}: expected a whole number from {least} to {greatest}")
    for pattern, least in REAL.items():
        if re.fullmatch(pattern, path) and not _is_real(value, least):
            at_least = "" if least == -math.inf else f" from {least:g}"
            raise PpclsExtError(f"{path} is {given!r}: expected a number{at_least}")
    if any(re.fullmatch(pattern, path) for pattern in SWITCHES) and type(value) not in (bool, type(None)):
        raise PpclsExtError(f"{path} is {given!r}: expected true or false")


def _read(value: Any) -> Any:
    """PaddleClas reads texts that are Python's numbers as numbers: 1e-3, to YAML a text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return read_literal(value)
    return value


def _is_whole(value: Any, least: int, greatest: int) -> bool:
    return type(value) is int and least <= value <= greatest and (value != 0 or least == 0)


def _is_real(value: Any, least: float) -> bool:
    return isinstance(value, (dict, list)) or (type(value) in (int, float) and value >= least)
