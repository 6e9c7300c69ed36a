"""The classes that a configuration names and their arguments, checked before PaddleClas builds them.

PaddleClas evaluates the names of datasets, samplers, losses, metrics and a few more, and some numbers given as text
(`scale: 1.0/255.0`). Here a name must be a class (or model) that the evaluating module offers, a number plain
arithmetic, and the arguments those of the class's signature; anything else is an error with its place in the YAML file.
"""

from __future__ import annotations

import builtins
import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from ppcls_ext.config.load import NEARLY
from ppcls_ext.errors import PpclsExtError, one_of
from ppcls_ext.hosts.paddleclas.safe_eval import evaluate, find, offered, read_literal
from ppcls_ext.models.table import MODELS

#: Paths of values that name a class or model, and the module that evaluates them.
NAMES = {
    r"Arch\.name": "ppcls.arch",
    r"Arch\.(.+\.)?(Backbone|models\.\d+\.[^.]+)\.name": "ppcls.arch",
    r"Arch\.(.+\.)?(Neck|Head)\.name": "ppcls.arch.gears",
    r"Arch\..+\.initializer\.name": "paddle.nn.initializer",
    r"Arch\..+\.regularizer\.name": "paddle.regularizer",
    r"DataLoader\.(.+\.)?dataset\.name": "ppcls.data",
    r"DataLoader\.(.+\.)?sampler\.name": "ppcls.data",
    r"DataLoader\..+\.(datasets_config|sample_configs)\.\d+\.name": "ppcls.data.dataloader",
    r"Optimizer\.name": "ppcls.optimizer.optimizer",
    r"Optimizer\.(.+\.)?lr\.name": "ppcls.optimizer.learning_rate",
    r"Infer\.PostProcess\.(name|func)": "ppcls.data.postprocess",
    r"(UnLabel)?Loss\..+\.base_loss_name": "ppcls.loss.distillationloss",
}
TRANSFORMS = r"(DataLoader\..+\.(batch_)?transform_ops(_\w+)?|Infer\.transforms)\.\d+"
#: Paths of mappings whose keys name classes, and the module that evaluates them.
KEYS = {
    r"(UnLabel)?Loss\.\w+\.\d+": "ppcls.loss",
    r"Metric\.\w+\.\d+": "ppcls.metric",
    r"Optimizer\.\d+": "ppcls.optimizer.optimizer",
    TRANSFORMS: "ppcls.data.preprocess",
    r"(DataLoader|Infer)\..+\.OpSampler": "ppcls.data.preprocess.batch_ops.batch_operators",
    r"(DataLoader|Infer)\..+\.RandomApply\.transforms\.\d+": "ppcls.data.preprocess.ops.randaugment",
}
#: Operators that only DALI has: PaddleClas's table in data/dataloader/dali.py.
ONLY_IN_DALI = {"CropMirrorNormalize", "DecodeRandomResizedCrop"}
#: Paths of texts that name something inside an architecture's module, such as nn.LayerNorm.
DOTTED_NAMES = r"Arch\.(.+\.)?(norm_layer|sub_norm|block_unit|act)"
#: Paths of numbers that may be given as text; DALI takes `scale` from any of the operators that it joins.
NUMBERS = r"(DataLoader|Infer)\..+\.(scale|EPSILON|sl|sh|r1)"
#: Paths of lists that may be given as text.
LISTS = r"Arch\.(.+\.)?lr_mult_list"


def resolve(config: dict, sections: tuple[str, ...]) -> None:
    """Checks and replaces, in place, what PaddleClas would evaluate.

    Args:
        config: the dict from `load_config`.
        sections: the top-level sections that will be used; the others are left alone.

    Raises:
        PpclsExtError: PaddleClas does not define a name, or a text is not plain arithmetic.
    """
    use_dali = bool(config["Global"].get("use_dali"))
    for path, parent, key in walk({section: config[section] for section in sections if section in config}, ""):
        value = parent[key]
        for pattern, module in NAMES.items():
            if _matches(pattern, path):
                _check_name(path, value, module)
        for pattern, module in KEYS.items():
            if _matches(pattern, path):
                _check_keys(path, value, module, ONLY_IN_DALI if use_dali and pattern == TRANSFORMS else set())
        if isinstance(value, str):
            parent[key] = _resolve_text(path, value, parent)


