"""Training the unfused form of fused weights, the form in which most weights are published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.utils import unique_name

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.models.factories import FACTORIES
from ppcls_ext.reparam.unfuse import unfuse
from ppcls_ext.weights.files import read_weights
from ppcls_ext.weights.naming import are_fused


def load_fused(arch: dict) -> nn.Layer:
    """The fused model of a configuration's section `Arch`, with its weights; `pretrained` is taken out of the section.

    Raises:
        PpclsExtError: `pretrained` is no file of fused weights of this architecture.
    """
    arguments = {name: value for name, value in arch.items() if name not in ("name", "pretrained", "use_sync_bn")}
    path = arch.pop("pretrained")
    try:
        # optimizers save their state under parameter names that Paddle counts: this model must not take any
        with unique_name.guard():
            return FACTORIES[arch["name"]](**{**arguments, "fused": True, "pretrained": path})
    except PpclsExtError as error:
        if are_fused(read_weights(path)):
            raise  # it is another model's
        raise PpclsExtError(f"Recipe.unfuse: expected fused weights in Global.pretrained_model: {error}") from error


def start_unfused(network: nn.Layer, fused: nn.Layer, loader: Iterable[list[Tensor]], pictures: int) -> int:
    """Gives `network` the function of `fused`, calibrated on training pictures as training sees them.

    Args:
        network: unfused, of the same architecture; changed in place, to the same weights on every rank.
        fused: its fused form.
        loader: gives batches that begin with the images.
        pictures: how many to calibrate on; the loader may hold fewer.

    Returns:
        How many pictures were used, on this rank.

    Raises:
        PpclsExtError: the loader is empty.
    """
    used = 0

    def batches() -> Iterator[Tensor]:
        nonlocal used
        for batch in loader:
            used += batch[0].shape[0]
            yield batch[0]
            if used >= pictures:
                return

    with unique_name.guard():
        calibrated = unfuse(fused, batches()).state_dict()
    with paddle.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.set_value(calibrated[name].astype(tensor.dtype))
            if dist.get_world_size() > 1:
                dist.broadcast(tensor, src=0)  # each rank has seen other pictures
    return used
