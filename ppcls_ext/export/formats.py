"""Export to formats of phones and browsers: of an ONNX file a .tflite, an .mlpackage, ncnn's files or a web page.

The ONNX file was proved equal to its model when it was written. Here it is read as a `Net`, written by the format's
writer into a temporary folder, loaded from there as `predict` loads it, and compared with onnxruntime's answers. Only
then the files take their place. Of a web page the .tflite inside is proved. Paddle is not needed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ppcls_ext.data.image_files import find_images
from ppcls_ext.data.image_input import PreparedImages
from ppcls_ext.data.image_rule import RGB, Preprocessing, channels_text
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.export.opset import require_precision
from ppcls_ext.export.web_page import require_known, require_runtime, web_page
from ppcls_ext.files import atomic_write, folder_at_once, require_own_folder
from ppcls_ext.packages import require
from ppcls_ext.predict.coreml_model import COMPUTED, import_coremltools
from ppcls_ext.predict.metadata import LOGITS, Metadata
from ppcls_ext.predict.onnx_file import read_metadata, require_file
from ppcls_ext.predict.runtimes import with_version

if TYPE_CHECKING:
    import onnx

    from ppcls_ext.export.file_proof import Proof
    from ppcls_ext.export.net import Net
    from ppcls_ext.export.pipeline import ExportReport

#: The precisions, and what the names of files that are not of the usual one end with.
ENDINGS = {"float32": "_fp32", "float16": "_fp16", "int8": "_int8"}
#: They are called so in the metadata of a file.
QUANTIZED = {"fp16": "float16", "int8": "int8"}


class Format(NamedTuple):
    """A format to export to.

    Attributes:
        name: of its runtime.
        suffix: of its file, or of the first of its files.
        precision: "float32", "float16" or "int8", where none is asked for.
        packages: what writing and proving need, beside onnx and onnxruntime.
        precisions: those that it has.
    """

    name: str
    suffix: str
    precision: str
    packages: tuple[str, ...]
    precisions: tuple[str, ...] = tuple(ENDINGS)


FORMATS = {
    "onnx": Format("ONNX", ".onnx", "float32", ()),
    "tflite": Format("LiteRT", ".tflite", "float32", ("ai_edge_litert", "flatbuffers")),
    "coreml": Format("Core ML", ".mlpackage", "float16", ("coremltools",)),
    "ncnn": Format("ncnn", ".ncnn.param", "float32", ("ncnn",), ("float32", "float16")),
    "web": Format("web page", ".html", "float32", ("ai_edge_litert", "flatbuffers")),
}
PROVING = ("onnxruntime", "tflite", "ncnn")
#: How a file was proved, and who computed it then.
PROVED = {
    "tflite": "run by {tflite} with XNNPACK",
    "coreml": f"{COMPUTED}, by {{onnxruntime}}",
    "ncnn": "run by {ncnn}",
    "web": "the .tflite inside run by {tflite} with XNNPACK, the page opened in no browser,",
}


@dataclass(frozen=True)
class ExportedFile:
    """Describes a file that was written, and its proof.

    Attributes:
        path: the file, the package, or the first of ncnn's files.
        format: a key of `FORMATS`.
        precision: "float32", "float16" or "int8".
        size: of all its files, MiB.
        input: what it takes.
        output: what it gives.
        proof: None for an ONNX file, whose own report is `reduced`.
        reduced: the report of `float16.reduce_to_float16` or `int8.quantize`, where the export did that.
        source: the report on the ONNX file, where a run was exported.
    """

    path: Path
    format: str
    precision: str
    size: float
    input: str
    output: str
    proof: Proof | None
    reduced: object | None = None
    source: ExportReport | None = None

    def __str__(self) -> str:
        kind = FORMATS[self.format]
        lines = [
            f"{self.path}: {self.size:.2f} MiB, {kind.name} {self.precision}",
            f"input   {self.input}",
            f"output  {self.output}",
        ]
        if self.reduced is not None:
            lines.append(str(self.reduced))
        if self.proof is not None:
            runtimes = {name: with_version(name, FORMATS[name].name if name in FORMATS else "") for name in PROVING}
            proved = PROVED[self.format].format(**runtimes)
            lines.append(f"proof   {proved} on {self.proof.agreement.images} images:")
            lines.append(f"        {self.proof}")
        if self.source is not None:
            lines.append("the ONNX file that it was made of:")
            lines += self.source.differences()
        return "\n".join(lines)


def export_file(
    path: str | Path,
    to: str,
    output: str | Path | None = None,
    *,
    precision: str | None = None,
    samples: Sequence[str] = (),
    tensor_input: bool = False,
    calibration: str | None = None,
    calibration_images: int = 256,
    allow: bool = False,
    litertjs: str | None = None,
) -> ExportedFile:
    """Makes of an ONNX file one of another format, or precision, once it is proved equal.

    Args:
        path: the ONNX file that export-onnx wrote.
        to: a key of `FORMATS`.
        output: the file or package to write, with the format's ending; beside `path` where None.
        precision: "float32", "float16" or "int8"; where None that of the file, or "float16" for Core ML.
        samples: images, folders or patterns that it is proved on, beside random ones.
        tensor_input: of a .tflite, whether it takes normalised floats instead of pixels.
        calibration: to make int8 of an fp32 file: images like those it will see, a folder or a pattern.
        calibration_images: how many of them.
        allow: write int8 even where it names other classes than fp32 too often.
        litertjs: of a web page, the folder of the npm package @litertjs/core; node_modules/@litertjs/core where None.

    Raises:
        PpclsExtError: an argument is wrong, a package is missing, the network holds what no writer knows, or the
            answers differ; nothing is written then.
    """
    require_packages(to, tensor_input)
    require_litertjs(to, litertjs)
    require_file(path)
    import onnx

    metadata = read_metadata(path)
    own = QUANTIZED.get(metadata.quantization or "")
    precision = _precision(path, to, own, precision)
    target = _target(path, output, to, precision, own)
    rule = metadata.preprocessing
    _require_input_of(path, metadata, to, tensor_input)
    require_precision(precision, metadata.dynamic_size)
    if to == "web":
        require_known(rule)
    images = PreparedImages(find_images(samples), rule) if samples else None
    try:
        model = onnx.load(str(path))
    except Exception as error:  # as `read_metadata` loads it: weights may be missing
        raise PpclsExtError(f"{path}: onnx cannot load it ({one_line(error)})") from error
    model, reduced = _reduce(model, to, own, precision, rule, calibration, calibration_images, allow)
    if to == "onnx":
        return _write_onnx(model, target, precision, reduced)
    from ppcls_ext.export.file_proof import prove
    from ppcls_ext.export.net import read_net

    net = read_net(model)
    proved, tensor_input = ("tflite", True) if to == "web" else (to, tensor_input)
    files = _write(net, proved, precision, tensor_input)
    with tempfile.TemporaryDirectory(prefix="ppcls_ext_") as folder:
        place = Path(folder, default_name("net", proved, None))
        _put(place, proved, files)
        proof = prove(model, net, proved, place, images)
    if to == "web":
        page = web_page(files[FORMATS[proved].suffix], metadata, ends_in_logits=net.output == LOGITS, litertjs=litertjs)
        files = {FORMATS[to].suffix: page}
    _put(target, to, files)
    size = sum(map(len, files.values())) / 2**20
    given = _input_text(net, to, tensor_input)
    return ExportedFile(target, to, precision, size, given, f"{net.output} (1, {net.classes})", proof, reduced)


def written_for(runtime: str, path: str | Path, folder: Path) -> Path:
    """Writes what a runtime of phones runs of an ONNX file, in that file's precision and not proved.

    Args:
        runtime: a key of `FORMATS`.
        path: the ONNX file.
        folder: where it is written.

    Raises:
        PpclsExtError: as of `export_file`.
    """
    require_packages(runtime)
    require_file(path)
    import onnx

    from ppcls_ext.export.net import read_net

    metadata = read_metadata(path)
    _require_input_of(path, metadata, runtime, tensor_input=True)
    own = QUANTIZED.get(metadata.quantization or "")
    precision = _precision(path, runtime, own, None if own else "float32")
    target = folder / default_name("net", runtime, None)
    _put(target, runtime, _write(read_net(onnx.load(str(path))), runtime, precision, tensor_input=True))
    return target


def require_packages(to: str, tensor_input: bool = False) -> None:
    """Raises PpclsExtError where there is no such format, its input is fixed, or a package for it is missing."""
    if to not in FORMATS:
        raise PpclsExtError(f"the format is {to!r}: expected {', '.join(FORMATS)}")
    if tensor_input and to != "tflite":
        raise PpclsExtError(f"a tensor input is for tflite: that of {FORMATS[to].name} is fixed")
    require("onnx", "onnxruntime")
    if to == "coreml":
        import_coremltools()
    else:
        require(*FORMATS[to].packages)


def require_input(to: str, channels: int, tensor_input: bool) -> None:
    """Raises PpclsExtError where a format's image input has other channels than the network: it is RGB.

    Args:
        to: a key of `FORMATS`.
        channels: of the network.
        tensor_input: of a .tflite, whether it takes normalised floats.
    """
    takes_pixels = to in ("coreml", "web") or (to == "tflite" and not tensor_input)
    if takes_pixels and channels != RGB:
        other = "--tensor-input makes one of floats"
        if to != "tflite":
            other = "export it to tflite with --tensor-input, or to ncnn, which take floats"
        raise PpclsExtError(f"{_files(to)} take RGB images, and the network takes {channels_text(channels)}: {other}")


def _files(to: str) -> str:
    return "web pages" if to == "web" else f"{FORMATS[to].name} files"


def _require_input_of(path: str | Path, metadata: Metadata, to: str, tensor_input: bool) -> None:
    require_input(to, metadata.preprocessing.channels, tensor_input)
    if metadata.dynamic_size and to != "onnx":
        raise PpclsExtError(
            f"{path} takes images of any size, and {_files(to)} those of one: export it again without --dynamic-size"
        )


def require_litertjs(to: str, folder: str | None) -> None:
    """Raises PpclsExtError where a web page is asked for without its runtime, or a runtime without a web page."""
    if to == "web":
        require_runtime(folder)
    elif folder is not None:
        raise PpclsExtError(f"LiteRT.js is for a web page: leave out {folder}, or export to web")


def require_precision_of(to: str, precision: str | None) -> None:
    """Raises PpclsExtError where a format has no such precision."""
    if precision is not None and precision not in ENDINGS:
        raise PpclsExtError(f"the precision is {precision!r}: expected {', '.join(ENDINGS)}")
    kind = FORMATS[to]
    if (precision or kind.precision) not in kind.precisions:
        raise PpclsExtError(
            f"{kind.name} has no {precision} that answers as our file does: expected {' or '.join(kind.precisions)}"
        )


def default_name(stem: str, to: str, precision: str | None) -> str:
    """Returns the name of a file: MODEL.tflite, MODEL_int8.tflite, …, without the precision where it is the usual one.

    Args:
        stem: MODEL.
        to: a key of `FORMATS`.
        precision: None for the usual one.
    """
    kind = FORMATS[to]
    return f"{stem}{'' if precision in (None, kind.precision) else ENDINGS[precision]}{kind.suffix}"


def _precision(path: str | Path, to: str, own: str | None, wanted: str | None) -> str:
    """Returns the precision of the file to write."""
    if own is not None and wanted not in (None, own):
        raise PpclsExtError(f"{path} is {own} already: give the fp32 file to make {wanted} of it")
    precision = own or wanted or FORMATS[to].precision
    require_precision_of(to, precision)
    return precision


def _target(path: str | Path, output: str | Path | None, to: str, precision: str, own: str | None) -> Path:
    kind = FORMATS[to]
    if output is None:
        stem = Path(path).name
        stem = stem[: -len(".onnx")] if stem.endswith(".onnx") else stem
        # the name of a file that is not fp32 says it already
        output = Path(path).parent / default_name(stem, to, None if own is not None else precision)
    target = Path(output)
    if not target.name.endswith(kind.suffix) or target.name == kind.suffix:
        raise PpclsExtError(f"output is {output}: expected a name that ends in {kind.suffix}, as {kind.name}'s do")
    if target.is_dir() and kind.suffix != ".mlpackage":
        raise PpclsExtError(f"{output} is a folder: expected the name of the file to write")
    if target.exists() and Path(path).exists() and target.samefile(path):
        raise PpclsExtError(f"{output} is the file that is read: choose another name")
    return target


def _reduce(
    model: onnx.ModelProto,
    to: str,
    own: str | None,
    precision: str,
    rule: Preprocessing,
    calibration: str | None,
    count: int,
    allow: bool,
) -> tuple[onnx.ModelProto, object | None]:
    """Makes the precision of an fp32 file, where it is to be another; Core ML makes halves itself."""
    if own == precision or precision == "float32":
        return model, None
    if precision == "float16":
        if to == "coreml":
            return model, None
        from ppcls_ext.export.float16 import reduce_to_float16

        return reduce_to_float16(model)
    if calibration is None:
        raise PpclsExtError(
            "int8 of an fp32 file needs images like those it will see (--calibration FOLDER); or give the int8 file"
        )
    from ppcls_ext.export.int8 import quantize, require_count

    require_count(count)
    files = sorted(find_images([calibration]))
    chosen = np.sort(np.random.default_rng(0).permutation(len(files))[:count])
    return quantize(model, PreparedImages([files[index] for index in chosen], rule)[:], allow=allow)


def _write_onnx(model: onnx.ModelProto, target: Path, precision: str, reduced: object | None) -> ExportedFile:
    from ppcls_ext.export.written_file import write_file

    written = write_file(model, model.SerializeToString(deterministic=True), target)
    (given,), (output,) = written.inputs, written.outputs
    return ExportedFile(target, "onnx", precision, written.size, given, output, None, reduced)


def _write(net: Net, to: str, precision: str, tensor_input: bool) -> dict[str, bytes]:
    """Returns the contents of a format's files, by what follows the name's stem, or by their paths in a package."""
    if to == "tflite":
        from ppcls_ext.export.litert import write_litert

        return {FORMATS[to].suffix: write_litert(net, not tensor_input)}
    if to == "coreml":
        from ppcls_ext.export.coreml import write_coreml

        return write_coreml(net, halves=precision != "float32")
    from ppcls_ext.export.ncnn import write_ncnn

    return write_ncnn(net)


def _put(target: Path, to: str, files: Mapping[str, bytes]) -> None:
    """Writes all files or none."""
    if to == "coreml":
        own = r"Data|Manifest\.json|\.DS_Store"
        require_own_folder(target, own, "Core ML package")
        with folder_at_once(target, own) as folder:
            for name, content in files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        return
    stem = str(target)[: -len(FORMATS[to].suffix)]
    # each is complete before the first takes its place
    with contextlib.ExitStack() as stack:
        for ending, content in files.items():
            stack.enter_context(atomic_write(f"{stem}{ending}")).write(content)


def _input_text(net: Net, to: str, tensor_input: bool) -> str:
    from ppcls_ext.export.litert import image_input_size
    from ppcls_ext.export.litert_metadata import input_description

    channels, height, width = net.size
    takes_pixels = to == "coreml" or (to == "tflite" and not tensor_input)
    if takes_pixels:
        width, height = image_input_size(net)
    if to == "web":
        return f"an image in the page: {input_description(net, True)}"
    shape = (1, height, width, channels) if to == "tflite" else (channels, height, width)
    return f"{'pixels' if takes_pixels else 'floats'} {shape}: {input_description(net, takes_pixels)}"
