"""The installed packages: Paddle and what is in it, PaddleClas, and what the extras bring."""

from __future__ import annotations

import importlib.util
import os
import warnings
from importlib.metadata import PackageNotFoundError, version

from ppcls_ext.doctor.finding import Finding
from ppcls_ext.errors import PpclsExtError, one_line
from ppcls_ext.hosts.paddleclas.locate import HOW_TO_GET_ONE, find
from ppcls_ext.hosts.threads import use_all_cores
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
    """The oneDNN in Paddle's wheel, which makes training on CPUs fast."""
    if _is_missing("paddle"):
        return Finding("oneDNN", "none: it comes with Paddle")
    from ppcls_ext.onednn.find import VARIABLE, library  # loads Paddle

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = library()
    if found is not None:
        version = found.functions.dnnl_version().contents
        return Finding("oneDNN", f"{version.major}.{version.minor}.{version.patch} of Paddle, used on CPUs")
    if os.environ.get(VARIABLE) == "0":
        return Finding("oneDNN", f"switched off by {VARIABLE}=0: training on the CPU is slower")
    why = one_line(caught[-1].message) if caught else "none in this Paddle that is known"
    return Finding("oneDNN", f"not used, training on the CPU is slower: {why}")


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
