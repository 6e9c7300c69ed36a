"""`RunSettings`: the typed and checked view of a configuration, each part of it read once.

Every command opens its configuration here, whether -c or the folder of a run names it, so that all of them see the same
architecture, classes, image rule, lists and weights. Only `prepare` hands the dict itself on, to PaddleClas's builders.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppcls_ext.config.folder import (
    Facts,
    compare,
    digests,
    find_run,
    folder_of,
    name_lists,
    read_config,
    read_trained_with,
    require_unchanged,
    trained_lists,
)
from ppcls_ext.config.load import load_config, override
from ppcls_ext.config.recipe import Settings as RecipeSettings
from ppcls_ext.config.recipe import read_settings
from ppcls_ext.data.image_rule import RGB, Preprocessing, rule_from_transforms
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL, ImageList, read_class_names, read_list, require_class_names
from ppcls_ext.errors import PpclsExtError, one_of
from ppcls_ext.hosts.paddleclas.locate import activate
from ppcls_ext.models.table import MODELS
from ppcls_ext.progress import progress
from ppcls_ext.weights.checkpoint_sets import intact, is_saved
from ppcls_ext.weights.published import fetch, is_remote

if TYPE_CHECKING:
    from ppcls_ext.models.backbone import Backbone
    from ppcls_ext.weights.files import WeightFile

logger = logging.getLogger("ppcls_ext")

#: Fields of `Arch` that PaddleClas takes for itself, and does not hand to the model's factory.
NO_ARGUMENTS = ("name", "pretrained", "use_sync_bn", "infer_add_softmax")
#: PaddleClas's model of networks that learn from each other, of which `Arch.infer_model_name` is exported.
DISTILLATION = "DistillationModel"
#: PaddleClas's post-processing that names classes. For several labels there is ours in its place: PaddleClas's own
#: applies a softmax (Topk), loses the names of the classes (MultiLabelTopk), or is missing in 2.4 and knows one
#: threshold (MultiLabelThreshOutput).
NAMES_CLASSES = ("Topk", "MultiLabelTopk", "MultiLabelThreshOutput")
#: PaddleClas's post-processing of a distillation, around another.
DISTILLED = "DistillationPostProcess"
#: PaddleClas's data sets of images and labels in a text file.
PLAIN_LISTS = ("ImageNetDataset", "ClsDataset")
#: PaddleClas's data sets of images that may show several classes: the text file has a 0 or 1 for each class.
MULTI_LABEL_LISTS = ("MultiLabelDataset",)


@dataclass(frozen=True)
class Arch:
    """The section `Arch`.

    Attributes:
        name: name of the architecture; None where the configuration gives none.
        is_ours: whether it is one of this project's models, on its own.
        arguments: arguments for the factory of such a model.
    """

    name: Any
    is_ours: bool
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Weights:
    """A file of weights.

    Attributes:
        name: in the configuration; the path where that names no file of this machine.
        path: the file.
        content: the file that holds its content: `path`, unless a save was interrupted before it renamed its files.
    """

    name: str
    path: Path
    content: Path


@dataclass(frozen=True)
class RunSettings:
    """A configuration and the folder of its run.

    Args:
        config: the dict from `load_config`.
        given_folder: the run's folder; None where it follows from the configuration.
        overrides: the user's changes, which `config` contains already.
        trained_lists: of a run, the lists that it was trained with; see `config.folder.trained_lists`.
        made_lists: the folder of lists made for a training that is to begin, which then go to the run's folder.
        open_fields: of a training on a folder, the fields that follow from its images; see `config.schedule`.
        distilled_in: of a student (`deployed`), the settings of the distillation whose weights hold its own.
    """

    config: dict[str, Any]
    given_folder: Path | None = None
    overrides: tuple[str, ...] = ()
    trained_lists: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    made_lists: Path | None = None
    open_fields: frozenset[str] = frozenset()
    distilled_in: RunSettings | None = None

    def changed(self, section: str, **fields: Any) -> RunSettings:
        """A copy with other fields in a section."""
        config = copy.deepcopy(self.config)
        if fields:
            config[section] = {**self.section(section), **fields}
        return dataclasses.replace(self, config=config)

    @property
    def evaluates_in_bfloat16(self) -> bool:
        """Whether evaluations and predictions are computed in mixed precision."""
        from ppcls_ext.config.checks import precision_fault

        amp, on_cpu = self.section("AMP"), self.device == "cpu"
        if not amp.get("use_fp16_test") or amp.get("use_amp") is False:
            return False
        return precision_fault(self.config) is None if on_cpu else amp.get("dtype") == "bfloat16"

    def with_lists_in_place(self) -> RunSettings:
        """A copy that names the lists made for a training where they are once it has begun."""
        if self.made_lists is None:
            return self
        config = name_lists(self.config, self.made_lists, self.folder)
        return dataclasses.replace(self, config=config, made_lists=None)

    def require_trained_list(self, loader: str) -> None:
        """Raises PpclsExtError where a list was changed after the training, unless the user has named it (-o)."""
        named = any(text.startswith(f"DataLoader.{loader}.dataset.cls_label_path=") for text in self.overrides)
        now = digests({"DataLoader": {loader: self.section("DataLoader").get(loader)}}).get(loader)
        if now is None or named or loader not in self.trained_lists:
            return
        if self.made_lists is not None:
            now = name_lists(now, self.made_lists, self.folder)
        require_unchanged(loader, now, self.trained_lists[loader])

    def require_own_place(self, section: str, field: str, option: str) -> None:
        """Checks that a run writes nowhere else than in its folder, unless the user has said where (-o).

        Args:
            section: holds the field.
            field: names a file or folder that is to be written.
            option: that of the command line which names another one.

        Raises:
            PpclsExtError: the run's own settings name a place elsewhere.
        """
        path, value = f"{section}.{field}", self.section(section).get(field)
        named = any(text.startswith(f"{path}=") for text in self.overrides)
        if self.given_folder is None or named or not value:
            return
        if not isinstance(value, str) or "\0" in value:
            raise PpclsExtError(f"{path} of {self.folder} is {value!r}: expected a path")
        if not Path(os.path.realpath(value)).is_relative_to(os.path.realpath(self.folder)):
            raise PpclsExtError(
                f"{path} of {self.folder} is {value}, which is not in the run's folder: say where to write with "
                f"{option}, or -o {path}=null to write none"
            )

    @property
    def folder(self) -> Path:
        """Where the run's files are, or will be written."""
        return folder_of(self.config) if self.given_folder is None else self.given_folder

    def section(self, name: str) -> dict[str, Any]:
        """The section called `name`; empty where there is none.

        Raises:
            PpclsExtError: it holds something else than fields.
        """
        section = self.config.get(name) or {}
        if not isinstance(section, dict):
            raise PpclsExtError(f"the configuration's {name} is {section!r}: expected a section with fields")
        return section

    @functools.cached_property
    def arch(self) -> Arch:
        """The architecture."""
        fields = self.section("Arch")
        name = fields.get("name")
        arguments = {field: copy.deepcopy(value) for field, value in fields.items() if field not in NO_ARGUMENTS}
        is_ours = isinstance(name, str) and name in MODELS
        if is_ours and "class_num" not in fields and self.section("Global").get("class_num") is not None:
            arguments["class_num"] = self.section("Global")["class_num"]
        return Arch(name, is_ours, arguments)

    @functools.cached_property
    def deployed(self) -> RunSettings:
        """The settings of the network that is exported: of a distillation the student's, else these themselves.

        Raises:
            PpclsExtError: `Arch.infer_model_name` is none of the distillation's networks.
        """
        arch = self.section("Arch")
        if arch.get("name") != DISTILLATION:
            return self
        networks, student = distilled_networks(arch), arch.get("infer_model_name")
        if student not in networks:
            raise PpclsExtError(
                f"Arch.infer_model_name is {student!r}, which says whose network is exported: expected one of "
                f"{', '.join(networks)}"
            )
        config = {**self.config, "Arch": dict(networks[student])}
        return dataclasses.replace(self, config=config, distilled_in=self)

    @property
    def class_num(self) -> int | None:
        """The number of classes: the stated one, else that of this project's models; None where it is not known.

        `Global.class_num`, its place in older files, counts where `Arch` has none.
        """
        stated = self.section("Arch").get("class_num") or self.section("Global").get("class_num")
        return stated or (1000 if self.arch.is_ours else None)

    @property
    def channels(self) -> int:
        """Channels of the images: `Arch.in_channels` of this project's models, else 3."""
        given = self.section("Arch").get("in_channels") if self.arch.is_ours else None
        return RGB if given is None else given

    @functools.cached_property
    def task(self) -> str:
        """What is predicted of an image: "single-label" or "multi-label".

        Raises:
            PpclsExtError: `Global.use_multilabel` and the data sets contradict each other.
        """
        given = self.section("Global").get("use_multilabel")
        names = {loader: self.dataset(loader).get("name") for loader in ("Train", "Eval")}
        of_lists = [loader for loader, name in names.items() if name in MULTI_LABEL_LISTS]
        if of_lists and given is False:
            raise PpclsExtError(
                f"DataLoader.{of_lists[0]}.dataset is a {names[of_lists[0]]}, and Global.use_multilabel is false: set "
                "it to true, or name an ImageNetDataset"
            )
        plain = [loader for loader, name in names.items() if name in PLAIN_LISTS]
        if plain and (given or of_lists):
            why = "Global.use_multilabel is true" if given else f"that of {of_lists[0]} a {names[of_lists[0]]}"
            raise PpclsExtError(
                f"DataLoader.{plain[0]}.dataset is a {names[plain[0]]}, with one class an image, and {why}: name a "
                "MultiLabelDataset, or take that away"
            )
        return MULTI_LABEL if given or of_lists else SINGLE_LABEL

    @functools.cached_property
    def given_thresholds(self) -> tuple[float, ...] | None:
        """`Global.thresholds`, a number or a list with one a class; None where it is not given.

        Raises:
            PpclsExtError: the task is single-label, or they are not as many numbers from 0 to 1 as there are classes.
        """
        given = self.section("Global").get("thresholds")
        if given is None:
            return None
        if self.task != MULTI_LABEL:
            raise PpclsExtError(
                "Global.thresholds says from which score on an image shows a class, and this configuration is for one "
                "class an image: remove it, or set Global.use_multilabel"
            )
        if self.class_num is None:
            raise PpclsExtError("Global.thresholds says one number a class: give their number, Arch.class_num, too")
        values = given if isinstance(given, (list, tuple)) else [given] * self.class_num
        found = _as_thresholds(values, self.class_num)
        if found is None:
            raise PpclsExtError(
                f"Global.thresholds is {given!r}: expected a number from 0 to 1, or a list of {self.class_num} of them"
            )
        return found

    @functools.cached_property
    def thresholds(self) -> tuple[float, ...] | None:
        """For "multi-label", the score of each class from which on an image shows it; None where unknown.

        `Global.thresholds`, or else what was chosen when the configuration's weights were evaluated in their training.

        Raises:
            PpclsExtError: those given do not fit the classes, those kept beside the weights are damaged, or there are
                no such weights.
        """
        if self.given_thresholds is not None or self.task != MULTI_LABEL:
            return self.given_thresholds
        places = (("Global", "pretrained_model"), ("Arch", "pretrained"))
        for field, value in ((f"{name}.{field}", self.section(name).get(field)) for name, field in places):
            if value is None or value is False:
                continue
            path = None if is_remote(value) else existing_file(field, value, ".pdparams")
            kept = (read_trained_with(path) or {}).get("thresholds") if path is not None else None
            if kept is None:
                return None
            found = _as_thresholds(kept, self.class_num)
            if found is None:
                raise PpclsExtError(
                    f"the thresholds kept beside {path} are not {self.class_num} numbers from 0 to 1: give them as "
                    "Global.thresholds"
                )
            return found
        return None

    @functools.cached_property
    def recipe(self) -> RecipeSettings:
        """The section `Recipe`.

        Raises:
            PpclsExtError: an unknown field, a wrong type or a value out of range.
        """
        return read_settings(self.config)

    @functools.cached_property
    def device(self) -> str:
        """The device to run on; see `choose_device`."""
        return choose_device(self.section("Global").get("device"))

    @property
    def is_like_a_file(self) -> bool:
        """Whether the network, its transforms and its post-processing are those that an exported file would have.

        Otherwise only PaddleClas's own inference can run it: another architecture than this project's, a transform of
        PaddleClas's, answers other than the best classes, or a network that PaddleSlim has changed.
        """
        post_process, rule = self._post_process, None
        name = post_process.get("func", "Topk") if post_process.get("name") == DISTILLED else post_process.get("name")
        with contextlib.suppress(PpclsExtError):
            rule = self.image_rule()
        names_classes = name is None or name in (NAMES_CLASSES if self.task == MULTI_LABEL else NAMES_CLASSES[:1])
        return self.deployed.arch.is_ours and names_classes and rule is not None and not self.section("Slim")

    @property
    def topk(self) -> int | None:
        """`Infer.PostProcess.topk`, the most classes of an image; None where it does not count, or is not given."""
        return None if self.task == MULTI_LABEL else self._post_process.get("topk")

    def image_rule(self, mode: str = "infer") -> Preprocessing:
        """Returns the rule by which evaluation and inference make the network's input from an image.

        Args:
            mode: "train" and "eval" prefer the transforms of the evaluation's data set, "infer" and "export" those of
                the section `Infer`.

        Raises:
            PpclsExtError: there are no transforms, or some that a rule cannot describe.
        """
        evaluated = self.dataset("Eval").get("transform_ops") or []
        transforms = {
            # PaddleClas's data sets put the channels first themselves
            "Eval": [*evaluated, "ToCHWImage"] if isinstance(evaluated, list) else None,
            "Infer": self.section("Infer").get("transforms"),
        }
        for name in ("Eval", "Infer") if mode in ("train", "eval") else ("Infer", "Eval"):
            found = transforms[name]
            if isinstance(found, list) and len(found) > 1:
                return rule_from_transforms(found, self.channels)
        raise PpclsExtError("the configuration has no Infer.transforms, which say how images are prepared")

    def dataset(self, loader: str) -> dict[str, Any]:
        """The section of a loader's data set; empty where there is none."""
        section = self.section("DataLoader").get(loader)
        dataset = section.get("dataset") if isinstance(section, dict) else None
        return dataset if isinstance(dataset, dict) else {}

    @property
    def class_names_file(self) -> Path | None:
        """`Infer.PostProcess.class_id_map_file`, which may be one of PaddleClas's own; None where it is not given."""
        file = self._post_process.get("class_id_map_file")
        if not file:
            return None
        if not isinstance(file, str) or "\0" in file:
            raise PpclsExtError(f"Infer.PostProcess.class_id_map_file is {file!r}: expected a path")
        return Path(file) if os.path.exists(file) else activate().path / file

    @property
    def _post_process(self) -> dict[str, Any]:
        found = self.section("Infer").get("PostProcess") or {}
        if not isinstance(found, dict):
            raise PpclsExtError(f"Infer.PostProcess is {found!r}: expected a section with fields")
        return found

    @functools.cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """The names by class index; None, which is logged, where their file does not exist.

        Raises:
            PpclsExtError: the file is damaged, or does not name each class.
        """
        path = self.class_names_file
        if path is None:
            return None
        if os.path.exists(path):  # not Path.exists, which fails for a name that is too long
            names = read_class_names(path, self._post_process.get("delimiter") or " ")
            if self.class_num is not None:
                require_class_names(names, self.class_num, f"{path} (Infer.PostProcess.class_id_map_file)")
            double = next((name for name, count in Counter(names).items() if count > 1), None)
            if double is not None:
                logger.warning("%s calls several classes %r: labels stay apart, names do not", path, double)
            return names
        logger.warning(
            "no %s (Infer.PostProcess.class_id_map_file): the classes have no names",
            self._post_process["class_id_map_file"],
        )
        return None

    def image_list(self, loader: str) -> ImageList | None:
        """Reads the image list of a loader; returns None where its data set is neither a plain nor a multi-label list.

        Raises:
            PpclsExtError: the list is missing or has a fault; begins with file and line of the first one.
        """
        dataset = self.dataset(loader)
        if dataset.get("name") not in PLAIN_LISTS + MULTI_LABEL_LISTS:
            return None
        for field in ("image_root", "cls_label_path"):
            if not isinstance(dataset.get(field), str):
                where = f"DataLoader.{loader}.dataset.{field}"
                raise PpclsExtError(f"{where} is {dataset.get(field)!r}: expected a path")
        class_num = None if dataset.get("relabel") else self.class_num
        path, root = Path(dataset["cls_label_path"]), Path(dataset["image_root"])
        task = MULTI_LABEL if dataset["name"] in MULTI_LABEL_LISTS else SINGLE_LABEL
        with progress(f"reading {path}", "lines") as report:
            return read_list(path, root, class_num, dataset.get("delimiter") or " ", task, report)

    def weights(self, mode: str = "infer") -> Weights | None:
        """Finds the weights of one of this project's models; remote ones are downloaded.

        Args:
            mode: "train" lets the classes differ; see `compare`.

        Returns:
            None where the configuration gives none.

        Raises:
            PpclsExtError: there is no such file, it was altered after a training wrote it, its classes differ, or it
                cannot be downloaded.
        """
        if self.distilled_in is not None:
            return self.distilled_in.weights(mode)
        for section, field in (("Global", "pretrained_model"), ("Arch", "pretrained")):
            value = self.section(section).get(field)
            if value is None or value is False:
                continue
            if is_remote(value):
                path = Path(fetch(value, self.arch.name))
                return Weights(str(path), path, path)
            return self.local_weights(f"{section}.{field}", value, mode)
        return None

    def local_weights(self, field: str, value: Any, mode: str) -> Weights:
        """Finds the weights in a file of this machine; see `weights`.

        Args:
            field: the path of `value` in the YAML file.
            value: a path, with or without the suffix .pdparams.
            mode: see `weights`.
        """
        path = existing_file(field, value, ".pdparams")
        self.check_weights(path, mode)
        return Weights(value, path, intact(path))

    def check_weights(self, weights: Path, mode: str) -> None:
        """Compares what a file of weights was trained with to this configuration; see `compare`.

        Raises:
            PpclsExtError: the number or the order of the classes differs.
        """
        trained = read_trained_with(weights)
        if trained is not None:
            compare(weights, trained, self.trained_with(mode), mode, self.section("Global").get("image_shape"))

    def trained_with(self, mode: str = "train") -> Facts:
        """Describes what weights trained with this configuration are for; in other modes, what it expects of weights.

        Returns:
            A JSON object: "architecture", "task", "class_num", "class_names" (None: unknown) and "pictures" (None: the
            transforms cannot be described), the fields of `Preprocessing`; for multi-label also "thresholds", those of
            `Global.thresholds` (None: a training's evaluations choose them).
        """
        rule = names = None
        for preferred in (mode, "eval", "infer"):
            with contextlib.suppress(PpclsExtError):
                rule = self.image_rule(preferred).to_json()
                break
        file = self._post_process.get("class_id_map_file")
        if isinstance(file, str):
            with contextlib.suppress(PpclsExtError):  # a file that cannot be read, or one of PaddleClas's
                names = list(read_class_names(file, self._post_process.get("delimiter") or " "))
        facts = {"architecture": self.arch.name, "task": self.task, "class_num": self.class_num, "class_names": names}
        facts["pictures"] = rule
        if self.task == MULTI_LABEL:
            facts["thresholds"] = self.given_thresholds
        return json.loads(json.dumps(facts))

    def build_model(self) -> Backbone:
        """Builds the model and loads its weights strictly.

        Raises:
            PpclsExtError: the architecture is not this project's, or the weights do not fit it exactly.
        """
        from ppcls_ext.models.factories import build
        from ppcls_ext.weights.loading import load_weights

        self.require_ours()
        weights = self.weights()
        model = build(self.arch.name, **self.arch.arguments)
        if weights is None:
            logger.warning("no Global.pretrained_model: the weights are random")
        elif self.distilled_in is not None:
            student = self.distilled_in.section("Arch")["infer_model_name"]
            load_weights(model, _of_student(weights.content, f"{student}."))
        else:
            load_weights(model, weights.content)
        return model

    def require_ours(self) -> None:
        """Raises PpclsExtError where the architecture is not one of this project's models."""
        if not self.arch.is_ours:
            raise PpclsExtError(f"Arch.name is {self.arch.name!r}: expected one of {one_of(self.arch.name, MODELS)}")


