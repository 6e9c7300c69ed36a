"""How one model is trained on one data set."""

from __future__ import annotations

from typing import Any, NamedTuple

Config = dict[str, Any]


class Task(NamedTuple):
    """A data set, and how its pictures are cut for evaluation.

    Attributes:
        root: folder of the pictures and of the lists train_list.txt and val_list.txt.
        example: a picture in `root`.
        label_list: file of class names.
        classes: their number.
        size: of the square that the network sees, px.
        resize_short: shorter side before the centre crop of `size`, px.
        interpolation: for every scaling.
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
        task: the data.
        header: comment on top of the file: the command and what to expect.
        epochs: in all.
        batch_size: images per process.
        optimizer: PaddleClas's section.
        crop_scale: smallest and largest share of the picture's area in a training crop.
        flip: whether training pictures are mirrored at random.
        augmentation: operators between flip and normalisation.
        batch_augmentation: operators on whole batches (mixup, …).
        label_smoothing: epsilon of the cross entropy.
        sections: further top-level sections.
        arch: further arguments of the factory.
        overrides: of the section Global.
        workers: processes that read pictures.
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
