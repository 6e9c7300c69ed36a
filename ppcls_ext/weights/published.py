"""Where the published ImageNet weights are. All of them are unfused."""

from __future__ import annotations

from ppcls_ext.errors import PpclsExtError

PADDLECLAS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/{name}_pretrained.pdparams"
APPLE = "https://docs-assets.developer.apple.com/ml-research/datasets/mobileone/{name}_unfused.pth.tar"

#: What PaddleClas publishes of RepVGG and FasterNet.
PADDLECLAS_NAMES = frozenset(
    [f"RepVGG_{name}" for name in ("A0", "A1", "A2", "B0", "B1", "B1g2", "B1g4", "B2", "B2g4", "B3", "B3g4", "D2se")]
    + [f"FasterNet_{name}" for name in ("T0", "T1", "T2", "S", "M", "L")]
)
#: Models of which a published file was at hand: loaded, run on real pictures, trained on.
VERIFIED = frozenset(["MobileOne_S0"])


def address(name: str) -> str | None:
    """Address of the weights of the model `name`; None where none are published."""
    if name.startswith("MobileOne_"):
        return APPLE.format(name=name.lower())
    return PADDLECLAS.format(name=name) if name in PADDLECLAS_NAMES else None


def published_url(name: str) -> str:
    """Address of the weights of the model `name`.

    Raises:
        PpclsExtError: none are published.
    """
    url = address(name)
    if url is None:
        raise PpclsExtError(f"no weights of {name} are published: give the path of a file instead")
    return url


def status(name: str) -> str:
    """Of the published weights: "verified" (see `VERIFIED`), "published" (none was at hand) or "none"."""
    if name in VERIFIED:
        return "verified"
    return "published" if address(name) else "none"