def walk(node: Any, above: str) -> Iterator[tuple[str, Any, Any]]:
    """All (path, container, key) below `node`."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in list(items):
        path = f"{above}.{key}" if above else str(key)
        yield path, node, key
        yield from walk(value, path)


def _matches(pattern: str, path: str) -> bool:
    return re.fullmatch(pattern, path, re.DOTALL) is not None  # fields may have any name, with line breaks too


def _resolve_text(path: str, value: str, parent: dict | list) -> Any:
    if _matches(NUMBERS, path):
        try:
            number = evaluate(value)
        except ValueError as error:
            raise PpclsExtError(f"{path} is {value!r}: expected a number such as 1.0/255.0; {error}") from None
        # a quotient of two numbers stays: PaddleClas 2.6 splits it at the / where it writes inference.yml
        return value if re.fullmatch(r"[\d.]+/[\d.]+", value) else number
    if _matches(LISTS, path):
        try:
            return list(read_literal(value))
        except (ValueError, TypeError):
            raise PpclsExtError(f"{path} is {value!r}: expected a list such as [1.0, 0.5]") from None
    if _matches(DOTTED_NAMES, path):
        _check_dotted_name(path, value, parent)
    return value


def _check_dotted_name(path: str, value: str, parent: dict | list) -> None:
    """Names are looked up where the architecture beside them is defined; some take plain words, such as BN."""
    arch = find(importlib.import_module("ppcls.arch"), str(parent.get("name"))) if isinstance(parent, dict) else None
    module = sys.modules[arch.__module__] if arch is not None else builtins
    is_word = value.isidentifier() and not hasattr(module, value) and not hasattr(builtins, value)
    if not is_word and find(module, value) is None:
        raise PpclsExtError(f"{path} is {value!r}: expected the name of a layer such as nn.LayerNorm")


def _check_keys(path: str, value: Any, module: str, others: set[str]) -> None:
    if not isinstance(value, dict):
        raise PpclsExtError(f"{path} is {value!r}: expected a mapping `Name:` to its parameters")
    for key in value:
        if key not in others:
            _check_name(path, key, module)


def _check_name(path: str, name: Any, module: str) -> None:
    if not isinstance(name, str) or not name.isidentifier():
        raise PpclsExtError(f"{path} is {name!r}: expected the name of a class of PaddleClas")
    host = importlib.import_module(module)
    if find(host, name) is None:
        near = difflib.get_close_matches(name, offered(host), n=5, cutoff=0.4)
        hint = f"near it: {', '.join(near)}" if near else f"see {module}"
        if module == "ppcls.arch":
            hint += f"; this project's are {one_of(name, MODELS)}"
        raise PpclsExtError(f"{path} is {name}, which PaddleClas does not have; {hint}")


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
        config: a configuration whose names `resolve` has accepted.
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
            _check_number_argument(f"{path}.{argument}", value, signature.parameters[argument].default)
    for argument in known:
        is_needed = signature.parameters[argument].default is inspect.Parameter.empty
        if is_needed and argument not in given and not signature.takes_any:
            raise PpclsExtError(f"{path} has no {argument}, which {name} needs")


def _check_number_argument(path: str, value: Any, default: Any) -> None:
    """Refuses a text where the class has a number; PaddleClas reads 1e-3, to YAML a text, as a number."""
    if type(default) not in (int, float) or not isinstance(value, str) or re.fullmatch(r"[\d.]+/[\d.]+", value):
        return
    try:
        if isinstance(read_literal(value), (int, float)):
            return
    except ValueError:
        pass
    raise PpclsExtError(f"{path} is {value!r}: expected a number, such as {default}")
