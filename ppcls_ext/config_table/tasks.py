"""The data sets."""

from __future__ import annotations

from ppcls_ext.config_table.recipe import Task

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
