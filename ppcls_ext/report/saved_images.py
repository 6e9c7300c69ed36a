"""The option --save-image: predictions as pictures, and sheets of many."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import unused
from ppcls_ext.packages import require
from ppcls_ext.report.prediction import caption, draw_prediction
from ppcls_ext.report.sheets import LARGEST, draw_sheet

#: Longer side of a picture in a figure, px.
SIDE = 400
_SHEET = re.compile(r"sheet-\d+\.png")


class SavedImages:
    """Draws predictions as they come.

    Args:
        target: a PNG file for one picture, a folder for several.
        count: how many pictures will come.

    Raises:
        PpclsExtError: a file for several pictures, or one that is no PNG; or matplotlib is missing.
    """

    def __init__(self, target: str | os.PathLike, count: int) -> None:
        require("matplotlib")  # before the work, not behind it
        self._target = Path(target)
        self._is_file = self._target.suffix.lower() == ".png" and not self._target.is_dir()
        if self._target.suffix and not self._is_file and not self._target.is_dir():
            raise PpclsExtError(f"--save-image is {target}: expected a .png file or a folder")
        if self._is_file and count > 1:
            raise PpclsExtError(f"--save-image is the file {target}, and there are {count} pictures: give a folder")
        self._sheet: list[tuple[np.ndarray, str]] = []
        #: The files written, in order.
        self.written: list[Path] = []

    def add(self, path: str | os.PathLike, picture: np.ndarray, result: Mapping[str, Any]) -> None:
        """Draws one prediction.

        Args:
            path: of the picture's file.
            picture: (H, W, 3) uint8.
            result: "class_ids", "scores", "label_names", as `Classifier` gives them.
        """
        small = Image.fromarray(picture)
        small.thumbnail((SIDE, SIDE))
        picture, title, scores = np.asarray(small), Path(path).name, result["scores"]
        names = result.get("label_names") or [""] * len(scores)
        names = [name or f"class {index}" for name, index in zip(names, result["class_ids"])]
        file = self._target if self._is_file else unused(self._target / f"{Path(path).stem}.png", self._is_taken)
        draw_prediction(picture, names, scores, title, file)
        self.written.append(file)
        self._sheet.append((picture, caption(names, scores, title)))
        if len(self._sheet) == LARGEST:
            self._draw_sheet()

    def finish(self) -> str:
        """Draws what is left for a sheet, which a single picture does not need; says what was written."""
        if self._sheet and len(self.written) > 1:
            self._draw_sheet()
        return f"{len(self.written)} pictures written, the last {self.written[-1]}" if self.written else ""

    def _draw_sheet(self) -> None:
        number = 1 + sum(bool(_SHEET.fullmatch(path.name)) for path in self.written)
        file = self._target / f"sheet-{number:02d}.png"
        draw_sheet(*zip(*self._sheet), "predictions", file)
        self.written.append(file)
        self._sheet = []

    def _is_taken(self, path: Path) -> bool:
        return path in self.written or bool(_SHEET.fullmatch(path.name))
