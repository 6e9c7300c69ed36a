"""The average of several trainings' weights: one network, as fast as each, and often better than the best of them.

Trainings that begin with the same weights and differ in their random numbers, or a little in their settings, end in one
region where the loss is low, and their mean lies deeper in it (Wortsman et al., "Model soups", arXiv 2203.05482). Batch
normalisations of the mean need statistics of their own (section 3.2 of arXiv 1803.05407), which are computed here from
the first run's training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.config.folder import KEY
from ppcls_ext.training.checkpoints import BEST, Checkpoints, seed_epoch
from ppcls_ext.training.evaluation import Evaluation
from ppcls_ext.training.observers import Epoch, RunRecord
from ppcls_ext.training.precise_statistics import compute_statistics, first_images, learning_norms
from ppcls_ext.weights.loading import load_weights


def average(engine: Any, files: Sequence[Path]) -> list[Evaluation]:
    """Writes the average of weights as the best model of the engine's run, evaluated.

    Args:
        engine: ours, built in its mode "train", with a folder of its own.
        files: weights of the engine's network, at least two.

    Returns:
        The evaluation of each file's weights and, as the last one, of their average; none without
        `Global.eval_during_train`.

    Raises:
        PpclsExtError: weights do not fit the network or are not finite, images cannot be read, or the run cannot be
            written.
    """
    network = engine.network
    facts = {KEY: engine.settings.trained_with(), "averaged": [str(file.absolute()) for file in files]}
    checkpoints = Checkpoints(engine, facts)
    record, evaluations = RunRecord(engine, checkpoints), []
    total: dict[str, np.ndarray] = {}
    for file in files:
        load_weights(network, file)
        evaluations += _evaluated(engine)
        for name, tensor in network.state_dict().items():
            total[name] = total.get(name, 0.0) + tensor.numpy().astype("float64")
    network.set_state_dict({name: (value / len(files)).astype("float32") for name, value in total.items()})
    network.train()
    if learning_norms(network):
        seed_epoch(checkpoints.seed, 1)
        settings = engine.settings.recipe.precise_statistics
        compute_statistics(network, first_images(engine.train_dataloader, settings.images if settings else None))
    engine.recipe.take_for_average()
    evaluations += _evaluated(engine)
    value = evaluations[-1].value if evaluations else 0.0
    if evaluations:
        checkpoints.is_best(0, value)
        if evaluations[-1].thresholds is not None:
            checkpoints.facts[KEY]["thresholds"] = list(evaluations[-1].thresholds)
    record.begin()
    checkpoints.save(BEST, 0, value)
    engine.first_epoch_is_saved()
    if evaluations:
        record.epoch(Epoch(0, 0, 0.0, 0, 0.0, {}, evaluations[-1], True, value))
    record.finish()
    return evaluations


def _evaluated(engine: Any) -> list[Evaluation]:
    if not engine.config["Global"]["eval_during_train"]:
        return []
    engine.eval()
    return engine.evaluations[:1]
