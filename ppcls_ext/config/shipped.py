"""The shipped configurations: the table of tasks and recipes, and the YAML files rendered from it.

`tools/make_configs.py` writes configs/, and a test holds the files to this table: change the table, not the files.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, NamedTuple

import yaml

from ppcls_ext.models.table import MODELS

Config = dict[str, Any]


class Task(NamedTuple):
    """A data set, and how its images are cropped for evaluation.

    Attributes:
        root: folder of the images and of the lists train_list.txt and val_list.txt.
        example: an image in `root`.
        label_list: file of class names.
        classes: number of classes.
        size: side of the network's square input, px.
        resize_short: shorter side before the centre crop of `size`, px.
        interpolation: the interpolation of every resizing.
        backend: the library that scales: cv2 or pil.
    """

    root: str
    example: str
    label_list: str
    classes: int
    size: int
    resize_short: int
    interpolation: str = "bilinear"
    backend: str = "cv2"


class Recipe(NamedTuple):
    """How one model is trained on one task.

    Attributes:
        model: its factory's name.
        task: the data set.
        header: comment on top of the file: the command and what to expect.
        epochs: their number.
        batch_size: images per process.
        optimizer: PaddleClas's section.
        crop_scale: smallest and largest share of the image's area in a training crop.
        flip: whether training images are mirrored at random.
        augmentation: operators between flip and normalisation.
        batch_augmentation: operators on whole batches (mixup, …).
        label_smoothing: epsilon of the cross entropy.
        sections: further top-level sections.
        arch: further arguments of the factory.
        overrides: changes of the section Global.
        workers: number of processes that read images.
        train_size: px, where it differs from the task's size.
    """

    model: str
    task: Task
    header: str
    epochs: int
    batch_size: int
    optimizer: Config
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    augmentation: tuple[Config, ...] = ()
    batch_augmentation: tuple[Config, ...] = ()
    label_smoothing: float = 0.1
    sections: Config = {}
    arch: Config = {}
    overrides: Config = {}
    workers: int = 2
    train_size: int | None = None


FLOWERS102 = Task(
    root="./dataset/flowers102/",
    example="jpg/image_00001.jpg",
    label_list="./dataset/flowers102/flowers102_label_list.txt",
    classes=102,
    size=224,
    resize_short=256,
)


DIGITS = Task(
    root="./dataset/digits/",
    example="images",
    label_list="./dataset/digits/digits_label_list.txt",
    classes=10,
    size=64,
    resize_short=64,
)


IMAGENET = Task(
    root="./dataset/ILSVRC2012/",
    example="val",
    label_list="ppcls/utils/imagenet1k_label_list.txt",  # comes with PaddleClas
    classes=1000,
    size=224,
    resize_short=256,
)


SHAPES = Task(
    root="dataset/shapes/",
    example="images/val/00000.png",
    label_list="dataset/shapes/label_list.txt",
    classes=3,
    size=96,
    resize_short=96,
)


def to_config(recipe: Recipe) -> Config:
    """The recipe in PaddleClas's sections."""
    task = recipe.task
    scaling: Config = {"interpolation": task.interpolation, "backend": task.backend}
    decode: Config = {"DecodeImage": {"to_rgb": True, "channel_first": False}}
    normalize: Config = {
        "NormalizeImage": {
            "scale": "1.0/255.0",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "order": "",
        }
    }
    train_ops: list[Config] = [
        decode,
        {"RandCropImage": {"size": recipe.train_size or task.size, "scale": list(recipe.crop_scale), **scaling}},
    ]
    if recipe.flip:
        train_ops.append({"RandFlipImage": {"flip_code": 1}})
    train_ops += [*recipe.augmentation, normalize]
    eval_ops: list[Config] = [
        decode,
        {"ResizeImage": {"resize_short": task.resize_short, **scaling}},
        {"CropImage": {"size": task.size}},
        normalize,
    ]
    top_1_and_5 = [{"TopkAcc": {"topk": [1, 5]}}]
    train = _loader(task, "train_list.txt", train_ops, recipe.batch_size, recipe.workers, training=True)
    if recipe.batch_augmentation:
        train["dataset"]["batch_transform_ops"] = list(recipe.batch_augmentation)
    return {
        "Global": {
            "checkpoints": None,
            "pretrained_model": None,
            "output_dir": "./output/",
            "device": "auto",
            "save_interval": 0,  # the best and the latest model are kept, no others
            "eval_during_train": True,
            "eval_interval": 1,
            "epochs": recipe.epochs,
            "print_batch_step": 10,
            "use_visualdl": False,
            "image_shape": [3, task.size, task.size],
            "save_inference_dir": "./inference",
            **recipe.overrides,
        },
        "Arch": {"name": recipe.model, "class_num": task.classes, **recipe.arch},
        "Loss": {
            "Train": [{"CELoss": {"weight": 1.0, "epsilon": recipe.label_smoothing}}],
            "Eval": [{"CELoss": {"weight": 1.0}}],
        },
        "Optimizer": recipe.optimizer,
        **recipe.sections,
        "DataLoader": {
            "Train": train,
            "Eval": _loader(task, "val_list.txt", eval_ops, 64, recipe.workers, training=False),
        },
        "Infer": {
            "infer_imgs": task.root + task.example,
            "batch_size": 10,
            "transforms": [*eval_ops, {"ToCHWImage": None}],
            "PostProcess": {"name": "Topk", "topk": 5, "class_id_map_file": task.label_list},
        },
        # mixed labels have no accuracy
        "Metric": {"Train": None if recipe.batch_augmentation else top_1_and_5, "Eval": top_1_and_5},
    }


