"""GELU, by oneDNN where it can be used, that can be written in Paddle's old program format too."""

from __future__ import annotations

import paddle
from paddle import Tensor, nn
from paddle.base.layer_helper import LayerHelper

from ppcls_ext.onednn.elementwise import gelu


class GELU(nn.GELU):
    """Paddle's GELU; where a program in the old format (`.pdmodel`) is being made, its operator is put there by hand.

    Paddle 3.3's own function no longer knows that format (`paddle/base/dygraph/generated_tensor_methods_patch.py`).
    """

    def forward(self, x: Tensor) -> Tensor:
        """`x` of any shape → the same shape."""
        if paddle.in_dynamic_mode() or paddle.framework.in_pir_mode():
            return gelu(x, self.training)
        helper = LayerHelper("gelu")
        out = helper.create_variable_for_type_inference(x.dtype)
        helper.append_op(type="gelu", inputs={"X": x}, outputs={"Out": out}, attrs={"approximate": False})
        return out
