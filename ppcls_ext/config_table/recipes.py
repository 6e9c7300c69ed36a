"""The table from which all files in configs/ are written.

`tools/make_configs.py` writes them, and a test holds them to this table: change the table, not the files.
"""

from __future__ import annotations

from ppcls_ext.config_table.recipe import Config, Recipe
from ppcls_ext.config_table.tasks import DIGITS, FLOWERS102, IMAGENET
from ppcls_ext.models.table import MODELS


def _momentum(learning_rate: float, decay: float | None, warmup: int = 0) -> Config:
    lr = {"name": "Cosine", "learning_rate": learning_rate}
    if warmup:
        lr["warmup_epoch"] = warmup
    optimizer: Config = {"name": "Momentum", "momentum": 0.9, "lr": lr}
    if decay is not None:
        optimizer["regularizer"] = {"name": "L2", "coeff": decay}
    return optimizer


def _adamw(decay: float, lr: Config) -> Config:
    return {
        "name": "AdamW",
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1.0e-8,
        "weight_decay": decay,
        "one_dim_param_no_weight_decay": True,
        "lr": lr,
    }


def _mixup_or_cutmix(alpha: float, mixup: float, cutmix: float) -> tuple[Config, ...]:
    """One of both, or neither, for each batch.

    Args:
        alpha: mixup's.
        mixup: its share of the batches.
        cutmix: its share of the batches.
    """
    operators = {
        "MixupOperator": {"alpha": alpha, "prob": mixup},
        "CutmixOperator": {"alpha": 1.0, "prob": cutmix},
    }
    return ({"OpSampler": operators},)


def _digits() -> Recipe:
    header = """MobileOne_S0 on 1297 handwritten digits at 64 px: the demonstration (`make demo`).
  ppcls-ext make-sample-dataset
  ppcls-ext train -c digits/MobileOne_S0
Expect top-1 about 0.95 on the 500 held-out digits, in a few minutes on two CPU cores."""
    return Recipe(
        model="MobileOne_S0",
        task=DIGITS,
        header=header,
        epochs=8,
        batch_size=32,
        optimizer=_momentum(0.05, 1e-4, warmup=1),
        crop_scale=(0.85, 1.0),
        flip=False,  # a mirrored digit is another sign
        label_smoothing=0.0,
        # MobileOne's 1024 features are large: the classifier oscillates at the rate that the branches need
        sections={"Recipe": {"head_learning_rate": 0.03}},
        overrides={"seed": 42, "eval_interval": 4},
    )


