"""Published ImageNet weights: where they are, and downloading them. All of them are unfused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ppcls_ext.download import download
from ppcls_ext.errors import PpclsExtError

PADDLECLAS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/{name}_pretrained.pdparams"
APPLE = "https://docs-assets.developer.apple.com/ml-research/datasets/mobileone/{name}_unfused.pth.tar"

#: The models of RepVGG and FasterNet that PaddleClas publishes weights of.
PADDLECLAS_NAMES = frozenset(
    [f"RepVGG_{name}" for name in ("A0", "A1", "A2", "B0", "B1", "B1g2", "B1g4", "B2", "B2g4", "B3", "B3g4", "D2se")]
    + [f"FasterNet_{name}" for name in ("T0", "T1", "T2", "S", "M", "L")]
)
#: The models whose published file was available to us: loaded, run on real images, trained further.
VERIFIED = frozenset(["MobileOne_S0"])


def address(name: str) -> str | None:
    """Returns the address of the weights of the model `name`; None if none are published."""
    if name.startswith("MobileOne_"):
        return APPLE.format(name=name.lower())
    return PADDLECLAS.format(name=name) if name in PADDLECLAS_NAMES else None


def published_url(name: str) -> str:
    """Returns the address of the weights of the model `name`.

    Raises:
        PpclsExtError: none are published.
    """
    url = address(name)
    if url is None:
        raise PpclsExtError(f"no weights of {name} are published: give the path of a file instead")
    return url


def status(name: str) -> str:
    """Returns "verified" (see `VERIFIED`), "published" (never tried) or "none" for a model's published weights."""
    if name in VERIFIED:
        return "verified"
    return "published" if address(name) else "none"


URLS = ("http://", "https://")
PUBLISHED = "published"


def cache_folder() -> Path:
    """Returns the folder of downloaded weights: `$XDG_CACHE_HOME/ppcls_ext`, by default `~/.cache/ppcls_ext`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppcls_ext"


def is_remote(weights: Any) -> bool:
    """Returns whether `weights` has to be downloaded: True or "published", or an address."""
    return weights is True or (isinstance(weights, str) and (weights == PUBLISHED or weights.startswith(URLS)))


def fetch(weights: Any, name: str) -> Any:
    """Returns the local file of weights that `is_remote`, after downloading it if necessary; anything else unchanged.

    Args:
        weights: True or "published" for the published weights of `name`, an address, or a path.
        name: the name of the model.

    Raises:
        PpclsExtError: none are published, or the download failed; the message says where to get the file and where to
            put it.
    """
    if not is_remote(weights):
        return weights
    url = published_url(name) if weights in (True, PUBLISHED) else weights
    file = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not file or file.startswith("."):
        raise PpclsExtError(f"{url} names no file: expected an address that ends in a file's name")
    path = cache_folder() / file
    place = f"{path.parent} (XDG_CACHE_HOME names another)"
    download(url, path, instead=f"get {file} by other means and give its path, or put it into {place}")
    return str(path)
