"""Weights from the network: the published ones, or those at an address, kept in a folder of this user's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ppcls_ext.download import download
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.published import published_url

URLS = ("http://", "https://")
PUBLISHED = "published"


def cache_folder() -> Path:
    """Where downloaded weights are kept: `$XDG_CACHE_HOME/ppcls_ext`, which is `~/.cache/ppcls_ext` where unset."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ppcls_ext"


def is_remote(weights: Any) -> bool:
    """Whether `weights` names what has to be downloaded: True or "published", or an address."""
    return weights is True or (isinstance(weights, str) and (weights == PUBLISHED or weights.startswith(URLS)))


def fetch(weights: Any, name: str) -> Any:
    """The local file of weights that `is_remote`, downloaded where it is not there yet; anything else unchanged.

    Args:
        weights: True or "published" for the published weights of `name`, an address, or a path.
        name: of the model.

    Raises:
        PpclsExtError: none are published, or the download failed; says where to get them and where to put them.
    """
    if not is_remote(weights):
        return weights
    url = published_url(name) if weights in (True, PUBLISHED) else weights
    file = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    if not file or file.startswith("."):
        raise PpclsExtError(f"{url} names no file: expected an address that ends in a file's name")
    path = cache_folder() / file
    download(url, path, instead=f"get {file} by other means and give its path, or put it into {path.parent}")
    return str(path)
