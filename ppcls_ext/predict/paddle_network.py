"""A folder that export-model wrote, in Paddle Inference with oneDNN."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.inference_yml import NAME, read_inference_yml


class PaddleNetwork:
    """See `ppcls_ext.predict.runtimes.Network`."""

    batch = None
    ends_in_logits = False  # export-model ends in Softmax

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        inference = import_extra("paddle.inference")
        folder = Path(path)
        programs = [folder / name for name in ("inference.json", "inference.pdmodel") if (folder / name).is_file()]
        if not programs:
            raise PpclsExtError(f"{path}: expected a folder with inference.json, as ppcls-ext export-model writes it")
        self.metadata = read_inference_yml(folder / NAME)
        width, height = self.metadata.preprocessing.image_size
        self.image_shape = [3, height, width]
        config = inference.Config(str(programs[0]), str(folder / "inference.pdiparams"))
        config.disable_gpu()
        config.disable_glog_info()
        config.enable_mkldnn()
        if threads:
            config.set_cpu_math_library_num_threads(threads)
        try:
            self.predictor = inference.create_predictor(config)
        except Exception as error:  # Paddle's kinds have no common base
            raise PpclsExtError(f"{path}: Paddle Inference cannot load it ({one_line(error)[:200]})") from error

    def run(self, images: np.ndarray) -> np.ndarray:
        """`images: (N, 3, H, W)` float32 → (N, classes) float32."""
        given = self.predictor.get_input_handle(self.predictor.get_input_names()[0])
        given.copy_from_cpu(np.ascontiguousarray(images))
        self.predictor.run()
        return self.predictor.get_output_handle(self.predictor.get_output_names()[0]).copy_to_cpu()


def load(path: str | os.PathLike, threads: int | None, bf16: bool) -> PaddleNetwork:
    """Loads a folder; bf16 is not for it.

    Raises:
        PpclsExtError: the folder is missing, damaged, or not exported by this project.
    """
    return PaddleNetwork(path, threads)
