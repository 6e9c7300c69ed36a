"""Checks of a configuration before anything is built: fields, ranges of numbers, the device, options of PaddleClas."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
import math
import re
from typing import Any

from ppcls_ext.config.host_classes import walk
from ppcls_ext.data.image_rule import RGB, crop_fault
from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.hosts.paddleclas.locate import activate
from ppcls_ext.hosts.paddleclas.safe_eval import read_literal
from ppcls_ext.hosts.quiet import logging_from
from ppcls_ext.models.table import MODELS

logger = logging.getLogger("ppcls_ext")


#: Fields without which the engine fails somewhere inside.
REQUIRED = {
    "train": (
        *("Global.output_dir", "Global.epochs", "Global.print_batch_step"),
        *("Global.eval_during_train", "Global.eval_interval"),
        *("Arch.name", "Loss.Train", "Optimizer", "DataLoader.Train"),
    ),
    "eval": ("Global.output_dir", "Global.print_batch_step", "Arch.name", "DataLoader.Eval", "Metric.Eval"),
    "infer": (
        *("Global.output_dir", "Arch.name", "Infer.infer_imgs", "Infer.batch_size", "Infer.transforms"),
        "Infer.PostProcess.name",
    ),
    "export": ("Global.output_dir", "Global.image_shape", "Global.save_inference_dir", "Arch.name"),
}


#: Fields of newer engines that an older one would leave out without a word: by mode, field and the text in its source.
NEWER = {
    "train": {
        "EMA": '"EMA"',
        "Global.train_mode": '"train_mode"',
        "Global.update_freq": '"update_freq"',
        "Global.uniform_output_enabled": "uniform_output_enabled",
    },
    "export": {"Global.export_for_fd": "export_for_fd"},
}


#: Values of `Global.eval_mode` that compare the images of a query with those of a gallery.
PAIRWISE = ("retrieval",)


def require_fields(config: dict, mode: str) -> None:
    """Raises PpclsExtError for the first field that `mode` needs and the configuration lacks, or that is no section."""
    _require_sections(config)
    evaluates = mode == "train" and _get(config, "Global.eval_during_train")
    for path in (*REQUIRED[mode], *(("DataLoader.Eval", "Metric.Eval") if evaluates else ())):
        if _get(config, path) is None:
            names = f"; one of {', '.join(MODELS)}" if path == "Arch.name" else ""
            raise PpclsExtError(f"the configuration has no {path}, which {mode} needs: add it, or -o {path}=…{names}")
    for loader in [*(["Train"] if mode == "train" else []), *(["Eval"] if evaluates or mode == "eval" else [])]:
        _require_loader(config, f"DataLoader.{loader}")
    if is_ours(config) and config["Arch"].get("class_num") == 0:
        raise PpclsExtError("Arch.class_num is 0, which leaves the classifier out: give the number of classes")
    if mode in ("train", "eval") and _get(config, "Global.eval_mode") in PAIRWISE:
        for part in ("Gallery", "Query") if evaluates or mode == "eval" else ():
            if _get(config, f"DataLoader.Eval.{part}") is None:
                raise PpclsExtError(
                    f"Global.eval_mode is {_get(config, 'Global.eval_mode')}, and DataLoader.Eval has no {part}: give "
                    "it Gallery and Query, or leave eval_mode out to classify"
                )


def _require_sections(config: dict) -> None:
    """What is read before the classes of PaddleClas check their own arguments."""
    for name in ("Global", "Arch", "AMP", "DataLoader", "Infer", "Loss", "Metric"):
        if config.get(name) is not None and not isinstance(config[name], dict):
            raise PpclsExtError(f"the configuration's {name} is {config[name]!r}: expected a section with fields")
    for when, losses in (config.get("Loss") or {}).items():
        if losses is not None and not (
            isinstance(losses, list) and all(isinstance(loss, dict) and loss for loss in losses)
        ):
            raise PpclsExtError(f"Loss.{when} is {losses!r}: expected a list of losses, each with its fields")


def _require_loader(config: dict, path: str) -> None:
    """What PaddleClas's `build_dataloader` asks for; retrieval has its own layout."""
    if not isinstance(_get(config, path), dict) or {"Gallery", "Query"} & set(_get(config, path)):
        return
    fields = ["dataset.name", "sampler", "loader.num_workers", "loader.use_shared_memory"]
    if _get(config, f"{path}.sampler.name") is None:
        fields += ["sampler.batch_size", "sampler.drop_last", "sampler.shuffle"]
    for field in fields:
        if _get(config, f"{path}.{field}") is None:
            raise PpclsExtError(f"the configuration has no {path}.{field}: add it, or -o {path}.{field}=…")


