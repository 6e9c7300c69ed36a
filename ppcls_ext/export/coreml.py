"""Core ML (.mlpackage), the runtime of Apple's systems: a net as an mlprogram, by coremltools' builder.

The input is an image. Core ML's own scale for images is one number for all channels, so that normalising is part of the
program; it cannot be folded into the first convolution, whose zeros at the border are normalised ones. Means are
reduce_mean, as Apple's Neural Engine takes no pooling of a whole map. Class labels are keys in Core ML, and it accepts
equal ones without a word: they are made unique here.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ppcls_ext.data.lists import SINGLE_LABEL
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.export.litert import image_input_size
from ppcls_ext.export.litert_metadata import input_description
from ppcls_ext.export.net import Constant, Net, Operation
from ppcls_ext.hosts.quiet import captured_output, logging_from
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.coreml_model import IMAGE, OWN, SUFFIX, import_coremltools
from ppcls_ext.predict.metadata import PROBABILITIES


def write_coreml(net: Net, halves: bool = True) -> dict[str, bytes]:
    """Returns the contents of a package's files by their paths in it.

    Args:
        net: float32 or int8, of which the weights alone have eight bits here.
        halves: whether it computes in float16, as phones do.

    Raises:
        PpclsExtError: coremltools is missing, or refuses the net.
    """
    with captured_output() as noise, logging_from(logging.ERROR, logging.getLogger("coremltools")):
        coremltools = import_coremltools()
        import_extra("coremltools.converters.mil")
        try:
            model = _Program(coremltools, net.for_rgb(), halves).model()
            with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
                package = Path(folder, f"package{SUFFIX}")
                model.save(str(package))
                files = [path for path in package.rglob("*") if path.is_file()]
                return {path.relative_to(package).as_posix(): path.read_bytes() for path in sorted(files)}
        except PpclsExtError:
            raise
        except Exception as error:  # coremltools' exceptions have no common base
            noise.seek(0)
            reason = one_line(error) or noise.read()[-200:]
            raise PpclsExtError(f"coremltools cannot write the network: {reason}; nothing was written") from error


def unique_labels(net: Net) -> list[str]:
    """Returns a label for each class: its name, with its number behind it where other classes have the same name."""
    names = net.metadata.class_names or ("",) * net.classes
    counts = Counter(names)
    labels = [
        name if name and counts[name] == 1 else f"{name} ({index})" if name else str(index)
        for index, name in enumerate(names)
    ]
    if len(set(labels)) < len(labels):  # one is called as another is now
        labels = [f"{index}: {name}" for index, name in enumerate(names)]
    return labels


class _Program:
    def __init__(self, coremltools: Any, net: Net, halves: bool) -> None:
        self._tools, self._net, self._halves = coremltools, net, halves
        self._builder = coremltools.converters.mil.Builder
        # weights of eight bits came a year after the programs
        self._target = coremltools.target.iOS16 if net.levels else coremltools.target.iOS15
        self._values: dict[str, Any] = {}

    def model(self) -> Any:
        tools, net = self._tools, self._net
        width, height = image_input_size(net)
        shape = (1, 3, height, width)
        spec = [self._builder.TensorSpec(shape=shape)]

        @self._builder.program(input_specs=spec, opset_version=self._target)
        def program(image: Any) -> Any:
            self._values[net.input] = self._normalised(image)
            for number, operation in enumerate(net.operations):
                self._operation(f"{operation.kind}_{number}", operation)
            return self._values[net.output]

        is_classifier = net.metadata.task == SINGLE_LABEL and net.output == PROBABILITIES
        precision = tools.precision.FLOAT16 if self._halves else tools.precision.FLOAT32
        more = {} if is_classifier else {"outputs": [tools.TensorType(name=net.output)]}
        model = tools.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=self._target,
            inputs=[tools.ImageType(name=IMAGE, shape=shape, color_layout=tools.colorlayout.RGB)],
            classifier_config=tools.ClassifierConfig(unique_labels(net)) if is_classifier else None,
            compute_precision=precision,
            skip_model_load=True,
            **more,
        )
        self._describe(model)
        return model

    def _describe(self, model: Any) -> None:
        properties = {**self._net.properties, "output": self._net.output}
        if self._halves:
            properties.setdefault("quantization", json.dumps({"type": "fp16"}))
        described = {
            "short_description": f"{self._net.metadata.architecture}: image classifier, {self._net.metadata.task}",
            "author": "ppcls_ext",
            "version": properties.get("ppcls_ext_version", ""),
        }
        for name, text in described.items():
            setattr(model, name, text)
        model.input_description[IMAGE] = input_description(self._net, True)
        model.user_defined_metadata[OWN] = json.dumps(properties, ensure_ascii=False, sort_keys=True)

    def _normalised(self, image: Any) -> Any:
        rule, build = self._net.metadata.preprocessing, self._builder
        (width, height), (crop_width, crop_height) = image_input_size(self._net), rule.image_size
        if (width, height) != rule.image_size:
            begin = [0, 0, (height - crop_height) // 2, (width - crop_width) // 2]
            image = build.slice_by_size(x=image, begin=begin, size=[1, 3, crop_height, crop_width])
        std = np.array(rule.std, np.float64).reshape(1, 3, 1, 1)
        mean = np.array(rule.mean, np.float64).reshape(1, 3, 1, 1)
        scaled = build.mul(x=image, y=(rule.scale / std).astype(np.float32))
        return build.sub(x=scaled, y=(mean / std).astype(np.float32), name="normalised")

    def _operation(self, name: str, operation: Operation) -> None:
        inputs = [self._values[value] for value in operation.inputs]
        if operation.kind == "split":
            made = self._builder.split(x=inputs[0], split_sizes=list(operation.sizes), axis=1, name=name)
            self._values.update(zip(operation.outputs, made))
            return
        if operation.outputs[0] == self._net.output:
            name = operation.outputs[0]
        self._values[operation.outputs[0]] = getattr(self, f"_{operation.kind}")(name, operation, inputs)

    def _rounded(self, numbers: np.ndarray) -> np.ndarray:
        """Returns float32 numbers that halves hold, where it computes in them.

        coremltools would make the smallest half (6e-8) of those that no half tells from zero, and of a dead channel's
        scale weights that are not zero.
        """
        return numbers.astype(np.float16 if self._halves else np.float32).astype(np.float32)

    def _weight(self, weight: Constant) -> Any:
        if weight.scale is None:
            return self._rounded(weight.floats)
        zeros = np.zeros(len(weight.scale), np.int8)
        return self._builder.constexpr_affine_dequantize(
            quantized_data=weight.stored, scale=self._rounded(weight.scale), zero_point=zeros, axis=np.int32(0)
        )

    def _with_relu(self, name: str, operation: Operation, made: Any) -> Any:
        return self._builder.relu(x=made, name=f"{name}_relu") if operation.relu else made

    def _conv(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        weight, bias = operation.constants
        made = self._builder.conv(
            x=inputs[0],
            weight=self._weight(weight),
            bias=self._rounded(bias.floats),
            strides=[operation.stride] * 2,
            pad_type="custom",
            pad=[operation.padding] * 4,
            groups=operation.groups,
            name=name,
        )
        return self._with_relu(name, operation, made)

    def _linear(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        weight, bias = operation.constants
        flat = self._builder.reshape(x=inputs[0], shape=[1, -1])
        return self._builder.linear(x=flat, weight=self._weight(weight), bias=self._rounded(bias.floats), name=name)

    def _mean(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        return self._builder.reduce_mean(x=inputs[0], axes=[2, 3], keep_dims=True, name=name)

    def _relu(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        return self._builder.relu(x=inputs[0], name=name)

    def _gelu(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        return self._builder.gelu(x=inputs[0], mode="EXACT", name=name)

    def _sigmoid(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        return self._builder.sigmoid(x=inputs[0], name=name)

    def _softmax(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        return self._builder.softmax(x=inputs[0], axis=-1, name=name)

    def _add(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        return self._with_relu(name, operation, self._builder.add(x=inputs[0], y=inputs[1], name=name))

    def _mul(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        return self._builder.mul(x=inputs[0], y=inputs[1], name=name)

    def _concat(self, name: str, operation: Operation, inputs: list[Any]) -> Any:
        return self._builder.concat(values=inputs, axis=1, name=name)
