"""The folder of a run: its files and paths, the record of the training, the facts kept beside its weights, resuming.

run.json and config.yml hold what a run was started with and how far it has come. What weights were trained with
(architecture, classes, image rule) stands in the manifest beside them, PREFIX.json, and goes where both are copied.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ppcls_ext.config.checks import is_ours
from ppcls_ext.config.first_epoch import CONFIG, LISTS, RECORD, settle
from ppcls_ext.config.load import read_yaml
from ppcls_ext.config.shipped import Dumper
from ppcls_ext.data.image_rule import RGB
from ppcls_ext.errors import NoSuchRunError, PpclsExtError, one_line, shown
from ppcls_ext.files import atomic_write, read_regular
from ppcls_ext.weights.checkpoint_sets import FIRST_EPOCH, is_saved
from ppcls_ext.weights.manifest import manifest_path, read_manifest

logger = logging.getLogger("ppcls_ext")


#: The weights that a run's folder stands for: those that were best, else those that were evaluated last.
WEIGHTS = ("best_model.pdparams", "latest.ema.pdparams", "latest.pdparams")


class RunFolder(NamedTuple):
    """A run's folder and the weights in it that are meant; None where there are none yet."""

    folder: Path
    weights: Path | None

    def adopt(self, config: dict) -> None:
        """Points the run's own configuration to where the folder is now, and to the weights.

        Args:
            config: what config.yml in the folder holds; changed in place.
        """
        settings = config["Global"]
        old, here = folder_of(config), self.folder.absolute()
        if old != here:
            move_paths(config, old, here)
        if old.name != here.name:
            settings["run_name"] = here.name
        settings["output_dir"] = str(self.folder.parent)
        settings["save_inference_dir"] = str(self.folder / "inference")
        if self.weights is not None:
            settings["pretrained_model"] = str(self.weights)


def folder_of(config: dict) -> Path:
    """Where a training with this configuration writes: `Global.output_dir`/`Global.run_name`, by default `Arch.name`.

    Raises:
        PpclsExtError: the name is no name of a folder.
    """
    settings = config["Global"]
    name = settings.get("run_name") or config["Arch"]["name"]
    if not isinstance(name, str) or Path(name).name != name or name.startswith("."):
        raise PpclsExtError(
            f"Global.run_name (--name) is {name!r}: expected the name of a folder, without a dot before it or folders "
            "above it (Global.output_dir, --out)"
        )
    return Path(str(settings["output_dir"])) / name


def find_run(name: str | os.PathLike) -> RunFolder:
    """The run that `name` means: its folder, or a file of weights in it, with or without suffix.

    Raises:
        NoSuchRunError: there is no such run.
    """
    path = Path(name)
    path = path if path.name else path.absolute()  # the working directory itself
    settle(path if path.is_dir() else path.parent)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            if (path / FIRST_EPOCH).is_dir():
                raise PpclsExtError(f"{path} holds no weights: its training has not come to the end of an epoch")
            raise NoSuchRunError(
                f"{name} is no run: it holds no {CONFIG}; expected the folder that a training wrote, such as "
                f"output/MobileOne_S0{_runs_below(path)}"
            )
        found = [path / file for file in WEIGHTS if is_saved(path / file)]
        return RunFolder(path, found[0] if found else None)
    for weights in (path, path.with_name(f"{path.name}.pdparams")):
        if weights.suffix and is_saved(weights) and (weights.parent / CONFIG).is_file():
            return RunFolder(weights.parent, weights)
    raise NoSuchRunError(
        f"{name} is no run: expected the folder that a training wrote, such as output/MobileOne_S0, or weights in it"
    )


def need_weights(run: RunFolder) -> Path:
    """The weights of a run.

    Raises:
        PpclsExtError: nothing has been saved yet.
    """
    if run.weights is None:
        raise PpclsExtError(f"{run.folder} holds no weights: its training has not come to the end of an epoch")
    return run.weights


