"""The teachers of a training (`Recipe.teachers`): runs whose networks know the same classes from the same images."""

from __future__ import annotations

import os

from ppcls_ext.config.folder import compare_class_names
from ppcls_ext.config.settings import RunSettings, open_run
from ppcls_ext.data.lists import SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError

#: What images are for a network, whatever their size; fields of `Preprocessing`.
INPUT = ("channel_order", "scale", "mean", "std")


def open_teachers(run: RunSettings) -> list[RunSettings]:
    """The runs that teach a training, in their order; none without `Recipe.teachers`.

    Raises:
        PpclsExtError: one is no run with weights, or knows other classes or images than this training's.
    """
    settings = run.recipe.teachers
    if settings is None:
        return []
    if run.task != SINGLE_LABEL:
        raise PpclsExtError(f"Recipe.teachers answer with one class an image, and this is a {run.task} training")
    return [_open_teacher(f"Recipe.teachers.runs.{index}", name, run) for index, name in enumerate(settings.runs)]


def _open_teacher(path: str, name: str, run: RunSettings) -> RunSettings:
    try:
        teacher = open_run(name).deployed
        teacher.require_ours()
        weights = teacher.weights()
    except PpclsExtError as error:
        raise PpclsExtError(f"{path}: {error}") from error
    if weights is None:
        raise PpclsExtError(f"{path} is {name}, which holds no weights: name a finished training")
    if os.path.realpath(teacher.folder) == os.path.realpath(run.folder):
        raise PpclsExtError(f"{path} is {name}, where this training writes: give it another --name (Global.run_name)")
    theirs, ours = teacher.trained_with(), run.trained_with()
    wants = [(fact, theirs[fact], ours[fact]) for fact in ("task", "class_num")]
    wants.append(("channels", teacher.channels, run.channels))
    if theirs["pictures"] is not None and ours["pictures"] is not None:  # what is unknown cannot be compared
        wants += [(fact, theirs["pictures"][fact], ours["pictures"][fact]) for fact in INPUT]
    for fact, was, now in wants:
        if was != now:
            raise PpclsExtError(
                f"{path} is {name}, whose {fact.replace('_', ' ')} is {was}, and this training's is {now}: expected a "
                "network for the same images and classes"
            )
    compare_class_names(weights.path, theirs, ours)
    return teacher