def open_config(path: str | os.PathLike, overrides: Iterable[str] = ()) -> RunSettings:
    """Opens the configuration that -c and -o name; see `load_config`."""
    return RunSettings(load_config(path, overrides))


def open_run(name: str | os.PathLike, overrides: Iterable[str] = ()) -> RunSettings:
    """Opens the configuration in a run's folder, with the run's weights.

    Args:
        name: the folder, or a file of weights in it.
        overrides: changes of the configuration, as behind -o.

    Raises:
        PpclsExtError: there is no such run, its configuration is damaged, or an override fits nothing.
    """
    run = find_run(name)
    config = read_config(run.folder)
    run.adopt(config)
    return RunSettings(override(config, overrides), run.folder, tuple(overrides), trained_lists(run.folder))


def distilled_networks(arch: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the networks of a distillation by their names, such as "Teacher" and "Student".

    Args:
        arch: the section `Arch` of a DistillationModel.

    Raises:
        PpclsExtError: `Arch.models` is no list of them.
    """
    models = arch.get("models")
    found: dict[str, dict[str, Any]] = {}
    for model in models if isinstance(models, list) else []:
        if not isinstance(model, dict) or not all(isinstance(fields, dict) for fields in model.values()):
            raise PpclsExtError(f"Arch.models holds {model!r}: expected the name of a network and its fields")
        found.update(model)
    if not found:
        raise PpclsExtError(f"Arch.models is {models!r}: expected a list of networks, such as Teacher and Student")
    return found


def _of_student(path: Path, prefix: str) -> WeightFile:
    """Returns the student's tensors in the weights of its distillation; a file of the student alone is as it was."""
    from ppcls_ext.weights.files import read_weight_file

    file = read_weight_file(path)
    own = {name[len(prefix) :]: array for name, array in file.tensors.items() if name.startswith(prefix)}
    return file._replace(tensors=own) if own else file


def choose_device(wanted: str | None) -> str:
    """The device to run on: for "auto" (or nothing) the GPU where Paddle sees one, else the CPU.

    Raises:
        PpclsExtError: the device asked for is not there.
    """
    import paddle

    names = [*paddle.device.get_available_device(), *(paddle.device.get_available_custom_device() or ())]
    available = {"cpu", *(name.split(":")[0] for name in names)}
    if wanted in (None, "auto"):
        return "gpu" if "gpu" in available else "cpu"
    if wanted not in available:
        raise PpclsExtError(
            f"Global.device is {wanted!r}, and this Paddle sees only {', '.join(sorted(available))}: "
            "use one of these or auto"
        )
    return wanted


def _as_thresholds(values: Any, class_num: int | None) -> tuple[float, ...] | None:
    """One number from 0 to 1 a class; None where `values` is something else."""
    if not isinstance(values, (list, tuple)) or (class_num is not None and len(values) != class_num):
        return None
    if not all(type(value) in (int, float) and math.isfinite(value) and 0 <= value <= 1 for value in values):
        return None
    return tuple(map(float, values))


def existing_file(field: str, value: Any, suffix: str) -> Path:
    """Returns the file with the path `value`, with or without `suffix`.

    Raises:
        PpclsExtError: there is no such file; names those that are there.
    """
    if not isinstance(value, str) or not value:
        raise PpclsExtError(f"{field} is {value!r}: expected a path")
    for path in (Path(value + suffix), Path(value)):
        if path.name and is_saved(path):
            return path
    folder = Path(value).parent
    there = sorted(path.name for path in folder.glob(f"*{suffix}")) if folder.is_dir() else []
    hint = f"{folder} holds {', '.join(there[:5])}" if there else f"{folder} holds no {suffix} file"
    raise PpclsExtError(f"{field} is {value}: no such file, with or without {suffix}; {hint}")