def _loader(task: Task, file_list: str, ops: list[Config], batch_size: int, workers: int, training: bool) -> Config:
    return {
        "dataset": {
            "name": "ImageNetDataset",
            "image_root": task.root,
            "cls_label_path": task.root + file_list,
            "transform_ops": ops,
        },
        "sampler": {
            "name": "DistributedBatchSampler",
            "batch_size": batch_size,
            "drop_last": training,
            "shuffle": training,
        },
        "loader": {"num_workers": workers, "use_shared_memory": False},
    }


class Dumper(yaml.SafeDumper):
    """Writes lists of plain values on one line, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """No anchors."""
        return True

    def represent_list(self, data: Any) -> yaml.SequenceNode:
        """Plain values stand on one line."""
        plain = not any(isinstance(item, (list, dict)) for item in data)
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=plain)

    def represent_nothing(self, data: None) -> yaml.Node:
        """A null that can be seen."""
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


Dumper.add_representer(list, Dumper.represent_list)
Dumper.add_representer(type(None), Dumper.represent_nothing)


def render(recipe: Recipe) -> str:
    """The YAML file of one recipe."""
    return render_sections(recipe.header, to_config(recipe))


def render_sections(header: str, config: Config) -> str:
    """A YAML file: the header as a comment, then the sections, with a blank line around each that has parts."""
    text = "".join(f"# {line}".rstrip() + "\n" for line in header.strip().split("\n"))
    before: Any = {}
    for number, (name, section) in enumerate(config.items()):
        if number and (isinstance(section, dict) or isinstance(before, dict)):
            text += "\n"
        text += yaml.dump({name: section}, Dumper=Dumper, sort_keys=False, width=120, allow_unicode=True)
        before = section
    return text


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
    header = f"""{model} on Oxford Flowers102: fine-tuning on the 1020 training images.
  ppcls-ext prepare-flowers102 --download
  ppcls-ext train -c {model} -o Global.pretrained_model={weights}
ImageNet's weights, published or from a file, fused or not (ppcls-ext docs weights): without them 1020 images
teach the net little."""
    return Recipe(
        model=model,
        task=FLOWERS102,
        header=header,
        epochs=40,
        batch_size=32,
        optimizer=_adamw(0.05, {"name": "Cosine", "learning_rate": 3.0e-4, "warmup_epoch": 1}),
        # from weights that have learnt, four conv branches learn no better, and take twice the time
        arch={"num_conv_branches": 1} if model == "MobileOne_S0" else {},
        crop_scale=(0.35, 1.0),
        augmentation=({"ColorJitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}},),
        batch_augmentation=_mixup_or_cutmix(0.2, 0.3, 0.4),
        sections={
            "Recipe": {
                "ema": {"decay": 0.995},
                "head_learning_rate": 10,
                "clip_global_norm": 5.0,
                "precise_statistics": {},
            }
        },
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
    training: Config = {"progressive": [{"epoch": 1, "size": 192}, {"epoch": 281, "size": 224}]}
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


def _without_family(name: str) -> str:
    return re.sub(r"^ImageNet/\w+/", "ImageNet/", name)


#: Path below configs/, without its suffix → key of `RECIPES`.
_FILES = {path.rsplit(".", 1)[0]: path for path in RECIPES}
#: Name → key of `RECIPES`.
SHIPPED = {_without_family(name): path for name, path in _FILES.items()}


def shipped(name: str) -> str | None:
    """The text of the configuration `name`; None where none is called so."""
    path = SHIPPED.get(name) or _FILES.get(name)
    return None if path is None else render(RECIPES[path])


def nearest(name: str) -> list[str]:
    """Names that resemble `name`, a name or a path; the likeliest first."""
    wanted = _without_family(re.sub(r"^.*configs/|\.ya?ml$", "", name))
    return difflib.get_close_matches(wanted, SHIPPED, n=3)
