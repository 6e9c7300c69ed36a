"""The folder of a run: what lies where in it, and which weights are meant where the folder is named."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.runs.paths import move_paths

logger = logging.getLogger("ppcls_ext")

CONFIG, RECORD, LISTS = "config.yml", "run.json", "lists"
#: The weights that a run's folder stands for: those that were best, else those that were evaluated last.
WEIGHTS = ("best_model.pdparams", "latest.ema.pdparams", "latest.pdparams")


class Run(NamedTuple):
    """A run's folder and the weights in it that are meant; None where there are none yet."""

    folder: Path
    weights: Path | None

    def adopt(self, config: dict) -> None:
        """Points the run's own configuration to where the folder is now, and to the weights.

        Args:
            config: what config.yml in the folder holds; changed in place.
        """
        settings = config["Global"]
        old, here = folder_of(config), self.folder.absolute()
        if old != here:
            move_paths(config, old, here)
        settings["output_dir"] = str(self.folder.parent)
        settings["save_inference_dir"] = str(self.folder / "inference")
        if self.weights is not None:
            settings["pretrained_model"] = str(self.weights)


def folder_of(config: dict) -> Path:
    """Where a training with this configuration writes."""
    return Path(str(config["Global"]["output_dir"])) / str(config["Arch"]["name"])


def find_run(name: str | os.PathLike) -> Run:
    """The run that `name` means: its folder, or a file of weights in it, with or without suffix.

    Raises:
        PpclsExtError: there is no such run.
    """
    path = Path(name)
    path = path if path.name else path.absolute()  # the working directory itself
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise PpclsExtError(
                f"{name} is no run: it holds no {CONFIG}; expected the folder that a training wrote, such as "
                f"output/MobileOne_S0{_runs_below(path)}"
            )
        found = [path / file for file in WEIGHTS if (path / file).is_file()]
        return Run(path, found[0] if found else None)
    for weights in (path, path.with_name(f"{path.name}.pdparams")):
        if weights.is_file() and (weights.parent / CONFIG).is_file():
            return Run(weights.parent, weights)
    raise PpclsExtError(
        f"{name} is no run: expected the folder that a training wrote, such as output/MobileOne_S0, or weights in it"
    )


def need_weights(run: Run) -> Path:
    """The weights of a run.

    Raises:
        PpclsExtError: nothing has been saved yet.
    """
    if run.weights is None:
        raise PpclsExtError(f"{run.folder} holds no weights: its training has not come to the end of an epoch")
    return run.weights


def _runs_below(path: Path) -> str:
    names = sorted(file.parent.name for file in path.glob(f"*/{CONFIG}"))
    return f"; in {path} there is {', '.join(names[:5])}" if names else ""
