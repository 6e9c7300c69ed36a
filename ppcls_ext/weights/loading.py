"""A model's weights: loaded strictly (everything fits, or nothing is loaded), checked, saved."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Union

import numpy as np

from ppcls_ext.errors import FusedWeightsError, PpclsExtError
from ppcls_ext.files import atomic_write
from ppcls_ext.weights.files import WeightFile, read_weight_file
from ppcls_ext.weights.naming import are_fused, to_model_names, to_torch_names

if TYPE_CHECKING:
    from paddle import nn


logger = logging.getLogger("ppcls_ext")

RGB = 3
"""Channels of the images of all published weights."""
Source = Union[str, os.PathLike, WeightFile, Mapping[str, np.ndarray]]


class LoadReport(NamedTuple):
    """The result of `load_weights`; `str` gives it in one line.

    Attributes:
        loaded: the names of the tensors that were set.
        naming: the source's naming: "official", "timm" or "PaddleClas".
        prefix: what stood before the source's names, such as "module."; see `ppcls_ext.weights.naming.PREFIXES`.
        fresh: the names of the tensors that kept their initial values: the classifier if the number of classes differs,
            and those that the published classification network does not have (FasterNet's `fork_feat` normalisations).
        unused: the names in the source that the model does not need (the head, for a headless model).
        adapted: how the first convolution was made to read another number of channels; "" where it was not.
    """

    loaded: list[str]
    naming: str
    fresh: list[str]
    unused: list[str]
    prefix: str = ""
    adapted: str = ""

    def __str__(self) -> str:
        text = f"loaded {len(self.loaded)} tensors ({self.naming} names{f' behind {self.prefix}' * bool(self.prefix)})"
        if self.fresh:
            text += f"; starting afresh, since the weights have none that fit: {', '.join(self.fresh)}"
        if self.unused:
            text += f"; not used by this model: {', '.join(self.unused)}"
        if self.adapted:
            text += f"; {self.adapted}"
        return text


def load_weights(
    model: nn.Layer, source: Source, *, allow_other_classes: bool = False, allow_other_channels: bool = False
) -> LoadReport:
    """Loads weights into `model`, all of them or none.

    The naming (this project's, PaddleClas's, the official PyTorch one, timm's), the layout and the form (fused,
    unfused) are recognised automatically.

    Args:
        model: one of this project's models.
        source: a path (.pdparams, .pth, .pth.tar, .pt, .safetensors, .npz; PaddleClas's path without a suffix means
            .pdparams), the `WeightFile` that was read from one, or a mapping of names to arrays. Mappings, .npz and
            .safetensors in official naming have PyTorch's layouts.
        allow_other_classes: whether the classifier may keep its initial values if its number of classes differs, or if
            the weights have none.
        allow_other_channels: whether the first convolution may be adapted if the weights are for images of 3 channels,
            and the model's for another number C of them. As timm does it, each kernel that reads the image,
            K (O, 3, h, w), becomes for C = 1 the sum over the channels, K'[o, 0] = K[o, 0] + K[o, 1] + K[o, 2], which
            answers to a grey image as K to its three equal channels; for other C it is repeated in turn and scaled,
            K'[o, c] = 3 / C · K[o, c mod 3], which keeps the mean of what it sums up.

    Raises:
        PpclsExtError: the file cannot be read, it is for images of another number of channels, its tensors are not
            exactly the model's (the message names the first differences), or one is not finite; the model is unchanged.
    """
    import paddle

    state = model.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in state.items()}
    if isinstance(source, Mapping):
        origin, arrays, paddle_layout = "the mapping", source, False
    else:
        file = source if isinstance(source, WeightFile) else read_weight_file(source)
        origin = os.fspath(source.path if isinstance(source, WeightFile) else source)
        arrays, paddle_layout = file.tensors, file.format == "paddle"
    named, naming, prefix = to_model_names(arrays, expected, getattr(model, "timm_names", ()), paddle_layout)

    tensors, adapted = _with_channels(model, origin, named, allow_other_channels)
    wanted, fresh, unused, unexpected = _assign(model, tensors, expected, allow_other_classes)
    _check(model, origin, tensors, {name: expected[name] for name in wanted}, unexpected)
    require_finite({name: tensors[name] for name in wanted}, f"{origin}: its weights are", "use another file")
    for name in wanted:
        state[name].set_value(paddle.to_tensor(tensors[name]).astype(state[name].dtype))
    report = LoadReport(wanted, naming, fresh, unused, prefix, adapted)
    logger.info("%s: %s", origin, report)
    return report


def stem_kernels(model: nn.Layer) -> list[str]:
    """Returns the names of the convolutions that read the image: the stem's branches, or the one that they became."""
    stem = f"{getattr(model, 'stem', 'stage0')}."
    return [
        name
        for name, tensor in model.state_dict().items()
        if name.startswith(stem) and name.endswith(".weight") and tensor.ndim == 4 and ".se." not in name
    ]


def channels_of(tensors: Mapping[str, np.ndarray], kernels: Sequence[str]) -> int | None:
    """Returns how many channels the images of weights have, by the first of `kernels` that is there; None without."""
    return next((tensors[name].shape[1] for name in kernels if name in tensors and tensors[name].ndim == 4), None)


def _with_channels(
    model: nn.Layer, origin: str, tensors: Mapping[str, np.ndarray], allow: bool
) -> tuple[Mapping[str, np.ndarray], str]:
    """The tensors with first convolutions for as many channels as the model's; see `load_weights`."""
    kernels = stem_kernels(model)
    wanted, there = getattr(model, "in_channels", None), channels_of(tensors, kernels)
    if wanted is None or there in (None, wanted):
        return tensors, ""
    if not allow or there != RGB:
        how = "" if there != RGB else "; fine-tuning adapts them (allow_other_channels)"
        raise PpclsExtError(
            f"{origin} is for images of {there} channels, and {getattr(model, 'arch', type(model).__name__)} takes "
            f"{wanted} (in_channels): expected weights for {wanted}{how}"
        )
    adapted = {name: _adapted(tensors[name], wanted) for name in kernels if name in tensors}
    how = "summed over the channels" if wanted == 1 else f"repeated in turn, times 3 / {wanted}"
    return {**tensors, **adapted}, f"the first convolution, for 3 channels, was adapted to {wanted}: {how}"


def _adapted(kernel: np.ndarray, channels: int) -> np.ndarray:
    """`kernel: (O, 3, h, w)` → (O, channels, h, w)."""
    if channels == 1:
        return kernel.sum(axis=1, keepdims=True, dtype=np.float64).astype(kernel.dtype)
    repeated = kernel[:, np.arange(channels) % RGB].astype(np.float64)
    return (repeated * (RGB / channels)).astype(kernel.dtype)


class _Assignment(NamedTuple):
    """Every name of the model and of the source, in one of four groups.

    Attributes:
        wanted: set from the source.
        fresh: keep their initial values.
        unused: in the source, and known not to be needed.
        unexpected: in the source, and in no place of the model.
    """

    wanted: list[str]
    fresh: list[str]
    unused: list[str]
    unexpected: list[str]


def _assign(
    model: nn.Layer,
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    allow_other_classes: bool,
) -> _Assignment:
    may_lack, may_ignore = (tuple(getattr(model, attribute, ())) for attribute in ("may_lack", "may_ignore"))
    fresh = [name for name in expected if name.startswith(may_lack) and name not in tensors]
    if allow_other_classes:
        prefix = getattr(model, "classifier", "linear") + "."
        head = [name for name in expected if name.startswith(prefix)]
        is_headless = not any(name in tensors for name in head)
        fresh += [name for name in head if is_headless or _classes_differ(tensors, name, expected)]
    beyond = [name for name in tensors if name not in expected]
    return _Assignment(
        wanted=[name for name in expected if name not in fresh],
        fresh=fresh,
        unused=[name for name in beyond if name.startswith(may_ignore)],
        unexpected=[name for name in beyond if not name.startswith(may_ignore)],
    )


def _classes_differ(tensors: Mapping[str, np.ndarray], name: str, expected: Mapping[str, tuple[int, ...]]) -> bool:
    """Returns whether the classifier tensor `name` differs from the model's only in its last axis, the classes."""
    if name not in tensors:
        return False
    shape, wanted = tensors[name].shape, expected[name]
    return len(shape) == len(wanted) and shape[:-1] == wanted[:-1] and shape != wanted


def _check(
    model: nn.Layer,
    origin: str,
    tensors: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    unexpected: list[str],
) -> None:
    missing = [name for name in expected if name not in tensors]
    wrong = [
        f"{name} is {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if not (missing or unexpected or wrong):
        return
    classifier = getattr(model, "classifier", "linear") + "."
    if missing and unexpected and all(text.startswith(classifier) for text in wrong):
        _explain_form(model, origin, tensors)
    arch = getattr(model, "arch", type(model).__name__)
    differences = []
    for what, names in (("missing", missing), ("not in the model", unexpected), ("of another shape", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            differences.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
    raise PpclsExtError(
        f"{origin} does not fit {arch}: {'; '.join(differences)}. Nothing was loaded; "
        "check the architecture's name and class_num against the file"
    )


def _explain_form(model: nn.Layer, origin: str, tensors: Mapping[str, np.ndarray]) -> None:
    """Raises PpclsExtError if the only difference is that one side is fused and the other is not."""
    layers = [layer for layer in model.sublayers(include_self=True) if hasattr(layer, "is_repped")]
    if not layers:
        return
    fused_model = layers[0].is_repped
    fused_file = are_fused(tensors)
    if fused_file and not fused_model:
        raise FusedWeightsError(
            f"{origin} holds fused weights, and the model is unfused: run it as it is with fused=True (-o "
            "Arch.fused=True), or train its branches again with ppcls_ext.unfuse (-o Recipe.unfuse.pictures=512)"
        )
    if fused_model and not fused_file:
        raise PpclsExtError(
            f"{origin} holds unfused weights, and the model is fused: build it with fused=False, load, then fuse it "
            "with ppcls_ext.reparameterize"
        )


FORMATS = (".pdparams", ".npz", ".safetensors")


def save_weights(model: nn.Layer, path: str | Path) -> None:
    """Writes a model's state dict atomically.

    Args:
        model: the model.
        path: the file to write; its suffix, one of `FORMATS`, decides the format. `.npz` and `.safetensors` get the
            official PyTorch names and layouts.

    Raises:
        PpclsExtError: the suffix is another one, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise PpclsExtError(
            f"cannot write {path}: the suffix decides the format and must be one of {', '.join(FORMATS)}"
        )
    state: dict[str, Any] = to_torch_names({name: tensor.numpy() for name, tensor in model.state_dict().items()})
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


def require_finite(state: Mapping[str, Any], whose: str, what_to_do: str) -> None:
    """Checks that no tensor contains NaN or infinity.

    Args:
        state: arrays or tensors by name; other values, and those that are not floats, are ignored.
        whose: the beginning of the message.
        what_to_do: the end of the message.

    Raises:
        PpclsExtError: a tensor is not finite; the message names the first.
    """
    wrong = [name for name, value in state.items() if not _is_finite(value)]
    if wrong:
        more = f" and {len(wrong) - 1} more tensors" if len(wrong) > 1 else ""
        raise PpclsExtError(f"{whose} not finite: {wrong[0]}{more} hold NaN or infinity; {what_to_do}")


def _is_finite(value: Any) -> bool:
    array = value.numpy() if hasattr(value, "numpy") else value
    return not isinstance(array, np.ndarray) or array.dtype.kind != "f" or bool(np.isfinite(array).all())
