"""The engine: PaddleClas builds everything from a configuration; this project trains, evaluates, infers and exports."""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import paddle
import paddle.distributed as dist

from ppcls_ext.config.checks import is_ours
from ppcls_ext.config.first_epoch import begin_aside, discard, put_in_place, settle
from ppcls_ext.config.folder import KEY
from ppcls_ext.config.prepare import prepare
from ppcls_ext.config.recipe import Settings as RecipeSettings
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.errors import Interrupted, PpclsExtError, printable, unwrapped
from ppcls_ext.files import require_plain
from ppcls_ext.hosts.paddleclas.errors import naming_sections
from ppcls_ext.hosts.paddleclas.image_lists import ListedDataset, note_failures
from ppcls_ext.hosts.paddleclas.loader_processes import fit_shared_memory
from ppcls_ext.hosts.paddleclas.locate import engine_class
from ppcls_ext.hosts.paddleclas.log_file import log_in, withdraw_log
from ppcls_ext.predict.answers import Threshold
from ppcls_ext.reparam.fuse import require_fusible
from ppcls_ext.report.label_scores import USUAL_THRESHOLD
from ppcls_ext.training.average import average
from ppcls_ext.training.checkpoints import Checkpoints
from ppcls_ext.training.evaluation import Answers, Evaluation, evaluate
from ppcls_ext.training.first_batch import try_parts
from ppcls_ext.training.host_log import EpochLog
from ppcls_ext.training.inference import for_host, infer
from ppcls_ext.training.inference_program import export, told_the_task, without_training_only
from ppcls_ext.training.loaders import UnreadableImages, explained_workers
from ppcls_ext.training.loop import no_batch, train
from ppcls_ext.training.observers import Observer, RunRecord, TrainingEnds
from ppcls_ext.training.precision import Precision
from ppcls_ext.training.recipe import Recipe
from ppcls_ext.training.reports import TrainingReport
from ppcls_ext.training.statistics_lag import statistics_lag
from ppcls_ext.weights.checkpoint_sets import FIRST_EPOCH, how_to_resume
from ppcls_ext.weights.folder_lock import hold, release
from ppcls_ext.weights.loading import load_weights, require_finite

logger = logging.getLogger("ppcls_ext")
_HostEngine: Any = engine_class()
#: Makes a scalar of the network's outputs, mostly logits (N, classes), and the labels.
Loss = Callable[[Any, paddle.Tensor], paddle.Tensor]


class _OwnLoss(paddle.nn.Layer):
    """A user's loss in the form of PaddleClas's."""

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self._loss = loss
        if any(not parameter.stop_gradient for parameter in self.parameters()):
            raise PpclsExtError("the loss that is given has parameters, which no optimizer would train")

    def forward(self, outputs: Any, labels: paddle.Tensor) -> dict[str, paddle.Tensor]:
        value = self._loss(outputs, labels)
        if not isinstance(value, paddle.Tensor) or value.size != 1:
            got = f"a tensor {list(value.shape)}" if isinstance(value, paddle.Tensor) else f"a {type(value).__name__}"
            raise PpclsExtError(f"the loss that is given returns {got}: expected a tensor of one number")
        return {"loss": value}


