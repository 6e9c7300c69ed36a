"""The text of every file in configs/."""

from __future__ import annotations

from ppcls_ext.config_table.detection import DETECTION
from ppcls_ext.config_table.recipes import RECIPES
from ppcls_ext.config_table.render import render, render_sections
from ppcls_ext.config_table.segmentation import SEGMENTATION


def config_files() -> dict[str, str]:
    """Path below configs/ → text."""
    downstream = {**DETECTION, **SEGMENTATION}
    return {
        **{name: render(recipe) for name, recipe in RECIPES.items()},
        **{name: render_sections(header, config) for name, (header, config) in downstream.items()},
    }