def _get(config: dict, path: str) -> Any:
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def fill_in(config: dict, mode: str) -> None:
    """What the engine reads in every mode although it means nothing there, and a switch that 2.4 does not know."""
    for field, value in (("checkpoints", None), ("pretrained_model", None), ("use_visualdl", False), ("epochs", 1)):
        config["Global"].setdefault(field, value)
    arch = config["Arch"]
    if "class_num" not in arch and "class_num" in config["Global"]:  # its place in older files
        arch["class_num"] = config["Global"].pop("class_num")
    for section in ("DataLoader", "Metric"):
        config[section] = config.get(section) or {}
    if mode == "export":
        config["Metric"].setdefault("Eval", [{}])
    config.setdefault("profiler_options", None)
    if config.get("AMP") and not config["AMP"].get("use_amp", True):
        config["AMP"] = None  # PaddleClas 2.4 turns AMP on for any AMP section


def warn_about_newer_fields(config: dict, mode: str) -> None:
    """Logs the fields that this PaddleClas would leave out without a word."""
    if mode not in NEWER:
        return
    paddleclas = activate(need_engine=True)
    source = (paddleclas.path / "ppcls" / "engine" / "engine.py").read_text(encoding="utf-8")
    for field, text in NEWER[mode].items():
        if _get(config, field) and text not in source:
            logger.warning("%s is left out: PaddleClas %s cannot do it", field, paddleclas.version)


def is_ours(config: dict) -> bool:
    """Whether the architecture is one of this project's models, on its own."""
    return config["Arch"]["name"] in MODELS


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
        PpclsExtError: a value is not a number, not finite, or out of range; the message names its path.
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
    for pattern, lowest in REAL.items():
        if re.fullmatch(pattern, path) and not _is_real(value, lowest):
            at_least = "" if lowest == -math.inf else f" from {lowest:g}"
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


#: PaddleClas's models of several parts.
WRAPPERS = ("RecModel", "DistillationModel", "AttentionModel")


def check_options(config: dict, mode: str) -> None:
    """Checks the options that `mode` uses; the device must be chosen already.

    Args:
        config: changed in place where an option makes no difference and PaddleClas would fail on it.
        mode: "train", "eval", "infer" or "export".

    Raises:
        PpclsExtError: an option that PaddleClas, Paddle or the model cannot do.
    """
    _check_sync_bn(config, mode)
    _check_slim(config)
    _check_dali(config)
    if is_ours(config):
        _check_image_shape(config)
    if mode in ("train", "eval"):
        _check_precision(config)
        _check_losses(config)
    if mode == "train":
        _check_optimizer(config)
        _check_schedules(config)
        _check_multi_scale(config)
    _check_crops(config, mode)


def _check_sync_bn(config: dict, mode: str) -> None:
    """Where statistics are not synchronised, plain batch normalisation is the same function with the same names."""
    arch, device = config["Arch"], config["Global"]["device"]
    if not arch.get("use_sync_bn") or device != "cpu":
        return
    from paddle.distributed import get_world_size

    if mode == "train" and get_world_size() > 1:
        raise PpclsExtError(
            "Arch.use_sync_bn is true, and Paddle synchronises no batch normalisation on cpu: set it to false, or "
            "train in one process"
        )
    if mode == "train":
        logger.info("Arch.use_sync_bn changes nothing: one process on cpu has nobody to synchronise with")
    arch["use_sync_bn"] = False


#: What takes one class an image, by the path of the mappings that name it; and what takes several.
MIXING = ("MixupOperator", "CutmixOperator", "FmixOperator", "MixupCutmixHybrid")
ONE_CLASS = {
    r"Loss\.\w+\.\d+": ("CELoss", "MixCELoss", "GoogLeNetLoss"),
    r"DataLoader\..+\.batch_transform_ops\.\d+(\.OpSampler)?": MIXING,
}
LOSSES_OF_SEVERAL = ("MultiLabelLoss", "MultiLabelAsymmetricLoss")
SEVERAL_CLASSES = {r"Loss\.\w+\.\d+": LOSSES_OF_SEVERAL}


def check_task(config: dict, task: str, sections: tuple[str, ...]) -> None:
    """Checks that losses and operators that mix images are made for as many classes an image as there are.

    Metrics are checked where it is known what decides (`config.best`).

    Args:
        config: with the names of PaddleClas's classes.
        task: "single-label" or "multi-label".
        sections: the top-level sections that will be used.

    Raises:
        PpclsExtError: one is not; PaddleClas would fail on it inside, or train something else.
    """
    several = task == MULTI_LABEL
    if several and config["Global"].get("use_dali"):
        raise PpclsExtError(
            "Global.use_dali reads one class an image, and the lists give several (Global.use_multilabel is True): set "
            "it to false"
        )
    wrong, right = (ONE_CLASS, SEVERAL_CLASSES) if several else (SEVERAL_CLASSES, ONE_CLASS)
    for path, parent, key in walk({section: config[section] for section in sections if section in config}, ""):
        above = path.rpartition(".")[0]
        for pattern, names in wrong.items():
            if isinstance(parent, dict) and key in names and re.fullmatch(pattern, above):
                takes, given = ("one class", "several classes") if several else ("several classes", "one class")
                expected = f"expected {' or '.join(right[pattern])}" if pattern in right else "remove it"
                raise PpclsExtError(
                    f"{above} is {key}, which takes {takes} an image, and the lists give {given} "
                    f"(Global.use_multilabel is {several}): {expected}"
                )


