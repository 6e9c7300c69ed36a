"""What a .tflite file says of itself: to LiteRT's task library, to people, and to `ppcls-ext predict`.

The task library reads a flatbuffer of its own (metadata_schema.fbs of tflite-support, identifier M001), for which
ai-edge-litert brings no classes; the few tables that a classifier needs are written here, their fields counted as in
that schema. The label file that it names is in a zip archive behind the model.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

from ppcls_ext.data.image_rule import RGB, channels_text
from ppcls_ext.export.net import Net
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.tflite_model import OWN

TASK_LIBRARY = "TFLITE_METADATA"
LABELS = "labels.txt"
#: The tables' fields by number, and how many a table has.
MODEL = {"name": 0, "description": 1, "subgraph_metadata": 3, "author": 4, "min_parser_version": 7}
SUBGRAPH = {"input_tensor_metadata": 2, "output_tensor_metadata": 3}
TENSOR = {"name": 0, "description": 1, "content": 3, "process_units": 4, "stats": 5, "associated_files": 6}
CONTENT = {"content_properties_type": 0, "content_properties": 1}
IMAGE_PROPERTIES = {"color_space": 0}
FEATURE_PROPERTIES: dict[str, int] = {}
PROCESS_UNIT = {"options_type": 0, "options": 1}
NORMALIZATION = {"mean": 0, "std": 1}
STATS = {"max": 0, "min": 1}
FILE = {"name": 0, "description": 1, "type": 2}
#: Members of unions and enumerations.
FEATURE, IMAGE, NORMALIZATION_OPTIONS, AXIS_LABELS = 1, 2, 1, 2
#: Colour spaces by the number of channels; of others an input is no image to the library.
COLOR_SPACES = {3: 1, 1: 2}


def metadata_entries(net: Net, image_input: bool) -> tuple[dict[str, bytes], bytes]:
    """Returns the entries of the model's metadata by name, and the content of its label file.

    Args:
        net: as it is written.
        image_input: whether its input are the levels of pixels.
    """
    own = {**net.properties, "output": net.output}
    entries = {
        OWN: json.dumps(own, ensure_ascii=False, sort_keys=True).encode(),
        TASK_LIBRARY: _task_library(net, image_input),
    }
    names = net.metadata.class_names or [str(index) for index in range(net.classes)]
    # a name stands on one line, and an empty one would be left out
    lines = [" ".join(name.split()) or str(index) for index, name in enumerate(names)]
    return entries, "".join(f"{line}\n" for line in lines).encode()


def with_labels(model: bytes, labels: bytes) -> bytes:
    """Returns a model with a zip archive behind it, in which the label file is stored."""
    stream = io.BytesIO()
    stream.write(model)
    with zipfile.ZipFile(stream, "a") as archive:  # of a fixed date: equal models, equal files
        archive.writestr(zipfile.ZipInfo(LABELS), labels)
    return stream.getvalue()


def _task_library(net: Net, image_input: bool) -> bytes:
    rule = net.metadata.preprocessing
    builder = _Builder()
    # pixels are taken as they are; floats are normalised by the library
    mean = [0.0] if image_input else [value / rule.scale for value in rule.mean]
    std = [1.0] if image_input else [value / rule.scale for value in rule.std]
    options = builder.table(NORMALIZATION, mean=builder.floats(mean), std=builder.floats(std))
    unit = builder.table(PROCESS_UNIT, options_type=NORMALIZATION_OPTIONS, options=options)
    image = _feature(builder)
    if rule.channels in COLOR_SPACES:
        space = builder.table(IMAGE_PROPERTIES, color_space=COLOR_SPACES[rule.channels])
        image = builder.table(CONTENT, content_properties_type=IMAGE, content_properties=space)
    given = builder.table(
        TENSOR,
        name=builder.text("image"),
        description=builder.text(input_description(net, image_input)),
        content=image,
        process_units=builder.tables([unit]),
        stats=builder.table(STATS, max=builder.floats([255.0]), min=builder.floats([0.0])),
    )
    labels = builder.table(
        FILE, name=builder.text(LABELS), description=builder.text("names of the classes"), type=AXIS_LABELS
    )
    answer = builder.table(
        TENSOR,
        name=builder.text(net.output),
        description=builder.text(f"{net.output} of {net.classes} classes"),
        content=_feature(builder),
        stats=builder.table(STATS, max=builder.floats([1.0]), min=builder.floats([0.0])),
        associated_files=builder.tables([labels]),
    )
    subgraph = builder.table(
        SUBGRAPH, input_tensor_metadata=builder.tables([given]), output_tensor_metadata=builder.tables([answer])
    )
    root = builder.table(
        MODEL,
        name=builder.text(net.metadata.architecture),
        description=builder.text(f"image classifier, {net.metadata.task}, {net.form}"),
        subgraph_metadata=builder.tables([subgraph]),
        author=builder.text("ppcls_ext"),
        min_parser_version=builder.text("1.0.0"),
    )
    return builder.finish(root)


def _feature(builder: _Builder) -> _Offset:
    properties = builder.table(FEATURE_PROPERTIES)
    return builder.table(CONTENT, content_properties_type=FEATURE, content_properties=properties)


def input_description(net: Net, image_input: bool) -> str:
    """Returns one sentence on how an image becomes the input."""
    rule = net.metadata.preprocessing
    resized = f"short side {rule.resize_short} px" if rule.resize is None else "{} × {} px".format(*rule.resize)
    if image_input:
        cut = "" if rule.resize else ", then its middle square"
        return f"RGB levels 0 to 255 of the image, resized to {resized}{cut}; cropping and normalising are inside"
    width, height = rule.image_size
    normalised = f"(level · {rule.scale:.6g} - {list(rule.mean)}) / {list(rule.std)}"
    kind = f"{rule.channel_order} image" if rule.channels == RGB else f"image of {channels_text(rule.channels)}"
    return f"{kind}, resized to {resized}, its middle {width} × {height} px, {normalised}"


class _Builder:
    """A flatbuffer, whose parts are made before what holds them."""

    def __init__(self) -> None:
        self._builder = import_extra("flatbuffers").Builder(1 << 12)

    def text(self, text: str) -> _Offset:
        return _Offset(self._builder.CreateString(text))

    def floats(self, numbers: Sequence[float]) -> _Offset:
        self._builder.StartVector(4, len(numbers), 4)
        for number in reversed(numbers):
            self._builder.PrependFloat32(number)
        return _Offset(self._builder.EndVector())

    def tables(self, offsets: Sequence[_Offset]) -> _Offset:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(int(offset))
        return _Offset(self._builder.EndVector())

    def table(self, numbers: Mapping[str, int], **fields: Any) -> _Offset:
        """Makes a table of tables, vectors and texts (`_Offset`), and of members of enumerations, of one byte."""
        self._builder.StartObject(max(numbers.values(), default=-1) + 1)
        for name, value in fields.items():
            if isinstance(value, _Offset):
                self._builder.PrependUOffsetTRelativeSlot(numbers[name], int(value), 0)
            else:
                self._builder.PrependUint8Slot(numbers[name], value, 0)
        return _Offset(self._builder.EndObject())

    def finish(self, root: _Offset) -> bytes:
        self._builder.Finish(int(root), b"M001")
        return bytes(self._builder.Output())


class _Offset(int):
    """Where a part of the flatbuffer stands."""
