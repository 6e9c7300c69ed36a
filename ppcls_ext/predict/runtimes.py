"""What can run an exported model, and where each one's code is; nothing is loaded before its turn."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from typing import NamedTuple, Protocol

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.predict.metadata import Metadata


class Network(Protocol):
    """A loaded model.

    Attributes:
        metadata: what it says about itself.
        batch: that it demands; None where any will do.
        image_shape: (C, H, W), that it reads.
        ends_in_logits: whether its outputs are no probabilities yet.
    """

    metadata: Metadata
    batch: int | None
    image_shape: list[int]
    ends_in_logits: bool

    def run(self, images: np.ndarray) -> np.ndarray:
        """`images: (N, 3, H, W)` float32 → (N, classes) float32."""


class Runtime(NamedTuple):
    """One runtime.

    Attributes:
        module: of `ppcls_ext.predict`.
        packages: that it needs.
    """

    module: str
    packages: tuple[str, ...]


RUNTIMES = {
    "onnxruntime": Runtime("onnxruntime_network", ("onnxruntime",)),
    "openvino": Runtime("openvino_network", ("openvino", "onnx")),
    "ncnn": Runtime("ncnn_network", ("ncnn", "pnnx", "onnx")),
    "paddle": Runtime("paddle_network", ("paddle",)),
}


def load(runtime: str, path: str | os.PathLike, threads: int | None = None, bf16: bool = False) -> Network:
    """Loads a model.

    Args:
        runtime: a key of `RUNTIMES`.
        path: the ONNX file, for ncnn the fp32 one; for "paddle" the folder that export-model wrote.
        threads: of one operation; None leaves the choice to the runtime.
        bf16: let it compute in bfloat16, which OpenVINO alone can be told.

    Raises:
        PpclsExtError: an unknown runtime, one whose package is missing, or what it cannot load.
    """
    if runtime not in RUNTIMES:
        raise PpclsExtError(f"the runtime is {runtime!r}: expected {', '.join(RUNTIMES)}")
    if bf16 and runtime != "openvino":
        raise PpclsExtError(f"bf16 is for the runtime openvino, not for {runtime}")
    module = importlib.import_module(f"ppcls_ext.predict.{RUNTIMES[runtime].module}")
    return module.load(path, threads, bf16)


def installed(runtime: str) -> bool:
    """Whether the packages of a runtime are there."""
    return all(importlib.util.find_spec(package) is not None for package in RUNTIMES[runtime].packages)


def with_version(runtime: str, name: str = "") -> str:
    """A runtime's name, or another one for it, with its version where its package tells it under the usual name."""
    try:
        version = importlib.metadata.version("paddlepaddle" if runtime == "paddle" else runtime)
    except importlib.metadata.PackageNotFoundError:  # as of onnxruntime-gpu
        version = ""
    return f"{name or runtime} {version}".strip()
