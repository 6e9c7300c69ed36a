"""The base of all models: PaddleClas's TheseusLayer, set up one way on every PaddleClas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.host.locate import theseus_layer
from ppcls_ext.weights.naming import Renaming


class Backbone(theseus_layer()):
    """A backbone whose intermediate maps can be returned, that can stop early, and whose first layers can be frozen.

    Subclasses build their layers and then call `set_outputs`. PaddleClas's own set-up differs between its generations
    (2.4 has no `freeze_befor`; later ones register hooks that do not survive a deep copy), so it is done here through
    the methods that all of them have, and a name or index that fits nothing is an error instead of a warning.
    """

    #: Names of the layers that end the stages, at strides 4, 8, 16 and 32.
    stages_pattern: Sequence[str] = ("stage1", "stage2", "stage3", "stage4")
    #: Name of the layer whose size is the number of classes.
    classifier = "linear"
    #: (pattern, replacement) pairs for `re.sub` that turn timm's names of the tensors into the official ones.
    timm_names: Renaming = ()
    #: Beginnings of the names that a weights file may lack, and of those in a file that may be left unused.
    may_lack: Sequence[str] = ()
    may_ignore: Sequence[str] = ()

    def set_outputs(
        self,
        return_stages: bool | int | list[int] | None = None,
        return_patterns: str | list[str] | None = None,
        stop_after: str | None = None,
        freeze_befor: str | None = None,
        **unknown: Any,
    ) -> None:
        """Applies the keyword arguments that PaddleClas's factories hand to `TheseusLayer`.

        Args:
            return_stages: True for the maps of all stages, or indices into `stages_pattern`; the model then returns a
                dict of "logits" and the maps by layer name.
            return_patterns: names of the layers whose outputs to return; not together with `return_stages`.
            stop_after: name of the last layer that runs; all layers behind it become identities.
            freeze_befor: name of a layer; it and all before it get no gradient.
            **unknown: anything else is an error.

        Raises:
            PpclsExtError: an argument that is unknown or names no layer.
        """
        if unknown:
            raise PpclsExtError(
                f"{type(self).__name__} got unknown arguments {sorted(unknown)}: the factories take class_num, fused, "
                "pretrained, use_ssld, return_stages, return_patterns, stop_after and freeze_befor"
            )
        if return_stages is not None and return_stages is not False:
            if return_patterns:
                raise PpclsExtError("got both return_stages and return_patterns: give one of them")
            return_patterns = self._stage_names(return_stages)
        if return_patterns:
            wanted = [return_patterns] if isinstance(return_patterns, str) else list(return_patterns)
            for name in wanted:
                self._require_layer("return_patterns", name)
            self.update_res(wanted)
        if freeze_befor is not None:
            self.freeze_befor(freeze_befor)
        if stop_after is not None:
            self._require_layer("stop_after", stop_after)
            self.stop_after(stop_after)

    def freeze_befor(self, layer_name: str) -> bool:
        """Stops the gradient behind the named layer (PaddleClas's spelling), keeping all state-dict names."""
        self._require_layer("freeze_befor", layer_name).register_forward_post_hook(_detach)
        return True

    def _stage_names(self, stages: bool | int | list[int]) -> list[str]:
        names = self.stages_pattern
        if stages is True:
            return list(names)
        indices = [stages] if isinstance(stages, int) else list(stages)
        if not indices or any(type(i) is not int or not 0 <= i < len(names) for i in indices):
            raise PpclsExtError(f"return_stages is {stages!r}: expected True or indices 0 to {len(names) - 1}")
        return [names[i] for i in indices]

    def _require_layer(self, argument: str, name: str) -> nn.Layer:
        layer: Any = self
        for part in str(name).replace("[", ".").replace("]", "").split("."):
            layer = layer._sub_layers.get(part) if isinstance(layer, nn.Layer) else None
        if layer is None:
            raise PpclsExtError(
                f"{argument} is {name!r}, which is no layer of {type(self).__name__}: "
                f"its parts are {', '.join(self._sub_layers)}"
            )
        return layer


def _detach(layer: nn.Layer, inputs: Any, output: Tensor) -> Tensor:
    return output.detach()
