"""What PaddleClas writes as checkpoints, and what it reads to resume from one.

PaddleClas writes each file in place, unpickles what it reads, and restores neither the random numbers nor the best
result so far. Here the files of one save are one set (`atomic_set`), nothing in them is run, and each epoch draws the
same random numbers whether or not the training was interrupted before it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import os
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.hosts.paddleclas.versions import adds_architecture
from ppcls_ext.training.optimizer_state import check_names, with_tensors
from ppcls_ext.weights.checkpoint_sets import CheckpointSet, SetWriter, has_manifest, read_set
from ppcls_ext.weights.files import read_weights
from ppcls_ext.weights.loading import require_finite
from ppcls_ext.weights.paddle_file import read_paddle_file

Files = Callable[[Path, Any], Iterable[tuple[Path, Any]]]


class Checkpoints:
    """The checkpoints of one training.

    Args:
        engine: PaddleClas's, in its mode "train".
        files: the files (path, content) to write for one that PaddleClas saves.
        averages: whether the best model's weights are an average, from which no training can go on.
        facts: to be kept in every manifest, as JSON can hold them.
        on_saved: called, on every process, with the name of a checkpoint that is on the disk.

    Attributes:
        saved: the files written.
        seed: from which the random numbers of every epoch are drawn.
    """

    def __init__(
        self,
        engine: Any,
        files: Files,
        averages: bool = False,
        facts: Mapping[str, Any] | None = None,
        on_saved: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._engine, self._files, self._averages = engine, files, averages
        self._facts, self._on_saved = dict(facts or {}), on_saved
        self._best = -1.0
        seed = engine.config["Global"].get("seed")
        self.seed = int.from_bytes(os.urandom(4), "little") if seed in (None, False) else int(seed)
        self.saved: list[Path] = []

    def is_best(self, prefix: Path) -> bool:
        """Whether the set of this path holds the best model so far, of this run or, resumed, of one before."""
        return self._best >= 0 and has_manifest(prefix) and read_set(prefix).state.get("best_metric") == self._best

    @contextlib.contextmanager
    def in_host(self) -> Iterator[None]:
        """Inside, PaddleClas's training writes and resumes through this object."""
        import paddle
        import ppcls.engine.engine as host
        from ppcls.utils import save_load

        originals = paddle.save, save_load.save_model, host.init_model, self._engine.train_epoch_func
        save_load.save_model = self._in_one_set(save_load.save_model)
        host.init_model = self._resume
        self._engine.train_epoch_func = self._seeded(self._engine.train_epoch_func)
        try:
            yield
        finally:
            paddle.save, save_load.save_model, host.init_model, self._engine.train_epoch_func = originals

    def _in_one_set(self, save_model: Callable) -> Callable:
        """`save_model`, which calls `paddle.save` for each file, with one set as the result."""
        import paddle

        @functools.wraps(save_model)
        def save_set(*args: Any, **kwargs: Any) -> None:
            given = inspect.signature(save_model).bind(*args, **kwargs)
            given.apply_defaults()
            prefix = given.arguments["prefix"]
            if paddle.distributed.get_rank() != 0:  # PaddleClas writes nothing there, either
                self._on_saved(prefix)
                return
            if adds_architecture():
                folder = self._engine.folder
                given.arguments.update(model_path=str(folder.parent), model_name=folder.name)
            else:
                folder = Path(given.arguments["model_path"])
            info = given.arguments["metric_info"]
            if prefix == "best_model":
                self._best = float(info["metric"])
            writer, save = SetWriter(folder / prefix), paddle.save

            def save_file(obj: Any, path: Any, *args: Any, **kwargs: Any) -> None:
                for target, state in self._files(Path(path), obj):
                    if target.suffix == ".pdparams":
                        whose = f"epoch {info['epoch']}: the weights, which are not saved, are"
                        require_finite(state, whose, "try a lower Optimizer.lr.learning_rate or clip gradients")
                    content = io.BytesIO()
                    save(state, content, *args, **kwargs)
                    writer.add(target, content.getbuffer())
                    self.saved.append(target)

            paddle.save = save_file
            try:
                save_model(*given.args, **given.kwargs)
                resumable = not (self._averages and prefix == "best_model")
                writer.commit({"epoch": int(info["epoch"]), "resumable": resumable, **self._state(), **self._facts})
            finally:
                paddle.save = save
                writer.close()
            self._on_saved(prefix)

        return save_set

    def _state(self) -> dict[str, Any]:
        """What no file of PaddleClas's holds, as JSON can hold it."""
        scaler = getattr(self._engine, "scaler", None)
        return {
            "best_metric": self._best,
            "seed": self.seed,
            "learning_rate": [_plain(schedule.state_dict()) for schedule in self._engine.lr_sch],
            "loss_scaler": _plain(scaler.state_dict()) if hasattr(scaler, "state_dict") else {},
        }

    def _seeded(self, train_epoch: Callable) -> Callable:
        @functools.wraps(train_epoch)
        def train_seeded_epoch(engine: Any, epoch_id: int, *args: Any) -> None:
            # PaddleClas develop may keep its iterator, with the rest of the data, from epoch to epoch
            vars(engine).pop("train_dataloader_iter", None)
            sampler = getattr(engine.train_dataloader, "batch_sampler", None)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch_id - 1)
            seed_epoch(self.seed, epoch_id)
            train_epoch(engine, epoch_id, *args)

        return train_seeded_epoch

    def _resume(
        self, settings: Any, net: Any, optimizers: list, loss: Any = None, ema: Any = None
    ) -> dict[str, Any] | None:
        """In the place of PaddleClas's `init_model`: the same parameters, the same result."""
        prefix = Path(settings["checkpoints"])
        found = read_set(prefix) if has_manifest(prefix) else _without_manifest(prefix)
        if not found.state.get("resumable", True):
            raise PpclsExtError(
                f"Global.checkpoints is {prefix}, which holds averaged weights: resume from latest or epoch_N"
            )
        # PaddleClas's own average: develop has it in .pdparams and what is trained in .pdema, 2.5 has a file more
        average = f"{prefix.name}.ema.pdparams"
        trained, averaged = (".pdparams", ".ema.pdparams") if average in found.files else (".pdema", ".pdparams")
        if ema is None:
            trained = ".pdparams"
        else:
            _set_state(found.file(averaged), ema)
        _set_state(found.file(trained), net, loss)
        self._restore_optimizers(found, optimizers)
        scaler = getattr(self._engine, "scaler", None)
        if "scale" in found.state.get("loss_scaler", {}) and hasattr(scaler, "load_state_dict"):
            state = found.state["loss_scaler"]
            scaler.load_state_dict({**state, "scale": np.asarray(state["scale"], np.float32)})
        if self._engine.config["Global"].get("seed") in (None, False):
            self.seed = found.state.get("seed", self.seed)
        self._best = found.state.get("best_metric", -1.0)
        from ppcls.utils import logger

        logger.info(f"resuming from {prefix}, epoch {found.state['epoch']}, best metric {self._best:.5f}")
        return {"metric": self._best, "epoch": found.state["epoch"]}

    def _restore_optimizers(self, found: CheckpointSet, optimizers: list) -> None:
        path = found.file(".pdopt")
        states = read_paddle_file(path)
        states = states if isinstance(states, list) else [states]
        if len(states) != len(optimizers) or not all(isinstance(state, dict) for state in states):
            raise PpclsExtError(f"{path} holds the states of {len(states)} optimizers, expected {len(optimizers)}")
        schedules = found.state.get("learning_rate", [None] * len(states))
        for optimizer, state, schedule in zip(optimizers, states, schedules):
            check_names(path, optimizer, state)
            state = with_tensors(state)
            try:
                optimizer.set_state_dict({**state, "LR_Scheduler": schedule} if schedule is not None else state)
            except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
                raise PpclsExtError(f"{path} does not fit this training's optimizer: {one_line(error)}") from error


