"""Optional packages: importing them, and messages that say how to get a missing one. Nothing is installed from here."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType

from ppcls_ext.errors import PpclsExtError, one_line

_TRAIN = "cv2 prettytable requests ujson tqdm visualdl scipy sklearn easydict faiss gast filelock"

#: Package → the extra of setup.py that installs it.
EXTRAS = {
    **dict.fromkeys(_TRAIN.split(), "train"),
    "paddle": "paddle",
    "onnxruntime": "predict",
    **dict.fromkeys(("paddle2onnx", "onnx", "onnxslim"), "onnx"),
    "matplotlib": "report",
    "tifffile": "tiff",
    "openvino": "openvino",
    **dict.fromkeys(("ai_edge_litert", "flatbuffers"), "tflite"),
    "coremltools": "coreml",
    "ncnn": "ncnn",
    "paddlex": "paddlex",
}
#: The newest Python that a package has wheels for, if that is older than the newest that this project runs on.
NEWEST_PYTHON = {"paddle2onnx": (3, 12)}


def require(*names: str) -> None:
    """Imports the named packages, so that a missing one is noticed before any work is done.

    Raises:
        PpclsExtError: packages are missing, all of which the message names, or one does not load.
    """
    absent = [name for name in names if sys.modules.get(name) is None and importlib.util.find_spec(name) is None]
    if len(absent) > 1 and not any(_has_no_wheel(name) for name in absent):
        extras = sorted({EXTRAS.get(name, "") for name in absent} - {""})
        others = [name for name in absent if name not in EXTRAS]
        command = " ".join(["pip install", *([f'"ppcls-ext[{",".join(extras)}]"'] if extras else []), *others])
        raise PpclsExtError(f"the packages {', '.join(absent[:-1])} and {absent[-1]} are missing: {command}")
    for name in names:
        import_extra(name)


def import_extra(module: str, extra: str | None = None) -> ModuleType:
    """Imports a module of an optional package.

    Args:
        module: its name.
        extra: the extra that a message names; that of `EXTRAS` where None.

    Raises:
        PpclsExtError: it is not installed, or broken; the message says which extra installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise PpclsExtError(missing(str(error.name).split(".")[0], extra)) from error
    except OSError:
        raise  # which tells a path: that of a cache, say, and nothing is wrong with the package
    except Exception as error:
        package = module.split(".")[0]
        raise PpclsExtError(
            f"the package {package} does not load ({one_line(error)}): reinstall it, {_command(package, extra)}"
        ) from error


def missing(package: str, extra: str | None = None) -> str:
    """Returns the message for a package that is not installed, and how to get it."""
    if _has_no_wheel(package):
        python, last = (".".join(map(str, version)) for version in (sys.version_info[:2], NEWEST_PYTHON[package]))
        return (
            f"the package {package} is missing, and it has no wheel for Python {python}: export to ONNX with Python "
            f"3.9 to {last} (make install PYTHON=python{last}); all else works with Python {python}"
        )
    text = f"the package {package} is missing: {_command(package, extra)}"
    if package == "paddle":
        text += " (for CPUs; for a GPU install paddlepaddle-gpu as Paddle's installation page says)"
    return text


def _has_no_wheel(package: str) -> bool:
    """Returns whether this Python is newer than all that a package has wheels for."""
    return sys.version_info[:2] > NEWEST_PYTHON.get(package, sys.version_info[:2])


def _command(package: str, extra: str | None = None) -> str:
    extra = extra or EXTRAS.get(package)
    return f'pip install "ppcls-ext[{extra}]"' if extra else f"pip install {package}"
