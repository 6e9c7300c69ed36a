"""Makes a web page that classifies images: one HTML file with the model, its runtime and everything else inside.

The runtime is LiteRT.js, whose files (10 MB, Apache License 2.0) are taken from the npm package @litertjs/core where
the user has installed it: nothing is downloaded. web/ holds the page's own parts.
"""

from __future__ import annotations

import base64
import dataclasses
import gzip
import html
import importlib.resources
import json
import os
from collections.abc import Mapping
from pathlib import Path

from ppcls_ext.data.image_rule import Preprocessing
from ppcls_ext.data.lists import MULTI_LABEL
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.files import read_regular
from ppcls_ext.predict.metadata import Metadata

PACKAGE = Path("node_modules", "@litertjs", "core")
#: Where the runtime's parts are, from the package's folder; the compat build runs in browsers without relaxed SIMD.
RUNTIME = {
    "runtime": "dist/index.js",
    "helper": "../wasm-utils/dist/index.js",
    "glue": "wasm/litert_wasm_compat_internal.js",
}
MANIFEST = "package.json"
WASM = "wasm/litert_wasm_compat_internal.wasm"
LARGEST_PART = 1 << 26  # bytes
#: Interpolations that web/image.js computes, by the library that it reproduces.
INTERPOLATIONS = {"cv2": ("bilinear",), "pil": ("box", "bilinear", "hamming", "bicubic", "lanczos")}


def web_page(
    model: bytes, metadata: Metadata, *, ends_in_logits: bool = False, litertjs: str | os.PathLike | None = None
) -> bytes:
    """Returns the page.

    Args:
        model: a LiteRT file that was proved, float32 (1, height, width, 3) in, scores (1, classes) out.
        metadata: the model's.
        ends_in_logits: whether the page has to make scores of the model's answers.
        litertjs: the folder of the npm package @litertjs/core; node_modules/@litertjs/core where None.

    Raises:
        PpclsExtError: the runtime is not there, or the page cannot prepare images as the model expects.
    """
    require_known(metadata.preprocessing)
    folder = Path(PACKAGE if litertjs is None else litertjs)
    parts = {
        "architecture": html.escape(metadata.architecture),
        "version": html.escape(str(json.loads(_read(folder, MANIFEST))["version"])),
        "meta": _json(_described(metadata, ends_in_logits)),
        "sources": _json({name: _read(folder, part).decode() for name, part in RUNTIME.items()}),
        "wasm": _packed(_read(folder, WASM)),
        "model": _packed(model),
        "script": _own("image.js").replace("\nexport ", "\n") + "\n" + _own("page.js"),
    }
    page = _filled(_own("page.html"), parts).encode()
    if model_in_page(page) != model:
        raise PpclsExtError("the page does not hold the model that was proved; nothing was written")
    return page


def require_runtime(litertjs: str | os.PathLike | None) -> None:
    """Raises PpclsExtError where a part of LiteRT.js is missing; `litertjs` as of `web_page`."""
    for part in (MANIFEST, *RUNTIME.values(), WASM):
        _read(Path(PACKAGE if litertjs is None else litertjs), part)


def require_known(rule: Preprocessing) -> None:
    """Raises PpclsExtError where the page cannot prepare images by `rule`."""
    known = INTERPOLATIONS[rule.backend]
    if rule.interpolation not in known:
        raise PpclsExtError(
            f"the model was evaluated with {rule.backend}'s {rule.interpolation} resizing: a web page resizes with "
            f"{', '.join(known)}; evaluate it with one of these"
        )


def model_in_page(page: bytes) -> bytes:
    """Returns the LiteRT file that a page holds.

    Raises:
        PpclsExtError: it holds none.
    """
    _, found, rest = page.partition(b'<script type="text/plain" id="model">')
    try:
        if not found:
            raise ValueError("it is not there")
        return gzip.decompress(base64.b64decode(rest.partition(b"</script>")[0], validate=True))
    except (ValueError, OSError, EOFError) as error:
        raise PpclsExtError(f"the page's model is damaged ({error}): export it again") from error


def _described(metadata: Metadata, ends_in_logits: bool) -> dict[str, object]:
    return {
        "architecture": metadata.architecture,
        "rule": dataclasses.asdict(metadata.preprocessing),
        "names": metadata.class_names,
        "several": metadata.task == MULTI_LABEL,
        "thresholds": metadata.thresholds,
        "logits": ends_in_logits,
    }


def _own(name: str) -> str:
    return (importlib.resources.files("ppcls_ext.export") / "web" / name).read_text(encoding="utf-8")


def _read(folder: Path, part: str) -> bytes:
    try:
        return read_regular(folder / part, LARGEST_PART)
    except OSError as error:
        raise PpclsExtError(
            f"{folder / part}: {error.strerror or error}: a web page needs LiteRT.js; npm install @litertjs/core puts "
            f"it into {PACKAGE}, or --litertjs FOLDER says where it is"
        ) from error


def _packed(data: bytes) -> str:
    return base64.b64encode(gzip.compress(data, 9, mtime=0)).decode()


def _json(value: object) -> str:
    # a < could begin the end of the script element
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _filled(template: str, parts: Mapping[str, str]) -> str:
    """Puts each part in the place of its {{name}}, in one pass: a part may hold such a text itself."""
    pieces = template.split("{{")
    filled = [pieces[0]]
    for piece in pieces[1:]:
        name, _, rest = piece.partition("}}")
        filled += [parts[name], rest]
    return "".join(filled)