def seed_epoch(seed: int, epoch: int) -> None:
    """Seeds Python's, NumPy's and Paddle's random numbers for one epoch, the same on all ranks, as PaddleClas does."""
    import paddle

    seeds = [int(value) for value in np.random.SeedSequence([seed, epoch]).generate_state(3)]
    random.seed(seeds[0])
    np.random.seed(seeds[1])
    paddle.seed(seeds[2])


def _without_manifest(prefix: Path) -> CheckpointSet:
    """A checkpoint of plain PaddleClas, about which less is known."""
    files = {prefix.name + suffix: Path(f"{prefix}{suffix}") for suffix in (".pdparams", ".pdopt", ".pdstates")}
    files.update({path.name: path for path in prefix.parent.glob(f"{prefix.name}.*") if path.name not in files})
    states = read_paddle_file(files[f"{prefix.name}.pdstates"])
    epoch, metric = (states.get(name) if isinstance(states, dict) else None for name in ("epoch", "metric"))
    if type(epoch) is not int:
        raise PpclsExtError(f"{prefix}.pdstates does not tell the epoch: expected what PaddleClas writes there")
    from ppcls.utils import logger

    logger.warning(
        f"{prefix} has no manifest {prefix.name}.json: its files cannot be checked to belong together, and the best "
        "metric so far is taken from it alone"
    )
    best = float(metric) if isinstance(metric, (int, float)) else -1.0
    return CheckpointSet(prefix, 0, {"epoch": epoch, "best_metric": best}, files)


def _set_state(path: Path, *layers: Any) -> None:
    """Sets the state of `layers`, which have to be exactly what the file holds."""
    arrays = read_weights(path)
    state = {name: tensor for layer in layers if layer is not None for name, tensor in layer.state_dict().items()}
    missing = [name for name in state if name not in arrays]
    wrong = [name for name in state if name in arrays and arrays[name].shape != tuple(state[name].shape)]
    beyond = [name for name in arrays if name not in state]
    faults = [
        f"{len(names)} tensors {what} ({names[0]})"
        for names, what in ((missing, "missing"), (beyond, "too many"), (wrong, "of another shape"))
        if names
    ]
    if faults:
        raise PpclsExtError(
            f"{path} does not fit: {', '.join(faults)}; resume with the architecture and class_num of that training"
        )
    for name, tensor in state.items():
        tensor.set_value(arrays[name].astype(_numpy_name(tensor)))


def _numpy_name(tensor: Any) -> str:
    name = str(tensor.dtype).rpartition(".")[2]
    return "float32" if name == "bfloat16" else name


def _plain(value: Any) -> Any:
    """A state dict as JSON can hold it."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value
