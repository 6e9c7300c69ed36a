"""The section `Recipe`: its fields, their types and ranges, and what they cannot be combined with."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ppcls_ext.data.image_rule import read_size
from ppcls_ext.errors import PpclsExtError

#: Ways to weigh the classes in the loss; see `ppcls_ext.training.class_weights`.
BALANCED, SQRT = "balanced", "sqrt"
#: What can be frozen, and how many stages all of this project's models have.
BACKBONE, STAGES = "backbone", 4
#: Number of images that unfused weights are calibrated on where the configuration gives none.
CALIBRATION_IMAGES = 512
#: Number of images that running statistics are computed from where the configuration gives none.
STATISTICS_IMAGES = 512


class Ema(NamedTuple):
    """See `ppcls_ext.training.recipe.Average`."""

    decay: float
    warmup: bool = True


class Decay(NamedTuple):
    """See `ppcls_ext.training.recipe.Recipe.set_weight_decay`."""

    start: float
    end: float


class Stage(NamedTuple):
    """From which epoch, from 1 on, at which size (px, or height and width) and strength; None leaves it as it was."""

    epoch: int
    size: int | tuple[int, int] | None = None
    strength: float | None = None


class Unfuse(NamedTuple):
    """The number of images to calibrate on; None: `CALIBRATION_IMAGES`, or all of an epoch that has fewer."""

    pictures: int | None = None


class PreciseStatistics(NamedTuple):
    """From how many images; None: `STATISTICS_IMAGES`, or some batches where these are fewer."""

    images: int | None = None


class Teachers(NamedTuple):
    """Runs whose mean answer is learnt, and its share of the loss; see `ppcls_ext.training.teachers`."""

    runs: tuple[str, ...]
    share: float = 0.9


class Freeze(NamedTuple):
    """What is not trained: the stem and the first `stages` stages, or all but the classifier where None."""

    stages: int | None = None


class Settings(NamedTuple):
    """The section `Recipe`; what is None (or empty) is off."""

    ema: Ema | None = None
    weight_decay: Decay | None = None
    progressive: tuple[Stage, ...] = ()
    custom_l2: float | None = None
    head_learning_rate: float | None = None
    clip_global_norm: float | None = None
    unfuse: Unfuse | None = None
    class_weights: str | None = None
    freeze: Freeze | None = None
    precise_statistics: PreciseStatistics | None = None
    teachers: Teachers | None = None


def read_settings(config: dict) -> Settings:
    """The section `Recipe` of a configuration.

    Raises:
        PpclsExtError: an unknown field, a wrong type or a value out of range.
    """
    section = config.get("Recipe")
    if section is None:
        return Settings()
    fields = _mapping("Recipe", section, Settings._fields)
    readers: dict[str, Callable[[str, Any], Any]] = {
        "ema": _read_ema,
        "weight_decay": _read_decay,
        "progressive": _read_stages,
        "custom_l2": lambda path, value: _number(path, value, 0),
        "head_learning_rate": lambda path, value: _number(path, value, 0),
        "clip_global_norm": _read_clip,
        "unfuse": _read_unfuse,
        "class_weights": _read_class_weights,
        "freeze": _read_freeze,
        "precise_statistics": _read_precise_statistics,
        "teachers": _read_teachers,
    }
    return Settings(
        **{name: readers[name](f"Recipe.{name}", value) for name, value in fields.items() if value is not None}
    )


def _read_ema(path: str, value: Any) -> Ema:
    fields = _mapping(path, value, Ema._fields, required=("decay",))
    warmup = fields.get("warmup", True)
    if not isinstance(warmup, bool):
        raise PpclsExtError(f"{path}.warmup is {warmup!r}: expected true or false")
    decay = _number(f"{path}.decay", fields["decay"], 0, 1)
    if decay == 1:
        raise PpclsExtError(f"{path}.decay is 1: expected less; the average would never move")
    return Ema(decay, warmup)


def _read_clip(path: str, value: Any) -> float:
    norm = _number(path, value, 0)
    if norm == 0:
        raise PpclsExtError(f"{path} is 0: expected more; nothing would be trained")
    return norm


def _read_decay(path: str, value: Any) -> Decay:
    fields = _mapping(path, value, Decay._fields, required=Decay._fields)
    return Decay(*(_number(f"{path}.{name}", fields[name], 0, 1) for name in Decay._fields))


def _read_stages(path: str, value: Any) -> tuple[Stage, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise PpclsExtError(f"{path} is {value!r}: expected a list of stages such as {{epoch: 1, size: 160}}")
    stages: list[Stage] = []
    for index, item in enumerate(value):
        where = f"{path}.{index}"
        fields = _mapping(where, item, Stage._fields, required=("epoch",))
        stage = Stage(
            _whole(f"{where}.epoch", fields["epoch"]),
            _size(f"{where}.size", fields["size"]) if fields.get("size") is not None else None,
            _number(f"{where}.strength", fields["strength"], 0, 1) if fields.get("strength") is not None else None,
        )
        if stage.size is None and stage.strength is None:
            raise PpclsExtError(f"{where} has neither size nor strength: expected at least one")
        if stage.epoch <= (stages[-1].epoch if stages else 0) or (not stages and stage.epoch != 1):
            expected = f"more than {stages[-1].epoch}" if stages else "1, the first epoch"
            raise PpclsExtError(f"{where}.epoch is {stage.epoch}: expected {expected}")
        stages.append(stage)
    return tuple(stages)


def _size(path: str, value: Any) -> int | tuple[int, int]:
    size = None if isinstance(value, str) else read_size(value)
    if size is None:
        raise PpclsExtError(f"{path} is {value!r}: expected a whole number of at least 1, or [height, width]")
    return size[0] if size[0] == size[1] else size


def _read_unfuse(path: str, value: Any) -> Unfuse:
    pictures = _mapping(path, value, Unfuse._fields).get("pictures")
    return Unfuse(None if pictures is None else _whole(f"{path}.pictures", pictures))


def _read_precise_statistics(path: str, value: Any) -> PreciseStatistics:
    images = _mapping(path, value, PreciseStatistics._fields).get("images")
    return PreciseStatistics(None if images is None else _whole(f"{path}.images", images))


def _read_teachers(path: str, value: Any) -> Teachers:
    fields = _mapping(path, value, Teachers._fields, required=("runs",))
    runs = fields["runs"]
    if not isinstance(runs, (list, tuple)) or not runs or not all(isinstance(run, str) and run for run in runs):
        raise PpclsExtError(f"{path}.runs is {runs!r}: expected a list of folders that trainings wrote")
    share = Teachers._field_defaults["share"] if fields.get("share") is None else fields["share"]
    if _number(f"{path}.share", share, 0, 1) == 0:
        raise PpclsExtError(f"{path}.share is 0: expected more, or no teachers")
    return Teachers(tuple(runs), float(share))


def _read_class_weights(path: str, value: Any) -> str:
    if value in (BALANCED, SQRT) or (isinstance(value, str) and Path(value).is_file()):
        return value
    raise PpclsExtError(
        f"{path} is {value!r}: expected {BALANCED}, {SQRT}, or a file with one line a class, its name and its weight"
    )


def _read_freeze(path: str, value: Any) -> Freeze:
    name, colon, stages = value.partition(":") if isinstance(value, str) else ("", "", "")
    if name == BACKBONE and (not colon or stages in map(str, range(1, STAGES + 1))):
        return Freeze(int(stages) if colon else None)
    some = ", ".join(f"{BACKBONE}:{number}" for number in range(1, STAGES + 1))
    raise PpclsExtError(
        f"{path} (--freeze) is {value!r}: expected {BACKBONE}, all but the classifier, or one of {some}, the stem and "
        "that many stages"
    )


def _mapping(path: str, value: Any, known: tuple[str, ...], required: tuple[str, ...] = ()) -> dict:
    if not isinstance(value, dict):
        raise PpclsExtError(f"{path} is {value!r}: expected a mapping of {', '.join(known)}")
    for name in value:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected {', '.join(known)}"
            raise PpclsExtError(f"{path}.{name} is unknown: {hint}")
    for name in required:
        if value.get(name) is None:
            raise PpclsExtError(f"{path}.{name} is missing: {path} needs {', '.join(required)}")
    return value


def _number(path: str, value: Any, low: float, high: float = float("inf")) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high or value == high > 1:
        limits = f"of at least {low}" if high > 1 else f"from {low} to {high}"
        hint = "; YAML takes 1e-4 for text: write 1.0e-4" if isinstance(value, str) and "e" in value else ""
        raise PpclsExtError(f"{path} is {value!r}: expected a number {limits}{hint}")
    return float(value)


def _whole(path: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PpclsExtError(f"{path} is {value!r}: expected a whole number of at least 1")
    return value


#: Operators whose strength can be scaled.
POLICIES = ("AutoAugment", "RandAugment", "RandAugmentV2", "RandAugmentV3", "RandAugmentV4", "TimmAutoAugment")


#: Optimizers that `weight_decay` works with.
OPTIMIZERS = ("SGD", "Momentum", "AdamW")


def check_recipe(settings: Settings, config: dict, ours: bool) -> None:
    """Checks the recipe against the rest of the configuration, before PaddleClas sees it.

    Args:
        settings: the section `Recipe` of `config`.
        config: the dict from `load_config`. Where AdamW's own decay is not given, it becomes 0 beside a
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
    for name in ("custom_l2", "head_learning_rate", "unfuse", "freeze", "precise_statistics", "teachers"):
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
    for path, _name, fields in _optimizers(config["Optimizer"]):
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


