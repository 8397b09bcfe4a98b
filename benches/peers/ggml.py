"""ggml's quantizers and dequantizers, from the libraries inside the package llama-cpp-python."""

import ctypes
import sys
import time
from importlib import metadata, util
from pathlib import Path
from typing import Optional

import numpy as np

from .sample import Sample

# Numbers of `enum ggml_type`, which never change; each is checked against ggml_type_name below.
TYPES = {
    "Q4_0": 2, "Q5_0": 6, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ2_XXS": 16,
    "IQ2_XS": 17, "IQ3_XXS": 18, "IQ3_S": 21, "IQ2_S": 22, "IQ4_XS": 23, "TQ2_0": 35,
}  # fmt: skip

# A matrix is flattened and cut into rows of this many weights, or of 256 where they do not divide it: the K
# and IQ types need multiples of 256, and MiniLM's rows of 384 are none. A block of 256 may so begin in one
# row and end in the next, which with equal importances is all that changes.
ROW = 4096
BLOCK = 256


class Ggml:
    """The library, loaded."""

    def __init__(self) -> None:
        self.base = library("ggml-base")
        base = self.base
        base.ggml_type_name.restype = ctypes.c_char_p
        base.ggml_version.restype = ctypes.c_char_p
        base.ggml_row_size.restype = ctypes.c_size_t
        base.ggml_row_size.argtypes = [ctypes.c_int, ctypes.c_int64]
        base.ggml_quantize_chunk.restype = ctypes.c_size_t
        int64, pointer = ctypes.c_int64, ctypes.c_void_p
        base.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer, int64, int64, int64, pointer]
        self.dequantizers = {}
        for name, number in TYPES.items():
            found = base.ggml_type_name(number).decode()
            if found.lower() != name.lower():
                sys.exit(f"compare.py: this ggml calls type {number} {found}, not {name}")
            dequantize = getattr(base, f"dequantize_row_{found}")
            dequantize.restype, dequantize.argtypes = None, [pointer, pointer, int64]
            self.dequantizers[name] = dequantize
            base.ggml_quantize_init(number)

    def versions(self) -> dict[str, str]:
        version = self.base.ggml_version().decode()
        return {"ggml": version, "llama-cpp-python": metadata.version("llama-cpp-python")}

    def measure(self, name: str, matrices: list[np.ndarray], importance: bool) -> Sample:
        """Quantizes and dequantizes everything once."""
        total = Sample()
        for matrix in matrices:
            width = ROW if matrix.size % ROW == 0 else BLOCK
            source = matrix.reshape(-1, width)
            ones = np.ones(width, np.float32) if importance else None
            packed, seconds = self._quantize(name, source, ones)
            decoded = np.empty_like(source)
            self.dequantizers[name](packed.ctypes.data, decoded.ctypes.data, source.size)
            total.add(source, decoded, packed.nbytes, seconds, self._time_decoding(name, packed, width))
        return total

    def pack(self, name: str, source: np.ndarray) -> np.ndarray:
        """The bytes of a matrix whose rows are of whole blocks."""
        return self._quantize(name, source, np.ones(source.shape[1], np.float32))[0]

    def _quantize(
        self, name: str, source: np.ndarray, ones: Optional[np.ndarray]
    ) -> tuple[np.ndarray, float]:
        rows, width = source.shape
        packed = np.zeros(rows * self.base.ggml_row_size(TYPES[name], width), np.uint8)
        weights = None if ones is None else ones.ctypes.data
        start = time.perf_counter()
        written = self.base.ggml_quantize_chunk(
            TYPES[name], source.ctypes.data, packed.ctypes.data, 0, rows, width, weights
        )
        seconds = time.perf_counter() - start
        if written != packed.nbytes:
            sys.exit(f"compare.py: ggml wrote {written} bytes of {name}, expected {packed.nbytes}")
        return packed, seconds

    def _time_decoding(self, name: str, packed: np.ndarray, width: int) -> float:
        """Seconds to decode row by row into one buffer, less what as many calls for no weights take."""
        row = np.empty(width, np.float32)
        stride = self.base.ggml_row_size(TYPES[name], width)
        addresses = range(packed.ctypes.data, packed.ctypes.data + packed.nbytes, stride)
        dequantize, out = self.dequantizers[name], row.ctypes.data

        def run(count: int) -> float:
            start = time.perf_counter()
            for address in addresses:
                dequantize(address, out, count)
            return time.perf_counter() - start

        run(width)
        calls = min(run(0) for _ in range(3))
        return max(min(run(width) for _ in range(3)) - calls, 1e-9)


def library(stem: str) -> ctypes.CDLL:
    """The shared library `stem` of the package, without importing that."""
    return ctypes.CDLL(str(_find(stem)))


def _find(stem: str) -> Path:
    """Where it is."""
    spec = util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        sys.exit("compare.py: llama-cpp-python is not installed in this environment")
    folder = Path(spec.origin).parent / "lib"
    for name in (f"lib{stem}.so", f"lib{stem}.dylib", f"{stem}.dll"):
        if (folder / name).exists():
            return folder / name
    sys.exit(f"compare.py: no {stem} library in {folder}")
