"""PaddleClas's options, each as a change of the tiny configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MODELS = ("MobileOne_S0", "RepVGG_A0", "FasterNet_T0")
Change = Callable[[dict], None]


def setting(path: str, value: Any) -> Change:
    """A change that gives the field at `path` a value; sections that are missing are made."""

    def change(config: dict) -> None:
        *sections, field = path.split(".")
        for section in sections:
            config = config.setdefault(section, {})
        config[field] = value

    return change


def picture(position: int, **operator: Any) -> Change:
    """A change that puts an operator at a place among those of the training pictures."""

    def change(config: dict) -> None:
        dataset = config["DataLoader"]["Train"]["dataset"]
        operators = list(dataset["transform_ops"])
        operators.insert(position, operator)
        dataset["transform_ops"] = operators

    return change


def mixing(*operators: dict, epsilon: float | None = None) -> Change:
    """A change that mixes the pictures of a batch, with or without label smoothing."""

    def change(config: dict) -> None:
        config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] = list(operators)
        config["Loss"]["Train"] = [{"CELoss": {"weight": 1.0, **({"epsilon": epsilon} if epsilon else {})}}]

    return change


def multi_scale(config: dict) -> None:
    """A change to pictures of several sizes."""
    train = config["DataLoader"]["Train"]
    picture(1, RandCropImage={"size": 32})(config)
    train["dataset"]["name"] = "MultiScaleDataset"
    train["sampler"] = {"name": "MultiScaleSampler", "scales": [32, 48], "first_bs": 12, "divided_factor": 16}
    train["sampler"]["is_training"] = True


def optimizer(name: str, **fields: Any) -> Change:
    """A change of the optimizer; the schedule stays."""
    return lambda config: config.update(Optimizer={"name": name, "lr": config["Optimizer"]["lr"], **fields})


def schedule(name: str, **fields: Any) -> Change:
    """A change of the learning rate's schedule."""
    return setting("Optimizer.lr", {"name": name, **fields})


MIXUP = {"MixupOperator": {"alpha": 0.2}}
CUTMIX = {"CutmixOperator": {"alpha": 1.0}}
EITHER = {"OpSampler": {"MixupOperator": {"alpha": 0.8, "prob": 0.5}, "CutmixOperator": {"alpha": 1.0, "prob": 0.5}}}
PICTURES = {
    "AutoAugment": picture(1, AutoAugment=None),
    "RandAugment": picture(1, RandAugment={"num_layers": 2, "magnitude": 5}),
    "RandomErasing": picture(2, RandomErasing={"EPSILON": 1.0}),
    "MixUp": mixing(MIXUP, epsilon=0.1),
    "CutMix": mixing(CUTMIX, epsilon=0.1),
    "MixUp or CutMix": mixing(EITHER, epsilon=0.1),
    "MixUp, no label smoothing": mixing(MIXUP),
    "CutMix, no label smoothing": mixing(CUTMIX),
    "multi-scale": multi_scale,
}
#: All that stand in PaddleClas's own configurations, but for AdamWDL, which is refused.
OPTIMIZERS = {
    "SGD": optimizer("SGD"),
    "Momentum": optimizer("Momentum", momentum=0.9, regularizer={"name": "L2", "coeff": 1e-4}),
    "Adam": optimizer("Adam", beta1=0.9, beta2=0.999),
    "AdamW": optimizer("AdamW", weight_decay=0.05, one_dim_param_no_weight_decay=True, no_weight_decay_name="bias"),
    "RMSProp": optimizer("RMSProp", momentum=0.9, rho=0.9, epsilon=0.001),
}
#: All that stand there; the second half only newer versions have.
SCHEDULES = {
    "Linear": schedule("Linear", learning_rate=0.001),
    "Constant": schedule("Constant", learning_rate=0.001),
    "Cosine": schedule("Cosine", learning_rate="1e-3", warmup_epoch=1, warmup_start_lr="1e-6"),
    "Step": schedule("Step", learning_rate=0.001, step_size=2, gamma=0.97, warmup_epoch=1),
    "Piecewise": schedule("Piecewise", learning_rate=0.001, decay_epochs=[1], values=[0.001, 0.0001]),
    "MultiStepDecay": schedule("MultiStepDecay", learning_rate=0.001, milestones=[1, 2]),
}
NEWER_SCHEDULES = {
    "ConstLR": schedule("ConstLR", learning_rate=0.001),
    "ReduceOnPlateau": schedule("ReduceOnPlateau", learning_rate=0.001, mode="max", by_epoch=True),
    "Cyclic": schedule(
        "Cyclic",
        **{"base_learning_rate": 0.001, "max_learning_rate": 0.01, "warmup_epoch": 0, "warmup_start_lr": 1},
        **{"step_size_up": 2, "step_size_down": 2},
    ),
    "CosineFixmatch": schedule("CosineFixmatch", learning_rate=0.001, num_warmup_steps=0),
    "OneCycleLR": schedule("OneCycleLR", max_learning_rate=0.001),
}
AMP = {"use_amp": True, "scale_loss": 128.0, "use_dynamic_loss_scaling": True}
ENGINE = {
    "sync BN": setting("Arch.use_sync_bn", True),
    "AMP O1": setting("AMP", {**AMP, "level": "O1"}),
    "AMP O2": setting("AMP", {**AMP, "level": "O2"}),
    "VisualDL": setting("Global.use_visualdl", True),
    "EMA": setting("EMA", {"decay": 0.9}),
    "update_freq": setting("Global.update_freq", 2),
}
