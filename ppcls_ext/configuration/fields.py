"""The fields that a mode needs, and those that an older PaddleClas leaves out."""

from __future__ import annotations

import logging
from typing import Any

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.locate import activate
from ppcls_ext.models.table import MODELS

logger = logging.getLogger("ppcls_ext")


#: Fields without which the engine fails somewhere inside.
REQUIRED = {
    "train": (
        *("Global.output_dir", "Global.epochs", "Global.print_batch_step"),
        *("Global.eval_during_train", "Global.eval_interval"),
        *("Arch.name", "Loss.Train", "Optimizer", "DataLoader.Train"),
    ),
    "eval": ("Global.output_dir", "Global.print_batch_step", "Arch.name", "DataLoader.Eval", "Metric.Eval"),
    "infer": (
        *("Global.output_dir", "Arch.name", "Infer.infer_imgs", "Infer.batch_size", "Infer.transforms"),
        "Infer.PostProcess.name",
    ),
    "export": ("Global.output_dir", "Global.image_shape", "Global.save_inference_dir", "Arch.name"),
}


#: Fields of newer engines that an older one would leave out without a word: by mode, field and the text in its source.
NEWER = {
    "train": {
        "EMA": '"EMA"',
        "Global.train_mode": '"train_mode"',
        "Global.update_freq": '"update_freq"',
        "Global.uniform_output_enabled": "uniform_output_enabled",
    },
    "export": {"Global.export_for_fd": "export_for_fd"},
}


def require_fields(config: dict, mode: str) -> None:
    """Raises PpclsExtError for the first field that `mode` needs and the configuration lacks."""
    evaluates = mode == "train" and _get(config, "Global.eval_during_train")
    for path in (*REQUIRED[mode], *(("DataLoader.Eval", "Metric.Eval") if evaluates else ())):
        if _get(config, path) is None:
            raise PpclsExtError(f"the configuration has no {path}, which {mode} needs: add it, or -o {path}=…")
    for loader in [*(["Train"] if mode == "train" else []), *(["Eval"] if evaluates or mode == "eval" else [])]:
        _require_loader(config, f"DataLoader.{loader}")
    if is_ours(config) and config["Arch"].get("class_num") == 0:
        raise PpclsExtError("Arch.class_num is 0, which leaves the classifier out: give the number of classes")


def _require_loader(config: dict, path: str) -> None:
    """What PaddleClas's `build_dataloader` asks for; retrieval has its own layout."""
    if not isinstance(_get(config, path), dict) or {"Gallery", "Query"} & set(_get(config, path)):
        return
    fields = ["dataset.name", "sampler", "loader.num_workers", "loader.use_shared_memory"]
    if _get(config, f"{path}.sampler.name") is None:
        fields += ["sampler.batch_size", "sampler.drop_last", "sampler.shuffle"]
    for field in fields:
        if _get(config, f"{path}.{field}") is None:
            raise PpclsExtError(f"the configuration has no {path}.{field}: add it, or -o {path}.{field}=…")


def _get(config: dict, path: str) -> Any:
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def fill_in(config: dict, mode: str) -> None:
    """What the engine reads in every mode although it means nothing there, and a switch that 2.4 does not know."""
    for field, value in (("checkpoints", None), ("pretrained_model", None), ("use_visualdl", False), ("epochs", 1)):
        config["Global"].setdefault(field, value)
    for section in ("DataLoader", "Metric"):
        config[section] = config.get(section) or {}
    if mode == "export":
        config["Metric"].setdefault("Eval", [{}])
    config.setdefault("profiler_options", None)
    if config.get("AMP") and not config["AMP"].get("use_amp", True):
        config["AMP"] = None  # PaddleClas 2.4 turns AMP on for any AMP section


def warn_about_newer_fields(config: dict, mode: str) -> None:
    """Logs the fields that this PaddleClas would leave out without a word."""
    if mode not in NEWER:
        return
    paddleclas = activate(need_engine=True)
    source = (paddleclas.path / "ppcls" / "engine" / "engine.py").read_text(encoding="utf-8")
    for field, text in NEWER[mode].items():
        if _get(config, field) and text not in source:
            logger.warning("%s is left out: PaddleClas %s cannot do it", field, paddleclas.version)


def is_ours(config: dict) -> bool:
    """Whether the architecture is one of this project's models, on its own."""
    return config["Arch"]["name"] in MODELS