def _check_class_weights(_: Settings, config: dict) -> None:
    if config["Global"].get("use_dali"):
        raise PpclsExtError("Recipe.class_weights does not work with Global.use_dali: turn one of them off")
    names = [name for loss in (config.get("Loss") or {}).get("Train") or () for name in loss]
    if "CELoss" not in names:
        raise PpclsExtError(
            f"Recipe.class_weights weighs the classes in CELoss, and Loss.Train has {', '.join(names) or 'no loss'}"
        )


def _check_precise_statistics(_: Settings, config: dict) -> None:
    if config["Global"].get("use_dali"):
        raise PpclsExtError("Recipe.precise_statistics does not work with Global.use_dali: turn one of them off")


def _check_teachers(settings: Settings, config: dict) -> None:
    if settings.class_weights is not None:
        raise PpclsExtError(
            "Recipe.class_weights weighs the labels, and Recipe.teachers take most of the loss from elsewhere: drop "
            "one of them, or train the teachers with the weights"
        )
    if config["Global"].get("use_dali"):
        raise PpclsExtError("Recipe.teachers do not work with Global.use_dali: turn one of them off")


def _check_freeze(settings: Settings, config: dict) -> None:
    options = config["Global"]
    if not (options.get("pretrained_model") or config["Arch"].get("pretrained") or options.get("checkpoints")):
        raise PpclsExtError(
            "Recipe.freeze (--freeze) keeps weights as they are, and these are random: give --weights "
            "(Global.pretrained_model), or train all"
        )
    if config["Arch"].get("freeze_befor"):
        raise PpclsExtError("Recipe.freeze (--freeze) and Arch.freeze_befor are both given: keep one of them")
    if settings.custom_l2 is not None:
        raise PpclsExtError("Recipe.freeze (--freeze) and Recipe.custom_l2, which decays all kernels: drop one of them")


#: What is checked where any of these fields is given, in this order.
_CHECKS: dict[tuple[str, ...], Callable[[Settings, dict], None]] = {
    ("ema",): _check_ema,
    ("weight_decay", "custom_l2"): _check_optimizers,
    ("clip_global_norm",): _check_clip,
    ("progressive",): _check_progressive,
    ("custom_l2",): _check_custom_l2,
    ("unfuse",): _check_unfuse,
    ("class_weights",): _check_class_weights,
    ("freeze",): _check_freeze,
    ("precise_statistics",): _check_precise_statistics,
    ("teachers",): _check_teachers,
}