def _check_precision(config: dict) -> None:
    """What `AMP` comes to; Paddle's own warning is filtered away by PaddleClas."""
    import paddle

    settings, device = config.get("AMP"), config["Global"]["device"]
    if not settings:
        return
    kind = settings.get("dtype")
    if kind not in (None, "float16", "bfloat16"):
        raise PpclsExtError(f"AMP.dtype is {kind!r}: expected bfloat16 or float16")
    is_bfloat16 = device == "cpu" or kind == "bfloat16"
    if device == "cpu":
        fault = precision_fault(config)
    else:
        is_there = (paddle.amp.is_bfloat16_supported if is_bfloat16 else paddle.amp.is_float16_supported)(device)
        fault = None if is_there else f"{device} has no such mixed precision"
    if fault is not None:
        logger.warning("AMP is given, and %s: all is computed in float32", fault)
        return
    if is_bfloat16 and kind == "float16":
        logger.warning("AMP.dtype is float16, and mixed precision on a CPU is in bfloat16: that is used")
    if is_bfloat16 and str(settings.get("level")).upper() == "O2":
        logger.warning("AMP.level is O2, and mixed precision in bfloat16 keeps its weights in float32 (O1)")


def precision_fault(config: dict) -> str | None:
    """What keeps a training or evaluation on a CPU from mixed precision; None where nothing does.

    Args:
        config: the prepared configuration.
    """
    from ppcls_ext.onednn.bfloat16 import lacking

    if not is_ours(config):
        return (
            f"on a CPU only this project's models have mixed precision, and Arch.name is {config['Arch'].get('name')}"
        )
    if config["Global"].get("to_static"):
        return "Global.to_static leaves Paddle's own operations only, which have no mixed precision on a CPU"
    if config["Global"].get("train_mode"):
        return "Global.train_mode trains by PaddleClas's own functions, which have no mixed precision on a CPU"
    return lacking()


def _check_losses(config: dict) -> None:
    """PaddleClas 2.4's `weight_ratio` multiplies numbers by booleans, which Paddle refuses since 3.0."""
    for when in ("Train", "Eval"):
        for loss in (config.get("Loss") or {}).get(when) or ():
            name, fields = next(iter(loss.items()))
            if name == "MultiLabelLoss" and (fields or {}).get("weight_ratio") and not _weighs_labels():
                raise PpclsExtError(
                    f"Loss.{when}: MultiLabelLoss.weight_ratio does not work with {activate()} and this Paddle: set it "
                    "to False, or use a newer PaddleClas"
                )


def _weighs_labels() -> bool:
    import paddle
    from ppcls.loss import MultiLabelLoss

    try:
        MultiLabelLoss(weight_ratio=True)(paddle.zeros([1, 2]), paddle.zeros([1, 2, 2]))
    except TypeError:
        return False
    return True


def _check_optimizer(config: dict) -> None:
    section = config["Optimizer"]
    names = [next(iter(item)) for item in section] if isinstance(section, list) else [section.get("name")]
    if "AdamWDL" in names and (is_ours(config) or config["Arch"]["name"] in WRAPPERS):
        raise PpclsExtError(
            "Optimizer.name is AdamWDL, whose learning rates follow the numbered blocks of a transformer, and "
            f"{config['Arch']['name']} has none: expected AdamW"
        )


def _check_schedules(config: dict) -> None:
    """Builds each schedule for a try: what PaddleClas or Paddle refuses is known before the data and the model."""
    from ppcls.optimizer import build_lr_scheduler
    from ppcls.utils.config import AttrDict, create_attr_dict

    section = config["Optimizer"]
    sections = {
        **({"Optimizer": section} if isinstance(section, dict) else {}),
        **{
            f"Optimizer.{index}.{name}": fields
            for index, item in enumerate(section if isinstance(section, list) else ())
            for name, fields in item.items()
        },
    }
    for path, fields in sections.items():
        if not isinstance(fields.get("lr"), dict):
            raise PpclsExtError(f"{path}.lr is {fields.get('lr')!r}: expected a section with a learning_rate")
        schedule = AttrDict(copy.deepcopy(fields["lr"]))
        create_attr_dict(schedule)  # to YAML, 1e-4 is a text
        try:
            with logging_from(logging.CRITICAL, _host_logger()):  # it is only tried
                build_lr_scheduler(schedule, config["Global"]["epochs"], 1)
        except (AssertionError, TypeError, ValueError) as error:
            raise PpclsExtError(f"{path}.lr is refused by PaddleClas: {one_line(error)}") from error


