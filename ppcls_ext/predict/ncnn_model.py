"""ncnn's files of one export: MODEL.ncnn.param, MODEL.ncnn.bin, and MODEL.ncnn.json, which describes both."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext import cpu
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.onnx_file import ends_in_logits, require_file
from ppcls_ext.predict.pixels import fixed_shape

#: Endings of the files.
PARAM, BIN, DESCRIPTION = ".ncnn.param", ".ncnn.bin", ".ncnn.json"
LARGEST = 1 << 31  # bytes
LARGEST_DESCRIPTION = 1 << 26


class NcnnModel:
    """A network in ncnn, computed in float32, one image at a time.

    Args:
        path: MODEL.ncnn.param; the other two files stand beside it.
        threads: number of threads of one operation; all cores by default.

    Raises:
        PpclsExtError: ncnn or a file is missing, a file is of another export, or ncnn cannot load it.
    """

    batch: int | None = 1

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        self.ncnn = import_extra("ncnn")
        stem = str(path)[: -len(PARAM)]
        if not str(path).endswith(PARAM):
            raise PpclsExtError(
                f"{path}: expected a file MODEL{PARAM} for ncnn; ppcls-ext export {path} --to ncnn writes one"
            )
        described = _description(stem)
        self.metadata = _metadata(f"{stem}{DESCRIPTION}", described)
        self.image_shape = fixed_shape(path, self.metadata)
        self._ends = str(described.get("input", "")), str(described.get("output", ""))
        self.ends_in_logits = ends_in_logits(path, self.metadata, str(described.get("output_name", "")))
        self.net = self.ncnn.Net()
        self.net.opt.num_threads = threads or cpu.usable_cores()
        # by default ncnn stores and computes in 16 bits where the CPU can; the answers should be the file's
        self.net.opt.use_fp16_packed = self.net.opt.use_fp16_storage = self.net.opt.use_fp16_arithmetic = False
        self.net.opt.use_bf16_storage = False
        if self.net.load_param(f"{stem}{PARAM}") or self.net.load_model(f"{stem}{BIN}"):
            raise PpclsExtError(f"{path}: ncnn cannot load it; export it again")

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `ppcls_ext.predict.runtimes.ExportedModel.run`."""
        rows = []
        for image in images:
            plain = np.ascontiguousarray(image)  # held by a name: a Mat does not hold the array that it reads
            with self.net.create_extractor() as extractor:
                extractor.input(self._ends[0], self.ncnn.Mat(plain).clone())
                _, output = extractor.extract(self._ends[1])
                rows.append(np.array(output).ravel())
        return np.stack(rows)


def _description(stem: str) -> dict[str, Any]:
    """Reads the description, and checks that the other files are those of its export.

    ncnn would crash, or answer nonsense, with the layers of one network and the weights of another.
    """
    path = f"{stem}{DESCRIPTION}"
    for ending in (PARAM, BIN, DESCRIPTION):
        require_file(f"{stem}{ending}")
    try:
        described = json.loads(read_regular(path, LARGEST_DESCRIPTION))
        if not isinstance(described, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise PpclsExtError(f"{path} is damaged ({error}): export again") from error
    for ending, key in ((PARAM, "param_sha256"), (BIN, "bin_sha256")):
        if hashlib.sha256(read_regular(f"{stem}{ending}", LARGEST)).hexdigest() != described.get(key):
            raise PpclsExtError(
                f"{stem}{ending} was changed or is of another export than {Path(path).name}: export again"
            )
    return described


def _metadata(path: str, described: dict[str, Any]) -> Metadata:
    try:
        return Metadata.from_properties({key: value for key, value in described.items() if isinstance(value, str)})
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from error
