"""A Core ML package (.mlpackage), computed from what is in it: no Core ML runs outside of Apple's systems.

The package's program and weights are read back and become an ONNX graph, operation by operation, which onnxruntime
computes as it stands; halves as halves. On macOS `verify` asks Core ML itself, too.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.files import read_regular
from ppcls_ext.packages import import_extra, require
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.onnx_file import ends_in_logits, open_session
from ppcls_ext.predict.pixels import fixed_shape, pixels_of

if TYPE_CHECKING:
    import onnx

SUFFIX = ".mlpackage"
#: The name of a package's input.
IMAGE = "image"
#: What is said of a package wherever Core ML did not run it.
COMPUTED = "computed from the file, not run on Apple hardware"
#: Of the user's metadata in the package, the entry that holds ours, as JSON.
OWN = "ppcls_ext"
LARGEST = 1 << 32  # bytes
MANIFEST = "Manifest.json"
#: Marks the head of a tensor in weight.bin.
SENTINEL = 0xDEADBEEF
#: Operations that are the same in ONNX, and their names there.
SAME = {"mul": "Mul", "sub": "Sub", "add": "Add", "relu": "Relu", "sigmoid": "Sigmoid"}
DTYPES = {
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "INT32": np.int32,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "UINT16": np.uint16,
    "BOOL": np.bool_,
}


class CoreMlModel:
    """A Core ML package, computed by onnxruntime from its program and its weights, one image at a time.

    Args:
        path: the package, a folder.
        threads: number of threads of one operation; by default onnxruntime chooses.

    Attributes:
        session: computes probabilities (scores, logits) and, as the last output, logits.
        weights: the weights and biases that the program reads, in the order of its operations.
        computes_in_halves: whether the program computes in float16.
        takes_pixels: whether the input are the levels of pixels, as floats.
        size: height and width of the input.
        labels: of a classifier, in the order of its classes.

    Raises:
        PpclsExtError: coremltools is missing, or the package is missing, damaged or not one of this project's.
    """

    batch: int | None = 1

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        require("onnx", "onnxruntime")
        folder = Path(path)
        if not (folder / MANIFEST).is_file():
            raise PpclsExtError(f"{path}: expected a package as ppcls-ext export --to coreml writes it")
        try:
            package = _Package(folder)
            graph = package.graph()
        except PpclsExtError:
            raise
        except Exception as error:  # a damaged package leads its readers anywhere
            raise PpclsExtError(f"{path}: it is damaged ({one_line(error)[:100]}); export it again") from error
        properties = package.properties
        try:
            self.metadata = Metadata.from_properties(properties)
        except PpclsExtError as error:
            raise PpclsExtError(f"{path}: {error}") from error
        self.weights, self.labels = package.weights, package.labels
        self.takes_pixels = package.takes_pixels
        self.computes_in_halves = any(node.op_type == "Cast" for node in graph.graph.node)
        self.size = package.size
        # the optimizer would compute parts of it in other types than the package says
        self.session = open_session(graph, threads or 0, as_it_stands=True)
        self.image_shape = fixed_shape(path, self.metadata, self.takes_pixels)
        self.ends_in_logits = ends_in_logits(path, self.metadata, properties.get("output", ""))

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `ppcls_ext.predict.runtimes.ExportedModel.run`."""
        return self.outputs(images)[0]

    def outputs(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Computes the output and the logits for normalised `images: (N, 3, H, W)`, (N, classes) float32 each.

        Raises:
            PpclsExtError: the package takes pixels, and an image is none.
        """
        (given,) = self.session.get_inputs()
        rows = []
        for image in images:
            if self.takes_pixels:
                image = pixels_of(image, self.metadata.preprocessing, *self.size).transpose(2, 0, 1).astype(np.float32)
            found = self.session.run(None, {given.name: np.ascontiguousarray(image[None])})
            rows.append([row.reshape(-1).astype(np.float32) for row in found])
        output, logits = (np.stack(values) for values in zip(*rows))
        return output, logits


def runs_here() -> bool:
    """Returns whether Core ML itself runs on this system."""
    return sys.platform == "darwin"


class AppleModel:
    """A Core ML package that Core ML itself runs, one image at a time, on macOS.

    Args:
        path: the package.

    Raises:
        PpclsExtError: as of `CoreMlModel`, or Core ML cannot load it.
    """

    batch: int | None = 1

    def __init__(self, path: str | os.PathLike) -> None:
        read = CoreMlModel(path, None)
        self.metadata, self.image_shape, self.ends_in_logits = read.metadata, read.image_shape, read.ends_in_logits
        self._size, self._labels = read.size, read.labels
        try:
            self._model = import_coremltools().models.MLModel(str(path))
        except Exception as error:  # coremltools' exceptions have no common base
            raise PpclsExtError(f"{path}: Core ML cannot load it ({one_line(error)})") from error

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `ppcls_ext.predict.runtimes.ExportedModel.run`."""
        rows = []
        for image in images:
            pixels = Image.fromarray(pixels_of(image, self.metadata.preprocessing, *self._size))
            try:
                answer = self._model.predict({IMAGE: pixels})
            except Exception as error:  # as above
                raise PpclsExtError(f"Core ML cannot run the package: {one_line(error)}") from error
            rows.append(answered(answer, self._labels))
        return np.stack(rows)


def answered(answer: Mapping[str, Any], labels: list[str]) -> np.ndarray:
    """Returns the scores (classes,) in an answer of Core ML.

    Args:
        answer: the outputs by name: of a classifier the best label, and a dictionary of all labels' probabilities.
        labels: of a classifier, in the order of the classes; empty otherwise.
    """
    if labels:
        by_label = next(value for value in answer.values() if isinstance(value, Mapping))
        return np.array([by_label[label] for label in labels], np.float32)
    (scores,) = answer.values()
    return np.asarray(scores, np.float32).ravel()


def import_coremltools() -> ModuleType:
    """Imports coremltools, which tells each time what it misses outside of macOS.

    Raises:
        PpclsExtError: it is not installed, or broken.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return import_extra("coremltools")
    finally:
        logging.disable(before)


class _Package:
    """The files of a package, and the graph that its program is."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads(read_regular(folder / MANIFEST, 1 << 20))
        root = Path(manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"])
        import_coremltools()
        protos = import_extra("coremltools.proto.Model_pb2")
        self._mil = import_extra("coremltools.proto.MIL_pb2")
        spec = protos.Model()
        spec.ParseFromString(read_regular(folder / "Data" / root, LARGEST))
        blob = folder / "Data" / root.parent / "weights" / "weight.bin"
        self._blob = read_regular(blob, LARGEST) if blob.is_file() else b""
        own = json.loads(spec.description.metadata.userDefined.get(OWN, "{}"))
        self.properties = {key: value for key, value in own.items() if isinstance(value, str)}
        function = spec.mlProgram.functions["main"]
        self._block = function.block_specializations[function.opset]
        (self._input,) = function.inputs
        _, _, *self.size = (int(entry.constant.size) for entry in self._input.type.tensorType.dimensions)
        self.takes_pixels = spec.description.input[0].type.WhichOneof("Type") == "imageType"
        self.labels: list[str] = []
        self.weights: list[np.ndarray] = []
        self._constants: dict[str, Any] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, np.ndarray] = {}
        self._result = self._block.outputs[0]

    def graph(self) -> onnx.ModelProto:
        from onnx import TensorProto, helper, numpy_helper

        for operation in self._block.operations:
            self._read(operation)
        result, logits = self._result, self._logits()
        shape = [int(entry.constant.size) for entry in self._input.type.tensorType.dimensions]
        graph = helper.make_graph(
            self._nodes,
            "package",
            [helper.make_tensor_value_info(self._input.name, TensorProto.FLOAT, shape)],
            [helper.make_empty_tensor_value_info(name) for name in (result, logits)],
            [numpy_helper.from_array(array, name) for name, array in self._initializers.items()],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)

    def _logits(self) -> str:
        """Returns what the last Softmax or Sigmoid reads, or the result itself."""
        makers = {name: node for node in self._nodes for name in node.output}
        node = makers[self._result]
        while node.op_type == "Cast":
            node = makers[node.input[0]]
        # two outputs of one name would be one
        if node.op_type in ("Softmax", "Sigmoid"):
            return node.input[0]
        return self._node("Identity", [self._result], [f"{self._result}.logits"])

    def _read(self, operation: Any) -> None:
        kind, made = operation.type, [output.name for output in operation.outputs]
        if kind == "const":
            self._constants[made[0]] = self._value(operation.attributes["val"])
        elif kind == "constexpr_affine_dequantize":
            self._constants[made[0]] = self._dequantized(operation)
        elif kind in SAME:
            inputs = [self._name(operation, key) for key in ("x", "y") if key in operation.inputs]
            self._node(SAME[kind], inputs, made)
        else:
            write: Callable[[Any, list[str]], None] | None = getattr(self, f"_{kind}", None)
            if write is None:
                raise PpclsExtError(f"the package's program holds {kind}, which ppcls-ext does not write")
            write(operation, made)

    def _node(self, kind: str, inputs: list[str], made: list[str], **attributes: Any) -> str:
        from onnx import helper

        self._nodes.append(helper.make_node(kind, inputs, made, **attributes))
        return made[0]

    def _value(self, value: Any) -> Any:
        """Returns a constant: an array, or a list of texts."""
        if value.immediateValue.WhichOneof("value") == "list":
            return [text for part in value.immediateValue.list.values for text in self._value(part)]
        kind = value.type.tensorType
        shape = [int(entry.constant.size) for entry in kind.dimensions]
        dtype = DTYPES.get(self._mil.DataType.Name(kind.dataType))
        if value.WhichOneof("value") == "blobFileValue":
            magic, _, size, offset = struct.unpack_from("<IIQQ", self._blob, value.blobFileValue.offset)
            if magic != SENTINEL or dtype is None:
                raise ValueError("weight.bin holds no tensor where the program names one")
            return np.frombuffer(self._blob[offset : offset + size], dtype).reshape(shape)
        tensor = value.immediateValue.tensor
        field = tensor.WhichOneof("value")
        held = getattr(tensor, field).values
        if field == "strings":
            return list(held)
        return (np.frombuffer(held, dtype) if field == "bytes" else np.array(list(held), dtype)).reshape(shape)

    def _dequantized(self, operation: Any) -> np.ndarray:
        parts = {name: self._value(operation.attributes[name]) for name in ("quantized_data", "scale", "zero_point")}
        axis = int(self._value(operation.attributes["axis"]).item())
        data = parts["quantized_data"]
        shape = [1] * data.ndim
        shape[axis] = -1
        zero, scale = (np.atleast_1d(parts[name]).astype(np.float32).reshape(shape) for name in ("zero_point", "scale"))
        return ((data.astype(np.float32) - zero) * scale).astype(parts["scale"].dtype)

    def _names(self, operation: Any, key: str) -> list[str]:
        """Returns the names of an input's values; one that stands in the operation itself becomes a constant."""
        names: list[str] = []
        for argument in operation.inputs[key].arguments:
            name = argument.name
            if argument.WhichOneof("binding") == "value":
                name = f"{operation.outputs[0].name}.{key}.{len(names)}"
                self._constants[name] = self._value(argument.value)
            if name in self._constants and isinstance(self._constants[name], np.ndarray):
                self._initializers[name] = self._constants[name]
            names.append(name)
        return names

    def _name(self, operation: Any, key: str) -> str:
        (name,) = self._names(operation, key)
        return name

    def _constant(self, operation: Any, key: str) -> Any:
        found = self._constants[self._name(operation, key)]
        return found[0] if isinstance(found, list) else found

    def _integers(self, name: str, values: np.ndarray) -> str:
        self._initializers[name] = values.astype(np.int64).reshape(-1)
        return name

    # operations that are written otherwise in ONNX

    def _weighted(self, operation: Any) -> list[str]:
        names = [self._name(operation, key) for key in ("x", "weight", "bias") if key in operation.inputs]
        self.weights += [self._constants[name] for name in names[1:]]
        return names

    def _conv(self, operation: Any, made: list[str]) -> None:
        pads = [int(side) for side in self._constant(operation, "pad")]
        kind = self._constant(operation, "pad_type")
        if kind not in ("custom", "valid") or np.any(self._constant(operation, "dilations") != 1):
            raise ValueError(f"a convolution has the padding {kind}, or is dilated")
        names = self._weighted(operation)
        self._node(
            "Conv",
            names,
            made,
            strides=[int(stride) for stride in self._constant(operation, "strides")],
            pads=[0] * 4 if kind == "valid" else [pads[0], pads[2], pads[1], pads[3]],
            group=int(self._constant(operation, "groups").item()),
        )

    def _linear(self, operation: Any, made: list[str]) -> None:
        self._node("Gemm", self._weighted(operation), made, transB=1)

    def _cast(self, operation: Any, made: list[str]) -> None:
        from onnx import TensorProto

        kinds = {"fp16": TensorProto.FLOAT16, "fp32": TensorProto.FLOAT}
        self._node("Cast", [self._name(operation, "x")], made, to=kinds[self._constant(operation, "dtype")])

    def _gelu(self, operation: Any, made: list[str]) -> None:
        if self._constant(operation, "mode") != "EXACT":
            raise ValueError("a GELU is not exact")
        self._node("Gelu", [self._name(operation, "x")], made)

    def _reduce_mean(self, operation: Any, made: list[str]) -> None:
        axes = self._integers(f"{made[0]}.axes_", self._constant(operation, "axes"))
        keep = int(self._constant(operation, "keep_dims").item())
        self._node("ReduceMean", [self._name(operation, "x"), axes], made, keepdims=keep)

    def _reshape(self, operation: Any, made: list[str]) -> None:
        shape = self._integers(f"{made[0]}.shape_", self._constant(operation, "shape"))
        self._node("Reshape", [self._name(operation, "x"), shape], made)

    def _softmax(self, operation: Any, made: list[str]) -> None:
        self._node("Softmax", [self._name(operation, "x")], made, axis=int(self._constant(operation, "axis").item()))

    def _concat(self, operation: Any, made: list[str]) -> None:
        self._node("Concat", self._names(operation, "values"), made, axis=int(self._constant(operation, "axis").item()))

    def _split(self, operation: Any, made: list[str]) -> None:
        sizes = self._integers(f"{made[0]}.sizes_", self._constant(operation, "split_sizes"))
        axis = int(self._constant(operation, "axis").item())
        self._node("Split", [self._name(operation, "x"), sizes], made, axis=axis)

    def _slice_by_size(self, operation: Any, made: list[str]) -> None:
        begin, size = (np.ravel(self._constant(operation, key)).astype(np.int64) for key in ("begin", "size"))
        parts = {"begin": begin, "end": begin + size}
        ends = [self._integers(f"{made[0]}.{name}_", values) for name, values in parts.items()]
        self._node("Slice", [self._name(operation, "x"), *ends], made)

    def _classify(self, operation: Any, made: list[str]) -> None:
        self._result = self._name(operation, "probabilities")
        self.labels = list(self._constants[self._name(operation, "classes")])
