"""PaddleClas's options that cannot do here what they say: refused, or announced, before anything runs."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import logging
from collections.abc import Iterator

from ppcls_ext.configuration.fields import is_ours
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.hosts.paddleclas.locate import activate

logger = logging.getLogger("ppcls_ext")

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
    if mode in ("train", "eval"):
        _tell_precision(config)
        _check_losses(config)
    if mode == "train":
        _check_optimizer(config)
        _check_schedules(config)
        _check_multi_scale(config)


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


def _tell_precision(config: dict) -> None:
    """Paddle says so in a warning, which PaddleClas filters away."""
    import paddle

    device = config["Global"]["device"]
    if config.get("AMP") and (device == "cpu" or not paddle.amp.is_float16_supported(device)):
        logger.warning("AMP is given, and %s has no mixed precision in Paddle: all is computed in float32", device)


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
            with _silent_host():
                build_lr_scheduler(schedule, config["Global"]["epochs"], 1)
        except (AssertionError, TypeError, ValueError) as error:
            raise PpclsExtError(f"{path}.lr is refused by PaddleClas: {one_line(error)}") from error


@contextlib.contextmanager
def _silent_host() -> Iterator[None]:
    """Inside, PaddleClas says nothing: it is only tried."""
    from ppcls.utils import logger as host_logger

    if host_logger._logger is None:
        host_logger.init_logger()
    level = host_logger._logger.level
    host_logger._logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        host_logger._logger.setLevel(level)


def _check_multi_scale(config: dict) -> None:
    dataset = config["DataLoader"]["Train"].get("dataset") or {}
    operators = {name for operator in dataset.get("transform_ops") or () for name in operator}
    resizing = ("RandCropImage", "ResizeImage", "CropImage")
    if dataset.get("name") == "MultiScaleDataset" and operators.isdisjoint(resizing):
        raise PpclsExtError(
            "DataLoader.Train.dataset is a MultiScaleDataset, which sets the size of an operator, and transform_ops "
            f"has none of {', '.join(resizing)}: add RandCropImage"
        )


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
