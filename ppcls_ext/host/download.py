"""Downloads by PaddleClas."""

from __future__ import annotations

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.host.locate import is_there


def download(url: str) -> str:
    """Downloads a weights file with PaddleClas's downloader, which keeps it, and returns the local path.

    Raises:
        PpclsExtError: the download failed.
    """
    if not is_there():
        raise PpclsExtError(
            f"cannot download {url} without PaddleClas: fetch it by hand and give its path as pretrained"
        )
    from ppcls.utils.download import get_weights_path_from_url

    try:
        return get_weights_path_from_url(url)
    except Exception as error:  # the downloader raises whatever its HTTP library does
        raise PpclsExtError(
            f"cannot download {url}: {error}; fetch it by hand and give its path as pretrained"
        ) from error
