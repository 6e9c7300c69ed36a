"""Writing a model's weights."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import atomic_write
from ppcls_ext.weights.naming import to_torch_names

if TYPE_CHECKING:
    from paddle import nn

FORMATS = (".pdparams", ".npz", ".safetensors")


def save_weights(model: nn.Layer, path: str | Path) -> None:
    """Writes a model's state dict, atomically; the suffix decides the format (`FORMATS`)."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise PpclsExtError(
            f"cannot write {path}: the suffix decides the format and must be one of {', '.join(FORMATS)}"
        )
    state = to_torch_names({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    with atomic_write(path) as stream:
        if path.suffix == ".npz":
            np.savez(stream, **state)
        elif path.suffix == ".safetensors":
            from safetensors.numpy import save

            stream.write(save(state))
        else:
            import paddle

            buffer = io.BytesIO()  # paddle.save takes no other stream
            paddle.save(model.state_dict(), buffer)
            stream.write(buffer.getbuffer())
