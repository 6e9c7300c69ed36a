"""What the models need of PaddleClas's TheseusLayer, for programs without PaddleClas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import Tensor, nn


class StandaloneLayer(nn.Layer):
    """A layer that can return intermediate maps and stop early, under the names of PaddleClas's methods."""

    def __init__(self) -> None:
        super().__init__()
        self.res_dict: dict[str, Tensor] = {}

    def update_res(self, return_patterns: str | Sequence[str]) -> list[str]:
        """Makes the layer return a dict of "logits" and the named layers' outputs; gives the names that exist."""
        names = [return_patterns] if isinstance(return_patterns, str) else return_patterns
        found = {name: layer for name in names if (layer := find_layer(self, name)) is not None}
        for name, layer in found.items():
            # what a hook needs stands in its layer, so that a deep copy feeds itself
            layer.res_dict, layer.res_name = self.res_dict, name
            layer.register_forward_post_hook(_keep)
        self.register_forward_post_hook(_with_kept)
        return list(found)

    def stop_after(self, stop_layer_name: str) -> bool:
        """Puts identities in the place of all layers behind the named one."""
        if find_layer(self, stop_layer_name) is None:
            return False
        parent: nn.Layer = self
        for part in _parts(stop_layer_name):
            names = list(parent._sub_layers)
            for behind in names[names.index(part) + 1 :]:
                parent._sub_layers[behind] = nn.Identity()
            parent = parent._sub_layers[part]
        return True


def find_layer(layer: nn.Layer, name: str) -> nn.Layer | None:
    """The layer at a path such as "stages[2].blocks" (PaddleClas's spelling) or "stages.2.blocks"."""
    found: Any = layer
    for part in _parts(name):
        found = found._sub_layers.get(part) if isinstance(found, nn.Layer) else None
    return found


def _parts(name: str) -> list[str]:
    return name.replace("[", ".").replace("]", "").split(".")


def _keep(layer: nn.Layer, inputs: Any, output: Tensor) -> None:
    layer.res_dict[layer.res_name] = output


def _with_kept(layer: nn.Layer, inputs: Any, output: Tensor) -> dict[str, Tensor]:
    kept = dict(layer.res_dict)
    layer.res_dict.clear()
    return {"logits": output, **kept}
