"""Round to nearest in groups of 64, as a floor to stand on: no search, scales in f16."""

import numpy as np

from .sample import Sample

GROUP = 64


def measure(bits: int, matrices: list[np.ndarray]) -> Sample:
    """Levels -2^(b-1) to 2^(b-1) - 1; the largest magnitude of a group takes the lowest level's."""
    total = Sample()
    lowest = -(1 << (bits - 1))
    for matrix in matrices:
        groups = matrix.reshape(-1, GROUP)
        scale = np.abs(groups).max(axis=1, keepdims=True) / -lowest
        scale = np.maximum(scale.astype(np.float16), np.finfo(np.float16).tiny).astype(np.float32)
        levels = np.clip(np.rint(groups / scale), lowest, -lowest - 1)
        total.add(groups, levels * scale, groups.size * bits // 8 + 2 * len(groups), 0.0, 0.0)
    return total
