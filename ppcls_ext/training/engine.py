"""PaddleClas's engine, with what differs from it: nothing skipped, nothing half-written, one place for checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist

from ppcls_ext.config.checks import is_ours
from ppcls_ext.config.recipe import read_settings
from ppcls_ext.config.trained_with import KEY
from ppcls_ext.errors import Interrupted, PpclsExtError, unwrapped
from ppcls_ext.hosts.paddleclas.locate import engine_class
from ppcls_ext.hosts.paddleclas.versions import adds_architecture
from ppcls_ext.training.checkpoints import Checkpoints
from ppcls_ext.training.epochs import AveragedLoss, Epochs, TrainingEnds
from ppcls_ext.training.evaluation import read_evaluation
from ppcls_ext.training.inference import infer
from ppcls_ext.training.inference_program import export
from ppcls_ext.training.log_file import log_in
from ppcls_ext.training.quantised import without_training_only
from ppcls_ext.training.recipe import Training
from ppcls_ext.training.strict_data import StrictLoader, count_unreadable, is_image_list, read_first
from ppcls_ext.training.training_report import TrainingReport
from ppcls_ext.training.training_run import TrainingRun
from ppcls_ext.training.watch import watch_evaluation, watch_training
from ppcls_ext.training.workers import explained_workers
from ppcls_ext.weights.checkpoint_sets import how_to_resume
from ppcls_ext.weights.folder_lock import hold, release
from ppcls_ext.weights.loading import load_weights, require_finite


class Engine(engine_class()):
    """Trains, evaluates, infers or exports.

    Args:
        config: what `prepare` returned.
        mode: "train", "eval", "infer" or "export".
    """

    def __init__(self, config: dict, mode: str) -> None:
        run = config.pop("Run")
        self.folder, self.resolved = run["folder"], run["config"]
        try:
            self._build(config, mode)
        except BaseException:
            if mode == "train":
                release(self.folder)  # which `prepare` holds
            raise

    def _build(self, config: dict, mode: str) -> None:
        if not adds_architecture():
            config["Global"]["output_dir"] = str(self.folder)
        if mode == "infer":
            config["AMP"] = None  # a few pictures need no half precision
        self.ours = is_ours(config)
        weights = config["Arch"].get("pretrained")
        # our factories let the number of classes differ, to fine-tune; elsewhere it has to fit
        strict = self.ours and mode != "train" and isinstance(weights, str)
        if strict:
            del config["Arch"]["pretrained"]
        recipe = self._read_recipe(config) if mode == "train" else None
        with log_in(self.folder):
            super().__init__(config, mode)
        if strict:
            drop = config.get("Slim") and mode != "eval"
            load_weights(self.network, without_training_only(weights) if drop else weights)
        self.recipe = recipe
        self._guard_lists()
        self._follow()

    def _guard_lists(self) -> None:
        """Makes the loaders of plain image lists raise or count where a picture cannot be read."""
        for loader in ("train_dataloader", "eval_dataloader"):
            dataset = getattr(getattr(self, loader, None), "dataset", None)
            if is_image_list(dataset):
                read_first(dataset)
                if loader == "eval_dataloader":
                    self.eval_dataloader = StrictLoader(self.eval_dataloader)
                else:
                    count_unreadable(self)

    def _follow(self) -> None:
        """Attaches the recipe, and what looks at losses, outputs and epochs."""
        if self.recipe is not None:
            self.recipe.attach(self, self.network)
            watch_training(self)
            #: Takes observers of the training's epochs.
            self.epochs = Epochs(self)
        else:
            require_finite(self.network.state_dict(), "the weights are", "use those of another epoch or file")
        if self.eval_mode == "classification":
            watch_evaluation(self)
        if getattr(self, "eval_loss_func", None) is not None:
            self.eval_loss_func = AveragedLoss(self.eval_loss_func)

    @staticmethod
    def _read_recipe(config: dict) -> Training:
        seed = config["Global"].get("seed")
        if type(seed) is int:
            paddle.seed(seed)  # a fused model may be built, whose new classifier is random; PaddleClas seeds later
        return Training(read_settings(config), config["Arch"])

    def train(self) -> None:
        """Trains, keeps the run's record, and says where the best weights are."""
        if dist.get_rank() == 0:
            hold(self.folder)
        try:
            self._train()
        finally:
            release(self.folder)

    def _train(self) -> None:
        if len(self.train_dataloader) == 0:
            raise PpclsExtError(
                "DataLoader.Train makes no batch: lower sampler.batch_size, or set sampler.drop_last to false"
            )
        run = TrainingRun(self)
        if finished := run.finished():
            print(finished)
            self._name_weights(lambda path: path.is_file())
            return
        if dist.get_rank() == 0:
            TrainingReport(self, run.facts[KEY]["class_names"], bool(self.config["Global"].get("report")))
        self.recipe.begin(self.config["Global"]["checkpoints"])
        checkpoints = Checkpoints(self, self.recipe.files, self.recipe.averages, run.facts, self.epochs.saved)
        run.begin(checkpoints.seed)
        self.epochs.begun()
        try:
            with explained_workers(lambda: how_to_resume(self.folder)), checkpoints.in_host():
                super().train()
            run.end()
        except TrainingEnds as end:
            run.end(str(end))
            print(end)
            if self.vdl_writer is not None:
                self.vdl_writer.close()
        except (KeyboardInterrupt, OSError) as error:
            if not isinstance(said := unwrapped(error), KeyboardInterrupt):
                raise
            raise Interrupted(f"{str(said) or 'interrupted'}; {how_to_resume(self.folder)}") from error
        self.epochs.ended()
        # resumed, the best model may be of an epoch before
        self._name_weights(lambda path: path in checkpoints.saved or checkpoints.is_best(path.with_suffix("")))

    def _name_weights(self, are_meant: Callable[[Path], bool]) -> None:
        for name, what in (("best_model.pdparams", "best"), ("latest.pdparams", "latest")):
            if are_meant(self.folder / name):
                print(f"{what} weights: {self.folder / name}")
                return

    def eval(self, epoch_id: int = 0) -> float:
        """Evaluates, and says over how many images; returns PaddleClas's first metric."""
        if isinstance(self.eval_loss_func, AveragedLoss):
            self.eval_loss_func.reset()
        evaluated = self.recipe.evaluated() if self.recipe is not None else contextlib.nullcontext()
        with explained_workers(), evaluated:
            first = super().eval(epoch_id)
        if first is not None and not np.isfinite(float(first)):
            raise PpclsExtError(f"epoch {epoch_id}: the metric is {float(first)}, which says nothing of the weights")
        from ppcls.utils import logger

        self.evaluations = read_evaluation(self, first)
        for evaluation in self.evaluations:
            logger.info(f"[Eval][Epoch {epoch_id}] {evaluation}")
        if self.mode == "train":
            self.epochs.evaluated(self.evaluations[0])
        return first

    def infer(self) -> None:
        """Prints the classes of the pictures: see `inference.infer`."""
        infer(self)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Writes the fused model for Paddle Inference and checks it: see `export.export`.

        PaddleClas calls this itself, with arguments, while training with `Global.uniform_output_enabled`.
        """
        if args or kwargs:
            super().export(*args, **kwargs)
        else:
            export(self, super().export)

    @property
    def network(self) -> paddle.nn.Layer:
        """The model without a wrapper for several processes."""
        return getattr(self.model, "_layers", self.model)  # DataParallel wraps it
