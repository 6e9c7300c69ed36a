"""The arguments of what PaddleClas builds by name, against the signatures of the classes that will be built."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ppcls_ext.configuration.expressions import KEYS, NAMES, TRANSFORMS, walk
from ppcls_ext.configuration.literals import read_literal
from ppcls_ext.configuration.names import find
from ppcls_ext.configuration.spelling import NEARLY
from ppcls_ext.errors import PpclsExtError

OPTIMIZER = ({"lr", "regularizer", "clip_norm", "scope"}, {"learning_rate", "grad_clip"})
#: The first parameter, whatever its name.
FIRST = ""
#: By the path of the name: what PaddleClas takes out of the mapping before it builds the class, and what it adds.
BUILT = {
    r"DataLoader\.(.+\.)?dataset\.name": ({"batch_transform_ops"}, set()),
    r"DataLoader\.(.+\.)?sampler\.name": (set(), {FIRST}),
    r"Optimizer\.name": OPTIMIZER,
    r"Optimizer\.\d+": OPTIMIZER,
    r"Optimizer\.(.+\.)?lr\.name": (set(), {"epochs", "step_each_epoch"}),
    r"Infer\.PostProcess\.(name|func)": (set(), set()),
    r"(UnLabel)?Loss\.\w+\.\d+": ({"weight"}, set()),
    r"Metric\.\w+\.\d+": (set(), set()),
    TRANSFORMS: (set(), {"class_num"}),
}


class Signature(NamedTuple):
    """What a class takes: parameters by name, and whether it takes any others, too."""

    parameters: dict[str, inspect.Parameter]
    takes_any: bool


def check_arguments(config: dict, sections: tuple[str, ...]) -> None:
    """Checks the arguments of data sets, samplers, transforms, losses, metrics, optimizers and schedules.

    Args:
        config: with names that `expressions.resolve` has nothing against.
        sections: the top-level sections that will be used.

    Raises:
        PpclsExtError: an argument that the class does not take, lacks, or wants as a number; with its path in the YAML.
    """
    if config["Global"].get("use_dali"):
        return  # DALI's own operators
    for path, name, arguments, pattern in _built({key: config[key] for key in sections if key in config}):
        taken, added = BUILT[pattern]
        missing = taken & {"weight"} - set(arguments)
        if missing:
            raise PpclsExtError(f"{path} has no weight, which PaddleClas's losses need")
        given = {key: value for key, value in arguments.items() if key not in taken}
        value = find(importlib.import_module({**NAMES, **KEYS}[pattern]), name)
        signature = _signature(value) if inspect.isclass(value) else None
        if signature is not None:
            _check(path, name, given, added, signature)


def _built(sections: dict) -> Iterator[tuple[str, str, dict, str]]:
    """Path, class, arguments and pattern of everything that is built by name."""
    for path, parent, key in walk(sections, ""):
        for pattern in BUILT:
            if key == "func" or not re.fullmatch(pattern, path):
                continue  # the arguments beside a `func` are those of `name`
            if pattern in NAMES:
                arguments = {name: value for name, value in parent.items() if name != "name"}
                yield path.rpartition(".")[0], parent[key], arguments, pattern
                continue
            for name, arguments in parent[key].items() if isinstance(parent[key], dict) else ():
                if not isinstance(arguments, (dict, type(None))):
                    raise PpclsExtError(f"{path}.{name} is {arguments!r}: expected the arguments of {name}")
                yield f"{path}.{name}", name, arguments or {}, pattern


def _signature(built: type) -> Signature | None:
    """Of a class's `__init__`, and of its base classes' as far as it hands on what it does not know itself."""
    parameters: dict[str, inspect.Parameter] = {}
    for base in built.__mro__:
        if parameters and not base.__module__.startswith("ppcls"):
            break  # PaddleClas's class itself makes use of what it takes beyond its parameters
        if "__init__" not in vars(base):
            continue
        try:
            own = [*inspect.signature(vars(base)["__init__"]).parameters.values()][1:]
        except (TypeError, ValueError):
            return None
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        for parameter in own:
            if parameter.kind in named:
                parameters.setdefault(parameter.name, parameter)
        if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in own):
            return Signature(parameters, takes_any=False)
    return Signature(parameters, takes_any=bool(parameters))


def _check(path: str, name: str, given: dict, added: set[str], signature: Signature) -> None:
    known = [parameter for parameter in signature.parameters if parameter not in added][FIRST in added :]
    for argument, value in given.items():
        if argument not in signature.parameters:
            near = difflib.get_close_matches(str(argument), known, n=1, cutoff=NEARLY if signature.takes_any else 0.6)
            if near:
                raise PpclsExtError(f"{path}.{argument} is unknown: did you mean {path}.{near[0]}?")
            if not signature.takes_any:
                takes = f"takes {', '.join(known)}" if known else "takes nothing"
                raise PpclsExtError(f"{path}.{argument} is unknown: {name} {takes}")
        else:
            _check_number(f"{path}.{argument}", value, signature.parameters[argument].default)
    for argument in known:
        is_needed = signature.parameters[argument].default is inspect.Parameter.empty
        if is_needed and argument not in given and not signature.takes_any:
            raise PpclsExtError(f"{path} has no {argument}, which {name} needs")


def _check_number(path: str, value: Any, default: Any) -> None:
    """Refuses a text where the class has a number; PaddleClas reads 1e-3, to YAML a text, as a number."""
    if type(default) not in (int, float) or not isinstance(value, str) or re.fullmatch(r"[\d.]+/[\d.]+", value):
        return
    try:
        if isinstance(read_literal(value), (int, float)):
            return
    except ValueError:
        pass
    raise PpclsExtError(f"{path} is {value!r}: expected a number, such as {default}")
