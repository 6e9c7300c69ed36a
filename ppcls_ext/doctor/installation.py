"""The installed packages: Paddle and what is in it, PaddleClas, and what the extras bring."""

from __future__ import annotations

import ctypes
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ppcls_ext.doctor.finding import Finding
from ppcls_ext.engine.threads import use_all_cores
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.host.locate import HOW_TO_GET_ONE, find
from ppcls_ext.packages import EXTRAS, import_extra, missing

#: Versions of Paddle that this project is made for: from, and below.
PADDLE = ((3, 0), (4, 0))


def paddle() -> Finding:
    """Paddle, imported."""
    if _is_missing("paddle"):
        return Finding("Paddle", "nothing can be trained or exported", missing("paddle"))
    use_all_cores()
    module = import_extra("paddle")
    kind = "for GPUs" if module.device.is_compiled_with_cuda() else "for CPUs"
    text = f"{module.__version__} {kind}"
    numbers = tuple(int(part) for part in module.__version__.split(".")[:2] if part.isdecimal())
    low, high = PADDLE
    if low <= numbers < high or numbers == (0, 0):  # 0.0.0 is a build of the development branch
        return Finding("Paddle", text)
    return Finding("Paddle", text, f"expected at least {low[0]}.{low[1]} and below {high[0]}.{high[1]}")


def onednn() -> Finding:
    """The oneDNN in Paddle's wheel, which makes convolutions fast on CPUs."""
    spec = importlib.util.find_spec("paddle")
    if spec is None or spec.origin is None:
        return Finding("oneDNN", "none: it comes with Paddle")
    files = sorted(Path(spec.origin).parent.glob("libs/*dnnl*")) + sorted(Path(spec.origin).parent.glob("libs/mkldnn*"))
    if not files:
        return Finding("oneDNN", "not in this Paddle: convolutions on the CPU take Paddle's own, slower way")
    import_extra("paddle")  # loads the OpenMP that oneDNN runs on
    parts = ctypes.cast(ctypes.CDLL(str(files[0])).dnnl_version, ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_int * 3)))()
    return Finding("oneDNN", f"{'.'.join(map(str, parts.contents))}, {files[0].name} of Paddle")


def paddleclas() -> Finding:
    """PaddleClas: where it is, and whether it can train."""
    try:
        found = find()
    except PpclsExtError as error:
        return Finding("PaddleClas", "nothing can be trained", str(error))
    text = str(found).removeprefix("PaddleClas ")
    if not found.has_engine:
        return Finding("PaddleClas", f"{text}, without the training engine", HOW_TO_GET_ONE)
    return Finding("PaddleClas", f"{text}, with the training engine")


def for_paddleclas() -> Finding:
    """What PaddleClas's engine imports."""
    needed = [package for package, extra in EXTRAS.items() if extra == "train"]
    absent = [package for package in needed if _is_missing(package)]
    if absent:
        return Finding("its needs", f"without {', '.join(absent)}", 'pip install "ppcls-ext[train]"')
    return Finding("its needs", f"all {len(needed)} packages of the extra [train]")


def paddle2onnx() -> Finding:
    """What the export to ONNX needs."""
    needed = [package for package, extra in EXTRAS.items() if extra == "onnx"]
    for package in needed:
        if _is_missing(package):
            return Finding("paddle2onnx", "export to ONNX is not possible", missing(package))
    return Finding("paddle2onnx", ", ".join(f"{name} {_version(name)}".removeprefix("paddle2onnx ") for name in needed))


def onnxruntime() -> Finding:
    """What prediction, and the proof of an export, run on."""
    if _is_missing("onnxruntime"):
        return Finding("onnxruntime", "exported files cannot be run", missing("onnxruntime"))
    return Finding("onnxruntime", import_extra("onnxruntime").__version__)


def _is_missing(package: str) -> bool:
    return importlib.util.find_spec(package) is None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(version unknown)"
