"""Reader of .ccq files: large language models at 2 to 4 bits a weight.

    import ccq

    model = ccq.open("model.ccq")
    tensor = model["model.layers.0.mlp.down_proj.weight"]
    weights = tensor.dequantize()  # float32
    y = tensor.matvec(x)  # without decoding to memory

Arrays that are not decoded are views of the file: read-only, without a copy, and they keep the file open as long as
they live. A mapped file must not be modified or truncated meanwhile; replacing it by renaming another one over it is
fine. Everything here may be used by many threads at once, and decoding lets the others run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from . import _ccq
from ._ccq import Error

__all__ = ["Code", "Error", "File", "Segment", "Tensor", "open"]

_RAW_TYPES = {
    "BOOL": "?",
    "I8": "<i1",
    "U8": "<u1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "C64": "<c8",
    "F64": "<f8",
    "I64": "<i8",
    "U64": "<u8",
    # numpy has no such floats: their bits.
    "BF16": "<u2",
    "F8_E5M2": "<u1",
    "F8_E4M3": "<u1",
    "F8_E8M0": "<u1",
    "F8_E4M3FNUZ": "<u1",
    "F8_E5M2FNUZ": "<u1",
}
_CLUSTERS = {
    "q8": np.dtype([("step", "<u2"), ("zero_point", "<i2")]),
    "f32": np.dtype([("code_scale", "<f4"), ("code_zero_point", "<f4")]),
}


def open(
    path: str | os.PathLike[str],
    *,
    load: Literal["map", "memory"] = "map",
    access: Literal["normal", "sequential", "random"] = "normal",
    huge_pages: bool = False,
) -> File:
    """Opens a file, in time proportional to its index: a tensor is read when it is first touched.

    A model in several files (`x-00001-of-00003.ccq`) is opened by any of them, as if it were in one.

    `load="memory"` reads the whole file instead, for network disks and files that others may change. `access` tells
    the system what to read ahead of a mapped file; `huge_pages` asks for them where the system has them.

    Raises OSError where the file cannot be read, and Error where it is no valid .ccq file, or where another file of
    the model is missing or not of it; the message then begins with that file's name.
    """
    return File(_ccq.open(path, load, access, huge_pages))


class Segment(NamedTuple):
    """Overlapping states of a word: `states` of them, each `shift` bits below the one before."""

    state_bits: int
    states: int
    shift: int


class Code(NamedTuple):
    """The code description: all that a decoder needs besides the planes."""

    segments: tuple[Segment, ...]
    """From the top of the word down."""
    word_bits: int
    """8, or 16 little-endian."""
    scale_placement: str
    """"none", "embedded" in a group's last word, "nibble" or "signed8" in a plane."""
    scale_bits: int
    """Bits of a local scale."""
    group_size: int
    """Weights in a group; 0 where the row is one group."""
    cluster: str
    """"none", "q8" or "f32"."""


class File(Mapping[str, "Tensor"]):
    """An open file, or all files of a model in several: names and their tensors, in ascending order of the names."""

    def __init__(self, native: _ccq.File) -> None:
        self._native = native

    def __getitem__(self, name: str) -> Tensor:
        native = self._native.tensor(name)
        if native is None:
            raise KeyError(name)
        return Tensor(native)

    def __iter__(self) -> Iterator[str]:
        return iter(self._native.keys())

    def __len__(self) -> int:
        return len(self._native)

    def __repr__(self) -> str:
        return f"<ccq.File: {len(self)} tensors, {self.parameters} parameters>"

    @property
    def metadata(self) -> dict[str, bool | int | float | str | bytes]:
        """Typed key-values."""
        return self._native.metadata()

    @property
    def blobs(self) -> dict[str, memoryview]:
        """The model's own files, such as config.json, without a copy: `bytes(file.blobs["config.json"])`."""
        return {name: memoryview(blob) for name, blob in self._native.blobs().items()}

    @property
    def parameters(self) -> int:
        """Weights and other elements over all tensors."""
        return self._native.parameters()

    @property
    def format_version(self) -> tuple[int, int]:
        """Major and minor version of the format that the file was written in, the first one of several."""
        return self._native.format_version()

    def verify(self) -> None:
        """Reads everything and checks what opening cannot; raises Error for the first damage."""
        self._native.verify()


