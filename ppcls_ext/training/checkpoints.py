"""A training's checkpoints: saved as whole sets, and resumed from without running anything in them.

PaddleClas writes each file in place, unpickles what it reads, and restores neither the random numbers nor the best
result so far. Here the files of one save are one set (`weights.checkpoint_sets`), nothing in them is run, and an epoch
draws the same random numbers whether or not the training was interrupted before it.
"""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ppcls_ext.config.folder import KEY
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.hosts.paddleclas.versions import adds_architecture
from ppcls_ext.weights.checkpoint_sets import CheckpointSet, SetWriter, has_manifest, read_set
from ppcls_ext.weights.files import read_weights
from ppcls_ext.weights.loading import require_finite
from ppcls_ext.weights.paddle_file import read_paddle_file

BEST = "best_model"


class Checkpoints:
    """The checkpoints of one training.

    Args:
        engine: ours, built in its mode "train".
        facts: to be kept in every manifest, as JSON can hold them.

    Attributes:
        best: the best evaluation's value so far; None before any.
        best_epoch: the epoch of it.
        facts: as given.
        saved: the files written.
        seed: from which the random numbers of every epoch are drawn.
    """

    def __init__(self, engine: Any, facts: Mapping[str, Any] | None = None) -> None:
        self._engine, self.facts = engine, dict(facts or {})
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._by: str | None = engine.best_by.setting if engine.best_by is not None else None
        self._evaluations, self._differ = 0, False  # how many, and whether their values do
        seed = engine.config["Global"].get("seed")
        self.seed = int.from_bytes(os.urandom(4), "little") if seed in (None, False) else int(seed)
        self.saved: list[Path] = []

    def is_best(self, epoch: int, value: float) -> bool:
        """Takes in the value that decides about an epoch, and returns whether it is the best so far."""
        self._differ = self._differ or (self.best is not None and value != self.best)
        self._evaluations += 1
        if not self._engine.best_by.is_better(value, self.best):
            return False
        self.best, self.best_epoch = float(value), epoch
        return True

    def tied(self) -> str | None:
        """A text that says so, where all evaluations have come to the same value."""
        if self._evaluations < 2 or self._differ:
            return None
        return (
            f"{self._engine.best_by.name} was {self.best:g} in all {self._evaluations} evaluations, so best_model is "
            f"of epoch {self.best_epoch}, the first of them: choose another metric by Global.best_by"
        )

    def present(self, folder: Path) -> set[str]:
        """The names of the sets in `folder` that this training has saved, or the best one before it was resumed."""
        names = {path.stem for path in self.saved if path.parent == folder and path.suffix == ".pdparams"}
        best = folder / BEST
        is_best = self.best is not None and has_manifest(best) and self._is_of_best(read_set(best).state)
        return names | ({BEST} if is_best and dist.get_rank() == 0 else set())

    def _is_of_best(self, state: Mapping[str, Any]) -> bool:
        return (state.get("best_metric"), state.get("best_by")) == (self.best, self._by)

    def save(self, name: str, epoch: int, metric: float) -> None:
        """Saves the training as it is; only the first process writes.

        Args:
            name: of the set: "best_model", "epoch_N" or "latest".
            epoch: its number.
            metric: of the model; 0, as to PaddleClas, where it was not evaluated.

        Raises:
            PpclsExtError: weights are not finite, or the set cannot be written.
        """
        if dist.get_rank() != 0:
            return
        folder, place, prefix = self._engine.folder, self._engine.place, self._prefix(name)
        writer = SetWriter(prefix)
        try:
            for path, content in self._files(prefix, {"metric": metric, "epoch": epoch}):
                if path.suffix == ".pdparams":
                    whose = f"epoch {epoch}: the weights, which are not saved, are"
                    require_finite(content, whose, "try a lower Optimizer.lr.learning_rate or clip gradients")
                stream = io.BytesIO()
                paddle.save(content, stream)
                writer.add(path, stream.getbuffer())
                self.saved.append(folder / path.relative_to(place))
            resumable = not (name == BEST and self._engine.recipe.average is not None)
            writer.commit({"epoch": epoch, "resumable": resumable, **self._state(), **self.facts})
        finally:
            writer.close()
        if self._is_uniform:
            self._write_uniform_output(name, epoch, metric)

    @property
    def _is_uniform(self) -> bool:
        return bool(self._engine.config["Global"].get("uniform_output_enabled"))

    def _prefix(self, name: str) -> Path:
        return (self._engine.place / name if self._is_uniform else self._engine.place) / name

    def _files(self, prefix: Path, progress: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
        """The files of a set and their contents, with PaddleClas's names.

        With `Recipe.ema`, the best model's weights are the average, which is what was evaluated; the optimizer's state,
        of no use with it, is left out. Every other set keeps the trained weights, to resume from, and gets the average
        in a file beside it.
        """
        engine, is_best = self._engine, prefix.name == BEST
        average, host_average = engine.recipe.average, engine.host_average
        weights, loss = engine.model.state_dict(), engine.train_loss_func.state_dict()
        if both := set(weights) & set(loss):
            raise PpclsExtError(
                f"the model and the loss have parameters of one name, {min(both)}: rename those of Arch"
            )
        weights.update(loss)

        def path(suffix: str) -> Path:
            return prefix.with_name(prefix.name + suffix)

        if is_best and (student := {n[len("Student.") :]: t for n, t in weights.items() if "Student." in n}):
            yield path("_student.pdparams"), student
        if host_average is not None:
            yield path(".pdema"), weights
            yield path(".pdparams"), host_average.module.state_dict()
        elif average is not None and is_best:
            weights = {**weights, **average.state}
            yield path(".pdparams"), weights
        else:
            if average is not None:
                yield path(".ema.pdparams"), average.state
            yield path(".pdparams"), weights
        if is_best and not adds_architecture():  # newer versions of PaddleClas write and look for it
            yield prefix / "model.pdparams", weights
        if not (is_best and average is not None):
            yield path(".pdopt"), [optimizer.state_dict() for optimizer in engine.optimizer]
        yield path(".pdstates"), progress

    def _write_uniform_output(self, name: str, epoch: int, metric: float) -> None:
        """Exports the model beside its checkpoint, as `Global.uniform_output_enabled` of newer versions asks for."""
        from ppcls.utils import save_load
        from ppcls.utils.save_result import update_train_results

        engine, progress = self._engine, {"metric": metric, "epoch": epoch}
        engine.export(str(engine.place / name / "inference"), True)
        if engine.host_average is not None:
            engine.export(str(engine.place / name / "inference_ema"), True)
        config = {**engine.config, "Global": {**engine.config["Global"], "output_dir": str(engine.place)}}
        if name == BEST:
            update_train_results(config, name, progress, ema=engine.ema)
        elif name != "latest":
            update_train_results(config, name, progress, done_flag=epoch == engine.epochs, ema=engine.ema)
        save_load.save_model_info(progress, str(engine.place), name)
        engine.model.train()

    def _state(self) -> dict[str, Any]:
        """Returns what no file of PaddleClas's holds, as JSON can hold it."""
        return {
            "best_metric": self.best,
            "best_by": self._by,
            "best_epoch": self.best_epoch,
            "evaluations": self._evaluations,
            "differ": self._differ,
            "seed": self.seed,
            "learning_rate": [_plain(schedule.state_dict()) for schedule in self._engine.lr_sch],
            "loss_scaler": _plain(self._engine.precision.state_dict()),
        }

    def restore(self, path: str) -> int:
        """Restores a training: weights, averages, optimizers, schedules, loss scale, seed and best metric.

        Args:
            path: of a set, without suffix.

        Returns:
            The number of its last epoch.

        Raises:
            PpclsExtError: the set is damaged, holds averaged weights only, or is of another model or optimizer.
        """
        prefix, engine = Path(path), self._engine
        found = read_set(prefix) if has_manifest(prefix) else _without_manifest(prefix)
        if not found.state.get("resumable", True):
            raise PpclsExtError(
                f"Global.checkpoints is {prefix}, which holds averaged weights: resume from latest or epoch_N"
            )
        # PaddleClas's own average: develop has it in .pdparams and what is trained in .pdema, 2.5 has a file more
        trained, averaged = ".pdparams", f"{prefix.name}.ema.pdparams"
        if engine.host_average is not None:
            trained, averaged = (".pdparams", ".ema.pdparams") if averaged in found.files else (".pdema", ".pdparams")
            _set_state(found.file(averaged), engine.host_average.module)
        _set_state(found.file(trained), engine.model, engine.train_loss_func)
        self._restore_optimizers(found, engine.optimizer)
        engine.precision.load_state_dict(found.state.get("loss_scaler", {}))
        if engine.config["Global"].get("seed") in (None, False):
            self.seed = found.state.get("seed", self.seed)
        thresholds = (found.state.get(KEY) or {}).get("thresholds")
        if thresholds is not None and self.facts.get(KEY, {}).get("thresholds", 0) is None:
            self.facts[KEY]["thresholds"] = thresholds  # until the next evaluation
        from ppcls.utils import logger

        self._restore_best(prefix, found.state)
        best = "none evaluated yet" if self.best is None else f"best {self._by or 'metric'} {self.best:.5f}"
        logger.info(f"resuming from {prefix}, epoch {found.state['epoch']}, {best}")
        return found.state["epoch"]

    def _restore_best(self, prefix: Path, state: Mapping[str, Any]) -> None:
        """Restores the best evaluation so far, unless another metric decides now: the two cannot be compared."""
        now, before, best = self._engine.best_by, state.get("best_by"), state.get("best_metric")
        if before is None and best == -1:
            best = None  # PaddleClas's word for it
        if (
            best is not None
            and now is not None
            and before != now.setting
            and not (before is None and now.mode == "max")
        ):
            from ppcls.utils import logger

            logger.warning(
                f"{prefix} has chosen its best model by {before or 'another metric'}, {best:g}; {now} decides from "
                "here on: best_model is replaced by the first epoch that is evaluated"
            )
            return
        self.best, self.best_epoch = best, state.get("best_epoch", state["epoch"] if best is not None else None)
        self._evaluations, self._differ = state.get("evaluations", 0), state.get("differ", False)
        if now is None:
            self._by = before

    def _restore_optimizers(self, found: CheckpointSet, optimizers: list) -> None:
        path = found.file(".pdopt")
        states = read_paddle_file(path)
        states = states if isinstance(states, list) else [states]
        if len(states) != len(optimizers) or not all(isinstance(state, dict) for state in states):
            raise PpclsExtError(f"{path} holds the states of {len(states)} optimizers, expected {len(optimizers)}")
        schedules = found.state.get("learning_rate", [None] * len(states))
        for optimizer, state, schedule in zip(optimizers, states, schedules):
            _check_names(path, optimizer, state)
            state = _with_tensors(state)
            if schedule is not None:
                state = {**state, "LR_Scheduler": _in_shape(schedule, optimizer)}
            try:
                optimizer.set_state_dict(state)
            except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
                raise PpclsExtError(f"{path} does not fit this training's optimizer: {one_line(error)}") from error


def _in_shape(saved: Mapping[str, Any], optimizer: Any) -> Mapping[str, Any]:
    """The state of an optimizer's schedule of the learning rate at the place of a saved one.

    With other epochs or another warm-up, PaddleClas builds schedules that keep other values; then the place counts.
    """
    own, place = optimizer._learning_rate, saved.get("last_epoch")
    if not isinstance(own, paddle.optimizer.lr.LRScheduler) or type(place) is not int:
        return saved
    if own.state_dict().keys() == saved.keys():
        return saved
    own.step(place)
    return own.state_dict()


def seed_epoch(seed: int, epoch: int) -> None:
    """Seeds Python's, NumPy's and Paddle's random numbers for one epoch, the same on all ranks, as PaddleClas does."""
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
    best = float(metric) if isinstance(metric, (int, float)) else None
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


def _check_names(path: Path, optimizer: Any, state: Mapping[str, Any]) -> None:
    """Paddle would leave out, without a word, what it has no parameter for."""
    groups = optimizer._parameter_list or ()
    parameters = [p for group in groups for p in (group["params"] if isinstance(group, dict) else [group])]
    names = {parameter.name for parameter in parameters}
    found: set[str] = set()
    for key in state:
        if key in ("LR_Scheduler", "master_weights"):
            continue
        parts = key.split("_")
        owned = [length for length in range(1, len(parts)) if "_".join(parts[:length]) in names]
        found.update("_".join(parts[length:-1]) for length in owned[-1:])
        if not owned:
            raise PpclsExtError(
                f"{path} does not fit: it holds {key}, and the optimizer has no such parameter; resume with the "
                "architecture and the optimizer of that training"
            )
    _check_kinds(path, optimizer, found)


def _check_kinds(path: Path, optimizer: Any, found: set[str]) -> None:
    """Paddle fails in the first step, or starts some of an optimizer's memory from zero without a word."""
    texts = [name for name in dir(type(optimizer)) if re.fullmatch(r"_\w*_acc_(\w+_)?str", name)]
    kept = {getattr(optimizer, name) for name in texts}
    if found - kept or (kept and not found):
        raise PpclsExtError(
            f"{path} is of another optimizer: it holds {', '.join(sorted(found)) or 'nothing'}, and "
            f"{type(optimizer).__name__} keeps {', '.join(sorted(kept)) or 'nothing'}; resume with the optimizer of "
            "that training"
        )


def _with_tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    """`state` with Paddle's tensors for NumPy's arrays, which `set_state_dict` would take for something else."""
    made = {}
    for name, value in state.items():
        if isinstance(value, np.ndarray):
            value = paddle.to_tensor(value)
        made[name] = _with_tensors(value) if isinstance(value, dict) else value
    return made