class Engine(_HostEngine):
    """PaddleClas's engine, which builds everything, and beside it what PaddleClas lacks.

    Its `train` is the loop of `training.loop`, its evaluation of classes that of `training.evaluation`.

    Args:
        settings: the opened configuration.
        mode: "train", "eval", "infer" or "export".
        is_shown: whether evaluations show a bar; not where PaddleClas's own lines are shown.

    Attributes:
        answers: of the last evaluation, in the mode "eval" and where a training is to write a report.
        best_by: what decides which epoch is the best; None where none is evaluated, and in other modes than "train".
        task: "single-label" or "multi-label".
        evaluations: of the last `eval`.
        folder: of the run.
        is_shown: whether evaluations show a bar.
        opened: the configuration as it was opened.
        place: what a training writes to: its folder, or that of its first epoch while it has no checkpoint.
        observers: follow a training, behind the run's record and the metrics file, before early stopping.
        precision: see `training.precision`; in the modes "train" and "eval".
        recipe: see `training.recipe`; in the mode "train".
        resumed: whether a training goes on that the run's folder holds.
        settings: the configuration as the user may read and use it again.
    """

    model: Any  # which PaddleClas builds

    def __init__(self, settings: RunSettings, mode: str, is_shown: bool = False) -> None:
        run = prepare(for_host(settings) if mode == "infer" else settings, mode)
        self.opened = settings
        self.folder, self.place, self.settings = run.folder, run.folder, run.settings
        self.best_by, self.resumed, self.task = run.best_by, run.resumed, run.settings.task
        self._said: set[str] = set()
        self._lags = False
        self.is_shown = is_shown
        try:
            self._build(run.config, mode, run.recipe)
        except BaseException:
            if mode == "train":
                withdraw_log(self.folder)
                release(self.folder)  # which `prepare` holds
            raise

    def _build(self, config: dict, mode: str, section: RecipeSettings | None) -> None:
        config["Global"]["output_dir"] = str(self.folder)
        amp = config.get("AMP") or {}
        if mode == "infer" and not amp.get("use_fp16_test"):
            amp = {}  # a few images need no half precision
        # what Paddle has no scaling of the loss for, or nothing at all, is our own: see `Precision`
        by_us = amp.get("dtype") == "bfloat16" or config["Global"]["device"] == "cpu"
        config["AMP"] = None if by_us or not amp else amp
        weights = config["Arch"].get("pretrained")
        # our factories let the number of classes differ, to fine-tune; elsewhere it has to fit
        strict = is_ours(config) and mode != "train" and isinstance(weights, str)
        if strict:
            del config["Arch"]["pretrained"]
        recipe = self._start_recipe(config, section) if section is not None else None
        if section is not None and section.freeze is not None:
            config["Arch"]["freeze"] = section.freeze.stages or True  # before processes share gradients, as it is built
        require_plain(self.folder / f"{mode}.log")
        with log_in(self.folder), naming_sections():
            super().__init__(config, mode)
        if strict:
            drop = config.get("Slim") and mode != "eval"
            load_weights(self.network, without_training_only(weights) if drop else weights)
        self.answers: Answers | None = Answers(self.task) if mode == "eval" else None
        self.evaluations: list[Evaluation] = []
        self.precision = Precision(self, amp)
        self._guard_images()
        self._fit_shared_memory()
        if recipe is not None:
            self._set_up_training(recipe)
        else:
            require_finite(self.network.state_dict(), "the weights are", "use those of another epoch or file")

    @staticmethod
    def _start_recipe(config: dict, section: RecipeSettings) -> Recipe:
        seed = config["Global"].get("seed")
        if type(seed) is int:
            paddle.seed(seed)  # a fused model may be built, whose new classifier is random; PaddleClas seeds later
        return Recipe(section, config["Arch"])

    def _guard_images(self) -> None:
        """Reads the first image of each list, and makes their loaders note what fails."""
        loaders = {name: getattr(self, f"{name.lower()}_dataloader", None) for name in ("Train", "Eval")}
        for name, loader in loaders.items():
            dataset = getattr(loader, "dataset", None)
            if isinstance(dataset, ListedDataset):
                dataset.read_first(f"DataLoader.{name}")
                note_failures(loader)
        if self.mode == "train":
            self.unreadable_images = UnreadableImages(getattr(loaders["Train"], "dataset", None))

    def _fit_shared_memory(self) -> None:
        names = {"Train": "train_dataloader", "UnLabelTrain": "unlabel_train_dataloader", "Eval": "eval_dataloader"}
        names.update(Gallery="gallery_dataloader", Query="query_dataloader")
        loaders = {name: getattr(self, attribute, None) for name, attribute in names.items()}
        if line := fit_shared_memory(loaders, dist.get_world_size()):
            logger.warning(line)

    def _set_up_training(self, recipe: Recipe) -> None:
        require_fusible(self.network)  # later than now, at the export, would be too late
        self.observers: list[Observer] = []
        self.epochs: int = self.config["Global"]["epochs"]
        self.update_freq: int = getattr(self, "update_freq", 1)  # PaddleClas since 2.5
        self.trains_by_host = getattr(self, "train_mode", None) is not None
        self.ema: bool = getattr(self, "ema", False)
        #: PaddleClas's own moving average (the section `EMA`).
        self.host_average: Any = self.model_ema if self.ema else None
        self.recipe = recipe
        recipe.attach(self)

    def train(self) -> None:
        """Trains, keeps the run's record, and says where the best weights are."""
        with self._in_own_folder():
            self._train()

    def average(self, files: Sequence[Path]) -> list[Evaluation]:
        """Makes the run hold the average of several trainings' weights: see `average.average`."""
        with self._in_own_folder(), explained_workers():
            self._begin_aside()
            return average(self, files)

    @contextlib.contextmanager
    def _in_own_folder(self) -> Iterator[None]:
        if dist.get_rank() == 0:
            hold(self.folder)
        try:
            yield
        finally:
            if dist.get_rank() == 0:
                settle(self.folder)
                discard(self.folder)
            release(self.folder)

    def _begin_aside(self) -> None:
        if not self.resumed:
            self.place = begin_aside(self.folder) if dist.get_rank() == 0 else self.folder / FIRST_EPOCH

    def _settle(self) -> None:
        """Settles what an interrupt left that came while the first epoch's files were put in place."""
        settle(self.folder)
        if not self.place.is_dir():
            self.place = self.folder

    def first_epoch_is_saved(self) -> None:
        """Puts the files of a new training in the place of an earlier one's; called when its checkpoints are whole."""
        if self.place != self.folder:
            if dist.get_rank() == 0:
                put_in_place(self.folder)
            self.place = self.folder
        self.settings = self.settings.with_lists_in_place()

    def _train(self) -> None:
        if len(self.train_dataloader) == 0:
            raise no_batch()
        checkpoints = Checkpoints(self, {KEY: self.settings.trained_with()})
        record = RunRecord(self, checkpoints)
        if finished := record.finished():
            print(printable(finished))
            self._name_weights({"best_model", "latest"})
            return
        self._begin_aside()
        report = [TrainingReport(self, checkpoints.facts)] if dist.get_rank() == 0 else []
        stopping = record.early_stopping()
        observers = [record, *report, *self.observers, *([stopping] if stopping else [])]
        stopped = None
        try:
            with explained_workers(lambda: how_to_resume(self.place)):
                train(self, checkpoints, observers)
        except TrainingEnds as end:
            stopped = str(end)
            print(printable(str(end)))
        except (KeyboardInterrupt, OSError, SystemError) as error:
            if not isinstance(said := unwrapped(error), KeyboardInterrupt):
                raise
            self._settle()
            raise Interrupted(f"{str(said) or 'interrupted'}; {how_to_resume(self.place)}") from error
        if self.place == self.folder:  # there were epochs
            record.finish(stopped)
        if self.vdl_writer is not None:
            self.vdl_writer.close()
        for observer in observers:
            observer.end()
        if tied := checkpoints.tied():
            print(printable(tied))
        self._name_weights(checkpoints.present(self.folder))

    def _name_weights(self, sets: set[str]) -> None:
        """Prints the best, or else the latest, weights of `sets` that are there."""
        for name, what in (("best_model", "best"), ("latest", "latest")):
            path = self.folder / f"{name}.pdparams"
            if name in sets and path.is_file():
                print(f"{what} weights: {printable(str(path))}")
                return

    def eval(self, epoch_id: int = 0) -> float:
        """Evaluates, and logs over how many images; returns the value by which models are compared."""
        from ppcls.utils import logger

        evaluated = self.recipe.evaluated() if self.mode == "train" else contextlib.nullcontext()
        if self.mode == "eval":
            try_parts(self)
        with explained_workers(), evaluated:
            self.evaluations = evaluate(self, epoch_id)
            if self.mode == "train":
                self._compare_statistics(epoch_id)
        for evaluation in self.evaluations:
            logger.info(f"[Eval][Epoch {epoch_id}] {evaluation}")
        return self.evaluations[0].value

    def _compare_statistics(self, number: int) -> None:
        """Says once where running statistics lag behind: halfway through the training, and at its end."""
        is_halfway = 2 * number >= self.epochs > 2 * (number - self.config["Global"]["eval_interval"])
        if (is_halfway or number == self.epochs) and not self._lags and (lag := statistics_lag(self)):
            self._lags = True
            logger.warning(lag)

    def evaluate_host_average(self, number: int) -> float:
        """Evaluates PaddleClas's own moving average in the place of the model."""
        from ppcls.utils import logger

        trained: Any = self.model
        self.model = self.host_average.module
        try:
            metric = self.eval(number)
        finally:
            self.model.eval()
            self.model = trained
        logger.info(f"[Eval][Epoch {number}][metric ema: {metric}]")
        logger.scaler(name="eval_acc_ema", value=metric, step=number, writer=self.vdl_writer)
        return metric

    def evaluates_after(self, number: int) -> bool:
        """Returns whether an evaluation is due after an epoch."""
        settings = self.config["Global"]
        is_late_enough = number >= (settings.get("start_eval_epoch") or 0)
        return settings["eval_during_train"] and number % settings["eval_interval"] == 0 and is_late_enough

    def thresholds(self, classes: int) -> tuple[float, ...] | None:
        """For several labels an image, those that an evaluation takes; None where it chooses them itself.

        Args:
            classes: how many the network tells.

        Raises:
            PpclsExtError: those that are known are of another number.
        """
        known = self.settings.given_thresholds if self.mode == "train" else self.settings.thresholds
        if known is not None and len(known) != classes:
            raise PpclsExtError(
                f"{len(known)} thresholds are known, and the network tells {classes} classes: mend Arch"
            )
        if known is None and self.mode != "train":
            self.say_once(
                f"no thresholds are known for these weights: {USUAL_THRESHOLD} is taken for each class "
                "(Global.thresholds gives others)"
            )
            known = (USUAL_THRESHOLD,) * classes
        return known

    def say_once(self, text: str) -> None:
        """Logs a line, unless this engine has logged it before."""
        if text not in self._said:
            self._said.add(text)
            logger.warning(text)

    def log_best(self, number: int, metric: float, best: float) -> None:
        """Logs the value that decides about an epoch and the best so far, in PaddleClas's words."""
        from ppcls.utils import logger

        logger.info(f"[Eval][Epoch {number}][best metric: {best}] ({self.best_by})")
        logger.scaler(name="eval_acc", value=metric, step=number, writer=self.vdl_writer)

    def log_of_epoch(self, number: int) -> EpochLog:
        """The log of an epoch that begins."""
        return EpochLog(self, number)

    def use_loss(self, loss: Loss) -> None:
        """Trains with another loss than the configuration's; see `ppcls_ext.train`.

        Raises:
            PpclsExtError: the configuration weighs classes in its own loss, or PaddleClas's own function trains.
        """
        if self.settings.recipe.class_weights is not None:
            raise PpclsExtError(
                "Recipe.class_weights weighs CELoss, and a loss of one's own is given: drop one of them"
            )
        if self.trains_by_host:
            raise PpclsExtError("Global.train_mode trains with PaddleClas's own losses: drop it, or the loss")

        self.train_loss_func = _OwnLoss(loss)

    @property
    def batches_per_epoch(self) -> int:
        """Batches that an epoch trains on, a multiple of `update_freq`."""
        newer = getattr(self, "iter_per_epoch", None)  # PaddleClas since 2.5.2
        return newer or len(self.train_dataloader) - (platform.system() == "Windows")

    def images_and_labels(self, batch: list, evaluating: bool = False) -> tuple[paddle.Tensor, paddle.Tensor]:
        """The images and the labels of a batch, the labels in the shape that losses and metrics take."""
        if isinstance(batch[0], dict):  # DALI's, of older versions
            batch[:] = [paddle.to_tensor(batch[0][name]) for name in ("data", "label")]
        if not self.config["Global"].get("use_multilabel", False):
            labels = batch[1].reshape([len(batch[0]), -1])
            batch[1] = labels.reshape([-1, 1]).astype("int64") if evaluating else labels
        return paddle.to_tensor(batch[0]) if evaluating else batch[0], batch[1]

    def forward(self, images: paddle.Tensor, labels: paddle.Tensor) -> Any:
        """The outputs of the model; one for recognition takes the labels, too."""
        return self.model(images, labels) if self.is_rec else self.model(images)

    def train_metrics(self, outputs: Any, batch: list) -> dict[str, Any]:
        """The metrics of a training batch."""
        return self.train_metric_func(outputs, batch[-1]) if self.train_metric_func is not None else {}

    @property
    def on_gpu(self) -> bool:
        """True if the device is an NVIDIA GPU."""
        return self.config["Global"]["device"] == "gpu"

    def infer(self, threshold: Threshold | None = None) -> None:
        """Prints the classes of images: see `inference.infer`."""
        infer(self, threshold)

    def export(self, *args: Any, describe: Callable[[Path], None] | None = None, **kwargs: Any) -> None:
        """Writes the fused model for Paddle Inference and checks it: see `inference_program.export`.

        PaddleClas's own export takes arguments, with `Global.uniform_output_enabled`.
        """
        if args or kwargs:
            with told_the_task(self):
                super().export(*args, **kwargs)
        else:
            export(self, super().export, describe)

    @property
    def network(self) -> paddle.nn.Layer:
        """The model without a wrapper for several processes."""
        return getattr(self.model, "_layers", self.model)  # DataParallel wraps it