class Tensor:
    """A tensor of an open file."""

    def __init__(self, native: _ccq.Tensor) -> None:
        self._native = native

    def __repr__(self) -> str:
        return f"<ccq.Tensor {self.name!r}: {self.shape} {self.encoding}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self._native.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions, (..., out_features, in_features)."""
        return tuple(self._native.shape)

    @property
    def dtype(self) -> str:
        """Element type of the source, as safetensors names it: "BF16"."""
        return self._native.dtype

    @property
    def encoding(self) -> str:
        """How the values are stored: "raw", or a code such as "ccq-2.06"."""
        return self._native.encoding

    @property
    def bpw(self) -> float | None:
        """Bits a weight, every stored byte counted; None for an empty tensor."""
        return self._native.bpw

    @property
    def stored_bytes(self) -> int:
        """Bytes stored for the tensor."""
        return self._native.stored_bytes

    @property
    def code(self) -> Code | None:
        """The code description, or None if the tensor is raw."""
        fields = self._native.code
        if fields is None:
            return None
        return Code(tuple(Segment(*segment) for segment in fields[0]), *fields[1:])

    @property
    def planes(self) -> dict[str, npt.NDArray[Any]]:
        """The planes as they lie in the file, without a copy.

        | plane | shape | type |
        |---|---|---|
        | code | (rows, words of a row with its padding) | uint8 or uint16 |
        | local_scale | (rows, bytes of a row) | uint8, two scales each, or int8 |
        | super_scale | (rows,) | float32 |
        | cluster | (rows,) | (step, zero_point) or (code_scale, code_zero_point) |
        | raw | (bytes,) | uint8: the only plane of a raw tensor |
        """
        return {name: self._plane(name) for name in self._native.plane_names()}

    def numpy(self) -> npt.NDArray[Any]:
        """The values of a raw tensor without a copy; ValueError if it is quantized.

        Types that numpy has not are handed out as their bits: BF16 as uint16, F8 as uint8, to be viewed as what they
        are by `ml_dtypes` or torch: `torch.from_numpy(tensor.numpy().copy()).view(torch.bfloat16)`. Elements narrower
        than a byte (F4, F6) come as a flat array of bytes.
        """
        if self.encoding != "raw":
            raise ValueError(f"{self.name} is stored as {self.encoding}: dequantize() it, or take its planes")
        raw = memoryview(self._native.plane("raw"))
        if self.dtype not in _RAW_TYPES:
            return np.frombuffer(raw, np.uint8)
        return np.ndarray(self.shape, _RAW_TYPES[self.dtype], raw)

    def dequantize(
        self, rows: slice | None = None, out: npt.NDArray[np.float32] | None = None
    ) -> npt.NDArray[np.float32]:
        """The weights in float32, in the tensor's shape; with `rows`, those rows only, as a matrix.

        `out` is a contiguous float32 array of so many elements to decode into, which no other thread may touch
        meanwhile; it is returned. A raw tensor of F32, F16 or BF16 is converted; TypeError for another type.
        """
        if self.encoding == "raw":
            return self._floats(rows, out)
        count, in_features = self._matrix()
        start, end = _range(rows, count)
        shape = self.shape if rows is None else (end - start, in_features)
        if out is None:
            out = np.empty(shape, np.float32)
        self._native.decode(start, end, out)
        return out

    def matvec(
        self, x: npt.ArrayLike, rows: slice | None = None, *, int8: bool = False
    ) -> npt.NDArray[np.float32]:
        """`W x` in float32, without decoding the weights to memory; ValueError if the tensor is raw.

        W is the tensor as a matrix, (rows, in_features), stacked experts one below the other; `rows` takes some of
        them, so that threads can share a tensor. `x` is a vector, (in_features,), or several, (M, in_features), in
        float32, which no other thread may write to meanwhile; the result has the shape (rows,) or (M, rows).
        `int8=True` rounds the vectors to eight bits, with a scale for each 64 values, and is several times as fast.
        """
        if self.encoding == "raw":
            raise ValueError(f"{self.name} is raw: multiply with numpy()")
        count, in_features = self._matrix()
        start, end = _range(rows, count)
        vectors = np.asarray(x, np.float32, order="C")
        if vectors.ndim not in (1, 2) or vectors.shape[-1] != in_features:
            expected = f"({in_features},) or (M, {in_features})"
            raise ValueError(f"{self.name}: x of shape {vectors.shape}, expected {expected}")
        out = np.empty((end - start, *vectors.shape[:-1]), np.float32)
        if out.size > 0:
            self._native.matvec((start, end), vectors, out, int8)
        return out.T

    def prefetch(self) -> None:
        """Asks the system to load the tensor, without waiting for it."""
        self._native.prefetch()

    def _matrix(self) -> tuple[int, int]:
        """Rows and weights a row."""
        return cast(tuple[int, int], self._native.rows_and_features)

    def _plane(self, name: str) -> npt.NDArray[Any]:
        plane, code = memoryview(self._native.plane(name)), self.code
        if code is None:
            return np.frombuffer(plane, np.uint8)
        rows = self._matrix()[0]
        if name == "cluster":
            return np.frombuffer(plane, _CLUSTERS[code.cluster])
        if name == "super_scale":
            return np.frombuffer(plane, "<f4")
        if name == "local_scale":
            return np.frombuffer(plane, "<i1" if code.scale_placement == "signed8" else "<u1").reshape(rows, -1)
        return np.frombuffer(plane, "<u1" if code.word_bits == 8 else "<u2").reshape(rows, -1)

    def _floats(self, rows: slice | None, out: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
        """A raw tensor converted to float32."""
        values = self.numpy()
        if self.dtype not in ("F32", "F16", "BF16"):
            raise TypeError(f"{self.name} holds {self.dtype}: take numpy()")
        if rows is not None:
            start, end = _range(rows, len(values.reshape(-1, self.shape[-1])))
            values = values.reshape(-1, self.shape[-1])[start:end]
        if self.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        if out is None:
            return values.astype(np.float32)
        if not out.flags.c_contiguous or out.dtype != np.float32 or out.size != values.size:
            raise ValueError(f"{self.name}: expected {values.size} contiguous values of float32 in `out`")
        out.reshape(-1)[:] = values.reshape(-1)
        return out


def _range(rows: slice | None, count: int) -> tuple[int, int]:
    start, end, step = (rows or slice(None)).indices(count)
    if step != 1:
        raise ValueError(f"rows with a step of {step}, expected 1")
    return start, max(start, end)