def _runs_below(path: Path) -> str:
    names = sorted(file.parent.name for file in path.glob(f"*/{CONFIG}"))
    return f"; in {path} there is {', '.join(names[:5])}" if names else ""


#: Fields that hold a path, wherever they stand.
PATH_FIELDS = (
    *("output_dir", "save_inference_dir", "pretrained_model", "checkpoints", "image_root", "cls_label_path"),
    *("infer_imgs", "infer_list", "save_dir", "save_image", "class_id_map_file", "pretrained", "class_weights"),
)
#: Of these, what may also be a word or a file inside PaddleClas: a path only where there is such a file.
ONLY_IF_THERE = ("pretrained_model", "checkpoints", "pretrained", "class_id_map_file", "infer_imgs", "class_weights")
#: Fields that hold a list of paths, wherever they stand: those of `Recipe.teachers`.
PATH_LISTS = ("runs",)


def make_absolute(config: dict, host_folder: Path) -> None:
    """Makes every path absolute, in place, so that the configuration means the same from any working directory.

    Args:
        config: the dict from `load_config`.
        host_folder: PaddleClas's, where its own lists of class names are.
    """
    for node, field in _paths(config):
        path = Path(node[field])
        if field in ONLY_IF_THERE and not _exists(path):
            inside = host_folder / path
            if field == "class_id_map_file" and inside.is_file():
                node[field] = str(inside)
            continue
        node[field] = os.path.abspath(path)


def move_paths(config: dict, old: Path, new: Path) -> None:
    """Replaces `old` by `new` in every path that begins with it and is there under `new`."""
    for node, field in _paths(config):
        path = Path(node[field])
        if path.is_relative_to(old) and (new / path.relative_to(old)).exists():
            node[field] = str(new / path.relative_to(old))


def _exists(path: Path) -> bool:
    # not Path.exists, which fails for a name that is too long
    return bool(path.name) and (os.path.exists(path) or os.path.exists(f"{path}.pdparams"))


