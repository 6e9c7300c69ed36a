"""One run of several trainings: the average of their weights."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ppcls_ext.config.average import average_of
from ppcls_ext.config.numbered import with_own_folder
from ppcls_ext.run import Run, build_engine

if TYPE_CHECKING:
    from ppcls_ext.training.evaluation import Evaluation


class Averaged(NamedTuple):
    """What `average` made; `str` gives it as a table.

    Attributes:
        run: of the average.
        parts: the weights that it is the average of, each with its evaluation; none where nothing was evaluated.
        evaluation: the average's, alone in a list; none where nothing was evaluated.
        is_worse: whether one of the parts had a better evaluation than their average.
    """

    run: Run
    parts: list[tuple[str, Evaluation]]
    evaluation: list[Evaluation]
    is_worse: bool

    def __str__(self) -> str:
        rows = [*self.parts, *(("average", one) for one in self.evaluation)]
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join(f"{name:<{width}}  {found}" for name, found in rows)


def average(
    runs: Sequence[str | os.PathLike | Run],
    *,
    out: str | os.PathLike | None = None,
    name: str | None = None,
    overwrite: bool = False,
    verbose: bool = False,
) -> Averaged:
    """Makes one run of several: the average of their weights; see `ppcls_ext.average`.

    Args:
        runs: see `ppcls_ext.average`, as the others.
        out: see `ppcls_ext.average`.
        name: see `ppcls_ext.average`.
        overwrite: see `ppcls_ext.average`.
        verbose: whether to show PaddleClas's own output.
    """
    from ppcls_ext.training.start import set_up
    from ppcls_ext.weights.folder_lock import release

    opened = [one if isinstance(one, Run) else Run(one) for one in runs]
    settings, files = average_of([run.settings for run in opened])
    folder = opened[0].folder
    fields = {
        "output_dir": str(out if out is not None else folder.parent),
        "run_name": name or f"{folder.name}-average",
    }
    settings = settings.changed("Global", **fields, **({"overwrite": True} if overwrite else {}))
    set_up()
    from ppcls_ext.hosts.paddleclas.log_file import withdraw_log

    settings = with_own_folder(settings)
    try:
        engine = build_engine(settings, "train", verbose)
        if (kept := opened[0].settings.recipe.freeze) is not None:
            engine.network.freeze(kept.stages)  # its running statistics are not computed anew
        evaluations = engine.average(files)
    except BaseException:
        withdraw_log(settings.folder)
        release(settings.folder)
        with contextlib.suppress(OSError):
            settings.folder.rmdir()  # only an empty one
        raise
    parts = [(str(file), found) for file, found in zip(files, evaluations)]
    by = engine.best_by
    is_worse = by is not None and any(by.is_better(found.value, evaluations[-1].value) for _, found in parts)
    return Averaged(Run(engine.folder), parts, evaluations[-1:], is_worse)
