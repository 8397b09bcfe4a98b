"""What the codes themselves cost, on Gaussian values, apart from group scales and their storage.

Every code here has one scale for all values, so that the figures compare codes only. A code is searched
exactly, its scale refitted by least squares and the search repeated, from several first scales.
"""

import math
from collections.abc import Sequence
from typing import Any, Callable

import numpy as np

from .data import gaussian
from .sample import relative_mse

Row = dict[str, Any]
# Values divided by the scale -> the nearest points of the code, of the same shape (words, weights of a word).
Search = Callable[[np.ndarray], np.ndarray]

# (a, zp) of the quantizer's lattice that does best on Gaussian values: code = (a q + 256 zp + 128) >> 8.
LATTICE = (30_964, 1240)


def codes(small: bool) -> list[Row]:
    """The error of each code at its own rate."""
    count = 1 << (13 if small else 18)
    values, training = gaussian(1, count), gaussian(2, 2 * count)
    all_codes = _linear(6)[np.arange(1 << 15)[:, None] >> np.array([9, 6, 3, 0]) & 0x3F]
    a, zero_point = LATTICE
    lattice = all_codes[(a * np.arange(256) + 256 * zero_point + 128) >> 8]
    levels = _k_means(training[: count // 4].reshape(-1, 1), 4, 100)
    vectors = _k_means(training.reshape(-1, 4), 256, 5 if small else 60)
    steps = 512 if small else 4096
    long_rows = values[: (4 if small else 16) * steps]
    fours = values.reshape(-1, 4)

    def row(name: str, bits: float, error: float) -> Row:
        rounding = _rounding(values, bits)
        errors = {"relative_mse": error, "rounding": rounding, "shannon": 4.0**-bits}
        return {"code": name, "bits": bits, **errors}

    def on_the_row(name: str, table: np.ndarray, **effort: Any) -> Row:
        bits = 2.0 + (math.log2(table.size) - 2.0) / steps
        error = _best(long_rows, steps, _trellis(table, 2), **effort)
        return row(f"one trellis along the row, {name}", bits, error)

    free, scalar = _nearest(vectors)(fours), _nearest(levels)(values.reshape(-1, 1))
    return [
        row("4 levels chosen freely (Lloyd-Max)", 2.0, relative_mse(values.reshape(-1, 1), scalar)),
        row("(6,4,3), 256 codes on one lattice (ccq-2.06)", 2.0, _best(values, 4, _nearest(lattice))),
        row("(6,4,3), 256 codes chosen freely", 2.0, _best_choice(fours, vectors, all_codes)),
        row("256 vectors in 4 dimensions chosen freely (k-means)", 2.0, relative_mse(fours, free)),
        on_the_row("L = 4, linear values", _linear(4)),
        on_the_row("L = 12, linear values", _linear(12), starts=(1.0,), rounds=3),
        on_the_row("L = 12, Gaussian table", gaussian(3, 1 << 12), starts=(1.0,), rounds=3),
        row("(3,3,2) + (3,4,2), 16 bits a word (ccq-2.5)", 16 / 7, _best(values, 7, _hybrid)),
        row("(4,3,2), 8 bits a word (ccq-2.75)", 8 / 3, _best(values, 3, _trellis(_linear(4), 2))),
        row("(4,5,3), 16 bits a word (ccq-3.31)", 16 / 5, _best(values, 5, _trellis(_linear(4), 3))),
        row("(6,4,3), all 32768 codes", 3.75, _best(values, 4, _trellis(_linear(6), 3))),
        row("(6,3,5), 16 bits a word (ccq-5.5)", 16 / 3, _best(values, 3, _trellis(_linear(6), 5))),
    ]


def positions(small: bool) -> list[Row]:
    """The error of the first, second, ... weight of a word."""
    values = gaussian(1, 1 << (13 if small else 18))
    rows: list[Row] = []
    for name, width, search in [
        ("ccq-2.75", 3, _trellis(_linear(4), 2)),
        ("ccq-2.5", 7, _hybrid),
        ("ccq-3.31", 5, _trellis(_linear(4), 3)),
        ("ccq-5.5", 3, _trellis(_linear(6), 5)),
    ]:
        words = _words(values, width)
        errors = ((words - _fit(words, search)) ** 2).sum(axis=0) / (words**2).sum(axis=0)
        rows.append({"encoding": name, "relative_mse": [float(error) for error in errors]})
    return rows


def _linear(state_bits: int) -> np.ndarray:
    """The paper's values of the states: the state less its zero point."""
    return (np.arange(1 << state_bits) - (1 << (state_bits - 1))).astype(np.float32)


def _rounding(values: np.ndarray, bits: float) -> float:
    """Plain rounding at this rate: evenly spaced levels, some weights with one bit more than the others."""
    fewer = math.floor(bits)
    share = bits - fewer

    def error(whole: int) -> float:
        levels = _linear(whole)[:, None] + np.float32(0.5)
        return _best(values, 1, _nearest(levels))

    return (1.0 - share) * error(fewer) + share * error(fewer + 1)


def _trellis(table: np.ndarray, shift: int) -> Search:
    """The path through the trellis nearest to each word, by Viterbi's algorithm.

    A state holds `shift` new bits below what it remembers of the state before. The cost of the best path to
    each memory is all that a step needs, whatever the states it came through.
    """
    branches = 1 << shift
    memories = table.size // branches

    def search(words: np.ndarray) -> np.ndarray:
        count, length = words.shape
        cost = np.zeros((count, memories), np.float32)
        came_from = np.empty((length, count, memories), np.uint8)  # the state's top bits, `shift` of them
        for step in range(length):
            error = words[:, step, None] - table
            error *= error
            error = error.reshape(count, memories, branches) + cost[:, :, None]
            error = error.reshape(count, branches, memories)
            came_from[step] = error.argmin(axis=1)
            cost = error.min(axis=1)
        decoded = np.empty_like(words)
        memory, rows = cost.argmin(axis=1), np.arange(count)
        for step in range(length - 1, -1, -1):
            state = came_from[step, rows, memory].astype(np.int64) * memories + memory
            decoded[:, step] = table[state]
            memory = state >> shift
        return decoded

    return search


def _hybrid(words: np.ndarray) -> np.ndarray:
    """(3,3,2) for three weights, then (3,4,2) for four."""
    part = _trellis(_linear(3), 2)
    return np.concatenate([part(words[:, :3]), part(words[:, 3:])], axis=1)


def _nearest(points: np.ndarray) -> Search:
    """The nearest of a list of points."""
    return lambda words: points[_labels(words, points)]


def _best(values: np.ndarray, width: int, search: Search, **effort: Any) -> float:
    words = _words(values, width)
    return relative_mse(words, _fit(words, search, **effort))


def _words(values: np.ndarray, width: int) -> np.ndarray:
    return values[: values.size // width * width].reshape(-1, width)


def _fit(
    words: np.ndarray, search: Search, starts: Sequence[float] = (0.7, 1.0, 1.4), rounds: int = 5
) -> np.ndarray:
    """The decoded words for the best scale found: search, refit by equation (4), repeat."""
    # The largest point of a code is worth about three standard deviations: begin near that scale.
    probe = search(words[: 1 + 4096 // words.shape[1]] * 1e6)
    unit = 3.0 / float(np.abs(probe).max())
    best = np.zeros_like(words)
    for start in starts:
        scale = start * unit
        for _ in range(rounds):
            points = search(words / np.float32(scale))
            scale = float((words * points).sum(dtype=np.float64) / (points**2).sum(dtype=np.float64))
        decoded = points * np.float32(scale)
        best = min(best, decoded, key=lambda candidate: relative_mse(words, candidate))
    return best


def _best_choice(words: np.ndarray, vectors: np.ndarray, all_codes: np.ndarray) -> float:
    """The error of the codes nearest to freely chosen vectors, at the best of a few scales."""
    errors = []
    for scale in np.linspace(0.05, 0.12, 8, dtype=np.float32):
        chosen = _nearest(all_codes)(vectors / scale)
        errors.append(relative_mse(words, _nearest(chosen)(words / scale) * scale))
    return min(errors)


def _k_means(points: np.ndarray, count: int, rounds: int) -> np.ndarray:
    """Lloyd's algorithm from the first `count` points, which are random."""
    centres = points[:count].copy()
    for _ in range(rounds):
        labels = _labels(points, centres)
        sizes = np.maximum(np.bincount(labels, minlength=count), 1)
        sums = [np.bincount(labels, weights=axis, minlength=count) for axis in points.T]
        centres = (np.stack(sums, axis=1) / sizes[:, None]).astype(np.float32)
    return centres


def _labels(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    half_squares = 0.5 * (centres**2).sum(axis=1)
    parts = np.array_split(points, -(-len(points) * len(centres) // (1 << 24)))
    return np.concatenate([(part @ centres.T - half_squares).argmax(axis=1) for part in parts])
