"""Triton kernels that multiply with WINT2 weights: the bytes of ccq-2.06 in groups of 64, as a container holds them.

A program takes some rows, and of each some groups at a time. A lane has a group: 16 bytes in one load, one local scale.

    v = (a q + 256 zp + 128) >> 8  (q8)   or   floor(q code_scale + code_zp + 1/2)  (f32, FastDeploy's)
    weight 4 i + j = (((v >> (9 - 3 j)) & 63) - 32) * local * super

States are masked where they stand and put into the mantissa of 2^23, which makes them floats without a conversion;
the power of two that is left goes into the activations, once for all rows of a program. `product` is for one token,
and sums in f32. `products` is for up to 16: it rounds weights to the type of the activations, for the tensor cores.
Activations come permuted (`permuted`), which is not counted as time. Block sizes are tuned on the card.

On a machine without a GPU, TRITON_INTERPRET=1 runs the same kernels on the CPU, but for bf16 in `products`, which the
interpreter does not multiply.
"""

import importlib
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable

import torch
import triton
import triton.language as tl

REFERENCE = Path(__file__).resolve().parents[2] / "spec" / "reference"
GROUP = 64
MAX_TOKENS = 16
CLUSTERS = {"q8": 1, "f32": 2}  # as a code record has them


@triton.jit
def _expanded(q, cluster, rows, row_ok, F32: tl.constexpr):
    """The codes of bytes [rows, groups, 16]."""
    first = tl.load(cluster + 2 * rows, mask=row_ok, other=0)
    second = tl.load(cluster + 2 * rows + 1, mask=row_ok, other=0)
    if F32:
        addend = second + 0.5
        return tl.floor(tl.fma(q.to(tl.float32), first[:, None, None], addend[:, None, None])).to(tl.int32)
    factor = first.to(tl.int32) & 0xFFFF
    addend = 256 * second.to(tl.int32) + 128
    return (q.to(tl.int32) * factor[:, None, None] + addend[:, None, None]) >> 8


