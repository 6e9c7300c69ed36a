"""Reading a configuration: the YAML file or the shipped one, the overrides of -o, spelling, the image size."""

from __future__ import annotations

import contextlib
import difflib
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from ppcls_ext.bounded_yaml import LONGEST_TEXT, MAX_DEPTH, BoundedLoader, Refused, load_yaml
from ppcls_ext.config.shipped import nearest, shipped
from ppcls_ext.data.image_rule import IMAGENET_MEAN, IMAGENET_STD, RGB, for_channels, read_size, require_channels
from ppcls_ext.errors import PpclsExtError, one_of
from ppcls_ext.files import read_regular
from ppcls_ext.hosts.paddleclas.safe_eval import evaluate, read_literal
from ppcls_ext.models.table import MODELS

logger = logging.getLogger("ppcls_ext")


LARGEST = 1 << 18
"""Bytes of a file. PaddleClas's own have up to 10,000."""


def read_yaml(path: Path) -> dict:
    """Reads the mapping in a YAML file.

    Raises:
        PpclsExtError: there is no such file, or it is not a YAML mapping; the message names the line.
    """
    try:
        text = read_regular(path, LARGEST).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if path.parent == Path() and not path.suffix:
            raise PpclsExtError(
                f"no model and no configuration file is called {path}: expected one of {one_of(path, MODELS)}, or a "
                "YAML file"
            ) from None
        raise PpclsExtError(f"no configuration {path}; {_suggest_file(path)}") from None
    except OSError as error:
        raise PpclsExtError(f"cannot read configuration {path}: {error.strerror or error}") from error
    except UnicodeDecodeError:
        raise PpclsExtError(f"configuration {path} is not text in UTF-8") from None
    except PpclsExtError as error:
        raise PpclsExtError(f"cannot read the configuration: {error}") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, path: Path) -> dict:
    """Parses the mapping in a text; errors call the text `path`.

    Raises:
        PpclsExtError: it is not a mapping; the message names the line.
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
    found = folder.glob("*.y*ml") if folder.is_dir() else ()
    names = sorted(file.name for file in found if not file.name.startswith("."))
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5) or names[:5]
    near = [str(folder / name) for name in near] or [f"no YAML file in {folder}"]
    ours = nearest(path.as_posix()) or ["MobileOne_S0", "ImageNet/RepVGG_A0", "…"]
    return f"near it: {', '.join(near)}; shipped ones go by name: {', '.join(f'-c {name}' for name in ours)}"


YAML_WORDS = {"true": True, "false": False, "null": None}


def apply_override(config: dict, text: str) -> None:
    """Changes `config` by one override; see `load_config`.

    Raises:
        PpclsExtError: there is no such place in the configuration.
    """
    if len(text) > LONGEST_TEXT:
        raise PpclsExtError(
            f"override {_short(text)!r}: it is longer than {LONGEST_TEXT:,} characters: put it into the file"
        )
    path, equals, value = text.partition("=")
    parts = path.strip().split(".")
    text = _short(text)
    if len(parts) > MAX_DEPTH:
        raise PpclsExtError(f"override {text!r}: it is more than {MAX_DEPTH} levels deep, as no configuration is")
    if not equals or not all(parts):
        raise PpclsExtError(f"override {text!r}: expected A.B.C=value, such as Global.epochs=3")
    node, key = _place(config, parts, text)
    old = node[key] if isinstance(node, list) else node.get(key)
    node[key] = _parse_value(value.strip(), old, text)


def set_field(config: dict, path: str, value: Any) -> None:
    """Sets a field of `config` by its path, such as "Global.epochs"; missing sections are made.

    Raises:
        PpclsExtError: there is no such place in the configuration.
    """
    node, key = _place(config, path.split("."), path)
    node[key] = value


def parsed(text: str) -> tuple[str, Any]:
    """Returns the path and the value of an override, as where no value stood before; see `load_config`."""
    path, _, value = text.partition("=")
    return path.strip(), _parse_value(value.strip(), None, _short(text))


def _place(config: dict, parts: list[str], text: str) -> tuple[Any, Any]:
    """Returns the section or list that holds the field at a path, and its key there; makes missing sections."""
    node: Any = config
    for depth, part in enumerate(parts[:-1], 1):
        key = _key(node, part, parts[: depth - 1], text)
        child = node[key] if isinstance(node, list) else node.get(key)
        if child is None:
            child = node[key] = {}
        node = child
    return node, _key(node, parts[-1], parts[:-1], text)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"


def _key(node: Any, part: str, above: list[str], text: str) -> Any:
    """`part` as a key of `node`, which stands at the path `above`."""
    where = ".".join(above)
    if isinstance(node, dict):
        return part
    if not isinstance(node, list):
        raise PpclsExtError(f"override {text!r}: {_short(where)} is {_short(repr(node))}, which has no fields")
    if not part.isdecimal() or len(part) > 9 or int(part) >= len(node):
        raise PpclsExtError(
            f"override {text!r}: {where} is a list of {len(node)}: expected 0 to {len(node) - 1}, not {_short(part)}"
        )
    return int(part)


def _parse_value(value: str, old: Any, text: str) -> Any:
    if value in YAML_WORDS:
        return YAML_WORDS[value]
    with contextlib.suppress(ValueError):
        literal = read_literal(value)
        if literal is None or isinstance(literal, (bool, int, float, str, list, tuple, dict)):
            return literal
    if value[:1] in ("[", "{"):
        try:
            return load_yaml(value)
        except Refused as error:
            raise PpclsExtError(f"override {text!r}: {error.problem}") from None
        except yaml.YAMLError:
            raise PpclsExtError(
                f"override {text!r}: {_short(value)} is neither a Python nor a YAML list or mapping"
            ) from None
        except PpclsExtError as error:
            raise PpclsExtError(f"override {text!r}: {error}") from None
    if isinstance(old, (int, float)) and not isinstance(old, bool):
        with contextlib.suppress(ValueError):
            return evaluate(value)
    return value


#: The fields that PaddleClas and this project read, by section; a name that resembles one of them is a mistake.
KNOWN = {
    "": "Global AMP Arch DataLoader EMA IndexProcess Infer Loss Metric MLDecoder Optimizer Recipe SSL Slim UnLabelLoss "
    "profiler_options output_dir",
    "Global": "best_by budget checkpoints class_num device distributed epochs eval_during_train eval_interval "
    "eval_mode export_for_fd feature_binarize feature_normalize hpi_config_path image_channel image_shape "
    "image_size infer_imgs iter_per_epoch log_ranks output_dir overwrite patience pdx_model_name "
    "pretrained_model print_batch_step report print_mem_info re_ranking retrieval_feature_from run_name "
    "save_inference_dir save_interval seed sim_block_size start_eval_epoch thresholds to_static train_mode "
    "uniform_output_enabled update_freq use_dali use_multilabel use_visualdl warmup_iter",
    "Arch": "Backbone BackboneStopLayer Head Neck class_num freeze_befor freeze_params_list fused in_channels "
    "infer_add_softmax infer_model_name infer_output_key is_rec models name pretrained pretrained_list return_patterns "
    "return_stages stop_after use_ml_decoder use_ssld use_sync_bn",
    "Infer": "PostProcess batch_size infer_imgs infer_list save_dir save_image transforms",
}


#: The fields below some sections, by the path of the mapping.
BELOW = {
    r"AMP": "use_amp level dtype scale_loss use_dynamic_loss_scaling use_fp16_test use_promote",
    r"Loss": "Train Eval Basic MetaTrain MetaTest",
    r"(Metric|UnLabelLoss)": "Train Eval",
    r"DataLoader": "Train Eval Test Gallery Query UnLabelTrain Metalearning class_num mean std",
    r"DataLoader\.\w+(\.(Gallery|Query|Train|Eval))?": "dataset sampler loader Gallery Query Train",
    r"DataLoader\.(\w+\.){1,2}loader": "num_workers use_shared_memory",
}
#: Sections whose fields are looked for where one stands in a wrong section; other sections' own are not all known.
ELSEWHERE = {"": ("Global", "Arch", "Infer"), "Global": ("Arch", "Infer"), "Infer": ("Global",)}
NEARLY = 0.8  # difflib's ratio from which two names count as one misspelt


def check_structure(config: dict) -> None:
    """Raises PpclsExtError where a name between a section and what is built by name is nearly a known one."""
    for path, fields in _mappings(config, ""):
        for pattern, known in BELOW.items():
            if re.fullmatch(pattern, path):
                for field in fields:
                    _refuse_if_near(field, known.split(), f"{path}.")


def _mappings(node: dict, above: str, depth: int = 0) -> Iterator[tuple[str, dict]]:
    for key, value in node.items():
        path = f"{above}.{key}" if above else str(key)
        if isinstance(value, dict) and depth < 4:
            yield path, value
            yield from _mappings(value, path, depth + 1)


def _refuse_if_near(field: Any, known: list[str], prefix: str) -> None:
    near = difflib.get_close_matches(str(field), known, n=1, cutoff=NEARLY)
    if near and field not in known:
        raise PpclsExtError(f"{prefix}{field} is unknown: did you mean {prefix}{near[0]}?")


def check_spelling(section: str, fields: Any) -> None:
    """Raises PpclsExtError where a field of `section`, "" for the sections themselves, is nearly a known one."""
    known = KNOWN[section].split()
    for field in fields if isinstance(fields, dict) else ():
        _refuse_if_near(field, known, f"{section}." if section else "")
        for other in ELSEWHERE.get(section, ()) if field not in known else ():
            if field in KNOWN[other].split():
                if section:
                    raise PpclsExtError(f"{section}.{field} is unknown: it belongs in {other}")
                # some of PaddleClas's own files have such a field
                logger.warning("%s stands outside the sections and is left out: it belongs in %s", field, other)


SMALLEST = 32  # px; the networks halve the size five times
SIZE_FIELDS = ("size", "resize_short", "resize_long", "img_size", "crop_size")
#: PaddleClas's operators whose `size` is a width and a height.
WIDTH_FIRST = ("ResizeImage", "CropImage", "RandCropImage", "RandCropImageV2", "RandomCropImage")
RATIO = (3 / 4, 4 / 3)  # of width to height of RandCropImage's crops, where nothing is said


def set_image_size(config: dict) -> None:
    """Takes `Global.image_size` out of the configuration and sets what follows from it, in place.

    It is a number of px, or height and width: [128, 96] or "128x96". These are: the crop of training images; in
    evaluation and inference the crop, and the size before it in the same proportion as it was (256 to 224, say);
    `Global.image_shape`; the sizes of `Recipe.progressive`, the largest of which becomes this size.

    Where it is not square, the shorter side that ResizeImage makes becomes both: the whole image is brought to the
    proportions of the crop, which takes no more of it away than a square one, and random crops are of these
    proportions, too. Other images than of these proportions are distorted, in training and evaluation alike.

    Raises:
        PpclsExtError: the value is not a size, or a list of transforms has no size to set.
    """
    settings = config.get("Global")
    if not isinstance(settings, dict) or settings.get("image_size") is None:
        return
    given = settings.pop("image_size")
    size = read_size(given)
    if size is None or min(size) < SMALLEST:
        raise PpclsExtError(
            f"Global.image_size (--size) is {given!r}: expected a whole number of px from {SMALLEST}, or such a "
            "height and width, as 128x96"
        )
    shape = settings.get("image_shape")
    settings["image_shape"] = [shape[0] if isinstance(shape, (list, tuple)) and shape else 3, *size]
    for path, transforms in _transforms(config):
        _scale(path, transforms, *size)
    stages = (config.get("Recipe") or {}).get("progressive")
    found = [(stage, read_size(stage.get("size"))) for stage in stages or () if isinstance(stage, dict)]
    sized = [(stage, sides) for stage, sides in found if sides is not None]
    largest = max((sides for _, sides in sized), key=math.prod, default=(1, 1))
    for stage, sides in sized:
        height, width = (max(SMALLEST, round(side * new / old)) for side, new, old in zip(sides, size, largest))
        stage["size"] = height if height == width else [height, width]


def set_channels(config: dict) -> None:
    """Sets, in place, what follows from `Arch.in_channels` where one of our models takes other images than RGB.

    These are `Global.image_shape`, and mean and std of each NormalizeImage that are those of RGB: of one channel they
    become their mean, of more each in turn, which is logged.

    Raises:
        PpclsExtError: the value is no number of channels, or a mean or std has another number of them.
    """
    arch = config.get("Arch")
    if not isinstance(arch, dict) or arch.get("name") not in MODELS or arch.get("in_channels") is None:
        return
    channels = arch["in_channels"]
    require_channels(channels, "Arch.in_channels (--channels) is")
    if channels == RGB:
        return
    settings = config.get("Global")
    shape = settings.get("image_shape") if isinstance(settings, dict) else None
    if isinstance(shape, (list, tuple)) and shape:
        config["Global"]["image_shape"] = [channels, *shape[1:]]
    changed = {}
    for path, transforms in _transforms(config):
        for index, operator in enumerate(transforms):
            if isinstance(operator, dict) and "NormalizeImage" in operator:
                where = f"{path}.{index}.NormalizeImage"
                options = operator["NormalizeImage"] = dict(operator["NormalizeImage"] or {})
                changed.update(_set_numbers(options, channels, where))
    if changed:
        how = "their mean" if channels == 1 else "each in turn"
        said = ", ".join(f"{field} {list(values)}" for field, values in changed.items())
        logger.info("Arch.in_channels is %d: of RGB's mean and std NormalizeImage takes %s: %s", channels, how, said)


def _set_numbers(options: dict, channels: int, where: str) -> dict[str, tuple[float, ...]]:
    changed = {}
    for field, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        values = default if options.get(field) is None else options[field]
        if not isinstance(values, (list, tuple)) or len(values) == channels:
            continue  # one number is for all
        if len(values) != RGB or not all(type(value) in (int, float) for value in values):
            raise PpclsExtError(
                f"{where}.{field} is {values!r}, and Arch.in_channels is {channels}: expected {channels} numbers, or "
                "those of RGB"
            )
        changed[field] = for_channels(values, channels)
        options[field] = list(changed[field])
    return changed


def _transforms(config: dict) -> list[tuple[str, list]]:
    """The lists of transforms of all data sets and of inference, each with its path."""
    found = []

    def look(node: Any, path: str) -> None:
        if not isinstance(node, dict):
            return
        for key, value in node.items():
            if key in ("transform_ops", "transforms") and isinstance(value, list):
                found.append((f"{path}.{key}", value))
            else:
                look(value, f"{path}.{key}")

    for section in ("DataLoader", "Infer"):
        look(config.get(section), section)
    return found


def _scale(path: str, transforms: list, height: int, width: int) -> None:
    """Multiplies every size in a list so that its last, that of the network's input, becomes `height` × `width`."""
    places = [
        (name, options, field)
        for operator in transforms
        if isinstance(operator, dict)
        for name, options in operator.items()
        if isinstance(options, dict)
        for field in SIZE_FIELDS
        if _sides(options.get(field))
    ]
    if not places:
        raise PpclsExtError(f"Global.image_size (--size): {path} has no size that it could set; set the sizes there")
    _, options, field = places[-1]
    last = tuple((_sides(options[field]) * 2)[:2])
    turned = width * last[1] / (height * last[0])  # how much wider the input becomes, beside its height
    for name, options, field in places:
        sides = _sides(options[field])
        scaled = [round(side * new / old) for side, new, old in zip(sides * 2, (width, height), last)]
        is_pair = isinstance(options[field], (list, tuple))
        if field == "resize_short" and name == "ResizeImage" and height != width:
            del options[field]
            options["size"] = scaled
        elif field == "size" and name in WIDTH_FIRST and (is_pair or height != width or last[0] != last[1]):
            options[field] = scaled
        else:
            factor = max(height, width) / max(last)
            options[field] = [round(side * factor) for side in sides] if is_pair else round(sides[0] * factor)
        if name == "RandCropImage" and turned != 1:
            options["ratio"] = [round(share * turned, 6) for share in options.get("ratio") or RATIO]


def _sides(value: Any) -> list[int]:
    sides = value if isinstance(value, (list, tuple)) else [value]
    return list(sides) if sides and all(type(side) is int and side > 0 for side in sides) else []


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
    """Applies `overrides` to `config`, in place, checks the spelling, does what `Global.image_size` and
    `Arch.in_channels` ask for.

    Raises:
        PpclsExtError: see `load_config`.
    """
    for text in overrides:
        apply_override(config, text)
    check_structure(config)
    for section in KNOWN:
        check_spelling(section, config.get(section) if section else config)
    set_image_size(config)
    set_channels(config)
    return config
