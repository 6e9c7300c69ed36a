"""Writing an ONNX file, and what its report says about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppcls_ext.export.opset import opset_of
from ppcls_ext.files import atomic_write

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class WrittenFile:
    """Describes a file that was written.

    Args:
        path: the file.
        opset: of the file, as read from it.
        inputs: names and shapes.
        outputs: names and shapes.
        nodes: number of nodes by operator.
        size: of the file, MiB.
    """

    path: Path
    opset: int
    inputs: Sequence[str]
    outputs: Sequence[str]
    nodes: Mapping[str, int]
    size: float

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.path}: {self.size:.2f} MiB, opset {self.opset}",
                f"input   {', '.join(self.inputs)}",
                f"output  {', '.join(self.outputs)}",
                f"nodes   {sum(self.nodes.values())}: {', '.join(f'{n} {name}' for name, n in self.nodes.items())}",
            ]
        )


def write_file(model: onnx.ModelProto, content: bytes, output: str | Path) -> WrittenFile:
    """Writes a model, whose serialized form is `content`, all or nothing.

    Raises:
        PpclsExtError: the file cannot be written.
    """
    with atomic_write(output) as file:
        file.write(content)
    return WrittenFile(
        path=Path(output),
        opset=opset_of(model),
        inputs=[_shape_text(value) for value in model.graph.input],
        outputs=[_shape_text(value) for value in model.graph.output],
        nodes=_count_nodes(model),
        size=len(content) / 2**20,
    )


def _count_nodes(model: onnx.ModelProto) -> dict[str, int]:
    """Returns the number of nodes by operator, the commonest first."""
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _shape_text(value: onnx.ValueInfoProto) -> str:
    """Returns for example "image (batch, 3, 224, 224)"."""
    dims = (dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return f"{value.name} ({', '.join(map(str, dims))})"
