"""A recipe as the YAML file that PaddleClas reads."""

from __future__ import annotations

from typing import Any

import yaml

from ppcls_ext.config_table.recipe import Config, Recipe, Task


def to_config(recipe: Recipe) -> Config:
    """The recipe in PaddleClas's sections."""
    task = recipe.task
    scaling = {"interpolation": task.interpolation, "backend": task.backend}
    decode = {"DecodeImage": {"to_rgb": True, "channel_first": False}}
    normalize = {
        "NormalizeImage": {
            "scale": "1.0/255.0",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
            "order": "",
        }
    }
    train_ops = [
        decode,
        {"RandCropImage": {"size": recipe.train_size or task.size, "scale": list(recipe.crop_scale), **scaling}},
    ]
    if recipe.flip:
        train_ops.append({"RandFlipImage": {"flip_code": 1}})
    train_ops += [*recipe.augmentation, normalize]
    eval_ops = [
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

    def represent_list(self, data: list) -> yaml.Node:
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
