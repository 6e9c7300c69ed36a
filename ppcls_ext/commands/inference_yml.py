"""inference.yml beside an exported Paddle program, so that PaddleX and `predict` open the folder."""

from __future__ import annotations

import logging
from pathlib import Path

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.configured import describe
from ppcls_ext.files import atomic_write
from ppcls_ext.models.table import MODELS
from ppcls_ext.predict.inference_yml import NAME, to_inference_yml

logger = logging.getLogger("ppcls_ext")


def write_inference_yml(config: dict, folder: str) -> None:
    """Writes it into the folder of the export and prints its path; says so where PaddleX has no words for the pictures.

    Models of PaddleClas's own get none.
    """
    if (config.get("Arch") or {}).get("name") not in MODELS:
        return
    try:
        text = to_inference_yml(describe(config))
    except PpclsExtError as error:
        logger.warning("no %s: %s", NAME, error)
        return
    path = Path(folder) / NAME
    with atomic_write(path, "w", encoding="utf-8") as file:
        file.write(text)
    print(path)
