"""A program that a host's export wrote: run, compared with the model it came from, and converted to an ONNX file.

PaddleDetection and PaddleSeg export whole detectors and segmenters. Their programs have inputs besides the image and
several outputs, all of which are compared.
"""

from __future__ import annotations

import functools
import json
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import paddle
from paddle import Tensor, inference, nn

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.export import convert
from ppcls_ext.export.comparison import OnnxSession, normalized, random_images, require_same
from ppcls_ext.export.opset import DEFAULT_OPSET
from ppcls_ext.export.written_file import WrittenFile, write_file
from ppcls_ext.packages import require

if TYPE_CHECKING:
    import onnx

#: Side of the comparison images where the program leaves it free, px.
SIDE = 128
#: The prefix of Paddle's own operators in a .json.
OWN_DIALECT = "1."
#: Paddle 3.3 keeps these operators' numbers as float64, which paddle2onnx 2.1 refuses (pir_parser.cc, interpolation
#: scales) or reads wrongly (Paddle2ONNX issue 1646, epsilons).
FLOAT32_OPERATORS = ("_interp", "layer_norm", "group_norm")
#: Operators that make scores of scores → how many of their inputs are scores, None for all.
KEEP_SCORES = {
    **dict.fromkeys(("Concat", "Mul", "Add"), None),
    **dict.fromkeys(("Sqrt", "Reshape", "Transpose", "Squeeze", "Unsqueeze"), 1),
}

#: Arrays by the names of a program's inputs.
Inputs = Mapping[str, np.ndarray]

_SIMPLIFY = """
import sys
import onnx, onnxslim
model = onnxslim.slim(onnx.load(sys.argv[1]))
onnx.checker.check_model(model, full_check=True)
onnx.save(model, sys.argv[2])
"""


