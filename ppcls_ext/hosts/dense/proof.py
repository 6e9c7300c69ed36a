"""What the hosts' exports do with our nets: fuse them, and prove the program that they write."""

from __future__ import annotations

import copy
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.comparison import NOISE_FACTOR, NUDGE, TOLERANCE, branch_form, require_small
from ppcls_ext.export.differences import largest_difference, require_same
from ppcls_ext.export.program import Program, comparison_inputs, eager_outputs, random_images
from ppcls_ext.hosts.adaptation import Extended, patch
from ppcls_ext.models.backbone import Backbone
from ppcls_ext.reparam.fuse import reparameterizable_layers

logger = logging.getLogger("ppcls_ext")


def nets_of(model: nn.Layer) -> list[Backbone]:
    """Our nets inside a host's model."""
    return [layer for layer in model.sublayers(include_self=True) if isinstance(layer, Backbone)]


def fuse_with_proof(net: Backbone) -> None:
    """Fuses a net in place, in eval mode, and compares every block and every map with the sums of its branches.

    Raises:
        PpclsExtError: a block or a map differs, or a branch is left.
    """
    net.eval()
    if all(layer.is_repped for layer in reparameterizable_layers(net)):
        return
    unfused = copy.deepcopy(net)
    for layer in list(reparameterizable_layers(net)):
        layer.re_parameterize()
    require_no_branches(net)
    reference, comparisons = branch_form(unfused, net)
    differences = []
    for kind, image in random_images(1, 64, 96).items():
        x = paddle.to_tensor(image)
        expected, got = _maps(reference, x), _maps(net, x)
        noise = largest_difference(_maps(net, x * (1 + NUDGE * paddle.uniform(x.shape, min=-1.0, max=1.0))), got)
        differences.append(largest_difference(got, expected))
        require_small(
            f"the fused and the unfused {net.arch}'s maps on {kind}",
            differences[-1],
            max(TOLERANCE, NOISE_FACTOR * noise),
        )
    layers = max(comparison.difference for comparison in comparisons)
    logger.info(
        "%s: %d blocks fused; from the sums of their branches they differ by %.1e, the maps by %.1e (relative)",
        net.arch,
        len(comparisons),
        layers,
        max(differences),
    )


def require_no_branches(net: Backbone) -> None:
    """Raises PpclsExtError where a block of `net` is not fused or holds a training branch."""
    for name, layer in net.named_sublayers(include_self=True):
        if not hasattr(layer, "is_repped"):
            continue
        left = [branch for branch in layer.branch_names if branch != layer.fused_name and branch in layer._sub_layers]
        if left or not layer.is_repped:
            raise PpclsExtError(f"{net.arch}: {name or 'the net'} holds training branches still; nothing was written")


@paddle.no_grad()
def _maps(net: Backbone, x: Tensor) -> list[np.ndarray]:
    return [map_.numpy() for map_ in net(x)]


def prove_exports(module: ModuleType, arguments: Callable[[Mapping[str, Tensor]], Any]) -> None:
    """Makes a host's file that exports fuse our nets and prove the program before its files appear.

    The file's own `paddle` is replaced by one with other `jit.to_static` and `jit.save`; a second call changes nothing.

    Args:
        module: the file.
        arguments: makes the model's argument from the program's inputs by name.
    """
    if isinstance(module.paddle, Extended):
        return
    jit = paddle.jit

    def to_static(model: Any, *args: Any, **kwargs: Any) -> Any:
        for net in nets_of(model) if isinstance(model, nn.Layer) else ():
            fuse_with_proof(net)
        return jit.to_static(model, *args, **kwargs)

    def save(layer: Any, path: str, *args: Any, **kwargs: Any) -> None:
        if not isinstance(layer, nn.Layer) or not nets_of(layer):
            jit.save(layer, path, *args, **kwargs)
            return
        for net in nets_of(layer):
            require_no_branches(net)
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".proving_") as folder:
            jit.save(layer, str(Path(folder, target.name)), *args, **kwargs)
            difference = compare_program(layer, Path(folder, target.name), arguments)
            for file in sorted(Path(folder).iterdir()):
                os.replace(file, target.parent / file.name)
        logger.info("%s: from the trained model the program differs by %.1e (relative)", target, difference)

    patch(module, "paddle", Extended(paddle, jit=Extended(jit, to_static=to_static, save=save)))


def compare_program(layer: nn.Layer, prefix: Path, arguments: Callable[[Mapping[str, Tensor]], Any]) -> float:
    """The largest relative difference between a written program and the model that it was made from.

    Raises:
        PpclsExtError: it is larger than rounding explains.
    """
    program = Program(prefix)
    largest = 0.0
    for kind, inputs in comparison_inputs(program).items():
        tensors = {name: paddle.to_tensor(value) for name, value in inputs.items()}
        what = f"the model's and the exported program's outputs on {kind}"
        largest = max(largest, require_same(what, eager_outputs(layer, arguments(tensors)), program, inputs))
    return largest
