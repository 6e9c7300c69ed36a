"""Which evaluation is the best: the metric that decides, and whether more or less of it is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ppcls_ext.config.checks import is_ours
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.hosts.paddleclas.safe_eval import read_literal

MODES = {"max": "the greater the better", "min": "the smaller the better"}
PAIRS = "pairs"


class Kind(NamedTuple):
    """A metric of PaddleClas's.

    Attributes:
        outputs: names of its numbers, the first of which decides; "{}" stands for each k of its `topk`.
        of: what it is computed of: "single-label" or "multi-label" images, or "pairs" of images.
        mode: "max" where more is better, else "min".
    """

    outputs: tuple[str, ...]
    of: str
    mode: str = "max"


_ATTRIBUTES = (
    *("ma", "label_f1", "label_pos_recall", "label_neg_recall"),
    *("instance_f1", "instance_acc", "instance_prec", "instance_recall"),
)
#: The metrics of PaddleClas 2.4 to develop: ppcls/metric/metrics.py.
METRICS = {
    "TopkAcc": Kind(("top{}",), SINGLE_LABEL),
    "DistillationTopkAcc": Kind(("top{}",), SINGLE_LABEL),
    "GoogLeNetTopkAcc": Kind(("top{}",), SINGLE_LABEL),
    "TprAtFpr": Kind(("TprAtFpr",), SINGLE_LABEL),
    "HammingDistance": Kind(("HammingDistance",), MULTI_LABEL, "min"),
    "AccuracyScore": Kind(("AccuracyScore",), MULTI_LABEL),
    "ATTRMetric": Kind(_ATTRIBUTES, MULTI_LABEL),
    "MultilabelMeanAccuracy": Kind(("MultilabelMeanAccuracy",), MULTI_LABEL),
    "MultiLabelMAP": Kind(("MultiLabelMAP",), MULTI_LABEL),
    "Recallk": Kind(("recall{}",), PAIRS),
    "Precisionk": Kind(("precision@{}",), PAIRS),
    "mAP": Kind(("mAP",), PAIRS),
    "mINP": Kind(("mINP",), PAIRS),
}
#: This project's metrics of several labels an image (`report.label_scores.measures`), the first of which decides.
OF_SEVERAL_LABELS = {
    "mAP": "max",
    "f1_micro": "max",
    "f1_macro": "max",
    "hamming_distance": "min",
    "exact_match": "max",
}
#: This project's metric of one class an image, which only decides where `Global.best_by` asks for it.
F1_MACRO = "f1_macro"
#: What works instead.
INSTEAD = {
    SINGLE_LABEL: "take TopkAcc, such as TopkAcc: {topk: [1, 5]}",
    MULTI_LABEL: "take HammingDistance or AccuracyScore",
    PAIRS: "take Recallk or mAP",
}
IS_OF = {
    SINGLE_LABEL: "images with one class each",
    MULTI_LABEL: "images with several labels each (Global.use_multilabel)",
    PAIRS: "images that are searched for among others (Global.eval_mode retrieval)",
}


class BestBy(NamedTuple):
    """What decides which evaluation is better.

    Attributes:
        name: of the metric, as evaluations print it.
        mode: "max" or "min".
    """

    name: str
    mode: str

    def is_better(self, value: float, before: float | None) -> bool:
        """Returns whether `value` is better than the best value before, None where there is none; an equal one is not.

        A tie keeps the earlier epoch.
        """
        return before is None or (value > before if self.mode == "max" else value < before)

    @property
    def setting(self) -> str:
        """It as `Global.best_by` says it."""
        return f"{self.name} {self.mode}"

    def __str__(self) -> str:
        return f"{self.name}, {MODES[self.mode]}"


def parts(path: str, section: Any) -> Iterator[tuple[str, str, dict]]:
    """Path, name and arguments of each loss or metric in a section.

    Args:
        path: of the section.
        section: a list of mappings `Name: arguments`.

    Raises:
        PpclsExtError: it is something else, or empty.
    """
    if not isinstance(section, (list, tuple)) or not section:
        raise PpclsExtError(f"{path} is {section!r}: expected a list with at least one `Name: arguments`")
    for index, part in enumerate(section):
        if not isinstance(part, Mapping) or len(part) != 1:
            raise PpclsExtError(f"{path}.{index} is {part!r}: expected one `Name: arguments`")
        ((name, arguments),) = part.items()
        yield f"{path}.{index}.{name}", name, dict(arguments or {})


def prepare_metrics(config: dict, mode: str, task: str) -> BestBy | None:
    """Checks the metrics and losses, and says by which metric the epochs of a training are compared.

    Args:
        config: its names and arguments are checked already; changed in place where a schedule follows the metric.
        mode: "train" or "eval".
        task: "single-label" or "multi-label".

    Returns:
        `Global.best_by`, or else what decides among the numbers of the first metric; None where nothing is compared.

    Raises:
        PpclsExtError: a metric that cannot be computed, or `Global.best_by` is none of the evaluation's; the message
            names the path.
    """
    _check_metrics(config, mode, task)
    if mode != "train":
        return None
    best_by = _choose(config, task)
    _follow(config, best_by)
    return best_by


def _check_metrics(config: dict, mode: str, task: str) -> None:
    trains, evaluates = mode == "train", mode == "eval" or bool(config["Global"].get("eval_during_train"))
    losses, metrics = config.get("Loss") or {}, config.get("Metric") or {}
    for when, is_used in (("Train", trains), ("Eval", evaluates)):
        if is_used and losses.get(when) is not None:
            list(parts(f"Loss.{when}", losses[when]))
    kind = _evaluated(config, task)
    if trains and metrics.get("Train"):
        for path, name, arguments in parts("Metric.Train", metrics["Train"]):
            _check_metric(path, name, arguments, kind if kind != PAIRS else SINGLE_LABEL)
    if evaluates and kind is not None:
        for path, name, arguments in parts("Metric.Eval", metrics.get("Eval")):
            _check_metric(path, name, arguments, kind)
            if kind == SINGLE_LABEL and not _outputs(name, arguments, _classes(config)):
                raise PpclsExtError(
                    f"{path}.topk is {arguments['topk']}, and there are {_classes(config)} classes: give numbers up to "
                    "that, such as [1, 5]"
                )


def _evaluated(config: dict, task: str) -> str | None:
    """What evaluations are of; None for adaface, whose metric is PaddleClas's own."""
    evaluation = config["Global"].get("eval_mode") or "classification"
    return task if evaluation == "classification" else PAIRS if evaluation == "retrieval" else None


