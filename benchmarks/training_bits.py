"""The exact result of short trainings, as hashes: two versions of the training loop have to print the same lines.

    python benchmarks/training_bits.py > before.txt    # at one commit, on one PaddleClas
    python benchmarks/training_bits.py > after.txt     # at the other: diff before.txt after.txt

Each line stands for two epochs of a network on 24 images of 32 px, seeded, on one thread and without loading processes:
the SHA-256 of all numbers in its checkpoints (weights, averages, optimizers) and of the figures of its epochs. An
interrupted training that was resumed has the hash of the uninterrupted one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import yaml
from PIL import Image

MODELS = ("MobileOne_S0", "RepVGG_A0", "FasterNet_T0")
PICTURES, SIZE, CLASSES = 24, 32, 2
#: Columns of metrics.csv that are figures of an epoch, and no times.
FIGURES = ("epoch", "step", "learning_rate", "train_", "eval_")
CROP, POLICY = {"RandCropImage": {"size": SIZE}}, {"RandAugment": {"num_layers": 2, "magnitude": 5}}


def write_pictures(folder: Path) -> None:
    """Writes the pictures, `list.txt` with their classes, and `names.txt`."""
    rng = np.random.default_rng(0)
    lines = []
    for index in range(PICTURES):
        label = index % CLASSES
        pixels = rng.integers(0, 80, (SIZE, SIZE, 3))
        pixels[..., label] += 120
        Image.fromarray(pixels.astype("uint8")).save(folder / f"{index:02}.png")
        lines.append(f"{index:02}.png {label}\n")
    (folder / "list.txt").write_text("".join(lines))
    (folder / "names.txt").write_text("0 red\n1 green\n")


def base(model: str, folder: Path) -> dict[str, Any]:
    """The configuration that the variants change."""
    decode = {"DecodeImage": {"to_rgb": True, "channel_first": False}}
    normalize = {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}}

    def loader(training: bool) -> dict[str, Any]:
        dataset = {"name": "ImageNetDataset", "image_root": str(folder), "cls_label_path": str(folder / "list.txt")}
        flip = [{"RandFlipImage": {"flip_code": 1}}] if training else []
        sampler = {"name": "DistributedBatchSampler", "batch_size": 4, "drop_last": False, "shuffle": training}
        return {
            "dataset": {**dataset, "transform_ops": [decode, *flip, normalize]},
            "sampler": sampler,
            "loader": {"num_workers": 0, "use_shared_memory": False},
        }

    settings = {"checkpoints": None, "pretrained_model": None, "output_dir": "output", "device": "cpu"}
    settings |= {"save_interval": 1, "eval_during_train": True, "eval_interval": 1, "epochs": 2, "print_batch_step": 1}
    settings |= {"use_visualdl": False, "image_shape": [3, SIZE, SIZE], "save_inference_dir": "inference", "seed": 1}
    schedule = {"name": "Cosine", "learning_rate": 0.01}
    accuracy = [{"TopkAcc": {"topk": [1, 2]}}]
    return {
        "Global": settings,
        "Arch": {"name": model, "class_num": CLASSES},
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {"name": "Momentum", "momentum": 0.9, "lr": schedule},
        "DataLoader": {"Train": loader(True), "Eval": loader(False)},
        "Metric": {"Train": accuracy, "Eval": accuracy},
    }


def _recipe(**fields: Any) -> Callable[[dict], None]:
    return lambda config: config.update(Recipe=fields)


def _progressive(config: dict) -> None:
    operators = config["DataLoader"]["Train"]["dataset"]["transform_ops"]
    config["DataLoader"]["Train"]["dataset"]["transform_ops"] = [operators[0], CROP, POLICY, *operators[1:]]
    stages = [{"epoch": 1, "size": 24, "strength": 0.3}, {"epoch": 2, "size": SIZE, "strength": 1.0}]
    config["Recipe"] = {"progressive": stages}


def _mixed(config: dict) -> None:
    config["DataLoader"]["Train"]["dataset"]["batch_transform_ops"] = [{"MixupOperator": {"alpha": 0.2}}]
    config["Loss"]["Train"] = [{"CELoss": {"weight": 1.0, "epsilon": 0.1}}]
    config["Optimizer"] = {"name": "AdamW", "lr": config["Optimizer"]["lr"]}
    decay = {"start": 0.1, "end": 0.01}
    config["Recipe"] = {"weight_decay": decay, "ema": {"decay": 0.9}, "head_learning_rate": 2, "clip_global_norm": 1}


VARIANTS: dict[str, Callable[[dict], None]] = {
    "plain": lambda config: None,
    "ema": _recipe(ema={"decay": 0.9}),
    "update_freq": lambda config: config["Global"].update(update_freq=2),
    "progressive": _progressive,
    "clip": _recipe(clip_global_norm=0.1, weight_decay={"start": 1.0e-4, "end": 1.0e-5}),
    "custom_l2": _recipe(custom_l2=1.0e-4),
    "mixed": _mixed,
    "host_ema": lambda config: config.update(EMA={"decay": 0.9}),
    "by_epoch": lambda config: config["Optimizer"]["lr"].update(by_epoch=True),
    "interrupted": _recipe(ema={"decay": 0.9}),
}


def parts(name: str, value: Any) -> Iterator[tuple[str, bytes]]:
    """Every number and text in nested dicts and lists, with its place."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield from parts(f"{name}/{key}", value[key])
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from parts(f"{name}/{index}", item)
    else:
        value = value.numpy() if hasattr(value, "numpy") else value
        content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        yield f"{name} {getattr(value, 'dtype', '')} ", content


