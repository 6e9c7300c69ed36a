"""An ONNX file that was written, as its report says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ppcls_ext.files import atomic_write

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class WrittenFile:
    """What was written.

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
    """Writes a model, whose content is `content`, all or nothing.

    Raises:
        PpclsExtError: the file cannot be written.
    """
    from ppcls_ext.export import simplify

    with atomic_write(output) as file:
        file.write(content)
    return WrittenFile(
        path=Path(output),
        opset=simplify.opset(model),
        inputs=[simplify.shape_text(value) for value in model.graph.input],
        outputs=[simplify.shape_text(value) for value in model.graph.output],
        nodes=simplify.count_nodes(model),
        size=len(content) / 2**20,
    )
