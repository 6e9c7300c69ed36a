"""A .tflite file in LiteRT, the runtime of Android, computed by XNNPACK."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.files import read_regular
from ppcls_ext.packages import import_extra
from ppcls_ext.predict.metadata import Metadata
from ppcls_ext.predict.onnx_file import ends_in_logits, require_file
from ppcls_ext.predict.pixels import fixed_shape, pixels_of

#: Name of the entry of a file's metadata that holds ours, as JSON.
OWN = "ppcls_ext"
LARGEST = 1 << 31  # bytes


class TfliteModel:
    """A network in LiteRT, one image at a time.

    A file whose input are pixels gets those that the normalised input was made of, and beside them, where the file
    itself crops, black.

    Args:
        path: the file.
        threads: number of threads of one operation; by default LiteRT chooses.

    Raises:
        PpclsExtError: ai-edge-litert is missing, or the file is missing, damaged or not one of this project's.
    """

    batch: int | None = 1

    def __init__(self, path: str | os.PathLike, threads: int | None) -> None:
        interpreter = import_extra("ai_edge_litert.interpreter")
        require_file(path)
        content = read_regular(path, LARGEST)
        properties = _properties(path, content)
        self._content = content  # LiteRT reads it where it lies
        try:
            self.metadata = Metadata.from_properties(properties)
        except PpclsExtError as error:
            raise PpclsExtError(f"{path}: {error}") from error
        try:
            with _silence():
                self.interpreter = interpreter.Interpreter(model_content=content, num_threads=threads)
                self.interpreter.allocate_tensors()
            (self._input,) = self.interpreter.get_input_details()
            (self._output,) = self.interpreter.get_output_details()
        except Exception as error:  # LiteRT's exceptions have no common base
            raise PpclsExtError(f"{path}: LiteRT cannot load it ({one_line(error)}); export it again") from error
        self.takes_pixels = self._input["dtype"] == np.uint8
        self.image_shape = fixed_shape(path, self.metadata, self.takes_pixels)
        self.ends_in_logits = ends_in_logits(path, self.metadata, properties.get("output", ""))

    def run(self, images: np.ndarray) -> np.ndarray:
        """See `ppcls_ext.predict.runtimes.ExportedModel.run`.

        Raises:
            PpclsExtError: the file takes pixels, and an image is none: its levels are no whole numbers.
        """
        return self.compute(self.prepared(images))

    def prepared(self, images: np.ndarray) -> list[np.ndarray]:
        """Returns what LiteRT takes of each image; raises as `run`."""
        rows = []
        for image in images:
            given = image.transpose(1, 2, 0)
            if self.takes_pixels:
                _, height, width, _ = map(int, self._input["shape"])
                given = pixels_of(image, self.metadata.preprocessing, height, width)
            rows.append(np.ascontiguousarray(given[None]))
        return rows

    def compute(self, prepared: list[np.ndarray]) -> np.ndarray:
        """Computes the output for what `prepared` returned."""
        rows = []
        for given in prepared:
            self.interpreter.set_tensor(self._input["index"], given)
            self.interpreter.invoke()
            rows.append(self.interpreter.get_tensor(self._output["index"]).ravel())
        return np.stack(rows)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keeps off the screen what LiteRT's C++ says when it loads its first file: that it uses XNNPACK."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _properties(path: str | os.PathLike, content: bytes) -> dict[str, str]:
    """Returns the properties that the file's own entry holds; none where it has no such entry."""
    schema: Any = import_extra("ai_edge_litert.schema_py_generated")
    try:
        model = schema.Model.GetRootAs(content, 0)
        if not schema.Model.ModelBufferHasIdentifier(content, 0):
            raise ValueError("its identifier is another")
        for index in range(model.MetadataLength()):
            entry = model.Metadata(index)
            if entry.Name() == OWN.encode():
                found = json.loads(model.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
                return {key: value for key, value in found.items() if isinstance(value, str)}
    except Exception as error:  # a damaged file leads a reader of flatbuffers anywhere
        raise PpclsExtError(f"{path}: it is no .tflite file ({one_line(error)[:100]})") from error
    return {}