def _flowers(model: str) -> Recipe:
    # where no accuracy is published, no weights are
    weights = "published" if MODELS[model].published_top1 else "FILE"
    header = f"""{model} on Oxford Flowers102: fine-tuning on the 1020 training pictures.
  ppcls-ext prepare-flowers102 --download
  ppcls-ext train -c {model} -o Global.pretrained_model={weights}
ImageNet's weights, published or from a file, fused or not (README, "Published weights"): without them 1020 pictures
teach the net little."""
    return Recipe(
        model=model,
        task=FLOWERS102,
        header=header,
        epochs=40,
        batch_size=32,
        optimizer=_adamw(0.05, {"name": "Cosine", "learning_rate": 3.0e-4, "warmup_epoch": 1}),
        crop_scale=(0.35, 1.0),
        augmentation=({"ColorJitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}},),
        batch_augmentation=_mixup_or_cutmix(0.2, 0.3, 0.4),
        sections={"Recipe": {"ema": {"decay": 0.995}, "head_learning_rate": 10, "clip_global_norm": 5.0}},
    )


def _imagenet_header(model: str, recipe: str, processes: int, extension: str = "") -> str:
    top1 = MODELS[model].published_top1
    expected = f"Published: top-1 {top1} %" if top1 else "No accuracy is published for this variant"
    return f"""{model} on ImageNet: the published recipe ({recipe}).
  python -m paddle.distributed.launch --gpus={",".join(map(str, range(processes)))} \\
      $(which ppcls-ext) train -c ImageNet/{model}
{expected}. Not trained here.{extension}"""


def _mobileone_imagenet(model: str) -> Recipe:
    large = model[-1] in "234"
    recipe: Config = {"ema": {"decay": 0.9995, "warmup": False}, "weight_decay": {"start": 1.0e-4, "end": 1.0e-5}}
    if large:
        recipe["progressive"] = [
            {"epoch": 1, "size": 160, "strength": 0.3},
            {"epoch": 39, "size": 192, "strength": 0.6},
            {"epoch": 114, "size": 224, "strength": 1.0},
        ]
    return Recipe(
        model=model,
        task=IMAGENET,
        header=_imagenet_header(model, "arXiv 2206.04040, appendix", 4),
        epochs=300,
        batch_size=64,
        optimizer=_momentum(0.1, None),
        augmentation=({"AutoAugment": None},) if large else (),
        sections={"Recipe": recipe},
        workers=4,
    )


def _repvgg_imagenet(model: str) -> Recipe:
    strong = model[7:9] in ("B2", "B3", "D2")
    task = IMAGENET
    if model == "RepVGG_D2se":  # evaluated at 320 px
        task = task._replace(size=320, resize_short=320, interpolation="bicubic", backend="pil")
    return Recipe(
        model=model,
        task=task,
        header=_imagenet_header(model, "arXiv 2101.03697, section 4.1", 4),
        epochs=200 if strong else 120,
        batch_size=64,
        optimizer=_momentum(0.1, 1e-4, warmup=5 if strong else 0),
        augmentation=({"AutoAugment": None},) if strong else (),
        batch_augmentation=({"MixupOperator": {"alpha": 0.2}},) if strong else (),
        label_smoothing=0.1 if strong else 0.0,
        train_size=224,
        workers=4,
    )


#: Weight decay, mixup alpha, RandAugment magnitude, clipping of FasterNet (official cfg/*.yaml).
FASTERNET_RECIPES = {
    "FasterNet_T0": (0.005, 0.05, None, None),
    "FasterNet_T1": (0.01, 0.1, 3, None),
    "FasterNet_T2": (0.02, 0.1, 5, None),
    "FasterNet_S": (0.03, 0.3, 7, None),
    "FasterNet_M": (0.05, 0.5, 7, 1.0),
    "FasterNet_L": (0.05, 0.7, 7, 0.01),
}


def _fasternet_imagenet(model: str) -> Recipe:
    decay, mixup, magnitude, clip = FASTERNET_RECIPES[model]
    reference, rate = (2048, 0.002) if model[-1] in "ML" else (4096, 0.004)
    batch_size, processes = 128, 8
    note = f"""
The published learning rate, {rate} per {reference} images, is scaled: {batch_size} images on {processes} processes."""
    lr = {
        "name": "Cosine",
        "learning_rate": rate * batch_size * processes / reference,
        "warmup_epoch": 20,
        "warmup_start_lr": 1.0e-6,
        "eta_min": 1.0e-5,
    }
    training = {"progressive": [{"epoch": 1, "size": 192}, {"epoch": 281, "size": 224}]}
    if clip:
        training["clip_global_norm"] = clip
    return Recipe(
        model=model,
        task=IMAGENET._replace(resize_short=248, interpolation="bicubic", backend="pil"),  # crop ratio 0.9
        header=_imagenet_header(model, "arXiv 2303.03667, appendix", processes, note),
        epochs=300,
        batch_size=batch_size,
        optimizer=_adamw(decay, lr),
        augmentation=({"TimmAutoAugment": {"config_str": f"rand-m{magnitude}-mstd0.5-inc1"}},) if magnitude else (),
        batch_augmentation=_mixup_or_cutmix(mixup, 0.5, 0.5),
        sections={"Recipe": training},
        workers=4,
    )


_IMAGENET = {"MobileOne": _mobileone_imagenet, "RepVGG": _repvgg_imagenet, "FasterNet": _fasternet_imagenet}

#: Path below configs/ → recipe.
RECIPES = {"digits/MobileOne_S0.yml": _digits()}
for _model in MODELS:
    _family = _model.split("_")[0]
    RECIPES[f"{_model}.yml"] = _flowers(_model)
    RECIPES[f"ImageNet/{_family}/{_model}.yaml"] = _IMAGENET[_family](_model)
