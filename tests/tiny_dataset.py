"""A tiny data set with its configuration, and the tools run as a user runs them."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
IMAGES, SIZE = 24, 32  # SIZE in px


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Path:
    """24 PNGs of two classes, red and green; 20 of them in the validation list."""
    root = tmp_path_factory.mktemp("data")
    (root / "png").mkdir()
    rng = np.random.default_rng(0)
    lines = []
    for index in range(IMAGES):
        label = index % 2
        pixels = rng.integers(0, 80, (SIZE, SIZE, 3))
        pixels[..., label] += 120
        Image.fromarray(pixels.astype("uint8")).save(root / "png" / f"{index:02}.png")
        lines.append(f"png/{index:02}.png {label}\n")
    (root / "train_list.txt").write_text("".join(lines))
    (root / "val_list.txt").write_text("".join(lines[:20]))
    (root / "names.txt").write_text("0 red\n1 green\n")
    return root


@pytest.fixture(scope="session")
def base_config(dataset) -> dict:
    decode = {"DecodeImage": {"to_rgb": True, "channel_first": False}}
    normalize = {"NormalizeImage": {"scale": "1.0/255.0", "mean": [0.5] * 3, "std": [0.5] * 3, "order": ""}}

    def loader(name: str, training: bool) -> dict:
        return {
            "dataset": {
                "name": "ImageNetDataset",
                "image_root": str(dataset),
                "cls_label_path": str(dataset / name),
                "transform_ops": [decode, normalize],
            },
            "sampler": {
                "name": "DistributedBatchSampler",
                "batch_size": 8,
                "drop_last": False,
                "shuffle": training,
            },
            "loader": {"num_workers": 0, "use_shared_memory": False},
        }

    accuracy = [{"TopkAcc": {"topk": [1, 2]}}]
    return {
        "Global": {
            "checkpoints": None,
            "pretrained_model": None,
            "output_dir": "output",
            "device": "auto",
            "save_interval": 1,
            "eval_during_train": True,
            "eval_interval": 1,
            "epochs": 1,
            "print_batch_step": 1,
            "use_visualdl": False,
            "image_shape": [3, SIZE, SIZE],
            "save_inference_dir": "inference",
            "seed": 1,
        },
        "AMP": {"use_amp": False, "level": "O1"},
        "Arch": {"name": "MobileOne_S0", "class_num": 2},
        "Loss": {"Train": [{"CELoss": {"weight": 1.0}}], "Eval": [{"CELoss": {"weight": 1.0}}]},
        "Optimizer": {"name": "Momentum", "momentum": 0.9, "lr": {"name": "Cosine", "learning_rate": 0.01}},
        "DataLoader": {"Train": loader("train_list.txt", True), "Eval": loader("val_list.txt", False)},
        "Infer": {
            "infer_imgs": str(dataset / "png"),
            "batch_size": 7,
            "transforms": [decode, normalize, {"ToCHWImage": None}],
            "PostProcess": {"name": "Topk", "topk": 2, "class_id_map_file": str(dataset / "names.txt")},
        },
        "Metric": {"Train": accuracy, "Eval": accuracy},
    }


@pytest.fixture
def config(base_config) -> dict:
    """The configuration, free to be changed."""
    return copy.deepcopy(base_config)


@pytest.fixture(scope="session")
def config_file(base_config, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yml"
    path.write_text(yaml.safe_dump(base_config, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def run_tool():
    """Runs tools/NAME.py, or `python -m ppcls_ext` for the name "-m", in the folder `cwd`."""

    def run(name: str, *arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess:
        command = ["-m", "ppcls_ext"] if name == "-m" else [str(ROOT / "tools" / f"{name}.py")]
        return subprocess.run(
            [sys.executable, *command, *map(str, arguments)],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


@pytest.fixture(scope="session")
def registered() -> None:
    """PaddleClas with our models, in this process."""
    import ppcls_ext
    from ppcls_ext.hosts.paddleclas import adaptations, samplers

    samplers.publish()
    adaptations.apply()
    ppcls_ext.register()


def as_multi_label(config: dict, dataset: Path, folder: Path) -> dict:
    """A configuration of the tiny data set with three labels an image: red, green and dark, which every third is.

    Args:
        config: that of one class an image.
        dataset: the folder of the images.
        folder: for the lists.
    """
    config = copy.deepcopy(config)
    for loader, name in (("Train", "train_list.txt"), ("Eval", "val_list.txt")):
        rows = []
        for index, line in enumerate((dataset / name).read_text().splitlines()):
            path, label = line.split()
            rows.append(f"{path}\t{1 - int(label)},{label},{int(index % 3 == 0)}\n")
        (folder / f"multi_{name}").write_text("".join(rows))
        data = config["DataLoader"][loader]["dataset"]
        data.update(name="MultiLabelDataset", cls_label_path=str(folder / f"multi_{name}"))
    (folder / "multi_names.txt").write_text("0 red\n1 green\n2 dark\n")
    config["Infer"]["PostProcess"] = {"name": "MultiLabelTopk", "class_id_map_file": str(folder / "multi_names.txt")}
    config["Arch"]["class_num"] = 3
    config["Global"]["use_multilabel"] = True
    config["Loss"] = {when: [{"MultiLabelLoss": {"weight": 1.0}}] for when in ("Train", "Eval")}
    config["Metric"] = {"Train": None, "Eval": [{"HammingDistance": None}, {"AccuracyScore": None}]}
    return config


def as_packed(config: dict, dataset: Path, folder: Path) -> dict:
    """The configuration, changed in place, with the images of both lists in three shards each, in a new folder."""
    from ppcls_ext.data.lists import list_text, read_list
    from ppcls_ext.data.shards import write_shards

    for loader in ("Train", "Eval"):
        settings = config["DataLoader"][loader]["dataset"]
        images = read_list(Path(settings["cls_label_path"]), dataset, 2)
        labels = images.targets.tolist()
        pairs = list(zip(images.names(), labels))
        paths = write_shards(folder, loader.lower(), pairs, lambda path: (dataset / path).read_bytes(), 3)
        (folder / f"{loader}.txt").write_text(list_text(zip(paths, labels)))
        settings.update(image_root=str(folder), cls_label_path=str(folder / f"{loader}.txt"))
    return config
