"""One measurement: error, size and speed of one contender on one data set."""

from dataclasses import dataclass
from typing import Optional

import numpy as np


def relative_mse(weights: np.ndarray, decoded: np.ndarray) -> float:
    """sum((w - w')^2) / sum(w^2), in f64."""
    exact = weights.astype(np.float64)
    return float(((exact - decoded) ** 2).sum() / (exact**2).sum())


@dataclass
class Sample:
    """Sums over the matrices of a data set."""

    weights: int = 0
    squared_error: float = 0.0
    squares: float = 0.0
    bytes: int = 0
    quantize_seconds: float = 0.0
    decode_seconds: float = 0.0

    def add(
        self, weights: np.ndarray, decoded: np.ndarray, size: int, quantizing: float, decoding: float
    ) -> None:
        """Counts one matrix in."""
        exact = weights.astype(np.float64)
        self.weights += weights.size
        self.squared_error += float(((exact - decoded) ** 2).sum())
        self.squares += float((exact**2).sum())
        self.bytes += size
        self.quantize_seconds += quantizing
        self.decode_seconds += decoding

    def row(self) -> dict[str, Optional[float]]:
        """The figures under the names that the figures example uses."""

        def speed(seconds: float, unit: float) -> Optional[float]:
            return self.weights / seconds / unit if seconds else None

        return {
            "relative_mse": self.squared_error / self.squares,
            "bpw": 8.0 * self.bytes / self.weights,
            "quantize_mweights_per_s": speed(self.quantize_seconds, 1e6),
            "decode_gweights_per_s": speed(self.decode_seconds, 1e9),
        }