def _paths(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each mapping and field (or list and number) below `node` that holds a path."""
    if isinstance(node, dict):
        for field, value in node.items():
            if field in PATH_FIELDS and isinstance(value, str) and value and "://" not in value:
                yield node, field
            elif field in PATH_LISTS and isinstance(value, list):
                yield from ((value, index) for index, item in enumerate(value) if isinstance(item, str) and item)
            else:
                yield from _paths(value)
    elif isinstance(node, list):
        for item in node:
            yield from _paths(item)


LARGEST = 1 << 26
"""Bytes of run.json."""
#: Packages whose versions are kept.
PACKAGES = ("ppcls_ext", "paddlepaddle", "paddlepaddle-gpu", "paddleclas", "numpy", "opencv-python-headless", "pillow")


class Record:
    """The record of one run, in its folder.

    Args:
        folder: the run's folder.

    Attributes:
        facts: what run.json holds; `write` writes it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = read_record(folder) or {}

    def begin(
        self, config: dict, command: str, place: Path | None = None, lists: Path | None = None, **facts: Any
    ) -> None:
        """Writes config.yml and the beginning of run.json; where the run is resumed, what is known of it stays.

        Args:
            config: the resolved configuration, with absolute paths.
            command: the command line that was typed.
            place: where to write, if that is not the run's folder yet.
            lists: the folder of lists made for this training, which are copied to `LISTS`, and named there.
            **facts: further facts, as JSON can hold them.
        """
        place = place or self.folder
        if facts.pop("resumed") and self.facts:
            self.facts.setdefault("resumed_with", []).append(command)
        else:
            self.facts = {"command": command, "started": _now()}
        found, own = digests(config), self.folder.absolute() / LISTS
        if lists is None and place != self.folder and name_lists(config, own, place) != config:
            lists = own  # of an earlier training, and would go with it
        if lists is not None:
            for path in sorted(path for path in lists.iterdir() if path.is_file()):
                with atomic_write(place / LISTS / path.name) as copy:
                    copy.write(path.read_bytes())
            config = name_lists(config, lists, self.folder)
            found = name_lists(found, lists, self.folder)
        self.facts.update({"versions": versions(), "working_directory": os.getcwd(), "finished": False, "lists": found})
        self.facts.update(facts)
        with atomic_write(place / CONFIG, "w", encoding="utf-8") as stream:
            stream.write(f"# The settings of this run, reusable with -c: {one_line(command)}\n")
            stream.write(config_text(config))
        self._write(place)

    def write(self, **facts: Any) -> None:
        """Adds `facts` and writes run.json."""
        self.facts.update(facts)
        self._write(self.folder)

    def _write(self, place: Path) -> None:
        self.facts["updated"] = _now()
        with atomic_write(place / RECORD, "w", encoding="utf-8") as stream:
            json.dump(self.facts, stream, indent=1, ensure_ascii=False)


def name_lists(node: Any, made: Path, folder: Path) -> Any:
    """A copy of a configuration, or a part of it, that names the lists of the folder `made` in the run's folder."""
    if isinstance(node, dict):
        return {name: name_lists(value, made, folder) for name, value in node.items()}
    if isinstance(node, list):
        return [name_lists(value, made, folder) for value in node]
    if isinstance(node, str) and Path(node).parent == made:
        return str((folder / LISTS / Path(node).name).absolute())
    return node


def config_text(config: dict) -> str:
    """A configuration as YAML."""
    return yaml.dump(config, None, Dumper, sort_keys=False, allow_unicode=True, width=120)


def read_record(folder: Path) -> dict[str, Any] | None:
    """What run.json in `folder` holds; None where there is none.

    Raises:
        PpclsExtError: it is damaged.
    """
    path = folder / RECORD
    try:
        facts = json.loads(read_regular(path, LARGEST))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise PpclsExtError(f"cannot read {path}: {one_line(error)}; remove it, and a new one is written") from error
    if not isinstance(facts, dict):
        raise PpclsExtError(f"{path} holds no record of a run: remove it, and a new one is written")
    _require_types(path, facts, RECORD_TYPES)
    for loader, entry in (facts.get("lists") or {}).items():
        is_list = isinstance(entry, dict) and all(type(entry.get(name)) is kind for name, kind in LIST_TYPES.items())
        if not is_list or "\0" in entry["path"]:
            raise PpclsExtError(
                f"{path} is damaged: lists.{shown(loader)} is no path, number of lines and SHA-256; remove it, and a "
                "new one is written"
            )
    return facts


#: The fields of run.json that are read again, the fields of one of its lists, and the facts kept beside weights.
RECORD_TYPES = {"lists": dict, "resumed_with": list, "stopped": str, "trained_with": dict}
LIST_TYPES = {"path": str, "pictures": int, "sha256": str}
FACTS_TYPES = {
    **{"architecture": str, "task": str, "class_num": int, "class_names": list, "pictures": dict},
    **{"pictures.crop": list, "pictures.resize": list},
}


def _require_types(path: Path, facts: Mapping[str, Any], types: Mapping[str, type]) -> None:
    """Raises PpclsExtError where a field is of another type; null, or none, is of each."""
    for field, kind in types.items():
        value: Any = facts
        for part in field.split("."):
            value = (value or {}).get(part)
        if value is not None and type(value) is not kind:
            raise PpclsExtError(f"{path} is damaged: {field} is {shown(repr(value))}: expected a {kind.__name__}")


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of the run in `folder`, which names its architecture and where it was.

    Raises:
        PpclsExtError: there is none, or it is damaged.
    """
    path = folder / CONFIG
    config = read_yaml(path)
    for name, field in (("Global", "output_dir"), ("Arch", "name")):
        section = config.get(name)
        value = section.get(field) if isinstance(section, dict) else None
        if not isinstance(value, str) or not value or "\0" in value:
            raise PpclsExtError(f"{path} is damaged: {name}.{field} is {shown(repr(value))}: expected a text")
    return config


def versions() -> dict[str, str]:
    """The versions that a result depends on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def digests(config: dict) -> dict[str, dict[str, Any]]:
    """Path, number of lines and SHA-256 of each image list."""
    found = {}
    loaders = config.get("DataLoader")
    for loader, section in (loaders if isinstance(loaders, dict) else {}).items():
        dataset = section.get("dataset") if isinstance(section, dict) else None
        path = dataset.get("cls_label_path") if isinstance(dataset, dict) else None
        if isinstance(path, str) and Path(path).is_file():
            found[loader] = {"path": path, **_digest(Path(path))}
    return found


def _digest(path: Path) -> dict[str, Any]:
    """The number of lines and the SHA-256 of a list, which may be large: it is read piece by piece."""
    lines, last, digest = 0, b"\n", hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
            ends = piece.count(b"\n") + piece.count(b"\r") - piece.count(b"\r\n")
            lines += ends - (last == b"\r" and piece[:1] == b"\n")
            last = piece[-1:]
    return {"pictures": lines + (last not in (b"\n", b"\r")), "sha256": digest.hexdigest()}


def trained_lists(folder: Path) -> dict[str, dict[str, Any]]:
    """What run.json says of the lists that the run in `folder` was trained with, as `digests` does.

    The paths are those of today, where the folder was moved.
    """
    facts = (read_record(folder) or {}).get("lists")
    if not facts or not (folder / CONFIG).is_file():
        return {}
    old, found = folder_of(read_config(folder)), {}
    for loader, entry in facts.items():
        listed = Path(entry["path"])
        if listed.is_relative_to(old):
            listed = folder.absolute() / listed.relative_to(old)
        found[loader] = {**entry, "path": str(listed)}
    return found


def require_unchanged(loader: str, now: Mapping[str, Any], trained: Mapping[str, Any]) -> None:
    """Checks that a list is still the one that a run was trained with; another list than the run's is not compared.

    Args:
        loader: the list's.
        now: what `digests` says of it.
        trained: what `trained_lists` says of the run's.

    Raises:
        PpclsExtError: it was changed.
    """
    if os.path.realpath(now["path"]) != os.path.realpath(trained["path"]):
        return
    if now["sha256"] != trained["sha256"]:
        raise PpclsExtError(
            f"{now['path']} was changed after the training ({trained['pictures']} → {now['pictures']} lines): put it "
            f"back, or name the list that is meant with -o DataLoader.{loader}.dataset.cls_label_path=LIST"
        )


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


KEY = "trained_with"
Facts = dict[str, Any]


class Difference(NamedTuple):
    """A setting, as the weights were trained with it and as a configuration has it."""

    what: str
    trained: Any
    now: Any


def read_trained_with(weights: Path) -> Facts | None:
    """Reads the facts beside a file of weights; returns None where there are none.

    Raises:
        PpclsExtError: they are of other types.
    """
    prefix = weights.with_name(weights.name.split(".")[0])
    found, path = None, manifest_path(prefix)
    with contextlib.suppress(PpclsExtError):  # whoever loads the weights says what is wrong with the manifest
        if path.is_file():
            found = read_manifest(prefix).state.get(KEY)
    if found is None and re.fullmatch(r"best_model|latest|epoch_\d+", prefix.name):
        with contextlib.suppress(PpclsExtError):
            found, path = (read_record(weights.parent) or {}).get(KEY), weights.parent / RECORD
    if found is not None:
        _require_types(path, {KEY: found}, {KEY: dict})
        _require_types(path, found, FACTS_TYPES)
        if not all(isinstance(name, str) for name in found.get("class_names") or ()):
            raise PpclsExtError(f"{path} is damaged: its class_names are no texts")
    return found


def compare(weights: Path, trained: Mapping[str, Any], now: Facts, mode: str, image_shape: Any) -> None:
    """Compares a configuration with what weights were trained with, and logs the differences in one line.

    Args:
        weights: their file, named in messages.
        trained: what `read_trained_with` found beside it.
        now: the same facts of the configuration.
        mode: "train" lets the task, the classes and the size differ, as a fine-tuning's may.
        image_shape: (C, H, W) of the network's input; in the mode "export", which fixes nothing else of the images.

    Raises:
        PpclsExtError: the task, the channels of the images, or the number or the order of the classes, differs.
    """
    _check_channels(weights, trained, now, mode)
    if mode == "export":
        if not isinstance(image_shape, (list, tuple)) or len(image_shape) != 3:
            raise PpclsExtError(f"Global.image_shape is {image_shape!r}: expected [3, height, width]")
        now = {**now, "pictures": {"image size": _size(image_shape[-1:-3:-1])}}
    found = differences(trained, now)
    if mode == "train":
        found = [item for item in found if item.what in ("task", "mean", "std", "channel_order", "scale")]
    else:
        _check_task(weights, trained, now)
        _check_classes(weights, trained, now)
    if found:
        was, says = (
            ", ".join(f"{item.what} {_value_text(getattr(item, side))}" for item in found)
            for side in ("trained", "now")
        )
        logger.warning("warning: %s was trained with %s; the configuration says %s", weights, was, says)


def differences(trained: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """The architecture, the task and the fields of the images' rule that differ, where both sides know them."""
    found = []
    if trained.get("architecture") != now["architecture"]:
        found.append(Difference("architecture", trained.get("architecture"), now["architecture"]))
    found.append(Difference("task", trained.get("task") or now["task"], now["task"]))
    theirs, ours = (_with_size(facts.get("pictures") or {}) for facts in (trained, now))
    found += [Difference(name, theirs[name], ours[name]) for name in theirs if name in ours]
    return [item for item in found if item.trained != item.now]


def _with_size(images: Mapping[str, Any]) -> dict[str, Any]:
    """The rule's fields with the size in words, in the place of the crop."""
    fields = dict(images)
    crop, resize = fields.pop("crop", None), fields.get("resize")
    return {"image size": _size(crop or resize), **fields} if crop or resize else fields


def _size(pair: Any) -> str:
    return "×".join(map(str, pair)) + " px"


def _value_text(value: Any) -> str:
    return "none" if value is None else str(value)


def _check_task(weights: Path, trained: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    was = trained.get("task")  # weights of earlier versions do not tell
    if was and was != now["task"]:
        raise PpclsExtError(
            f"{weights} was trained for {was} classification, and the configuration is {now['task']} "
            "(Global.use_multilabel and DataLoader's data sets): use the run's own settings, such as ppcls-ext eval "
            f"{weights.parent}, or fine-tune it"
        )


def _check_channels(weights: Path, trained: Mapping[str, Any], now: Mapping[str, Any], mode: str) -> None:
    known = [facts.get("pictures") for facts in (trained, now)]
    was, says = (facts.get("channels", RGB) if isinstance(facts, dict) else None for facts in known)
    if None in (was, says) or was == says or (mode == "train" and was == RGB):  # which are adapted
        return
    raise PpclsExtError(
        f"{weights} was trained on images of {was} channel{'s' * (was != 1)}, and the configuration says {says}: set "
        f"Arch.in_channels to {was}, or use the run's own settings: ppcls-ext eval {weights.parent}"
    )


def _check_classes(weights: Path, trained: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    was, says = trained.get("class_num"), now["class_num"]
    if None not in (was, says) and was != says:
        raise PpclsExtError(
            f"{weights} was trained with {was} classes, and the configuration says {says}: "
            f"set Arch.class_num to {was}, or use the run's own settings: ppcls-ext eval {weights.parent}"
        )
    compare_class_names(weights, trained, now)


def compare_class_names(weights: Path, trained: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compares the names of the classes with those that weights were trained with; other names are one warning.

    Raises:
        PpclsExtError: their order differs.
    """
    was, says = trained.get("class_names"), now["class_names"]
    if not was or not says or was == says:
        return
    first = next(i for i, pair in enumerate(zip([*was, None], [*says, None])) if pair[0] != pair[1])
    names = f"class {first} was {was[first] if first < len(was) else 'none'!r} when {weights} was trained, and is "
    names += f"{says[first] if first < len(says) else 'none'!r} in the configuration's class_id_map_file"
    if sorted(was) == sorted(says):
        raise PpclsExtError(f"the same classes in another order: {names}: give the file that it was trained with")
    logger.warning("warning: %s", names)


def check_resumed(checkpoint: Path, now: Facts) -> None:
    """Raises PpclsExtError where a training of the other task is to be resumed.

    Args:
        checkpoint: its path without suffix.
        now: the facts of the configuration.
    """
    weights = checkpoint.with_name(f"{checkpoint.name}.pdparams")
    _check_task(weights, read_trained_with(weights) or {}, now)


def leave_out_start(config: dict) -> None:
    """Removes, in place, the fields that only start a training: pretrained weights and `Recipe.unfuse`."""
    config["Global"]["pretrained_model"] = None
    if is_ours(config):
        config["Arch"].pop("pretrained", None)
    if isinstance(config.get("Recipe"), dict):
        config["Recipe"]["unfuse"] = None


def report_changes(resolved: dict, folder: Path) -> None:
    """Logs, in one line, which settings differ from those that the run in `folder` was trained with until now.

    Args:
        resolved: the configuration of the resumed training, with absolute paths.
        folder: the run's folder; without a config.yml in it, nothing is logged.
    """
    path = folder / CONFIG
    if not path.is_file():
        return
    found = changes(read_config(folder), resolved)
    if found:
        logger.warning("warning: resuming with changed settings: %s", in_words(found))


def check_patience(config: dict) -> None:
    """Raises PpclsExtError where `Global.patience` is not a number of epochs, or nothing is evaluated."""
    settings = config["Global"]
    patience = settings.get("patience")
    if patience is None:
        return
    if type(patience) is not int or patience < 1:
        raise PpclsExtError(f"Global.patience (--patience) is {patience!r}: expected a whole number of epochs from 1")
    if not settings["eval_during_train"]:
        raise PpclsExtError("Global.patience (--patience) needs evaluations: set Global.eval_during_train to true")


#: Patterns of the paths that may differ without changing what is learnt.
INDIFFERENT = (
    r"Infer\..*|profiler_options|Metric\..*|Recipe\.unfuse.*|Arch\.pretrained|Arch\.use_ssld",
    r"Global\.(checkpoints|pretrained_model|output_dir|save_inference_dir|print_batch_step|save_interval)",
    r"Global\.(run_name|patience|overwrite)",
    r"Global\.thresholds.*",
    r"Global\.(device|use_visualdl|eval_during_train|eval_interval|start_eval_epoch|print_mem_info|image_shape)",
    r"DataLoader\..*\.(num_workers|use_shared_memory|prefetch_factor)",
)
SHOWN = 8


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lists the differences between two configurations that change what is learnt, as "path old → new"."""
    old, new = dict(_leaves(before, "")), dict(_leaves(now, ""))
    found = []
    for path in dict.fromkeys([*old, *new]):
        was, says = old.get(path), new.get(path)
        if was != says and not any(re.fullmatch(pattern, path) for pattern in INDIFFERENT):
            found.append(f"{path} {_text(was)} → {_text(says)}")
    return found


def in_words(found: list[str]) -> str:
    """The first few of `changes`, and how many more there are."""
    more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return "; ".join(found[:SHOWN]) + more


def _leaves(node: Any, above: str) -> Iterator[tuple[str, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else None
    if items is None or (isinstance(node, list) and not any(isinstance(item, (Mapping, list)) for item in node)):
        if node is not None:
            yield above, node
        return
    for key, value in items:
        yield from _leaves(value, f"{above}.{key}" if above else str(key))


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
