"""What the section `Recipe` cannot be combined with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.training.settings import Settings

#: Operators whose strength can be scaled.
POLICIES = ("AutoAugment", "RandAugment", "RandAugmentV2", "RandAugmentV3", "RandAugmentV4", "TimmAutoAugment")


#: Optimizers that `weight_decay` works with.
OPTIMIZERS = ("SGD", "Momentum", "AdamW")


def check(settings: Settings, config: dict, ours: bool) -> None:
    """Checks the recipe against the rest of the configuration, before PaddleClas sees it.

    Args:
        settings: of `config`.
        config: as `load_config` returns it. Where AdamW's own decay is not given, it becomes 0 beside a
            `Recipe.weight_decay`.
        ours: whether the architecture is one of this project's models, on its own.

    Raises:
        PpclsExtError: a combination that cannot work.
    """
    if settings == Settings():
        return
    _check_mode(config)
    _check_architecture(settings, config, ours)
    _check_precision(settings, config)
    for fields, check_fields in _CHECKS.items():
        if any(getattr(settings, field) not in (None, ()) for field in fields):
            check_fields(settings, config)


def _check_mode(config: dict) -> None:
    mode = config["Global"].get("train_mode")
    if mode is not None:
        raise PpclsExtError(f"Recipe does not work with Global.train_mode {mode}: drop one of them")


def _check_architecture(settings: Settings, config: dict, ours: bool) -> None:
    for name in ("custom_l2", "head_learning_rate", "unfuse"):
        if getattr(settings, name) is not None and not ours:
            raise PpclsExtError(
                f"Recipe.{name} works with this project's models only, and Arch.name is {config['Arch']['name']}"
            )


def _check_precision(settings: Settings, config: dict) -> None:
    half = str((config.get("AMP") or {}).get("level")).upper() == "O2"
    for name in ("ema", "weight_decay", "custom_l2"):
        if getattr(settings, name) is not None and half:
            raise PpclsExtError(f"Recipe.{name} needs weights in float32, and AMP.level is O2: expected O1")


def _check_custom_l2(settings: Settings, config: dict) -> None:
    arch = config["Arch"]
    if not arch["name"].startswith("RepVGG_") or arch.get("fused"):
        raise PpclsExtError(
            f"Recipe.custom_l2 is RepVGG's, for its unfused form; Arch.name is {arch['name']}, Arch.fused is "
            f"{bool(arch.get('fused'))}"
        )


def _check_ema(_: Settings, config: dict) -> None:
    if config.get("EMA"):
        raise PpclsExtError("EMA and Recipe.ema are both given: keep one of them")
    if config["Arch"]["name"] == "DistillationModel":
        raise PpclsExtError("Recipe.ema averages one network, and Arch.name is DistillationModel: set it to null")
    if config["Global"].get("uniform_output_enabled"):
        raise PpclsExtError(
            "Recipe.ema does not work with Global.uniform_output_enabled: PaddleClas would export other weights than "
            "those it evaluated"
        )
    checkpoints = config["Global"].get("checkpoints")
    if isinstance(checkpoints, str):
        path = Path(f"{checkpoints.removesuffix('.pdparams')}.ema.pdparams")
        if not path.is_file():
            raise PpclsExtError(
                f"Recipe.ema: Global.checkpoints has no average beside it, {path}: resume from latest or epoch_N of a "
                "run with Recipe.ema, or set Recipe.ema to null"
            )


def _check_optimizers(settings: Settings, config: dict) -> None:
    what = "weight_decay" if settings.weight_decay is not None else "custom_l2"
    for path, name, fields in _optimizers(config["Optimizer"]):
        for field in ("regularizer", "weight_decay"):
            if fields.get(field):
                raise PpclsExtError(
                    f"Recipe.{what} and {path}.{field} would decay the same weights: remove {path}.{field}"
                    + (", and give Recipe.weight_decay for the other kernels" if what == "custom_l2" else "")
                )
        if settings.weight_decay is None:
            continue
        if name not in OPTIMIZERS:
            raise PpclsExtError(f"Recipe.weight_decay works with {', '.join(OPTIMIZERS)}, and {path}.name is {name}")
        if name == "AdamW":
            fields["weight_decay"] = 0.0  # left out, PaddleClas would hand on None, which Paddle refuses


def _check_clip(_: Settings, config: dict) -> None:
    for path, _, fields in _optimizers(config["Optimizer"]):
        if fields.get("clip_norm"):
            raise PpclsExtError(
                f"Recipe.clip_global_norm and {path}.clip_norm, which clips each gradient alone: keep one"
            )


def _optimizers(section: Any) -> Iterator[tuple[str, str, dict]]:
    """Path, class and fields of each optimizer, in both of PaddleClas's ways to write them."""
    if isinstance(section, list):
        for index, item in enumerate(section):
            for name, fields in item.items():
                yield f"Optimizer.{index}.{name}", name, fields
    else:
        yield "Optimizer", section["name"], section


def _check_progressive(settings: Settings, config: dict) -> None:
    if config["Global"].get("use_dali"):
        raise PpclsExtError("Recipe.progressive does not work with Global.use_dali: turn one of them off")
    dataset = config["DataLoader"]["Train"].get("dataset") or {}
    if dataset.get("name") == "MultiScaleDataset":
        raise PpclsExtError("Recipe.progressive does not work with MultiScaleDataset, which sets the sizes itself")
    operators = dataset.get("transform_ops") or ()
    names = {name for operator in operators for name in operator}
    for field, wanted in (("size", ("RandCropImage",)), ("strength", POLICIES)):
        if any(getattr(stage, field) is not None for stage in settings.progressive) and names.isdisjoint(wanted):
            raise PpclsExtError(
                f"Recipe.progressive sets a {field}, but DataLoader.Train.dataset.transform_ops has no "
                f"{' or '.join(wanted)}"
            )


def _check_unfuse(_: Settings, config: dict) -> None:
    weights = config["Global"].get("pretrained_model")
    if config["Global"].get("checkpoints"):
        raise PpclsExtError(
            "Recipe.unfuse starts a training, and Global.checkpoints resumes one: set Recipe.unfuse to null to resume"
        )
    if not isinstance(weights, str):
        raise PpclsExtError(
            f"Recipe.unfuse: Global.pretrained_model is {weights!r}: expected the path of a file of fused weights"
        )
    if config["Arch"].get("fused"):
        raise PpclsExtError("Recipe.unfuse trains the unfused form, and Arch.fused is true: remove Arch.fused")


#: What is checked where any of these fields is given, in this order.
_CHECKS: dict[tuple[str, ...], Callable[[Settings, dict], None]] = {
    ("ema",): _check_ema,
    ("weight_decay", "custom_l2"): _check_optimizers,
    ("clip_global_norm",): _check_clip,
    ("progressive",): _check_progressive,
    ("custom_l2",): _check_custom_l2,
    ("unfuse",): _check_unfuse,
}
