"""The metadata of an exported file: architecture, class names, and how an image becomes the input.

The file holds them in its `metadata_props` as strings, with lists and numbers as JSON, so that any ONNX runtime can
read them. This module needs no other package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.data.lists import MULTI_LABEL, SINGLE_LABEL, TASKS
from ppcls_ext.errors import PpclsExtError, printable

#: The schema of each task. Readers of schema 1 alone must refuse a multi-label file: they would name its best classes,
#: whether an image shows them or not, take its scores for probabilities, and send its logits through a softmax.
SCHEMA_VERSIONS = {SINGLE_LABEL: "1", MULTI_LABEL: "2"}
#: Names of an exported network's output: before and behind the function that makes scores of logits, by task.
LOGITS, PROBABILITIES, SCORES = "logits", "probabilities", "scores"
#: Characters of a class name, of which each result holds several.
LONGEST_CLASS_NAME = 10_000
OUTPUTS = {SINGLE_LABEL: PROBABILITIES, MULTI_LABEL: SCORES}


@dataclass(frozen=True)
class Metadata:
    """The metadata of an exported file.

    Attributes:
        architecture: name of the architecture, such as "MobileOne_S0".
        preprocessing: how an image becomes the network's input.
        class_names: names by class index; None where unknown, "" for a class without a name.
        quantization: "int8" or "fp16"; None for fp32.
        task: "single-label" or "multi-label".
        thresholds: for "multi-label", the score of each class from which on an image shows it; None where unknown.
        dynamic_size: whether the network takes images of any height and width; `preprocessing` makes those that it was
            trained on. Earlier versions refuse such a file, whose input has no fixed shape.
    """

    architecture: str
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    quantization: str | None = None
    task: str = SINGLE_LABEL
    thresholds: tuple[float, ...] | None = None
    dynamic_size: bool = False

    def to_properties(self) -> dict[str, str]:
        """Returns strings for `metadata_props`.

        `from_properties` is the inverse, except for the quantization, which is added later.
        """
        width, height = self.preprocessing.image_size
        properties = {
            "schema_version": SCHEMA_VERSIONS[self.task],
            "architecture": self.architecture,
            "task": self.task,
            "input_size": json.dumps([self.preprocessing.channels, height, width]),
            "preprocessing": json.dumps(self.preprocessing.to_json()),
        }
        if self.class_names is not None:
            properties["class_names"] = json.dumps(self.class_names, ensure_ascii=False)
        if self.thresholds is not None:
            properties["thresholds"] = json.dumps([float(value) for value in self.thresholds])
        if self.dynamic_size:
            properties["dynamic_size"] = "true"
        return properties

    def ends_in_logits(self, output: str) -> bool:
        """Returns whether a network's output still needs a softmax or sigmoid.

        Args:
            output: its name.

        Raises:
            PpclsExtError: the name is that of another task's scores.
        """
        if output in OUTPUTS.values() and output != OUTPUTS[self.task]:
            raise PpclsExtError(f"the network's output is called {output}, and its metadata say {self.task}")
        return output == LOGITS

    @classmethod
    def from_properties(cls, properties: Mapping[str, str]) -> Metadata:
        """Reads what `to_properties` wrote, and ignores other keys.

        Raises:
            PpclsExtError: the properties are missing, of another schema, or damaged.
        """
        version = properties.get("schema_version")
        if version is None or "preprocessing" not in properties:
            raise PpclsExtError("the file does not say how to prepare its images: export it with ppcls-ext export-onnx")
        if version not in SCHEMA_VERSIONS.values():
            known = " or ".join(SCHEMA_VERSIONS.values())
            raise PpclsExtError(
                f"the metadata have schema {printable(version[:20])}, expected {known}: update ppcls_ext"
            )
        try:
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in json.loads(properties["preprocessing"]).items()
            }
            names = json.loads(properties["class_names"]) if "class_names" in properties else None
            if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
                raise TypeError("class_names is not a list of strings")
            if names and max(map(len, names)) > LONGEST_CLASS_NAME:
                raise ValueError(f"a class name has {max(map(len, names)):,} characters")
            # files of schema 1 that say nothing were written before there were others
            task = properties.get("task", SINGLE_LABEL) if version == "1" else properties["task"]
            if task not in TASKS or SCHEMA_VERSIONS[task] != version:
                raise ValueError(f"task is {task} in schema {version}")
            return cls(
                architecture=properties["architecture"],
                preprocessing=Preprocessing(**fields),
                class_names=None if names is None else tuple(names),
                quantization=str(json.loads(properties["quantization"])["type"])
                if "quantization" in properties
                else None,
                task=task,
                thresholds=_read_thresholds(properties.get("thresholds"), task),
                dynamic_size=_read_switch(properties.get("dynamic_size", "false")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError, OverflowError) as error:
            raise PpclsExtError(
                f"the file's metadata are damaged ({printable(str(error)[:100])}): export it again"
            ) from error


def _read_switch(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"dynamic_size is {text[:20]}, neither true nor false")
    return text == "true"


def _read_thresholds(text: str | None, task: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    values = json.loads(text)
    numbers = isinstance(values, list) and all(type(value) in (int, float) for value in values)
    if task != MULTI_LABEL or not values or not numbers or not all(0 <= value <= 1 for value in values):
        raise ValueError("thresholds are not numbers from 0 to 1, one for each class of a multi-label network")
    return tuple(map(float, values))
