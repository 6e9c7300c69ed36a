"""The section `Recipe` at work: what a training does beside PaddleClas's options.

The loop calls a `Recipe` where its parts happen: `begin` once, `begin_epoch` before an epoch, `complete` with the
losses of a batch, `set_weight_decay` before an update of the weights and `update_average` behind it. Clipping and the
classifier's learning rate are settings of the optimizers and parameters, made once in `attach`.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import Tensor, nn
from paddle.io import Dataset
from paddle.utils import unique_name

from ppcls_ext.config.recipe import CALIBRATION_IMAGES, POLICIES, Ema, Settings, Stage
from ppcls_ext.config.teachers import open_teachers
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.image_operators import set_crop_size
from ppcls_ext.hosts.paddleclas.loader_processes import batches_of
from ppcls_ext.hosts.paddleclas.losses import weigh_classes
from ppcls_ext.hosts.paddleclas.optimizers import WeightDecay, clip_global_norm
from ppcls_ext.models.factories import FACTORIES, other_form
from ppcls_ext.models.repvgg import RepVGGBlock, custom_l2
from ppcls_ext.progress import Report, progress
from ppcls_ext.reparam.fuse import reparameterize
from ppcls_ext.reparam.unfuse import unfuse
from ppcls_ext.training.class_weights import class_weights
from ppcls_ext.training.precise_statistics import compute_statistics, first_images, learning_norms
from ppcls_ext.training.teachers import Teachers
from ppcls_ext.weights.files import read_names, read_weight_file
from ppcls_ext.weights.naming import are_fused

#: Ends of the names of running statistics, which Paddle counts as parameters.
STATISTICS = ("._mean", "._variance")


def _is_kept(weight: Tensor) -> bool:
    return weight.stop_gradient


class Recipe:
    """The recipe of one training: made before the engine is built, attached to it, then called by the loop.

    Args:
        settings: checked.
        arch: the section `Arch`; with `unfuse`, its `pretrained` is taken out and loaded.

    Attributes:
        average: the moving average of the weights; None without `Recipe.ema`, and before `begin`.

    Raises:
        PpclsExtError: with `unfuse`, the weights are not fused or not this architecture's.
    """

    def __init__(self, settings: Settings, arch: dict) -> None:
        self._settings = settings
        self._fused = load_fused(arch) if settings.unfuse is not None else None
        self.average: Average | None = None
        self._decay: WeightDecay | None = None
        self._curriculum: Curriculum | None = None
        self._teachers: Teachers | None = None
        self._updates = self._updates_per_epoch = self._all_updates = 0

    def attach(self, engine: Any) -> None:
        """Sets up what the recipe changes of a built engine: loader, optimizers and, with `unfuse`, the weights."""
        from ppcls.utils import logger

        settings, epochs, network = self._settings, engine.epochs, engine.network
        self._network = network
        self._updates_per_epoch = engine.batches_per_epoch // engine.update_freq
        self._all_updates = self._updates_per_epoch * epochs
        if settings.progressive:
            self._curriculum = Curriculum(settings.progressive, engine.train_dataloader.dataset)
            self._curriculum.set(1)
            unreached = [stage.epoch for stage in settings.progressive if stage.epoch > epochs]
            if unreached:
                logger.warning(f"[Recipe] the stages from epoch {unreached[0]} are not reached in {epochs} epochs")
        if settings.freeze is not None:
            weights = [weight for name, weight in network.named_parameters() if not name.endswith(STATISTICS)]
            kept, every = (sum(weight.size for weight in some) / 1e6 for some in (filter(_is_kept, weights), weights))
            logger.info(f"[Recipe] frozen: {kept:.2f} of {every:.2f} million parameters")
        if settings.head_learning_rate is not None:
            multiply_head_learning_rate(network, settings.head_learning_rate)
        if settings.clip_global_norm is not None:
            clip_global_norm(engine.optimizer, settings.clip_global_norm)
        if settings.class_weights is not None:
            self._weigh_classes(engine, settings.class_weights)
        if self._fused is not None and settings.unfuse is not None:
            self._unfuse(engine, settings.unfuse.pictures)
        if settings.teachers is not None:
            self._teachers = Teachers(open_teachers(engine.settings), settings.teachers.share)
            logger.info(f"[Recipe] {len(self._teachers)} teachers, {settings.teachers.share:.0%} of the loss")
        if settings.weight_decay is not None:
            by_loss = set() if settings.custom_l2 is None else {kernel.name for kernel in _custom_l2_kernels(network)}
            kernels = [weight for weight in network.parameters() if weight.ndim > 1 and weight.name not in by_loss]
            self._decay = WeightDecay(kernels, engine.optimizer)

    def _weigh_classes(self, engine: Any, kind: str) -> None:
        from ppcls.utils import logger

        dataset = engine.train_dataloader.dataset
        classes, names = engine.config["Arch"].get("class_num") or dataset.class_num, engine.settings.class_names
        weights = class_weights(kind, np.asarray(dataset.labels), classes, names)
        weigh_classes(engine.train_loss_func, weights)
        said = [f"{weights[index]:.2f} ({names[index] if names else index})" for index in np.argsort(weights)[[0, -1]]]
        logger.info(f"[Recipe] weights of the classes from {said[0]} to {said[1]}")

    def _unfuse(self, engine: Any, asked: int | None) -> None:
        from ppcls.utils import logger

        used = start_unfused(self._network, self._fused, engine.train_dataloader, asked or CALIBRATION_IMAGES)
        self._fused = None
        logger.info(f"[Recipe] unfused weights, calibrated on {used} images")
        if asked is not None and used < asked:
            logger.warning(f"[Recipe] Recipe.unfuse asks for {asked} images, and an epoch has only {used}")

    def begin(self, checkpoints: str | None) -> None:
        """Starts the average from the model as it is now, or from the file beside `checkpoints`, a path without suffix.

        Raises:
            PpclsExtError: that file cannot be read or is another model's.
        """
        if self._settings.ema is None:
            return
        self.average = Average(self._network, self._settings.ema)
        if checkpoints is not None:
            self.average.load(f"{checkpoints}.ema.pdparams")

    def take_for_average(self) -> None:
        """Takes the model's weights as they are for an average that ends, which is saved and not resumed from."""
        self.average = Average(self._network, Ema(decay=0.0, warmup=False))

    def begin_epoch(self, number: int) -> None:
        """Sets the stage of progressive learning, and the number of updates done before the epoch."""
        self._updates = (number - 1) * self._updates_per_epoch
        if self._settings.freeze is not None:
            self._network.keep_frozen()  # an evaluation ends in train mode
        stage = self._curriculum.begin(number) if self._curriculum is not None else None
        if stage is not None:
            from ppcls.utils import logger

            logger.info(f"[Recipe] from epoch {number}: {stage}")

    def complete(self, losses: dict[str, Tensor], images: Tensor, outputs: Any) -> dict[str, Tensor]:
        """The losses of a batch with what the recipe adds to their sum: teachers and a decay of weights.

        Args:
            losses: by their names; "loss" is their sum.
            images: (N, C, H, W), of the batch.
            outputs: of the model.
        """
        if self._teachers is not None:
            losses = self._teachers.add_to(losses, images, outputs)
        return self._add_penalty(losses)

    def _add_penalty(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """With RepVGG's own weight decay (`Recipe.custom_l2`).

        It is a decay of the kernels that the fused network will have (official `repvgg.py`).
        """
        if self._settings.custom_l2 is None:
            return losses
        with paddle.amp.auto_cast(enable=False):
            penalty = custom_l2(self._network) * (self._settings.custom_l2 / 2)
            total = losses["loss"] + penalty.reshape(losses["loss"].shape)
        return {**losses, "loss": total}

    def set_weight_decay(self) -> None:
        """Anneals the weight decay by a cosine, before an update (MobileOne, arXiv 2206.04040: from 1e-4 to 1e-5).

        Update t of T uses `end + (start − end)·(1 + cos(π·t / T)) / 2`. Whatever has one dimension, the scales and
        biases, does not decay.
        """
        if self._decay is not None and self._settings.weight_decay is not None:
            start, end = self._settings.weight_decay
            share = (1 + math.cos(math.pi * self._updates / self._all_updates)) / 2
            self._decay.set(end + (start - end) * share)

    def update_average(self) -> None:
        """Takes the weights into the average, after an update."""
        if self.average is not None:
            self.average.update(self._updates)
        self._updates += 1

    def average_statistics(self) -> None:
        """Gives all processes the same running statistics, after an epoch."""
        frozen = set()
        if self._settings.freeze is not None:  # equal already, and a mean might round
            layers = self._network.frozen_layers()
            frozen = {id(value) for layer in layers for value in layer.state_dict(include_sublayers=False).values()}
        state = self._network.state_dict()
        names = [name for name, value in state.items() if id(value) not in frozen]
        average_statistics({name: state[name] for name in names})
        if self.average is not None:
            average_statistics({name: self.average.state[name] for name in names})

    def compute_statistics(self, loader: Any) -> None:
        """Computes the running statistics of what is evaluated anew (`Recipe.precise_statistics`), after an epoch.

        Args:
            loader: of the training images.
        """
        settings, norms = self._settings.precise_statistics, learning_norms(self._network)
        if settings is None or not norms:
            return
        state = self._network.state_dict()
        learning = {id(value) for norm in norms for value in (norm._mean, norm._variance)}
        names = [name for name, value in state.items() if id(value) in learning]
        batches = first_images(loader, settings.images)
        with self.evaluated():
            compute_statistics(self._network, batches)
            computed = {name: state[name].clone() for name in names}
        average_statistics(computed)
        own = self.average.state if self.average is not None else state
        with paddle.no_grad():
            for name, value in computed.items():
                paddle.assign(value, output=own[name])

    def evaluated(self) -> contextlib.AbstractContextManager[None]:
        """A context in which the model holds the weights that are evaluated: the average where there is one."""
        return self.average.in_model() if self.average is not None else contextlib.nullcontext()


class Curriculum:
    """Small images and weak augmentation first (progressive learning, arXiv 2104.00298; MobileOne, FasterNet).

    The size is that of the random crop of training images. The strength is the share of images that the augmentation
    policy (AutoAugment, RandAugment, …) is applied to: these policies have fixed magnitudes in PaddleClas, and every
    image gets them at strength 1.

    Args:
        stages: in the order of their epochs, the first at epoch 1.
        dataset: PaddleClas's, with a `RandCropImage` where stages have a size and a policy where they have a strength.
    """

    def __init__(self, stages: Sequence[Stage], dataset: Dataset) -> None:
        self._stages, self._last = stages, ""
        operators = dataset._transform_ops
        self._crops = [operator for operator in operators if type(operator).__name__ == "RandCropImage"]
        self._policies = []
        if any(stage.strength is not None for stage in stages):
            for index, operator in enumerate(operators):
                if type(operator).__name__ in POLICIES:
                    operators[index] = _Sometimes(operator)
                    self._policies.append(operators[index])

    def begin(self, epoch: int) -> str | None:
        """Sets the transforms for an epoch, counted from 1; returns the stage in words where it is a new one."""
        stage, before = self.set(epoch), self._last
        self._last = stage
        return stage if stage != before else None

    def set(self, epoch: int) -> str:
        """Sets the transforms for an epoch, counted from 1; returns the stage in words."""
        for stage in self._stages:  # what a stage leaves out stays as it was
            if stage.epoch > epoch:
                break
            for crop in self._crops:
                if stage.size is not None:
                    height, width = (stage.size,) * 2 if isinstance(stage.size, int) else stage.size
                    set_crop_size(crop, (width, height))
            for policy in self._policies if stage.strength is not None else ():
                policy.strength = stage.strength
        words = [f"{crop.size[0]} px" for crop in self._crops]
        words += [f"augmentation of {policy.strength:.0%} of the images" for policy in self._policies]
        return ", ".join(words)


class _Sometimes:
    """Applies an operator to the share `strength` of the images."""

    def __init__(self, operator: Any) -> None:
        self._operator = operator
        self.strength = 1.0

    def __call__(self, image: Any) -> Any:
        if self.strength < 1 and random.random() >= self.strength:
            return image
        return self._operator(image)


class Average:
    """The exponential moving average of a model's weights and running statistics (arXiv 2206.04040: decay 0.9995).

    After each update t = 0, 1, … of the weights w, `average = d·average + (1 − d)·w`, in float32. With `warmup`,
    `d = min(decay, (1 + t) / (10 + t))`: a short training would otherwise end with an average of mostly initial weights
    (0.9995 keeps 82 % of them over 400 updates), and a long one does not notice.

    Args:
        model: its present state is the first average.
        settings: decay and warm-up.
    """

    def __init__(self, model: nn.Layer, settings: Ema) -> None:
        self._decay, self._warmup = settings
        self._trained = model.state_dict()
        self.state: dict[str, Tensor] = {name: tensor.detach().clone() for name, tensor in self._trained.items()}

    @paddle.no_grad()
    def update(self, step: int) -> None:
        """Takes in the model's state after the update number `step`, counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step)) if self._warmup else self._decay
        for name, average in self.state.items():
            # three plain operations: lerp_ broadcasts, which is six times slower on large tensors
            average.add_(self._trained[name].subtract(average).scale_(1 - decay))

    @contextlib.contextmanager
    def in_model(self) -> Iterator[None]:
        """A context in which the model holds the average; it gets its trained state back whatever happens."""
        trained = {name: tensor.detach().clone() for name, tensor in self._trained.items()}
        try:
            self._set(self.state)
            yield
        finally:
            self._set(trained)

    def load(self, path: str | os.PathLike) -> None:
        """Takes the average from a file written beside a checkpoint.

        Raises:
            PpclsExtError: it cannot be read or is another model's.
        """
        arrays = read_weight_file(path).tensors
        expected = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        if {name: array.shape for name, array in arrays.items()} != expected:
            raise PpclsExtError(f"{path} does not fit: expected the average of this model, {len(expected)} tensors")
        for name, array in arrays.items():
            self.state[name].set_value(array)

    @paddle.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self._trained.items():
            paddle.assign(values[name], output=tensor)


@paddle.no_grad()
def average_statistics(state: Mapping[str, Tensor]) -> None:
    """Gives the running means and variances in `state` their mean over all ranks, which have to call this together.

    Several processes share gradients, hence weights; each keeps running statistics of its own images. PaddleClas
    evaluates each rank with its own, and saves rank 0's: other weights than those that were evaluated.
    """
    statistics = [tensor for name, tensor in state.items() if name.endswith(STATISTICS)]
    if dist.get_world_size() == 1 or not statistics:
        return
    together = paddle.concat([tensor.flatten() for tensor in statistics])  # one message instead of hundreds
    dist.all_reduce(together)
    together /= dist.get_world_size()
    for tensor, mean in zip(statistics, together.split([tensor.size for tensor in statistics])):
        paddle.assign(mean.reshape(tensor.shape), output=tensor)


def multiply_head_learning_rate(model: nn.Layer, factor: float) -> None:
    """Makes every optimizer update the classifier with `factor` times the learning rate.

    A classifier starts from nothing when a pretrained net is fine-tuned.

    Args:
        model: one of this project's models.
        factor: 1 changes nothing, 0 keeps the classifier as it is.
    """
    for parameter in getattr(model, model.classifier).parameters():
        parameter.optimize_attr["learning_rate"] = factor


def _custom_l2_kernels(network: nn.Layer) -> list[Tensor]:
    """The kernels that `custom_l2` decays."""
    blocks = [layer for layer in network.sublayers(include_self=True) if isinstance(layer, RepVGGBlock)]
    return [conv.weight for block in blocks for conv, _ in block.branch_parts() if conv is not None]


def load_fused(arch: dict) -> nn.Layer:
    """The fused model of a configuration's section `Arch`, with its weights; `pretrained` is taken out of the section.

    Raises:
        PpclsExtError: `pretrained` is no file of weights of this architecture, fused or of another training form.
    """
    arguments = {name: value for name, value in arch.items() if name not in ("name", "pretrained", "use_sync_bn")}
    path = arch.pop("pretrained")
    factory = FACTORIES[arch["name"]]
    try:
        # optimizers save their state under parameter names that Paddle counts: this model must not take any
        with unique_name.guard():
            form = other_form(arch["name"], arguments, read_names(path))
            if not form:
                return factory(**{**arguments, "fused": True, "pretrained": path})
            fused = factory(**{**arguments, "fused": True})  # it knows the form that is asked for
            fused.set_state_dict(reparameterize(factory(**{**arguments, **form, "pretrained": path})).state_dict())
            return fused
    except PpclsExtError as error:
        if are_fused(read_names(path)):
            raise  # it is another model's
        raise PpclsExtError(f"Recipe.unfuse: expected fused weights in Global.pretrained_model: {error}") from error


def start_unfused(network: nn.Layer, fused: nn.Layer, loader: Iterable[list[Tensor]], pictures: int) -> int:
    """Gives `network` the function of `fused`, calibrated on training images as training sees them.

    Args:
        network: unfused, of the same architecture; changed in place, to the same weights on every rank.
        fused: its fused form.
        loader: gives batches that begin with the images.
        pictures: how many to calibrate on; the loader may hold fewer.

    Returns:
        The number of images that were used, on this rank.

    Raises:
        PpclsExtError: the loader is empty.
    """
    used = 0

    def batches(report: Report) -> Iterator[Tensor]:
        nonlocal used
        for batch in batches_of(loader):
            used += batch[0].shape[0]
            yield batch[0]
            report(min(used, pictures), pictures)
            if used >= pictures:
                return

    with unique_name.guard(), progress("giving the fused weights their branches") as report:
        calibrated = unfuse(fused, batches(report)).state_dict()
    with paddle.no_grad():
        for name, tensor in network.state_dict().items():
            tensor.set_value(calibrated[name].astype(tensor.dtype))
            if dist.get_world_size() > 1:
                dist.broadcast(tensor, src=0)  # each rank has seen other images
    return used