def _check_metric(path: str, name: str, arguments: dict, wanted: str | None) -> None:
    if wanted is not None and name in METRICS and METRICS[name].of != wanted:
        raise PpclsExtError(
            f"{path} is for {IS_OF[METRICS[name].of]}, and these are {IS_OF[wanted]}: {INSTEAD[wanted]}"
        )
    given = _topk(arguments)
    is_fit = bool(given) and all(type(k) is int and k >= 1 for k in given)
    # a k that is there twice counts each image twice, which only the averages of a training do not show
    if "topk" in arguments and not (is_fit and (path.startswith("Metric.Train") or len(set(given)) == len(given))):
        raise PpclsExtError(
            f"{path}.topk is {arguments['topk']!r}: expected whole numbers from 1, each once, such as [1, 5]"
        )


def _topk(arguments: dict) -> list[Any]:
    """PaddleClas reads a text that is a number or a list as such."""
    given = arguments.get("topk", (1, 5))
    if isinstance(given, str):
        try:
            given = read_literal(given)
        except ValueError:
            return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _outputs(name: str, arguments: dict, classes: int | None) -> list[str]:
    """The names of a metric's numbers, the one that decides first."""
    kind = METRICS[name]
    if kind.outputs[0].count("{}") == 0:
        return list(kind.outputs)
    ks = _topk(arguments)
    if kind.of == SINGLE_LABEL:
        # top-k of k classes is always 1, and beyond them PaddleClas leaves it out
        ks = [k for k in ks if classes is None or k <= classes]
        ks = sorted(ks, key=lambda k: (k == classes, k)) if ks else []
    return [kind.outputs[0].format(k) for k in ks]