def _host_logger() -> logging.Logger:
    from ppcls.utils import logger as host_logger

    if host_logger._logger is None:
        host_logger.init_logger()
    return host_logger._logger


def _check_multi_scale(config: dict) -> None:
    dataset = config["DataLoader"]["Train"].get("dataset") or {}
    operators = {name for operator in dataset.get("transform_ops") or () for name in operator}
    resizing = ("RandCropImage", "ResizeImage", "CropImage")
    if dataset.get("name") == "MultiScaleDataset" and operators.isdisjoint(resizing):
        raise PpclsExtError(
            "DataLoader.Train.dataset is a MultiScaleDataset, which sets the size of an operator, and transform_ops "
            f"has none of {', '.join(resizing)}: add RandCropImage"
        )


def _check_dali(config: dict) -> None:
    if config["Global"].get("use_dali") and importlib.util.find_spec("nvidia") is None:
        raise PpclsExtError(
            "Global.use_dali needs NVIDIA's package nvidia-dali and a GPU: install it, or set use_dali to false"
        )


def _check_image_shape(config: dict) -> None:
    shape = config["Global"].get("image_shape")
    channels = config["Arch"].get("in_channels", RGB)
    if shape is not None and not (isinstance(shape, (list, tuple)) and len(shape) == 3 and shape[0] == channels):
        raise PpclsExtError(
            f"Global.image_shape is {shape!r}: expected [{channels}, height, width], since the model takes images of "
            f"{channels} channels (Arch.in_channels)"
        )


def _check_crops(config: dict, mode: str) -> None:
    """Raises PpclsExtError where a crop is larger than the resized image: PaddleClas cuts what is there, a corner."""
    loaders = {"train": ("Train", "Eval"), "eval": ("Eval",)}.get(mode, ())
    lists = {
        f"DataLoader.{loader}.dataset.transform_ops": _get(config, f"DataLoader.{loader}.dataset.transform_ops")
        for loader in loaders
    }
    if mode in ("infer", "export"):
        lists["Infer.transforms"] = _get(config, "Infer.transforms")
    for where, operators in lists.items():
        fault = crop_fault(operators) if isinstance(operators, list) else None
        if fault is not None:
            raise PpclsExtError(f"{where}: {fault}")


def _check_slim(config: dict) -> None:
    slim = config.get("Slim") or {}
    for field, check in (("prune", _check_prune), ("quant", _check_quant)):
        if not slim.get(field):
            continue
        if importlib.util.find_spec("paddleslim") is None:
            raise PpclsExtError(
                f"Slim.{field} needs the package paddleslim: pip install --no-deps paddleslim, and pip install pyzmq "
                "decorator (its own pins fit no current Python); or remove the section Slim"
            )
        check(config)


def _check_prune(config: dict) -> None:
    from paddle.base.dygraph import base

    if is_ours(config):
        raise PpclsExtError(
            f"Slim.prune cuts the filters of single convolutions, and those of {config['Arch']['name']} belong "
            "together in blocks: remove it, or take a smaller variant"
        )
    if not hasattr(base, "_to_static_mode_guard_"):
        raise PpclsExtError("Slim.prune: PaddleSlim 2 prunes with what Paddle 3 no longer has: remove it")


def _check_quant(config: dict) -> None:
    recipe = config.get("Recipe") or {}
    clash = [name for name in ("custom_l2", "unfuse") if recipe.get(name) is not None]
    if clash:
        raise PpclsExtError(
            f"Slim.quant fuses the model before it trains, and Recipe.{clash[0]} is for branches: keep one of them"
        )


def describes_export(config: dict, mode: str) -> bool:
    """Whether PaddleClas will write `inference.yml`, for which it reads the class names.

    Raises:
        PpclsExtError: it will, and there are none to read.
    """
    fields = {"export": ("export_for_fd",), "train": ("uniform_output_enabled",)}.get(mode, ())
    asked = [field for field in fields if config["Global"].get(field)]
    infer = config.get("Infer")
    if not asked or not infer:
        return False
    if not (infer.get("PostProcess") or {}).get("class_id_map_file"):
        raise PpclsExtError(
            f"Global.{asked[0]} writes inference.yml, and Infer.PostProcess.class_id_map_file is missing: add it"
        )
    return True
