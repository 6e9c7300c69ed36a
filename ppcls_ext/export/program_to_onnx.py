"""From a program that PaddleDetection or PaddleSeg exported to an ONNX file, compared on all outputs first."""

from __future__ import annotations

import functools
import json
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.export.comparison import OnnxSession
from ppcls_ext.export.differences import require_same
from ppcls_ext.export.program import Program, comparison_inputs, operators
from ppcls_ext.export.written_file import WrittenFile, write_file
from ppcls_ext.packages import require

if TYPE_CHECKING:
    import onnx

#: How a .json writes Paddle's own dialect.
OWN = "1."
#: Paddle 3.3 keeps these operators' numbers as float64, which paddle2onnx 2.1 refuses (pir_parser.cc, interpolation
#: scales) or reads wrongly (Paddle2ONNX issue 1646, epsilons).
FLOAT32 = ("_interp", "layer_norm", "group_norm")
#: Operators that make scores of scores → how many of their inputs count, None for all.
KEEP_SCORES = {
    **dict.fromkeys(("Concat", "Mul", "Add"), None),
    **dict.fromkeys(("Sqrt", "Reshape", "Transpose", "Squeeze", "Unsqueeze"), 1),
}

_SIMPLIFY = """
import sys
import onnx, onnxslim
model = onnxslim.slim(onnx.load(sys.argv[1]))
onnx.checker.check_model(model, full_check=True)
onnx.save(model, sys.argv[2])
"""


@dataclass(frozen=True)
class ProgramReport(WrittenFile):
    """How equal the written file is.

    Args:
        difference: between onnxruntime's and Paddle's outputs, the largest of all kinds of input, relative.
    """

    difference: float

    def __str__(self) -> str:
        difference = f"largest difference of all outputs, onnxruntime from Paddle, relative: {self.difference:.1e}"
        return f"{super().__str__()}\n{difference}"


def program_to_onnx(
    program: str | Path, output: str | Path, *, opset: int = 17, pictures: Sequence[np.ndarray] = ()
) -> ProgramReport:
    """Converts an exported program and writes the file once onnxruntime answers as Paddle does.

    Args:
        program: path of the exported files without suffixes, such as inference/model, or of one of them, or a folder
            that holds one program.
        output: the file to write.
        opset: of ONNX's standard operators.
        pictures: real ones to compare on, uint8 (H, W, 3) of any size.

    Raises:
        PpclsExtError: there is no program, paddle2onnx cannot convert it, or the answers differ.
    """
    require("paddle2onnx", "onnx", "onnxslim", "onnxruntime")
    from ppcls_ext.export import convert

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
    for kind, inputs in comparison_inputs(paddle_program, pictures).items():
        what = f"onnxruntime's and Paddle's outputs on {kind}"
        largest = max(largest, require_same(what, session.run(inputs), paddle_program, inputs, scores))
    return ProgramReport(**vars(write_file(model, content, output)), difference=largest)


def score_outputs(model: onnx.ModelProto) -> dict[int, int]:
    """Outputs that are made of sigmoids alone, and of numbers from 0 to 1: number → the power that undoes their roots.

    onnxruntime's sigmoid is exact to some 1e-8, which is much of a small score and, of its root, up to 1e-4.
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
    """The path without suffixes of the program at, or in the folder, `path`."""
    if path.is_dir():
        found = sorted(path.glob("*.pdiparams"))
        if len(found) != 1:
            raise PpclsExtError(f"{path} holds {len(found)} programs (*.pdiparams): name one of them")
        path = found[0]
    return path.with_suffix("") if path.suffix in (".json", ".pdmodel", ".pdiparams") else path


def with_float32_numbers(program: Path, folder: Path) -> Path:
    """A copy in `folder` of a program whose interpolations and normalisations hold float32 numbers."""
    copy = folder / program.name
    if program.suffix != ".json":
        copy.write_bytes(program.read_bytes())
        return copy
    content = json.loads(program.read_text(encoding="utf-8"))
    for operator in operators(content):
        if any(name in operator["#"] for name in FLOAT32):
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


def _advice(program: Program) -> str:
    from ppcls_ext.export.convert import unknown_operators

    if program.free_size:
        return (
            "; the picture's size is free, and adaptive pooling and others need it: export with a fixed one "
            "(PaddleSeg: --input_shape 1 3 H W; PaddleDetection: TestReader.inputs_def.image_shape)"
        )
    if program.file.suffix != ".json":
        return ""
    found = operators(json.loads(program.file.read_text(encoding="utf-8")))
    names = [operator["#"].split(".", 1)[1] for operator in found if operator["#"].startswith(OWN)]
    return unknown_operators(names)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the nodes for constants, identities and reshapes that the conversion leaves; checked.

    Raises:
        PpclsExtError: the graph is not valid. ONNX's inference of shapes ends the whole process on some (a pooling of
            stride 0, which paddle2onnx makes of adaptive pooling into more bins than pixels), so it runs in another.
    """
    import onnx

    from ppcls_ext.export.convert import run_apart

    with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
        raw, slim = Path(folder, "raw.onnx"), Path(folder, "slim.onnx")
        onnx.save(model, raw)
        child = run_apart(_SIMPLIFY, folder, raw, slim)
        if child.returncode == 0:
            return onnx.load(slim)
        text = one_line(child.stdout.decode(errors="replace"))
    if child.returncode < 0:
        reason = (
            f"{signal.Signals(-child.returncode).name} in ONNX's inference of shapes; adaptive pooling into more bins "
            "than pixels does that, so take a larger picture or fewer bins"
        )
    else:
        reason = text[-300:]
    raise PpclsExtError(f"the converted graph is not valid ONNX ({reason}); nothing was written")
