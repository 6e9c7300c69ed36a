"""Running a program that a host's export wrote, and comparing its outputs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import inference

from ppcls_ext.errors import PpclsExtError

#: Side of the comparison pictures where the program leaves it free, px.
SIDE = 128
#: Mean and standard deviation that both hosts' configurations normalise with; some (YOLOX) take 0 to 255 instead.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

#: By the names of the inputs.
Inputs = Mapping[str, np.ndarray]


class Program:
    """An exported program: `model.json` (Paddle 3) or `model.pdmodel`, and `model.pdiparams`, without optimizations.

    Args:
        prefix: path of the files without their suffixes.

    Raises:
        PpclsExtError: there are no such files.
    """

    def __init__(self, prefix: Path) -> None:
        self.parameters = prefix.with_name(prefix.name + ".pdiparams")
        files = [prefix.with_name(prefix.name + suffix) for suffix in (".json", ".pdmodel")]
        file = next((file for file in files if file.is_file()), None)
        if file is None or not self.parameters.is_file():
            raise PpclsExtError(
                f"no exported program {prefix}: expected {prefix.name}.json or .pdmodel, and {prefix.name}.pdiparams"
            )
        self.file = file
        config = inference.Config(str(file), str(self.parameters))
        config.disable_gpu()
        config.switch_ir_optim(False)
        config.disable_glog_info()
        # oneDNN takes no interpolation scales in float64; below Paddle 3.2 it goes by its older name
        (getattr(config, "disable_onednn", None) or config.disable_mkldnn)()
        self._predictor = inference.create_predictor(config)
        names = self._predictor.get_input_names()
        stated = _stated_shapes(file)
        self.input_shapes = {
            name: tuple(stated.get(name, self._predictor.get_input_handle(name).shape())) for name in names
        }

    def __call__(self, inputs: Inputs) -> list[np.ndarray]:
        """All outputs, in order; `inputs` may hold more than the program takes."""
        for name in self.input_shapes:
            self._predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(inputs[name]))
        self._predictor.run()
        return [self._predictor.get_output_handle(name).copy_to_cpu() for name in self._predictor.get_output_names()]

    @property
    def free_size(self) -> bool:
        """Whether height or width of the picture is free."""
        return -1 in self.picture[1][2:]

    @property
    def picture(self) -> tuple[str, tuple[int, ...]]:
        """Name and shape of the input that is a picture."""
        pictures = [(name, shape) for name, shape in self.input_shapes.items() if len(shape) == 4]
        if len(pictures) != 1 or pictures[0][1][1] != 3:
            raise PpclsExtError(f"the program's inputs are {self.input_shapes}: expected one picture (N, 3, H, W)")
        return pictures[0]


def operators(node: Any) -> list[dict[str, Any]]:
    """All operators of a program that was read from .json: mappings with a name ("#") and attributes, at any depth."""
    if isinstance(node, list):
        return [operator for item in node for operator in operators(item)]
    if not isinstance(node, dict):
        return []
    inside = [operator for value in node.values() for operator in operators(value)]
    return [node, *inside] if isinstance(node.get("#"), str) and "A" in node else inside


def _stated_shapes(file: Path) -> dict[str, list[int]]:
    """Shapes of the inputs, -1 for what is free; of a .json, whose predictor does not tell free ones."""
    if file.suffix != ".json":
        return {}
    shapes = {}
    for operator in operators(json.loads(file.read_text(encoding="utf-8"))):
        if operator["#"].endswith(".data"):
            attributes = {attribute["N"]: attribute["AT"]["D"] for attribute in operator["A"]}
            shapes[attributes["name"]] = attributes["shape"]
    return shapes


def comparison_inputs(program: Program, pictures: Sequence[np.ndarray] = ()) -> dict[str, dict[str, np.ndarray]]:
    """What forms of a model are compared on, by kind: noise, random levels as numbers and normalised, and pictures.

    Args:
        program: for its inputs.
        pictures: real ones, uint8 (H, W, 3) of any size.
    """
    name, shape = program.picture
    batch, height, width = (
        size if size > 0 else default for size, default in zip((shape[0], *shape[2:]), (1, SIDE, SIDE))
    )
    images = random_images(batch, height, width)
    if pictures:
        real = np.stack([_resized(picture, height, width) for picture in pictures])
        real = real[np.arange(-(-len(real) // batch) * batch) % len(real)]
        for start in range(0, len(real), batch):
            part = real[start : start + batch]
            images[f"picture {start}"] = part
            images[f"normalised picture {start}"] = _normalised(part)
    sizes = {
        "im_shape": np.float32([[height, width]] * batch),
        "scale_factor": np.ones((batch, 2), np.float32),
    }
    return {kind: {name: image, **sizes} for kind, image in images.items()}


def random_images(batch: int, height: int, width: int) -> dict[str, np.ndarray]:
    """By kind, (batch, 3, height, width) float32: noise, random levels as numbers and normalised."""
    random = np.random.default_rng(0)
    levels = random.integers(0, 256, (batch, 3, height, width)).astype(np.float32)
    noise = random.standard_normal(levels.shape).astype(np.float32)
    return {"noise": noise, "levels": levels, "normalised levels": _normalised(levels)}


def _normalised(levels: np.ndarray) -> np.ndarray:
    mean, std = (np.float32(values).reshape(1, 3, 1, 1) for values in (MEAN, STD))
    return (levels / 255 - mean) / std


def _resized(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    resized = Image.fromarray(picture).resize((width, height), Image.BILINEAR)
    return np.asarray(resized, np.float32).transpose(2, 0, 1)


@paddle.no_grad()
def eager_outputs(layer: paddle.nn.Layer, arguments: object) -> list[np.ndarray]:
    """All outputs of a layer that was made static, run operation by operation instead."""
    paddle.jit.enable_to_static(False)
    try:
        outputs = layer(arguments)
    finally:
        paddle.jit.enable_to_static(True)
    return [tensor.numpy() for tensor in paddle.utils.flatten(outputs) if isinstance(tensor, paddle.Tensor)]