def _classes(config: dict) -> int | None:
    """How many outputs an evaluation has; None where only PaddleClas knows it."""
    arch = config["Arch"]
    models = {name: fields for item in arch.get("models") or () for name, fields in item.items()}
    places = [(models.get("Student") or {}), arch.get("Head") or {}, arch]
    stated = [place["class_num"] for place in places if place.get("class_num")]
    return stated[0] if stated else 1000 if is_ours(config) else None


def _choose(config: dict, task: str) -> BestBy | None:
    given = config["Global"].get("best_by")
    if not config["Global"].get("eval_during_train"):
        if given is not None:
            raise PpclsExtError("Global.best_by needs evaluations: set Global.eval_during_train to true, or remove it")
        return None
    found = _choices(config, task)
    if given is None:
        if not found:
            path, name, _ = next(parts("Metric.Eval", config["Metric"]["Eval"]))
            raise PpclsExtError(
                f"{path}: it is not known whether more or less of {name} is better: say so as -o "
                f'Global.best_by="{name} max", or min'
            )
        return next(iter(found.values()))
    name, _, mode = given.strip().rpartition(" ") if isinstance(given, str) else ("", "", "")
    if mode not in MODES:
        name, mode = str(given).strip(), ""
    elsewhere = any(name not in METRICS for _, name, _ in parts("Metric.Eval", config["Metric"]["Eval"]))
    if name.strip() not in found and not (elsewhere and mode):
        there = ", ".join(f"{choice.name} ({choice.mode})" for choice in found.values())
        raise PpclsExtError(
            f"Global.best_by is {given!r}: expected one of {there}, optionally with max or min behind it"
        )
    return BestBy(name.strip(), mode or found[name.strip()].mode)


def _choices(config: dict, task: str) -> dict[str, BestBy]:
    """The numbers of an evaluation by name, the one that decides unless told otherwise first."""
    evaluation = config["Global"].get("eval_mode") or "classification"
    if evaluation == "adaface":
        return {"all_test_acc": BestBy("all_test_acc", "max")}
    found: dict[str, BestBy] = {}
    if task == MULTI_LABEL and evaluation == "classification":
        found = {name: BestBy(name, mode) for name, mode in OF_SEVERAL_LABELS.items()}
    for _, name, arguments in parts("Metric.Eval", config["Metric"]["Eval"]):
        if name not in METRICS:
            if not found:
                return {}
            continue
        for output in _outputs(name, arguments, _classes(config)):
            found.setdefault(output, BestBy(output, METRICS[name].mode))
    if evaluation == "classification" and (config.get("Loss") or {}).get("Eval"):
        found["loss"] = BestBy("loss", "min")
    return found


def _follow(config: dict, best_by: BestBy | None) -> None:
    """Makes schedules that wait for a metric (ReduceOnPlateau) follow the one that decides."""
    section = config["Optimizer"]
    optimizers = {"Optimizer": section} if isinstance(section, dict) else {}
    for index, item in enumerate(section if isinstance(section, list) else ()):
        optimizers.update({f"Optimizer.{index}.{name}": fields for name, fields in item.items()})
    for path, fields in optimizers.items():
        rate = fields.get("lr")
        if not isinstance(rate, dict) or rate.get("name") != "ReduceOnPlateau":
            continue
        if best_by is None:
            raise PpclsExtError(f"{path}.lr is ReduceOnPlateau, which needs evaluations: set Global.eval_during_train")
        if not rate.get("by_epoch"):
            raise PpclsExtError(f"{path}.lr is ReduceOnPlateau, which waits for evaluations: set {path}.lr.by_epoch")
        if rate.setdefault("mode", best_by.mode) != best_by.mode:
            raise PpclsExtError(
                f"{path}.lr.mode is {rate['mode']}, and it follows {best_by}: set it to {best_by.mode}, leave it out, "
                "or choose another metric by Global.best_by"
            )
