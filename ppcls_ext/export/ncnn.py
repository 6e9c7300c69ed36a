"""ncnn, a runtime for phones and small boards: a net as .param, the list of its layers, and .bin, their weights.

A value of ncnn has one reader: where there are several, a Split makes copies. A 1×1 convolution of means is an
InnerProduct, as ncnn drops the axes of one pixel. Mean and standard deviation are the application's to apply
(`substract_mean_normalize`). Eight bits are not written: ncnn's are symmetric, and its answers others than our file's.
"""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.net import Constant, Net, Operation
from ppcls_ext.predict.ncnn_model import BIN, DESCRIPTION, PARAM

MAGIC = 7767517
#: What stands before weights: floats, or halves.
FLOATS, HALVES = 0, 0x01306B47
#: Layers without weights; 0 and 1 after Softmax and Concat are ncnn's axes, which do not count the batch.
LAYERS = {
    "relu": ("ReLU", ""),
    "gelu": ("GELU", "0=0"),  # exact, not by tanh
    "sigmoid": ("Sigmoid", ""),
    "softmax": ("Softmax", "0=0 1=1"),
    "add": ("BinaryOp", "0=0"),
    "mul": ("BinaryOp", "0=2"),
    "concat": ("Concat", "0=0"),
    "mean": ("Pooling", "0=1 4=1"),
}


def write_ncnn(net: Net) -> dict[str, bytes]:
    """Returns the contents of the three files by their endings: layers, weights, and a description of both.

    Args:
        net: float32 or float16.

    Raises:
        PpclsExtError: the net is int8.
    """
    if net.levels:
        raise PpclsExtError("ncnn cannot run this int8: its own is another, symmetric one; give fp32 or fp16")
    writer = _Writer(net)
    for number, operation in enumerate(net.operations):
        writer.add(f"{operation.kind}_{number}", operation)
    param, weights = writer.param(), bytes(writer.weights)
    described = {
        **net.properties,
        "input": _blob(net.input),
        "output": _blob(net.output),
        "output_name": net.output,
        "param_sha256": hashlib.sha256(param).hexdigest(),
        "bin_sha256": hashlib.sha256(weights).hexdigest(),
    }
    text = json.dumps(described, ensure_ascii=False, indent=1, sort_keys=True)
    return {PARAM: param, BIN: weights, DESCRIPTION: f"{text}\n".encode()}


class _Writer:
    def __init__(self, net: Net) -> None:
        self._net, self._readers = net, net.readers()
        self._lines: list[str] = []
        self._blobs = 0
        #: The copies of a value that are left to read.
        self._copies: dict[str, list[str]] = {}
        #: Values of one axis: means, and what is made of them alone.
        self._flat: set[str] = set()
        self.weights = bytearray()
        channels, height, width = net.size
        self._layer("Input", net.input, [], (net.input,), f"0={width} 1={height} 2={channels}")

    def param(self) -> bytes:
        return "\n".join([str(MAGIC), f"{len(self._lines)} {self._blobs}", *self._lines, ""]).encode()

    def add(self, name: str, operation: Operation) -> None:
        inputs = [self._take(value) for value in operation.inputs]
        if operation.kind in ("mean", "linear") or self._flat.issuperset(operation.inputs):
            self._flat.update(operation.outputs)
        if operation.kind in LAYERS:
            kind, parameters = LAYERS[operation.kind]
            self._layer(kind, name, inputs, operation.outputs, parameters, operation.relu)
        elif operation.kind == "split":
            sizes = ",".join(map(str, operation.sizes))
            self._layer("Slice", name, inputs, operation.outputs, f"-23300={len(operation.sizes)},{sizes} 1=0")
        else:
            self._weighted(name, operation, inputs)

    def _weighted(self, name: str, operation: Operation, inputs: list[str]) -> None:
        weight, bias = operation.constants
        self._store(weight)
        self.weights += bias.floats.astype("<f4").tobytes()
        outputs, _, *kernel = weight.stored.shape
        size = weight.stored.size
        activation = " 9=1" if operation.relu else ""
        # a map of one pixel that no pooling made keeps its three axes
        if operation.inputs[0] in self._flat or not kernel:
            self._layer("InnerProduct", name, inputs, operation.outputs, f"0={outputs} 1=1 2={size}{activation}")
            return
        parameters = f"0={outputs} 1={kernel[0]} 3={operation.stride} 4={operation.padding} 5=1 6={size}"
        groups = f" 7={operation.groups}" if operation.groups > 1 else ""
        kind = "ConvolutionDepthWise" if groups else "Convolution"
        self._layer(kind, name, inputs, operation.outputs, f"{parameters}{groups}{activation}")

    def _store(self, weight: Constant) -> None:
        is_half = weight.stored.dtype == np.float16
        self.weights += np.array(HALVES if is_half else FLOATS, "<u4").tobytes()
        data = weight.stored.astype("<f2" if is_half else "<f4").tobytes()
        self.weights += data + b"\0" * (-len(data) % 4)

    def _layer(
        self, kind: str, name: str, inputs: list[str], outputs: tuple[str, ...], parameters: str, relu: bool = False
    ) -> None:
        """Adds a layer, and behind it a ReLU that no layer but a convolution computes itself, and copies."""
        made = [_blob(value) for value in outputs]
        if relu:
            self._line(kind, name, inputs, [f"{made[0]}_before"], parameters)
            self._line("ReLU", f"{name}_relu", [f"{made[0]}_before"], made, "")
        else:
            self._line(kind, name, inputs, made, parameters)
        for value, blob in zip(outputs, made):
            count = self._readers.get(value, 0)
            if count > 1:
                copies = [f"{blob}_copy{number}" for number in range(count)]
                self._line("Split", f"{blob}_copies", [blob], copies, "")
                self._copies[value] = copies

    def _line(self, kind: str, name: str, inputs: list[str], outputs: list[str], parameters: str) -> None:
        fields = [kind, _blob(name), str(len(inputs)), str(len(outputs)), *inputs, *outputs, parameters]
        self._lines.append(" ".join(fields).rstrip())
        self._blobs += len(outputs)

    def _take(self, value: str) -> str:
        return self._copies[value].pop(0) if value in self._copies else _blob(value)


def _blob(name: str) -> str:
    """Returns a name without what separates the fields of a line."""
    return re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)
