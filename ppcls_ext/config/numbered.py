"""Numbered runs: which folder a training takes where its name has been taken, and which run a bare --resume means."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import logging
import re
from pathlib import Path

from ppcls_ext.config.checks import require_fields
from ppcls_ext.config.first_epoch import settle
from ppcls_ext.config.folder import CONFIG, read_record
from ppcls_ext.config.settings import RunSettings
from ppcls_ext.config.weights import earlier_training, is_within, require_writable
from ppcls_ext.weights.checkpoint_sets import find_newest
from ppcls_ext.weights.folder_lock import FolderInUseError, hold, release

logger = logging.getLogger("ppcls_ext")

LATEST = "latest"


def with_own_folder(settings: RunSettings) -> RunSettings:
    """A training's settings with the folder that it takes.

    A new training takes NAME, or the first of NAME-2, NAME-3, … that no other training has or is using; the folder is
    held from here on. With `Global.overwrite` it takes NAME itself. A training that is resumed stays in its folder:
    that of the checkpoint, or for "latest" the one that was begun last. Several processes take the first one's choice.

    Args:
        settings: of a training that is to begin or to be resumed.

    Raises:
        PpclsExtError: a field is missing, or the folder cannot be written.
    """
    from paddle.distributed import get_rank, get_world_size

    require_fields(settings.config, "train")
    require_writable("Global.output_dir", settings.section("Global")["output_dir"])
    name = _choose(settings) if get_rank() == 0 else ""
    if get_world_size() > 1:
        name = _of_first_process(name)
    if name == settings.folder.name:
        return settings
    return dataclasses.replace(settings.changed("Global", run_name=name), given_folder=None)


def _of_first_process(name: str) -> str:
    import paddle.distributed as dist

    dist.init_parallel_env()  # PaddleClas does so later, which then changes nothing
    names = [name]
    dist.broadcast_object_list(names, src=0)
    return names[0]


def _choose(settings: RunSettings) -> str:
    folder, options = settings.folder, settings.section("Global")
    checkpoint = options.get("checkpoints")
    if not checkpoint:
        return folder.name if options.get("overwrite") else _first_free(folder)
    if settings.given_folder is not None:
        return folder.name
    if checkpoint == LATEST:
        return _last_begun(folder)
    own = (run for run in _runs(folder) if is_within(str(checkpoint), run))
    found = next(own, None)
    return found.name if found is not None else folder.name if options.get("overwrite") else _first_free(folder)


def _first_free(folder: Path) -> str:
    """The name of the first folder that no training has; it is held from here on."""
    numbered = re.fullmatch(r"(.+)-\d+", folder.name)
    stem = numbered[1] if numbered and folder.with_name(numbered[1]).is_dir() else folder.name
    places = itertools.chain([folder], (folder.with_name(f"{stem}-{number}") for number in itertools.count(2)))
    reason = ""
    for place in places:
        taken = _taken(place)
        if taken is None:
            break
        reason = reason or taken
    if reason:
        choices = "--overwrite trains anew in its place, --resume goes on with it"
        logger.info("%s %s: this one goes to %s (%s)", folder, reason, place, choices)
    return place.name


def _taken(place: Path) -> str | None:
    """Why a training cannot begin in a folder without loss; None where it can, and the folder is held."""
    earlier = "holds an earlier training"
    if earlier_training(place) is not None:
        return earlier
    try:
        hold(place)
    except FolderInUseError:
        return "is in use by another training"
    try:
        settle(place)
        if earlier_training(place) is None:  # none has ended in between
            return None
    except BaseException:
        release(place)
        raise
    release(place)
    return earlier


def _runs(folder: Path) -> list[Path]:
    """The folders of NAME, NAME-2, … that hold a run, in this order."""
    numbered = re.compile(rf"{re.escape(folder.name)}-(\d+)")
    found = {folder: 1}
    for path in folder.parent.iterdir() if folder.parent.is_dir() else ():
        if match := numbered.fullmatch(path.name):
            found[path] = int(match[1])
    return [path for path in sorted(found, key=lambda path: found[path]) if (path / CONFIG).is_file()]


def _last_begun(folder: Path) -> str:
    """The name of the run that was begun last, of those that have a checkpoint; that of `folder` where none has."""
    runs = _runs(folder)
    numbers = sorted(range(len(runs)), key=lambda number: (_begun(runs[number]), number), reverse=True)
    last = next((runs[number] for number in numbers if find_newest(runs[number])[0] is not None), folder)
    if len(runs) > 1:
        logger.info("resuming %s, begun last of %d runs (--resume RUN names another)", last, len(runs))
    return last.name


def _begun(run: Path) -> float:
    started = (read_record(run) or {}).get("started")
    return datetime.datetime.fromisoformat(started).timestamp() if isinstance(started, str) else 0.0
