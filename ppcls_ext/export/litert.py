"""LiteRT (.tflite), the runtime of Android: a net as a flatbuffer, by the schema that ai-edge-litert brings.

LiteRT's maps are (1, H, W, C). Its SAME padding puts the larger half behind the map, which is another network at stride
2; such maps are padded by an operation of their own. Eight bits are written with the scales that our int8 file has:
nothing is calibrated anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.export.litert_metadata import metadata_entries, with_labels
from ppcls_ext.export.net import Constant, Levels, Net, Operation
from ppcls_ext.packages import import_extra

#: Version of each operator where it computes in floats, and in eight bits.
VERSIONS = {
    "CONV_2D": (1, 3),
    "DEPTHWISE_CONV_2D": (1, 3),
    "FULLY_CONNECTED": (1, 4),
    "DEQUANTIZE": (2, 2),
    "QUANTIZE": (1, 2),
    "SOFTMAX": (1, 1),
    "RELU": (1, 2),
}
DEFAULT_VERSIONS = (1, 2)
#: Dequantizing weights that have a scale per output.
PER_CHANNEL = 5
#: The option tables of operators, where they are not called as the operators are; None for none.
OPTIONS = {
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "FULLY_CONNECTED": "FullyConnected",
    "MEAN": "Reducer",
    "SPLIT_V": "SplitV",
    "DEQUANTIZE": None,
    "LOGISTIC": None,
    "RELU": None,
}
#: Kinds of operations that are computed in floats even between values of eight bits.
IN_FLOATS = ("softmax", "sigmoid")
#: The name of the image's input; its values are the levels of the pixels.
IMAGE = "pixels"


def write_litert(net: Net, image_input: bool = True) -> bytes:
    """Returns the content of a .tflite file.

    Args:
        net: float32, float16 or int8.
        image_input: whether it takes pixels (1, H, W, 3) uint8, RGB, whose short side was resized as the image rule
            says, and crops and normalises them itself; otherwise it takes normalised floats (1, H, W, C).

    Raises:
        PpclsExtError: ai-edge-litert is missing, or an operation cannot be written.
    """
    return _Writer(net.for_rgb() if image_input else net, image_input).content()


class _Writer:
    def __init__(self, net: Net, image_input: bool) -> None:
        self._schema = import_extra("ai_edge_litert.schema_py_generated")
        self._flatbuffers = import_extra("flatbuffers")
        self._net, self._image_input = net, image_input
        self._buffers: list[Any] = [self._table("Buffer")]  # the first one stands for "no content"
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: dict[tuple[str, int], int] = {}
        #: Values as floats and as eight bits, by name.
        self._floats: dict[str, int] = {}
        self._bytes: dict[str, int] = {}

    def content(self) -> bytes:
        net, schema = self._net, self._schema
        start = self._image() if self._image_input else self._tensor(net.input, self._shape(net.input))
        if not self._image_input:
            self._made(net.input, start)
        for number, operation in enumerate(net.operations):
            self._operation(f"{operation.kind}_{number}", operation)
        end = self._as_floats(net.output)
        subgraph = self._table(
            "SubGraph",
            tensors=self._tensors,
            inputs=[start],
            outputs=[end],
            operators=self._operators,
            name=net.metadata.architecture,
        )
        described, labels = metadata_entries(net, self._image_input)
        entries = [self._table("Metadata", name=name, buffer=self._buffer(data)) for name, data in described.items()]
        model = self._table(
            "Model",
            version=3,
            subgraphs=[subgraph],
            buffers=self._buffers,
            operatorCodes=[self._code(name, version) for name, version in self._codes],
            description=f"{net.metadata.architecture}, {net.form}",
            metadata=entries,
        )
        builder = self._flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), b"TFL3")
        assert schema.Model.ModelBufferHasIdentifier(builder.Output(), 0)
        return with_labels(bytes(builder.Output()), labels)

    # what a flatbuffer consists of

    def _table(self, kind: str, **fields: Any) -> Any:
        """Makes one of the schema's tables."""
        made = getattr(self._schema, f"{kind}T")()
        for name, value in fields.items():
            if not hasattr(made, name):
                raise PpclsExtError(f"ai-edge-litert's schema has no {kind}.{name}: install another version")
            setattr(made, name, value)
        return made

    def _buffer(self, data: bytes) -> int:
        self._buffers.append(self._table("Buffer", data=np.frombuffer(data, np.uint8)))
        return len(self._buffers) - 1

    def _code(self, name: str, version: int) -> Any:
        code = getattr(self._schema.BuiltinOperator, name)
        # the older field has room for 127 operators
        return self._table("OperatorCode", builtinCode=code, deprecatedBuiltinCode=min(code, 127), version=version)

    def _tensor(
        self, name: str, shape: Sequence[int], kind: str = "FLOAT32", data: np.ndarray | None = None, **more: Any
    ) -> int:
        """Adds a tensor; `data` makes it a constant, `scale`, `zero_point` and `axis` describe its integers."""
        fields: dict[str, Any] = {"shape": list(shape), "type": getattr(self._schema.TensorType, kind)}
        fields["buffer"] = 0 if data is None else self._buffer(np.ascontiguousarray(data).tobytes())
        if more:
            scale = np.atleast_1d(np.asarray(more["scale"], np.float32))
            zeros = np.broadcast_to(np.int64(more.get("zero_point", 0)), scale.shape).copy()
            fields["quantization"] = self._table(
                "QuantizationParameters", scale=scale, zeroPoint=zeros, quantizedDimension=more.get("axis", 0)
            )
        self._tensors.append(self._table("Tensor", name=name, **fields))
        return len(self._tensors) - 1

    def _integers(self, name: str, values: Sequence[int] | Sequence[Sequence[int]] | int) -> int:
        data = np.array(values, np.int32)
        return self._tensor(name, data.shape, "INT32", data)

    def _run(
        self,
        name: str,
        inputs: Sequence[int],
        outputs: Sequence[int],
        version: int | None = None,
        **options: Any,
    ) -> None:
        """Adds an operator."""
        if version is None:
            versions = VERSIONS.get(name, DEFAULT_VERSIONS)
            version = versions[self._tensors[inputs[0]].type == self._schema.TensorType.INT8]
        kind = OPTIONS.get(name, name.title())
        fields: dict[str, Any] = {}
        if kind is not None:
            fields["builtinOptions"] = self._table(f"{kind}Options", **options)
            fields["builtinOptionsType"] = getattr(self._schema.BuiltinOptions, f"{kind}Options")
        index = self._codes.setdefault((name, version), len(self._codes))
        self._operators.append(
            self._table("Operator", opcodeIndex=index, inputs=list(inputs), outputs=list(outputs), **fields)
        )

    # values

    def _shape(self, value: str) -> tuple[int, ...]:
        channels, *sides = self._net.shapes[value]
        return (1, *sides, channels)

    def _byte_tensor(self, name: str, shape: Sequence[int], levels: Levels) -> int:
        return self._tensor(name, shape, "INT8", scale=levels.scale, zero_point=levels.zero_point)

    def _made(self, value: str, tensor: int) -> None:
        """Keeps the tensor of a value that was made in floats, and makes its eight bits where it has them."""
        self._floats[value] = tensor
        if value in self._net.levels:
            levels = self._byte_tensor(f"{value}.levels", self._tensors[tensor].shape, self._net.levels[value])
            self._run("QUANTIZE", [tensor], [levels])
            self._bytes[value] = levels
            # behind the rounding, nobody may read what was before it
            del self._floats[value]

    def _as_floats(self, value: str) -> int:
        if value not in self._floats:
            self._floats[value] = self._tensor(f"{value}.floats", self._shape(value))
            self._run("DEQUANTIZE", [self._bytes[value]], [self._floats[value]])
        return self._floats[value]

    def _image(self) -> int:
        """Adds the steps from pixels to the net's input; returns the tensor of the pixels."""
        rule = self._net.metadata.preprocessing
        (width, height), (crop_width, crop_height) = image_input_size(self._net), rule.image_size
        start = self._tensor(IMAGE, (1, height, width, 3), "UINT8", scale=1.0)
        step = self._tensor(f"{IMAGE}.floats", (1, height, width, 3))
        self._run("DEQUANTIZE", [start], [step], 1)
        shape = (1, crop_height, crop_width, 3)
        if (width, height) != rule.image_size:
            begin = [0, (height - crop_height) // 2, (width - crop_width) // 2, 0]
            cropped = self._tensor(f"{IMAGE}.cropped", shape)
            sizes = [self._integers(f"{IMAGE}.begin", begin), self._integers(f"{IMAGE}.size", shape)]
            self._run("SLICE", [step, *sizes], [cropped])
            step = cropped
        std = np.array(rule.std, np.float64)
        for name, numbers in (("MUL", rule.scale / std), ("SUB", np.array(rule.mean) / std)):
            constant = self._tensor(f"{IMAGE}.{name.lower()}", (3,), data=numbers.astype(np.float32))
            following = self._tensor(f"{IMAGE}.{name.lower()}.result", shape)
            self._run(name, [step, constant], [following], 1)
            step = following
        self._made(self._net.input, step)
        return start

    # operations

    def _operation(self, name: str, operation: Operation) -> None:
        in_bytes = operation.kind not in IN_FLOATS and all(
            value in self._net.levels for value in (*operation.inputs, *operation.outputs)
        )
        write = getattr(self, f"_{operation.kind}")
        if in_bytes:
            inputs = [self._bytes[value] for value in operation.inputs]
            for value in operation.outputs:
                self._bytes[value] = self._byte_tensor(value, self._shape(value), self._net.levels[value])
            write(name, operation, inputs, [self._bytes[value] for value in operation.outputs])
            return
        inputs = [self._as_floats(value) for value in operation.inputs]
        outputs = [self._tensor(value, self._shape(value)) for value in operation.outputs]
        write(name, operation, inputs, outputs)
        for value, tensor in zip(operation.outputs, outputs):
            self._made(value, tensor)

    def _weights(self, name: str, operation: Operation, axes: Sequence[int], source: int) -> list[int]:
        """Adds weights, whose axes are permuted, and biases; returns their tensors.

        Args:
            name: of the operation.
            operation: conv or linear.
            axes: of the weights, in LiteRT's order.
            source: the tensor of the operation's input.
        """
        weight, bias = operation.constants
        is_float = self._tensors[source].type != self._schema.TensorType.INT8
        moved = weight._replace(stored=weight.stored.transpose(axes))
        if is_float:
            kept = self._constant(f"{name}.weight", moved, list(axes).index(0))
            # 32 bits are no larger as floats
            return [kept, self._constant(f"{name}.bias", bias if bias.scale is None else Constant(bias.floats))]
        if weight.scale is None or bias.scale is None:
            raise PpclsExtError(f"{name} reads eight bits, and its weights are floats: export the int8 file again")
        outputs = len(weight.scale)
        levels = self._net.levels[operation.inputs[0]]
        return [
            self._tensor(
                f"{name}.weight", moved.stored.shape, "INT8", moved.stored, scale=weight.scale, axis=list(axes).index(0)
            ),
            self._tensor(
                f"{name}.bias", (outputs,), "INT32", bias.stored, scale=weight.scale * np.float32(levels.scale)
            ),
        ]

    def _constant(self, name: str, constant: Constant, axis: int = 0) -> int:
        """Adds a constant that is read as floats, whatever it is stored as."""
        array, shape = constant.stored, constant.stored.shape
        if array.dtype == np.float32:
            return self._tensor(name, shape, data=array)
        if array.dtype == np.float16:
            stored = self._tensor(f"{name}.half", shape, "FLOAT16", array)
        else:
            stored = self._tensor(f"{name}.levels", shape, "INT8", array, scale=constant.scale, axis=axis)
        tensor = self._tensor(name, shape)
        self._run("DEQUANTIZE", [stored], [tensor], PER_CHANNEL if constant.scale is not None else None)
        return tensor

    def _relu_of(self, operation: Operation) -> int:
        activation = self._schema.ActivationFunctionType
        return activation.RELU if operation.relu else activation.NONE

    def _conv(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        weight, _ = operation.constants
        count, per_group = weight.stored.shape[:2]
        is_depthwise = operation.groups > 1 and per_group == 1 and operation.groups == count
        axes = (1, 2, 3, 0) if is_depthwise else (0, 2, 3, 1)
        constants = self._weights(name, operation, axes, inputs[0])
        source, padding = self._padded(name, operation, inputs[0])
        options = {"padding": padding, "strideH": operation.stride, "strideW": operation.stride}
        options |= {"fusedActivationFunction": self._relu_of(operation), "dilationHFactor": 1, "dilationWFactor": 1}
        if is_depthwise:
            options["depthMultiplier"] = 1
        self._run("DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D", [source, *constants], outputs, **options)

    def _padded(self, name: str, operation: Operation, source: int) -> tuple[int, int]:
        """Returns the tensor to convolve, padded where LiteRT's own padding would be another, and the padding."""
        padding, choice = operation.padding, self._schema.Padding
        weight, _ = operation.constants
        if not padding:
            return source, choice.VALID
        sides = zip(self._net.shapes[operation.inputs[0]][1:], self._net.shapes[operation.outputs[0]][1:])
        kernel, stride = weight.stored.shape[2], operation.stride
        if all(
            -(-before // stride) == after and (after - 1) * stride + kernel - before == 2 * padding
            for before, after in sides
        ):
            return source, choice.SAME
        before = self._tensors[source]
        _, height, width, channels = before.shape
        shape = (1, height + 2 * padding, width + 2 * padding, channels)
        levels = self._net.levels.get(operation.inputs[0])
        is_byte = before.type == self._schema.TensorType.INT8
        padded = (
            self._byte_tensor(f"{name}.padded", shape, levels)
            if is_byte and levels
            else self._tensor(f"{name}.padded", shape)
        )
        margins = self._integers(f"{name}.margins", [[0, 0], [padding] * 2, [padding] * 2, [0, 0]])
        self._run("PAD", [source, margins], [padded])
        return padded, choice.VALID

    def _linear(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        constants = self._weights(name, operation, (0, 1), inputs[0])
        self._run("FULLY_CONNECTED", [*inputs, *constants], outputs)

    def _mean(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        self._run("MEAN", [*inputs, self._integers(f"{name}.axes", [1, 2])], outputs, keepDims=True)

    def _relu(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        self._run("RELU", inputs, outputs)

    def _sigmoid(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        self._run("LOGISTIC", inputs, outputs)

    def _gelu(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        self._run("GELU", inputs, outputs, approximate=False)

    def _softmax(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        self._run("SOFTMAX", inputs, outputs, beta=1.0)

    def _add(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        self._run("ADD", inputs, outputs, fusedActivationFunction=self._relu_of(operation))

    def _mul(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        self._run("MUL", inputs, outputs)

    def _concat(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        levels = self._net.levels
        if self._tensors[outputs[0]].type == self._schema.TensorType.INT8:
            # LiteRT joins only values of equal scales; changing eight bits to others at once, it rounds otherwise than
            # onnxruntime does, and by way of floats it does not
            wanted = levels[operation.outputs[0]]
            for position, value in enumerate(operation.inputs):
                if levels[value] != wanted:
                    moved = self._byte_tensor(f"{name}.input_{position}", self._shape(value), wanted)
                    self._run("QUANTIZE", [self._as_floats(value)], [moved])
                    inputs[position] = moved
        self._run("CONCATENATION", inputs, outputs, axis=3)

    def _split(self, name: str, operation: Operation, inputs: list[int], outputs: list[int]) -> None:
        sizes = self._integers(f"{name}.sizes", operation.sizes)
        axis = self._integers(f"{name}.axis", 3)
        self._run("SPLIT_V", [*inputs, sizes, axis], outputs, numSplits=len(outputs))


def image_input_size(net: Net) -> tuple[int, int]:
    """Returns (width, height) of the pixels that an image input takes: those before the crop.

    A short side that was resized makes it square: what apps cut out of the middle of an image.
    """
    rule = net.metadata.preprocessing
    return rule.resize or (rule.resize_short or 0, rule.resize_short or 0)