def hash_of_run(folder: Path) -> str:
    """The SHA-256 of what a run's checkpoints hold and of the figures of its epochs."""
    import paddle

    found = {path.name: paddle.load(str(path)) for path in sorted(folder.glob("*.pd*"))}
    with open(folder / "metrics.csv", newline="") as stream:
        for index, row in enumerate(csv.DictReader(stream)):
            found[f"row {index}"] = {name: value for name, value in row.items() if name.startswith(FIGURES)}
    digest = hashlib.sha256()
    for name, value in found.items():
        for place, content in parts(name, value):
            digest.update(place.encode() + content)
    return digest.hexdigest()


@contextlib.contextmanager
def _interrupted_at(step: int) -> Iterator[None]:
    """Inside, the update number `step` of the weights is interrupted as by Ctrl-C."""
    from paddle.optimizer import Optimizer

    done, before = 0, Optimizer.step

    def count(self: Any) -> None:
        nonlocal done
        done += 1
        if done == step:
            raise KeyboardInterrupt
        before(self)

    Optimizer.step = count
    try:
        yield
    finally:
        Optimizer.step = before


def train(config: dict, variant: str) -> str:
    """Trains in the present folder; returns the hash."""
    import paddle

    from ppcls_ext.commands.train import main
    from ppcls_ext.errors import Interrupted

    Path("config.yml").write_text(yaml.safe_dump(json.loads(json.dumps(config)), sort_keys=False))  # no aliases
    with contextlib.redirect_stdout(sys.stderr):
        if variant == "interrupted":
            # optimizers and checkpoints know parameters by names that a process counts
            with paddle.utils.unique_name.guard(), _interrupted_at(9), contextlib.suppress(Interrupted):
                main(["-c", "config.yml"])
        with paddle.utils.unique_name.guard():
            main(["-c", "config.yml", *(["--resume"] if variant == "interrupted" else [])])
    return hash_of_run(Path("output", config["Arch"]["name"]))


def main() -> None:
    """Prints a line for each network and variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--variants", nargs="+", default=[*VARIANTS], choices=[*VARIANTS])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        pictures = Path(root, "pictures")
        pictures.mkdir()
        write_pictures(pictures)
        for model in args.models:
            for variant in args.variants:
                if variant == "custom_l2" and not model.startswith("RepVGG"):
                    continue
                config = copy.deepcopy(base(model, pictures))
                VARIANTS[variant](config)
                folder = Path(root, model, variant)
                folder.mkdir(parents=True)
                os.chdir(folder)
                print(model, variant, train(config, variant), flush=True)


if __name__ == "__main__":
    main()
