"""Where in a picture the evidence for a class lies.

A class activation map (arXiv 1512.04150) of a net that ends in global average pooling and a linear layer is the sum of
the last maps, each times the weight from its mean to the class: their mean over all places is the logit, up to the
bias. Behind FasterNet's pooling stand a 1×1 convolution and an activation, too; there the weight is the derivative of
the logit by the map's mean, which makes the map a first-order approximation.
"""

from __future__ import annotations

import os

import numpy as np
from PIL import Image

from ppcls_ext.report.figures import figure
from ppcls_ext.report.fonts import drawable, shortened

EXACT = "class activation map (exact)"
FIRST_ORDER = "class activation map (first order: the head is not linear)"
#: Of the map where the evidence is strongest.
OPACITY = 0.8


def activation_map(features: np.ndarray, derivative: np.ndarray) -> np.ndarray:
    """The evidence for one class at each place.

    Args:
        features: (C, H, W), what the global average pooling reads.
        derivative: (C,), of the class's logit by the mean of each map.

    Returns:
        (H, W) float64; its mean is the part of the logit that comes from the maps.
    """
    return np.tensordot(derivative.astype(np.float64), features.astype(np.float64), axes=1)


def draw_activation_map(
    picture: np.ndarray, evidence: np.ndarray, name: str, score: float, kind: str, path: str | os.PathLike
) -> None:
    """Draws the picture as the net sees it, and again with the map over it.

    Args:
        picture: (H, W, 3) uint8, cut as the net sees it.
        evidence: (h, w) of `activation_map`.
        name: of the class.
        score: its probability.
        kind: `EXACT` or `FIRST_ORDER`.
        path: the PNG.
    """
    height, width = picture.shape[:2]
    smooth = np.asarray(Image.fromarray(evidence.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
    limit = max(float(np.abs(evidence).max()), 1e-12)
    with figure(path, 820, 440) as drawn:
        drawn.suptitle(f"{shortened(drawable(name, 'class'), 60)}  {score:.1%}", fontsize=11)
        left, right = drawn.subplots(1, 2)
        for axes in (left, right):
            axes.imshow(picture)
            axes.axis("off")
        # the picture shows where there is no evidence
        opacity = OPACITY * np.minimum(np.abs(smooth) / limit, 1)
        shown = right.imshow(smooth, cmap="bwr", vmin=-limit, vmax=limit, alpha=opacity)
        bar = drawn.colorbar(shown, ax=right, shrink=0.7)
        bar.set_label("for the class (red), against it (blue)")
        drawn.supxlabel(kind, fontsize=8)
