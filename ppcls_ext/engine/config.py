"""The options -c and -o: reads a PaddleClas YAML file and applies `-o` overrides to it."""

from __future__ import annotations

import argparse
import ast
import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.engine.expressions import evaluate
from ppcls_ext.errors import PpclsExtError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
YAML_WORDS = {"true": True, "false": False, "null": None}

#: What PaddleClas and this project read, by section; a name that is nearly one of these is taken for a mistake.
KNOWN = {
    "": "Global AMP Arch DataLoader EMA IndexProcess Infer Loss Metric MLDecoder Optimizer Recipe SSL Slim UnLabelLoss "
    "profiler_options output_dir",
    "Global": "checkpoints class_num device distributed epochs eval_during_train eval_interval eval_mode export_for_fd "
    "feature_binarize feature_normalize hpi_config_path image_channel image_shape infer_imgs iter_per_epoch log_ranks "
    "output_dir pdx_model_name pretrained_model print_batch_step print_mem_info re_ranking retrieval_feature_from "
    "save_inference_dir save_interval seed sim_block_size start_eval_epoch to_static train_mode uniform_output_enabled "
    "update_freq use_dali use_multilabel use_visualdl warmup_iter",
    "Arch": "Backbone BackboneStopLayer Head Neck class_num freeze_befor freeze_params_list fused infer_add_softmax "
    "infer_model_name infer_output_key is_rec models name pretrained pretrained_list return_patterns return_stages "
    "stop_after use_ml_decoder use_ssld use_sync_bn",
    "Infer": "PostProcess batch_size infer_imgs infer_list save_dir transforms",
}
NEARLY = 0.8  # difflib's ratio from which two names count as one misspelt


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds PaddleClas's -c and -o, which `load_config` takes, to a tool's command line."""
    parser.add_argument("-c", "--config", required=True, metavar="FILE", help="PaddleClas YAML file")
    parser.add_argument(
        "-o",
        "--override",
        action="extend",
        nargs="+",
        default=[],
        metavar="A.B=VALUE",
        help="change a field of the YAML file; list items count from 0; may be given several times",
    )


def load_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> dict:
    """The configuration in the YAML file `path`, changed by `overrides`.

    Args:
        path: a YAML file in PaddleClas's layout.
        overrides: `A.B.1.C=value` texts. A number in the path counts the items of a list from 0; missing sections are
            made. The value is a Python literal (`1e-3`, `[1, 5]`, `None`), `true`, `false` or `null`, a YAML list or
            mapping in brackets, plain arithmetic where a number stood before, and else a string; it may hold `=`.

    Raises:
        PpclsExtError: the file is missing or no YAML mapping, an override fits nothing, or a section or field is
            misspelt. The message names the line of the file or the path in it.
    """
    config = _read_yaml(Path(path))
    for text in overrides:
        _override(config, text)
    for section in KNOWN:
        _check_spelling(section, config.get(section) if section else config)
    return config


def _read_yaml(path: Path) -> dict:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise PpclsExtError(f"no configuration {path}; {_suggest_file(path)}") from None
    except OSError as error:
        raise PpclsExtError(f"cannot read configuration {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise PpclsExtError(f"configuration {path} is not text in UTF-8") from None
    try:
        config = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise PpclsExtError(f"{path}:{line}: not YAML: {error.problem}") from None
    except Exception as error:  # PyYAML raises many kinds for impossible dates, endless nesting and the like
        raise PpclsExtError(f"{path}: not YAML: {error}") from None
    if not isinstance(config, dict):
        raise PpclsExtError(
            f"{path}:1: expected sections (Global:, Arch:, …), got {type(config).__name__}: no PaddleClas configuration"
        )
    return config


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice instead of dropping the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _suggest_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else CONFIGS
    names = sorted(file.name for file in folder.glob("*.y*ml")) if folder.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:5]
    return f"near it: {', '.join(str(folder / name) for name in near)}" if near else f"{folder} holds no YAML file"


def _override(config: dict, text: str) -> None:
    path, equals, value = text.partition("=")
    parts = path.strip().split(".")
    if not equals or not all(parts):
        raise PpclsExtError(f"override {text!r}: expected A.B.C=value, such as Global.epochs=3")
    node: Any = config
    for depth, part in enumerate(parts[:-1], 1):
        key = _key(node, part, parts[: depth - 1], text)
        child = node[key] if isinstance(node, list) else node.get(key)
        if child is None:
            child = node[key] = {}
        node = child
    key = _key(node, parts[-1], parts[:-1], text)
    old = node[key] if isinstance(node, list) else node.get(key)
    node[key] = _parse_value(value.strip(), old, text)


def _key(node: Any, part: str, above: list[str], text: str) -> str | int:
    """`part` as a key of `node`, which stands at the path `above`."""
    where = ".".join(above)
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise PpclsExtError(f"override {text!r}: {where} is {node!r}, which has no fields")
    if not part.isdecimal() or int(part) >= len(node):
        raise PpclsExtError(
            f"override {text!r}: {where} is a list of {len(node)}: expected 0 to {len(node) - 1}, not {part}"
        )
    return int(part)


def _parse_value(value: str, old: Any, text: str) -> Any:
    if value in YAML_WORDS:
        return YAML_WORDS[value]
    try:
        literal = ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    else:
        if literal is None or isinstance(literal, (bool, int, float, str, list, tuple, dict)):
            return literal
    if value[:1] in ("[", "{"):
        try:
            return yaml.safe_load(value)
        except Exception:  # as above
            raise PpclsExtError(f"override {text!r}: {value} is neither a Python nor a YAML list or mapping") from None
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        try:
            return evaluate(value)
        except ValueError:
            pass
    return value


def _check_spelling(section: str, fields: Any) -> None:
    known = KNOWN[section].split()
    for field in fields if isinstance(fields, dict) else ():
        near = difflib.get_close_matches(str(field), known, n=1, cutoff=NEARLY)
        if near and field not in known:
            prefix = f"{section}." if section else ""
            raise PpclsExtError(f"{prefix}{field} is unknown: did you mean {prefix}{near[0]}?")
