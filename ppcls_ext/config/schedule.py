"""How long a folder of images is trained on, how fast and with what, where the user does not say it.

The models' shipped configurations were chosen with `IMAGES` training images and weights that have learnt from others.
Of more images such weights need fewer epochs, and larger batches need a higher learning rate. Random weights need a
higher one yet, and images that are not mixed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from ppcls_ext.config.load import parsed
from ppcls_ext.models.table import MODELS

logger = logging.getLogger("ppcls_ext")

#: Training images of Flowers102, and those of a step; every model's shipped configuration has them.
IMAGES, BATCH_SIZE = 1020, 32
#: Epochs, however many images there are: the learning rate rises in the first one and falls to zero in the last.
FEWEST = 6
EPOCHS, RATE = "Global.epochs", "Optimizer.lr.learning_rate"
HEAD, MIXING = "Recipe.head_learning_rate", "DataLoader.Train.dataset.batch_transform_ops"
#: Field → the short option that sets it ("": none), and the fields that it depends on.
OPEN_FIELDS = {
    EPOCHS: ("epochs", (EPOCHS, "Optimizer.lr.warmup_epoch", "Recipe.progressive")),
    RATE: ("lr", ("Optimizer",)),
    HEAD: ("", (HEAD, "Optimizer.name")),
    MIXING: ("", (MIXING,)),
}
#: What random weights need (docs/explanation/accuracy.md, From random weights): the learning rate of AdamW, by the
#: model's family, and the factor on it for the classifier, whose weights are no newer than the others there.
RANDOM_RATE = {"mobileone": 0.01, "repvgg": 0.003, "fasternet": 0.001}
RANDOM_HEAD = 0.3


def open_fields(source: object, options: Mapping[str, Any], overrides: Iterable[str]) -> frozenset[str]:
    """Returns the fields that follow from the images: those of a model's shipped configuration that nobody sets.

    Args:
        source: what the configuration was opened by; any but the name of a model holds what its author wants.
        options: the short options; None where one is not given.
        overrides: the texts behind -o.
    """
    if not isinstance(source, str) or source not in MODELS:
        return frozenset()
    said = [parsed(text)[0] for text in overrides]
    return frozenset(
        field
        for field, (option, needed) in OPEN_FIELDS.items()
        if (option is None or options.get(option) is None)
        and not any(_meet(one, path) for one in needed for path in said)
    )


def _meet(one: str, other: str) -> bool:
    """Whether one of two fields is the other, or lies in it."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def epochs_for(images: int, epochs: int) -> int:
    """Returns how many epochs so many images need: by the square root of their number, and `epochs` at most.

    Args:
        images: those to train on.
        epochs: what `IMAGES` of them need.
    """
    return min(epochs, max(FEWEST, round(epochs * math.sqrt(IMAGES / images))))


def rate_for(batch_size: int, rate: float) -> float:
    """Returns the learning rate of AdamW for batches of another size, by its square root (arXiv 2205.10287).

    Args:
        batch_size: images of a step.
        rate: what steps of `BATCH_SIZE` images need.
    """
    return float(f"{rate * math.sqrt(batch_size / BATCH_SIZE):.3g}")


def fit_to_images(config: dict[str, Any], fields: frozenset[str], images: int) -> None:
    """Sets what follows from the images, in place, and logs what is not as in the shipped configuration.

    Args:
        config: the shipped configuration, with the user's changes.
        fields: of `open_fields`.
        images: those to train on.
    """
    if config["Global"].get("pretrained_model") or config["Arch"].get("pretrained"):
        if EPOCHS in fields:
            _fit_epochs(config["Global"], images)
    elif config["Arch"].get("name") in MODELS:
        _fit_to_random_weights(config, fields)
    sampler = config["DataLoader"]["Train"].get("sampler")
    batch_size = sampler.get("batch_size") if isinstance(sampler, dict) else None
    # what is no number of images is refused later
    if RATE in fields and type(batch_size) is int and batch_size > 0 and batch_size != BATCH_SIZE:
        schedule = config["Optimizer"]["lr"]
        usual = schedule["learning_rate"]
        schedule["learning_rate"] = rate = rate_for(batch_size, usual)
        logger.info("batches of %d: learning rate %g (--lr), not %g as for %d", batch_size, rate, usual, BATCH_SIZE)


def _fit_epochs(settings: dict[str, Any], images: int) -> None:
    shipped = settings["epochs"]
    settings["epochs"] = epochs = epochs_for(images, shipped)
    if epochs != shipped:
        logger.info("%d images: %d epochs (--epochs), not %d as for %d", images, epochs, shipped, IMAGES)


def _fit_to_random_weights(config: dict[str, Any], fields: frozenset[str]) -> None:
    """Random weights learn little by what is best for those that have learnt already, and MobileOne's nothing."""
    changes = []
    if RATE in fields:
        schedule, rate = config["Optimizer"]["lr"], RANDOM_RATE[MODELS[config["Arch"]["name"]].family]
        changes.append(f"learning rate {rate:g} (--lr), not {schedule['learning_rate']:g}")
        schedule["learning_rate"] = rate
    if HEAD in fields:
        usual = config["Recipe"]["head_learning_rate"]
        changes.append(f"the classifier's is {RANDOM_HEAD:g} of it ({HEAD}), not {usual:g} times")
        config["Recipe"]["head_learning_rate"] = RANDOM_HEAD
    if MIXING in fields and config["DataLoader"]["Train"]["dataset"].pop("batch_transform_ops", None):
        changes.append(f"images are not mixed ({MIXING})")
    if changes:
        logger.info("random weights (no --weights): %s", "; ".join(changes))
