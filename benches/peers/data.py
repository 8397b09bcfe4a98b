"""The tensors everything is measured on."""

import json
import math
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
LAYER0 = ROOT / "testdata" / "all-minilm-l6-v2-layer0.safetensors"


@dataclass
class Dataset:
    """Matrices, and the file from which both sides read them."""

    name: str
    path: Path
    matrices: list[np.ndarray]

    @property
    def weights(self) -> int:
        return sum(matrix.size for matrix in self.matrices)

    def shape(self) -> str:
        """What a reader of the report needs to know."""
        columns = sorted({matrix.shape[1] for matrix in self.matrices})
        count = f"{len(self.matrices)} {'matrix' if len(self.matrices) == 1 else 'matrices'}"
        return f"{count}, {self.weights} weights, rows of {' and '.join(map(str, columns))}"


def gauss(cache: Path, rows: int) -> Dataset:
    """`rows` x 4096 values of N(0, 1) from the tree's own generator, seed 1, in a file that both can read."""
    matrix = gaussian(1, rows * 4096).reshape(rows, 4096)
    path = cache / f"gauss-{rows}x4096.safetensors"
    entry = {"dtype": "F32", "shape": list(matrix.shape), "data_offsets": [0, matrix.nbytes]}
    header = json.dumps({"encoder.layer.0.gauss.weight": entry}).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + matrix.tobytes())
    return Dataset("Gauss", path, [matrix])


def minilm(cache: Path) -> Dataset:
    """The 36 encoder matrices of all-MiniLM-L6-v2, fetched once."""
    folder = cache / "minilm"
    path = folder / "model.safetensors"
    if not path.exists():
        script = ROOT / "testdata" / "minilm.py"
        done = subprocess.run([sys.executable, str(script), "model", str(folder)], stdout=sys.stderr)
        if done.returncode or not path.exists():
            sys.exit("compare.py: could not fetch the MiniLM weights; without network, try --quick")
    return Dataset("MiniLM", path, read(path))


def layer0() -> Dataset:
    """Its first layer, which is in the tree."""
    return Dataset("layer 0", LAYER0, read(LAYER0))


def read(path: Path) -> list[np.ndarray]:
    """The two-dimensional `encoder.layer.*` weights of a safetensors file, by name, as f32."""
    content = path.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header: dict[str, dict] = json.loads(content[8 : 8 + length])
    names = [n for n in sorted(header) if "encoder.layer." in n and n.endswith(".weight")]
    types = {"F32": "<f4", "F16": "<f2"}
    matrices = []
    for entry in (header[name] for name in names):
        if len(entry["shape"]) == 2:
            first, count = 8 + length + entry["data_offsets"][0], math.prod(entry["shape"])
            values = np.frombuffer(content, types[entry["dtype"]], count, first)
            matrices.append(np.ascontiguousarray(values.astype(np.float32).reshape(entry["shape"])))
    return matrices


def gaussian(seed: int, count: int) -> np.ndarray:
    """tools/quantize/src/gaussian.rs, bit for bit: Marsaglia's polar method over SplitMix64."""
    out = np.empty(0, np.float32)
    done = np.uint64(0)
    while out.size < count:
        pairs = count - out.size + 64
        u, v = _signed_units(np.uint64(seed), done, 2 * pairs).reshape(pairs, 2).T
        done += np.uint64(2 * pairs)
        s = u * u + v * v
        keep = (s > 0.0) & (s < 1.0)
        u, v, s = u[keep], v[keep], s[keep]
        radius = np.sqrt(-2.0 * _natural_log(s) / s)
        out = np.append(out, np.stack([u * radius, v * radius], axis=1).astype(np.float32).ravel())
    return out[:count]


def _signed_units(seed: np.uint64, done: np.uint64, count: int) -> np.ndarray:
    """SplitMix64's outputs `done` to `done + count`, as numbers in [-1, 1)."""
    z = seed + (np.arange(1, count + 1, dtype=np.uint64) + done) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def _natural_log(x: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(x)  # mantissa in [1/2, 1)
    mantissa, exponent = mantissa * 2.0, exponent - 1.0
    large = mantissa > math.sqrt(2.0)
    mantissa, exponent = np.where(large, mantissa * 0.5, mantissa), exponent + large
    f = (mantissa - 1.0) / (mantissa + 1.0)
    series = np.zeros_like(f)
    for k in range(11, -1, -1):
        series = series * (f * f) + 1.0 / (2 * k + 1)
    return exponent * math.log(2.0) + 2.0 * f * series
