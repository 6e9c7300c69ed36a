"""The short options of `train`: for what everyone sets, each a spelling of one or two fields of the configuration."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ppcls_ext.config.budget import EXPECTED, read_time
from ppcls_ext.config.load import parsed, set_field
from ppcls_ext.data.image_rule import read_size
from ppcls_ext.errors import PpclsExtError

#: What is trained where only images are given.
DEFAULT = "MobileOne_S0"


class TrainOption(NamedTuple):
    """One short option.

    Attributes:
        name: as an argument of `ppcls_ext.train`; on the command line with two dashes, and - for _.
        fields: the paths of the fields that it sets.
        metavar: what its value is called in --help; "" for a switch, which has none.
        help: what it is.
        accepts: whether a value is one of it.
        expected: what a value must be, for the message.
    """

    name: str
    fields: tuple[str, ...]
    metavar: str
    help: str
    accepts: Callable[[Any], bool]
    expected: str

    @property
    def flag(self) -> str:
        """The option on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers, else texts."""
        return self.accepts not in (_is_text, _is_time)

    def value_in(self, config: dict) -> Any:
        """Its value in a configuration, that of its first field; None where there is none."""
        node: Any = config
        for key in self.fields[0].split("."):
            node = node.get(key) if isinstance(node, dict) else None
        return node


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_natural(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_size(value: Any) -> bool:
    return read_size(value) is not None


def _is_rate(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _is_time(value: Any) -> bool:
    return read_time(value) is not None


def _is_switch(value: Any) -> bool:
    return value is True


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _both(path: str) -> tuple[str, str]:
    return f"DataLoader.Train.{path}", f"DataLoader.Eval.{path}"


_SIZE = "a whole number of px, or height and width such as 128x96"
_COUNT, _NATURAL = "a whole number from 1", "a whole number from 0"
_WEIGHTS, _KINDS = "a file, published or none", "balanced, sqrt, or a file"
_FREEZE, _SAMPLER = "backbone, or backbone:N", "balanced, or the name of a sampler"
TRAIN_OPTIONS = (
    TrainOption("epochs", ("Global.epochs",), "N", "passes over the images", _is_count, _COUNT),
    TrainOption("budget", ("Global.budget",), "TIME", "as many epochs as fit: 30m, 1h30m", _is_time, EXPECTED),
    TrainOption("batch_size", _both("sampler.batch_size"), "N", "images/step", _is_count, _COUNT),
    TrainOption("lr", ("Optimizer.lr.learning_rate",), "RATE", "highest rate", _is_rate, "a number greater than 0"),
    TrainOption("size", ("Global.image_size",), "PX", "a side, or HEIGHTxWIDTH, px", _is_size, _SIZE),
    TrainOption("channels", ("Arch.in_channels",), "N", "1 grey, 3 RGB, 4 RGBA, …", _is_count, _COUNT),
    TrainOption("weights", ("Global.pretrained_model",), "W", "published, none or a file", _is_text, _WEIGHTS),
    TrainOption("freeze", ("Recipe.freeze",), "PART", "backbone, or backbone:N for N stages", _is_text, _FREEZE),
    TrainOption("class_weights", ("Recipe.class_weights",), "KIND", "balanced, sqrt or a file", _is_text, _KINDS),
    TrainOption("sampler", ("DataLoader.Train.sampler.name",), "NAME", "balanced, or a class", _is_text, _SAMPLER),
    TrainOption("best_by", ("Global.best_by",), "METRIC", "which epoch is best: f1_macro, …", _is_text, "a metric"),
    TrainOption("patience", ("Global.patience",), "N", "end N epochs after the best", _is_count, _COUNT),
    TrainOption("seed", ("Global.seed",), "N", "of all random numbers", _is_natural, _NATURAL),
    TrainOption("workers", _both("loader.num_workers"), "N", "image loaders", _is_natural, _NATURAL),
    TrainOption("bf16", ("AMP.dtype", "AMP.use_amp"), "", "mixed precision in bfloat16", _is_switch, "True"),
    TrainOption("device", ("Global.device",), "NAME", "cpu, gpu or auto", _is_text, "a name"),
    TrainOption("out", ("Global.output_dir",), "FOLDER", "the run is OUT/NAME", _is_text, "a folder"),
    TrainOption("name", ("Global.run_name",), "NAME", "by default the model's", _is_text, "a name"),
)
#: Short values of options, and what they stand for: a value, or one for each field.
VALUES: dict[tuple[str, Any], Any] = {
    ("weights", "none"): None,
    ("sampler", "balanced"): "BalancedBatchSampler",
    ("bf16", True): {"AMP.dtype": "bfloat16", "AMP.use_amp": True},
}
BY_NAME = {option.name: option for option in TRAIN_OPTIONS}


def set_options(config: dict, given: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Sets the fields that short options stand for, in place, before the overrides are applied.

    Args:
        config: the dict from `load_config`.
        given: values by the names of options; None where an option is not given.
        overrides: the texts behind -o, which win where they name something below or above an option's field.

    Raises:
        PpclsExtError: a value is of another kind, or a text of `overrides` sets the same field to another value.
    """
    said = dict(parsed(text) for text in overrides if "=" in text)
    for name, value in given.items():
        if value is None:
            continue
        option = BY_NAME[name]
        if not option.accepts(value):
            raise PpclsExtError(f"{name} ({option.flag}) is {value!r}: expected {option.expected}")
        value = value if isinstance(value, list) else VALUES.get((name, value), value)
        for field in option.fields:
            wanted = value[field] if isinstance(value, dict) else value
            if said.get(field, wanted) != wanted:
                written = f"{option.flag} {wanted}" if option.metavar else option.flag
                raise PpclsExtError(f"{written} and -o {field}={said[field]} contradict each other: give one of them")
            set_field(config, field, wanted)