class Program:
    """An exported program, run without optimizations: `model.json` (Paddle 3) or `model.pdmodel`, and `.pdiparams`.

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
        """Returns all outputs, in order; `inputs` may contain more than the program takes."""
        for name in self.input_shapes:
            self._predictor.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(inputs[name]))
        self._predictor.run()
        return [self._predictor.get_output_handle(name).copy_to_cpu() for name in self._predictor.get_output_names()]

    @property
    def free_size(self) -> bool:
        """Whether the height or the width of the image is free."""
        return -1 in self.image_input[1][2:]

    @property
    def image_input(self) -> tuple[str, tuple[int, ...]]:
        """Name and shape of the input that is an image."""
        images = [(name, shape) for name, shape in self.input_shapes.items() if len(shape) == 4]
        if len(images) != 1 or images[0][1][1] != 3:
            raise PpclsExtError(f"the program's inputs are {self.input_shapes}: expected one image (N, 3, H, W)")
        return images[0]


@dataclass(frozen=True)
class ProgramReport(WrittenFile):
    """Describes a written file and how equal it is to the program.

    Args:
        difference: the largest relative difference between onnxruntime's and Paddle's outputs on any kind of input.
    """

    difference: float

    def __str__(self) -> str:
        difference = f"largest difference of all outputs, onnxruntime from Paddle, relative: {self.difference:.1e}"
        return f"{super().__str__()}\n{difference}"


def compare_program(layer: nn.Layer, prefix: Path, arguments: Callable[[Mapping[str, Tensor]], Any]) -> float:
    """Returns the largest relative difference between a written program and the model that it was made from.

    Args:
        layer: the model, made static.
        prefix: path of the program's files without their suffixes.
        arguments: makes the model's argument from the program's inputs by name.

    Raises:
        PpclsExtError: it is larger than rounding explains.
    """
    program = Program(prefix)
    largest = 0.0
    for kind, inputs in program_inputs(program).items():
        tensors = {name: paddle.to_tensor(value) for name, value in inputs.items()}
        what = f"the model's and the exported program's outputs on {kind}"
        largest = max(largest, require_same(what, eager_outputs(layer, arguments(tensors)), program, inputs))
    return largest


@paddle.no_grad()
def eager_outputs(layer: nn.Layer, arguments: object) -> list[np.ndarray]:
    """Returns all outputs of a layer that was made static, run operation by operation instead."""
    paddle.jit.enable_to_static(False)
    try:
        outputs = layer(arguments)
    finally:
        paddle.jit.enable_to_static(True)
    return [tensor.numpy() for tensor in paddle.utils.flatten(outputs) if isinstance(tensor, Tensor)]


def program_to_onnx(
    program: str | Path, output: str | Path, *, opset: int = DEFAULT_OPSET, images: Sequence[np.ndarray] = ()
) -> ProgramReport:
    """Converts an exported program to ONNX and writes the file once onnxruntime answers as Paddle does.

    Args:
        program: path of the exported files without suffixes, such as inference/model, or of one of them, or a folder
            with one program.
        output: the file to write.
        opset: of ONNX's standard operators.
        images: real images to compare on, uint8 (H, W, 3) of any size.

    Raises:
        PpclsExtError: there is no program, paddle2onnx cannot convert it, or the answers differ.
    """
    require("paddle2onnx", "onnx", "onnxslim", "onnxruntime")
    paddle_program = Program(find_prefix(Path(program)))
    with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
        file = with_float32_numbers(paddle_program.file, Path(folder))
        try:
            raw = convert.convert_program(file, paddle_program.parameters, opset)
        except PpclsExtError as error:
            raise PpclsExtError(f"{error}{_advice(paddle_program)}; nothing was written") from error
    model = simplify(raw)
    content = model.SerializeToString(deterministic=True)
    largest, session, scores = 0.0, OnnxSession(content), score_outputs(model)
    for kind, inputs in program_inputs(paddle_program, images).items():
        what = f"onnxruntime's and Paddle's outputs on {kind}"
        largest = max(largest, require_same(what, session.run(inputs), paddle_program, inputs, scores))
    return ProgramReport(**vars(write_file(model, content, output)), difference=largest)


def program_inputs(program: Program, images: Sequence[np.ndarray] = ()) -> dict[str, dict[str, np.ndarray]]:
    """Returns the inputs on which forms of a model are compared, by kind: `random_images` and real images.

    Args:
        program: its inputs' names and shapes are used.
        images: real images, uint8 (H, W, 3) of any size.
    """
    name, shape = program.image_input
    batch, height, width = (
        size if size > 0 else default for size, default in zip((shape[0], *shape[2:]), (1, SIDE, SIDE))
    )
    kinds = random_images(batch, height, width)
    if images:
        real = np.stack([_resized(image, height, width) for image in images])
        real = real[np.arange(-(-len(real) // batch) * batch) % len(real)]
        for start in range(0, len(real), batch):
            part = real[start : start + batch]
            kinds[f"image {start}"] = part
            kinds[f"normalised image {start}"] = normalized(part)
    sizes = {
        "im_shape": np.array([[height, width]] * batch, np.float32),
        "scale_factor": np.ones((batch, 2), np.float32),
    }
    return {kind: {name: image, **sizes} for kind, image in kinds.items()}


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    from PIL import Image

    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32).transpose(2, 0, 1)


def score_outputs(model: onnx.ModelProto) -> dict[int, int]:
    """Returns the outputs that are made of sigmoids and numbers from 0 to 1 alone: number → power that undoes roots.

    onnxruntime's sigmoid is exact to about 1e-8, which is a large part of a small score and up to 1e-4 of its root.
    """
    from onnx import numpy_helper

    makers = {output: node for node in model.graph.node for output in node.output}
    numbers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    @functools.cache
    def power(name: str) -> int:
        node = makers.get(name)
        if node is None:
            return int(name in numbers and ((numbers[name] >= 0) & (numbers[name] <= 1)).all())
        if node.op_type not in KEEP_SCORES:
            return int(node.op_type == "Sigmoid")
        powers = [power(value) for value in node.input[: KEEP_SCORES[node.op_type]]]
        return min(powers) and max(powers) * (2 if node.op_type == "Sqrt" else 1)

    powers = {number: power(output.name) for number, output in enumerate(model.graph.output)}
    return {number: found for number, found in powers.items() if found}


def find_prefix(path: Path) -> Path:
    """Returns the path without suffixes of the program at `path`, or in the folder `path`."""
    if path.is_dir():
        found = sorted(path.glob("*.pdiparams"))
        if len(found) != 1:
            raise PpclsExtError(f"{path} holds {len(found)} programs (*.pdiparams): name one of them")
        path = found[0]
    return path.with_suffix("") if path.suffix in (".json", ".pdmodel", ".pdiparams") else path


def with_float32_numbers(program: Path, folder: Path) -> Path:
    """Copies a program to `folder`, with the numbers of interpolations and normalizations as float32."""
    copy = folder / program.name
    if program.suffix != ".json":
        copy.write_bytes(program.read_bytes())
        return copy
    content = json.loads(program.read_text(encoding="utf-8"))
    for operator in operators(content):
        if any(name in operator["#"] for name in FLOAT32_OPERATORS):
            _narrow(operator.get("A", []))
    copy.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    return copy


def _narrow(node: Any) -> None:
    """Makes every float64 attribute below `node` float32, in place."""
    if isinstance(node, list):
        for item in node:
            _narrow(item)
    elif isinstance(node, dict):
        if node.get("#") == "0.a_f64":
            node["#"] = "0.a_f32"
        for value in node.values():
            _narrow(value)


def operators(node: Any) -> list[dict[str, Any]]:
    """Returns all operators of a program read from .json: mappings with a name ("#") and attributes, at any depth."""
    if isinstance(node, list):
        return [operator for item in node for operator in operators(item)]
    if not isinstance(node, dict):
        return []
    inside = [operator for value in node.values() for operator in operators(value)]
    return [node, *inside] if isinstance(node.get("#"), str) and "A" in node else inside


def _stated_shapes(file: Path) -> dict[str, list[int]]:
    """Returns the shapes of the inputs in a .json, -1 for a free axis, which the predictor does not tell."""
    if file.suffix != ".json":
        return {}
    shapes = {}
    for operator in operators(json.loads(file.read_text(encoding="utf-8"))):
        if operator["#"].endswith(".data"):
            attributes = {attribute["N"]: attribute["AT"]["D"] for attribute in operator["A"]}
            shapes[attributes["name"]] = attributes["shape"]
    return shapes


def _advice(program: Program) -> str:
    if program.free_size:
        return (
            "; the image's size is free, and adaptive pooling and others need it: export with a fixed one "
            "(PaddleSeg: --input_shape 1 3 H W; PaddleDetection: TestReader.inputs_def.image_shape)"
        )
    if program.file.suffix != ".json":
        return ""
    found = operators(json.loads(program.file.read_text(encoding="utf-8")))
    names = [operator["#"].split(".", 1)[1] for operator in found if operator["#"].startswith(OWN_DIALECT)]
    return convert.unknown_operators(names)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns the model, checked, without the nodes for constants, identities and reshapes that the conversion leaves.

    Raises:
        PpclsExtError: the graph is not valid. ONNX's inference of shapes ends the whole process on some (a pooling of
            stride 0, which paddle2onnx makes of adaptive pooling into more bins than pixels), so it runs in another.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
        raw, slim = Path(folder, "raw.onnx"), Path(folder, "slim.onnx")
        onnx.save(model, raw)
        child = convert.run_apart(_SIMPLIFY, folder, raw, slim)
        if child.returncode == 0:
            return onnx.load(slim)
        text = one_line(child.stdout.decode(errors="replace"))
    if child.returncode < 0:
        reason = (
            f"{signal.Signals(-child.returncode).name} in ONNX's inference of shapes; adaptive pooling into more bins "
            "than pixels does that, so take a larger image or fewer bins"
        )
    else:
        reason = text[-300:]
    raise PpclsExtError(f"the converted graph is not valid ONNX ({reason}); nothing was written")
