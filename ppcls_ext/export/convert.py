"""From a fused Paddle model to a raw ONNX graph, with paddle2onnx.

paddle2onnx runs in a process of its own: it ends the whole process (SIGABRT) when it meets an operator that it cannot
convert. Its command line, and its `export` by default, install packages with pip; neither is used here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import paddle
from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.opset import opset_of
from ppcls_ext.files import room
from ppcls_ext.hosts.quiet import captured_output
from ppcls_ext.predict.metadata import PROBABILITIES, SCORES
from ppcls_ext.processes import END_WITH_PARENT

if TYPE_CHECKING:
    import onnx

#: Paddle's names of operators → the older names that paddle2onnx lists.
RENAMED = {
    "multiply": "elementwise_mul",
    "subtract": "elementwise_sub",
    "divide": "elementwise_div",
    "maximum": "elementwise_max",
    "minimum": "elementwise_min",
    "arange": "range",
    "topk": "top_k",
}

_CHILD = """
import sys
import paddle2onnx
model, parameters, opset, output = sys.argv[1:]
graph = paddle2onnx.export(
    model, parameters, save_file=None, opset_version=int(opset), auto_upgrade_opset=False, optimize_tool="None"
)
with open(output, "wb") as file:
    file.write(graph)
"""


class InferenceModel(nn.Layer):
    """A model in eval mode, followed by Softmax or Sigmoid where scores are wanted, in the form that is converted.

    Paddle records the operations that run; translating every layer's source code first, its default, gives the same
    program in ten times the time.
    """

    def __init__(self, model: nn.Layer, output: str) -> None:
        """`output`: `LOGITS`, `PROBABILITIES` or `SCORES`."""
        super().__init__()
        self.model = model
        self.output = output
        self.eval()

    @paddle.jit.not_to_static
    def forward(self, x: Tensor) -> Tensor:
        """`x: (N, C, H, W)` → logits, probabilities or scores (N, classes)."""
        x = self.model(x)
        if self.output == PROBABILITIES:
            return nn.functional.softmax(x, axis=-1)
        return nn.functional.sigmoid(x) if self.output == SCORES else x


def convert(model: InferenceModel, input_shape: tuple[int | None, ...], opset: int) -> onnx.ModelProto:
    """Converts a model as it is, without any simplification.

    Args:
        model: it is made static, so pass a copy.
        input_shape: (N, C, H, W); None for any N, H or W.
        opset: of ONNX's standard operators.

    Raises:
        PpclsExtError: Paddle cannot make the model static, or paddle2onnx cannot convert it; says why.
    """
    with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
        program, parameters = _save_static(model, input_shape, Path(folder))
        _require_whole(program)
        try:
            return convert_program(program, parameters, opset)
        except PpclsExtError as error:
            raise PpclsExtError(f"{error}{_unknown_operators(model)}") from error


def _require_whole(program: Path) -> None:
    """Paddle's C++ writes no more than a full disk takes, and does not say so."""
    try:
        if program.suffix == ".json":
            json.loads(program.read_bytes())
    except ValueError as error:
        raise PpclsExtError(
            f"cannot write {program}, a temporary file: {room(program.parent)}; make room there, or set TMPDIR to a "
            "folder that has"
        ) from error


def convert_program(program: Path, parameters: Path, opset: int) -> onnx.ModelProto:
    """Converts a program that Paddle saved, in a process of its own.

    Args:
        program: .json or .pdmodel.
        parameters: .pdiparams.
        opset: of ONNX's standard operators.

    Raises:
        PpclsExtError: paddle2onnx cannot convert it; says why.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
        output = Path(folder, "raw.onnx")
        child = run_apart(_CHILD, folder, program.resolve(), parameters.resolve(), str(opset), output)
        if child.returncode == 0 and output.exists() and output.stat().st_size:
            model = onnx.load(output)
            if opset_of(model) == opset:
                return model
            reason = "it chose another opset"
        else:
            reason = _reason(child.stdout.decode(errors="replace")) or f"exit code {child.returncode}, no message"
    raise PpclsExtError(f"paddle2onnx cannot convert the model at opset {opset}: {reason}")


def run_apart(code: str, folder: str | Path, *arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Runs Python code in a process of its own, in `folder`; `stdout` of the result holds what it printed."""
    # it finds the packages of this process; polygraphy, should anything load it, must install none
    search_path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-c", END_WITH_PARENT + code, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": search_path, "POLYGRAPHY_AUTOINSTALL_DEPS": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )


def _save_static(model: InferenceModel, input_shape: tuple[int | None, ...], folder: Path) -> tuple[Path, Path]:
    """Saves Paddle's static form of the model; returns the files of the program and of the parameters."""
    spec = paddle.static.InputSpec(list(input_shape), "float32", name="image")
    with captured_output() as noise:
        try:
            paddle.jit.to_static(model, input_spec=[spec], full_graph=True)
            paddle.jit.save(model, str(folder / "model"))
        except Exception as error:
            # Paddle puts a traceback before the reason, and advice behind it
            told = re.search(r"^\s*\w+(?:Error|Exception): (.+)", str(error), re.MULTILINE)
            noise.seek(0)
            reason = told.group(1) if told else _last_line(str(error)) or _last_line(noise.read())
            raise PpclsExtError(f"Paddle cannot make the model static: {reason}") from error
    # Paddle 3 writes .json, or .pdmodel with FLAGS_enable_pir_api=0
    program = next(path for path in folder.iterdir() if path.suffix in (".json", ".pdmodel"))
    return program, folder / "model.pdiparams"


def _unknown_operators(model: InferenceModel) -> str:
    program = model.forward.concrete_program.main_program
    return unknown_operators(op.name().partition("pd_op.")[2] for op in program.global_block().ops)


def unknown_operators(names: Iterable[str]) -> str:
    """Returns a remark on the operators that paddle2onnx does not know under any similar name; "" without any."""
    from paddle2onnx import utils

    known = utils.get_all_supported_operators_pir()
    # what carries tensors in and out is always converted
    operators = {RENAMED.get(name.rstrip("_"), name.rstrip("_")) for name in names} - {"data", "fetch"}
    unknown = sorted(name for name in operators if not any(name in like for like in known))
    return f"; it lists no operator like {', '.join(unknown)}" if unknown else ""


def _reason(text: str) -> str:
    """Returns the lines of paddle2onnx's output that say what went wrong."""
    lines = [re.sub(r"\x1b\[[0-9;]*m|\[Paddle2ONNX\]|\[ERROR\]", "", line).strip() for line in text.splitlines()]
    told = [line for line in lines if re.search(r"abort|fail|unsupported|opset_version to|error:", line, re.IGNORECASE)]
    told = [line for line in told if "Process abort signal" not in line and "Aborted at" not in line]
    return " ".join(dict.fromkeys(told)) or _last_line(text)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