@triton.jit
def _local_scales(local, rows, groups, all_groups, mask):
    """The nibbles of groups [rows, groups], as floats."""
    stride = (all_groups + 1) // 2
    pair = tl.load(local + rows[:, None] * stride + groups[None, :] // 2, mask=mask, other=0).to(tl.int32)
    return ((pair >> (4 - 4 * (groups % 2)[None, :])) & 15).to(tl.float32)


@triton.jit
def _states(v, J: tl.constexpr):
    """(state j - 32) * 2^(9 - 3 j), exactly."""
    SHIFT: tl.constexpr = 9 - 3 * J
    placed = (v & (63 << SHIFT)) | 0x4B000000
    return placed.to(tl.float32, bitcast=True) - (8388608.0 + 32 * (1 << SHIFT))


@triton.jit
def product(
    code, local, super_scale, cluster, x, y, all_rows, all_groups,
    F32: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """y = W x, of one token."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_ok = rows < all_rows
    total = tl.zeros((ROWS,), tl.float32)
    for begin in range(0, all_groups, GROUPS):
        groups = begin + tl.arange(0, GROUPS)
        group_ok = groups < all_groups
        places = groups[:, None] * 16 + tl.arange(0, 16)[None, :]
        ok = row_ok[:, None] & group_ok[None, :]
        stride = rows.to(tl.int64)[:, None, None] * (all_groups * 16)
        q = tl.load(code + stride + places[None, :, :], mask=ok[:, :, None], other=0)
        v = _expanded(q, cluster, rows, row_ok, F32)
        sums = tl.zeros((ROWS, GROUPS, 16), tl.float32)
        for j in tl.static_range(4):
            of_state = tl.load(x + j * (all_groups * 16) + places, mask=group_ok[:, None], other=0.0)
            of_state = of_state.to(tl.float32) * (1.0 / (1 << (9 - 3 * j)))
            sums = tl.fma(_states(v, j), of_state[None, :, :], sums)
        total += tl.sum(tl.sum(sums, axis=2) * _local_scales(local, rows, groups, all_groups, ok), axis=1)
    tl.store(y + rows, total * tl.load(super_scale + rows, mask=row_ok, other=0.0), mask=row_ok)


@triton.jit
def products(
    code, local, super_scale, cluster, x, y, all_rows, all_groups, tokens,
    F32: tl.constexpr, ROWS: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """y = W x, of up to 16 tokens: y[token, row]."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    row_ok = rows < all_rows
    token = tl.arange(0, 16)
    total = tl.zeros((ROWS, 16), tl.float32)
    for begin in range(0, all_groups, GROUPS):
        groups = begin + tl.arange(0, GROUPS)
        group_ok = groups < all_groups
        places = groups[:, None] * 16 + tl.arange(0, 16)[None, :]
        ok = row_ok[:, None] & group_ok[None, :]
        stride = rows.to(tl.int64)[:, None, None] * (all_groups * 16)
        q = tl.load(code + stride + places[None, :, :], mask=ok[:, :, None], other=0)
        v = _expanded(q, cluster, rows, row_ok, F32)
        scale = _local_scales(local, rows, groups, all_groups, ok)[:, :, None]
        inputs = begin * 16 + tl.arange(0, GROUPS * 16)
        x_ok = (inputs < all_groups * 16)[:, None] & (token < tokens)[None, :]
        for j in tl.static_range(4):
            weights = _states(v, j) * (scale * (1.0 / (1 << (9 - 3 * j))))
            weights = tl.reshape(weights.to(x.dtype.element_ty), (ROWS, GROUPS * 16))
            at = token[None, :] * (all_groups * 64) + j * (all_groups * 16) + inputs[:, None]
            total = tl.dot(weights, tl.load(x + at, mask=x_ok, other=0.0), total)
    total = total * tl.load(super_scale + rows, mask=row_ok, other=0.0)[:, None]
    at = token[None, :] * all_rows + rows[:, None]
    tl.store(y + at, total, mask=row_ok[:, None] & (token < tokens)[None, :])


def _tuned(kernel: Any, *sizes: tuple[int, int, int]) -> Any:
    """Tries rows, groups and warps of a program; the interpreter, which has no clock, takes the first."""
    configs = [triton.Config({"ROWS": rows, "GROUPS": groups}, num_warps=warps) for rows, groups, warps in sizes]
    if os.environ.get("TRITON_INTERPRET") == "1":
        configs = configs[:1]
    return triton.autotune(configs, key=["all_rows", "all_groups", "F32"])(kernel)


# One warp has nobody to wait for, and several rows share what it read of the activations.
_PRODUCT = _tuned(
    product, (4, 32, 1), (1, 32, 1), (2, 32, 1), (8, 32, 1), (4, 64, 1), (2, 32, 2), (4, 32, 4), (8, 32, 4)
)
_PRODUCTS = _tuned(
    products, (16, 2, 4), (16, 4, 4), (16, 8, 4), (32, 4, 4), (32, 8, 4), (64, 4, 4), (64, 4, 8), (16, 16, 4)
)


@dataclass(frozen=True)
class Planes:
    """A matrix in a container's planes, as tensors of a device."""

    cluster_kind: str
    in_features: int
    code: torch.Tensor
    local_scale: torch.Tensor
    super_scale: torch.Tensor
    cluster: torch.Tensor

    @property
    def rows(self) -> int:
        return self.super_scale.shape[0]

    @property
    def groups(self) -> int:
        return -(-self.in_features // GROUP)


def planes(kind: str, in_features: int, parts: dict[str, bytes], device: str) -> Planes:
    """From the bytes of the planes, by their names in the container."""

    def tensor(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.frombuffer(bytearray(parts[name]), dtype=dtype).to(device)

    cluster = tensor("cluster", torch.float32 if kind == "f32" else torch.int16)
    bytes_of = [tensor(name, torch.uint8) for name in ("code", "local-scale")]
    return Planes(kind, in_features, *bytes_of, tensor("super-scale", torch.float32), cluster)


def any_planes(kind: str, rows: int, in_features: int, device: str) -> Planes:
    """Random bytes, with parameters that a quantizer could have written: the codes stay within 15 bits."""
    groups = -(-in_features // GROUP)

    def any_bytes(size: int) -> torch.Tensor:
        return torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)

    factor = torch.randint(20_000, 31_000, (rows,), device=device)
    zero_point = torch.randint(0, 1500, (rows,), device=device)
    if kind == "f32":
        pair = torch.stack([factor / 256.0, zero_point.float()], 1)
    else:
        pair = torch.stack([factor.to(torch.int16), zero_point.to(torch.int16)], 1)
    super_scale = torch.rand(rows, device=device) * 1e-3 + 1e-4
    code, local = any_bytes(rows * groups * 16), any_bytes(rows * (-(-groups // 2)))
    return Planes(kind, in_features, code, local, super_scale, pair.flatten())


def permuted(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Activations [tokens, in_features] as the kernels read them: the first of every four, then the second."""
    padded = torch.nn.functional.pad(x, (0, groups * GROUP - x.shape[1]))
    return padded.view(x.shape[0], -1, 4).transpose(1, 2).contiguous()


def multiply(w: Planes, x: torch.Tensor, y: torch.Tensor) -> None:
    """y[token, row], f32, of permuted activations."""
    tokens, flags = x.shape[0], {"F32": w.cluster_kind == "f32"}
    weights = (w.code, w.local_scale, w.super_scale, w.cluster)

    def grid(sizes: dict[str, int]) -> tuple[int]:
        return (triton.cdiv(w.rows, sizes["ROWS"]),)

    if tokens == 1:
        _PRODUCT[grid](*weights, x, y, w.rows, w.groups, **flags)
    elif tokens <= MAX_TOKENS:
        _PRODUCTS[grid](*weights, x, y, w.rows, w.groups, tokens, **flags)
    else:
        raise ValueError(f"{tokens} tokens, expected 1 to {MAX_TOKENS}")


def reference() -> Any:
    """The decoder of spec/reference."""
    if str(REFERENCE) not in sys.path:
        sys.path.append(str(REFERENCE))
    return importlib.import_module("ccq_codes")


def decoded_row(w: Planes, row: int) -> torch.Tensor:
    """A row as the reference decodes it, in f64."""
    codes = reference()
    record = struct.pack("<12sBBBBHB5s", bytes([6, 4, 3]), 1, 8, 2, 4, GROUP, CLUSTERS[w.cluster_kind], b"")
    of_row = []
    for plane in (w.code, w.local_scale, w.super_scale, w.cluster):
        part = plane.view(w.rows, -1)[row].contiguous().cpu().view(torch.uint8)
        of_row.append(bytes(part.tolist()))
    values = codes.decode_row(codes.Encoding(record, 0), w.in_features, *of_row, {})
    return torch.frombuffer(bytearray(values), dtype=torch.float32).double()


def largest_error(w: Planes, x: torch.Tensor, y: torch.Tensor, rows: Iterable[int]) -> float:
    """How far products of some rows are from those with the reference's weights, over the sum of abs(w x)."""
    worst = 0.0
    for row in rows:
        terms = decoded_row(w, row)[None, :] * x.cpu().double()
        error = (y.view(x.shape[0], -1)[:, row].cpu().double() - terms.sum(1)).abs() / terms.abs().sum(1)
        worst = max(worst, float(error.nan_to_num(0.0 if bool((terms == 0).all()) else float("inf")).max()))
    return worst
