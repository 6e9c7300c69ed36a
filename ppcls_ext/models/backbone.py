"""The base of all models: PaddleClas's TheseusLayer, set up one way on every PaddleClas, or without one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.locate import is_there, theseus_layer
from ppcls_ext.models.standalone import StandaloneLayer, find_layer
from ppcls_ext.onednn import bfloat16
from ppcls_ext.onednn.maps import as_float32
from ppcls_ext.weights.naming import Renaming

_Base: Any = theseus_layer() if is_there() else StandaloneLayer


class Backbone(_Base):
    """A backbone whose intermediate maps can be returned, that can stop early, and whose first layers can be frozen.

    Subclasses build their layers, set `in_channels`, `channels`, `num_features` and `class_num`, and then call
    `set_outputs`.
    PaddleClas's own set-up differs between its generations (2.4 has no `freeze_befor`; later ones register hooks that
    do not survive a deep copy), so it is done here through the methods that all of them have, and a name or index that
    fits nothing is an error instead of a warning.

    Attributes:
        in_channels: channels of the images.
        channels: of the four maps that `features` gives, known without running the model.
        num_features: inputs of the classifier.
        class_num: classes of the head; 0 where there is no classifier.
        features_only: whether calling the model gives `features`.
    """

    #: Names of the layers that end the stages, at strides 4, 8, 16 and 32.
    stages_pattern: Sequence[str] = ("stage1", "stage2", "stage3", "stage4")
    #: Name of the layer that reads the images.
    stem = "stage0"
    #: Of the four maps that `features` gives: pixels of the image for a pixel of the map.
    strides = (4, 8, 16, 32)
    #: Channels of the map at stride 2; 0 for a family that has none.
    stem_channels = 0
    #: Beginnings of the names of the layers between the last map and the classifier.
    head_layers: Sequence[str] = ()
    #: The factory's arguments with which the family is used for dense prediction.
    dense: Mapping[str, Any] = {"features_only": True}
    in_channels = 3
    channels: tuple[int, ...]
    num_features: int
    class_num: int
    features_only = False
    _hands_out_maps = False  # to PaddleClas's hooks
    _frozen_parts = 0  # of `parts`; one more where the head's layers are frozen, too
    #: Name of the layer whose size is the number of classes.
    classifier = "linear"
    #: (pattern, replacement) pairs for `re.sub` that turn timm's names of the tensors into the official ones.
    timm_names: Renaming = ()
    #: Beginnings of the names that a weights file may lack, and of those in a file that may be left unused.
    may_lack: Sequence[str] = ()
    may_ignore: Sequence[str] = ()

    @classmethod
    def form_of(cls, names: Iterable[str]) -> dict[str, Any]:
        """The factory's arguments for the training form that unfused weights are of; none where there is one form.

        Args:
            names: of the weights' tensors, in any naming.
        """
        return {}

    @property
    def out_channels(self) -> tuple[int, ...]:
        """`channels`, under the name that detectors use."""
        return self.channels

    def parts(self) -> list[list[nn.Layer]]:
        """The layers that run, in order: the stem, then those that lead to each of the four maps."""
        raise NotImplementedError

    def features(self, x: Tensor, stem: bool = False) -> list[Tensor]:
        """`x: (N, in_channels, H, W)` → the maps of the four stages, (N, channels[i], H / strides[i], W / strides[i]).

        Args:
            x: images.
            stem: put the map at stride 2, (N, stem_channels, H / 2, W / 2), before them.

        Raises:
            PpclsExtError: `stem` and a family without such a map.
        """
        if stem and not self.stem_channels:
            raise PpclsExtError(
                f"{type(self).__name__} has no map at stride 2: its first convolution goes to stride 4 at once"
            )
        maps = []
        with self.maps_between_layers():
            for part in self.parts():
                for layer in part:
                    x = layer(x)
                maps.append(x)
        return [as_float32(x) for x in (maps if stem else maps[1:])]

    def forward_features(self, x: Tensor) -> Tensor:
        """`x: (N, in_channels, H, W)` → the last map, (N, channels[-1], H / 32, W / 32)."""
        with self.maps_between_layers():
            for part in self.parts():
                for layer in part:
                    x = layer(x)
        return as_float32(x)

    def maps_between_layers(self) -> contextlib.AbstractContextManager[None]:
        """A context in which mixed precision on a CPU leaves maps in bfloat16, unless they are given out, too."""
        return bfloat16.kept_between_layers(not self._hands_out_maps)

    def forward_head(self, x: Tensor) -> Tensor:
        """The last map → logits (N, class_num), or without a classifier its inputs (N, num_features)."""
        raise NotImplementedError

    def freeze(self, stages: int | None = None) -> None:
        """Keeps layers from learning: their parameters get no gradient, their batch normalisations stay in eval mode.

        Args:
            stages: 1 to 4, the stem and that many stages; None for all but the classifier.

        Raises:
            PpclsExtError: there are not so many stages.
        """
        most = len(self.stages_pattern)
        if stages is not None and (type(stages) is not int or not 1 <= stages <= most):
            raise PpclsExtError(f"{stages!r} stages are to be frozen: expected 1 to {most}, or None")
        self._frozen_parts = len(self.parts()) + 1 if stages is None else stages + 1
        for layer in self.frozen_layers():
            for parameter in layer.parameters(include_sublayers=False):
                parameter.stop_gradient = True
        self.keep_frozen()

    def frozen_layers(self) -> list[nn.Layer]:
        """All layers that `freeze` has frozen, with those inside."""
        if not self._frozen_parts:
            return []
        parts = self.parts()[: self._frozen_parts]
        if self._frozen_parts > len(self.parts()):
            parts.append([self._sub_layers[name] for name in self.head_layers if name in self._sub_layers])
        return [layer for part in parts for top in part for layer in top.sublayers(include_self=True)]

    def keep_frozen(self) -> None:
        """Puts the frozen layers into eval mode, out of which `train` brings all layers."""
        for layer in self.frozen_layers():
            layer.training = False

    def train(self) -> Any:
        """Puts all layers but the frozen ones into train mode; returns what Paddle's `train` does."""
        returned = super().train()
        self.keep_frozen()
        return returned

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """`x: (N, in_channels, H, W)` → what `forward_head` gives, or with `features_only` the list of `features`."""
        return self.features(x) if self.features_only else self.forward_head(self.forward_features(x))

    def leave_out_head(self, class_num: int, features_only: bool) -> None:
        """Notes which parts of the head are not built, so that a weights file may hold them."""
        self.features_only = features_only
        self.class_num = 0 if features_only else class_num
        left_out = (*self.head_layers, self.classifier) if features_only else (self.classifier,)
        if not self.class_num:
            self.may_ignore = (*self.may_ignore, *(f"{name}." for name in left_out))

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
                "in_channels, pretrained, use_ssld, features_only, return_stages, return_patterns, stop_after and "
                "freeze_befor, and MobileOne num_conv_branches"
            )
        if self.features_only and (return_stages or return_patterns or stop_after):
            raise PpclsExtError(
                "features_only gives the maps of all stages: leave return_stages, return_patterns and stop_after out"
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
            self._hands_out_maps = True
        if freeze_befor is not None:
            self.freeze_befor(freeze_befor)
        if stop_after is not None:
            self._require_layer("stop_after", stop_after)
            before = set(self.state_dict())
            self.stop_after(stop_after)
            # a file of the whole model has these
            self.may_ignore = (*self.may_ignore, *sorted(before - set(self.state_dict())))

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
        layer = find_layer(self, str(name))
        if layer is None:
            raise PpclsExtError(
                f"{argument} is {name!r}, which is no layer of {type(self).__name__}: "
                f"its parts are {', '.join(self._sub_layers)}"
            )
        return layer


def _detach(layer: nn.Layer, inputs: Any, output: Tensor) -> Tensor:
    return output.detach()
