"""The range that eight bits of an activation should cover: that of the least squared error over its histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 4096
#: Parts of the largest value that are tried.
CANDIDATES = np.linspace(0.1, 1.0, 91)
LEVELS = 255


@dataclass
class Histogram:
    """Counts of a value's elements.

    Args:
        low: lower edge of the first bin; 0 or below.
        high: upper edge of the last bin; 0 or above.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        self.low, self.high = min(float(self.low), 0.0), max(float(self.high), 0.0)
        if self.low == self.high:
            self.high = 1.0  # all zeros: any range will do
        self.counts = np.zeros(BINS)

    def add(self, values: np.ndarray) -> None:
        """Counts all elements of an array."""
        bins = ((values.ravel() - self.low) * np.float32(BINS / (self.high - self.low))).astype(np.int32)
        self.counts += np.bincount(bins.clip(0, BINS - 1), minlength=BINS)

    def range(self) -> tuple[float, float]:
        """(low, high) of the least squared error; each side that has values is searched in turn."""
        low, high = self.low, self.high
        for _ in range(2 if low < 0 < high else 1):
            if high > 0:
                high = min((self.error(low, part * self.high), part * self.high) for part in CANDIDATES)[1]
            if low < 0:
                low = min((self.error(part * self.low, high), part * self.low) for part in CANDIDATES)[1]
        return low, high

    def error(self, low: float, high: float) -> float:
        """The sum of squared errors when [low, high] gets 256 levels, one of them 0."""
        scale, zero = scale_and_zero(low, high)
        centres = self.low + (np.arange(BINS) + 0.5) * ((self.high - self.low) / BINS)
        levels = np.clip(np.rint(centres / scale) + zero, 0, LEVELS)
        return float(self.counts @ ((levels - zero) * scale - centres) ** 2)


def scale_and_zero(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of uint8 for the range [low, high], which holds 0."""
    scale = np.float32((high - low) / LEVELS)
    return scale, np.uint8(np.clip(np.rint(-low / scale), 0, LEVELS))
