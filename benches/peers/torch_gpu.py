"""Torch's bf16 product, and a Triton kernel for 2-bit weights, on the GPU: one JSON object.

    python3 -m peers.torch_gpu 8192x8192 ...

The Triton kernel is what a straightforward one looks like, not the best there could be: 2-bit integers, a bf16
scale for each 64 weights, one token; a program multiplies a block of rows, and decodes to f32 before it adds up.
Each is timed by events on copies of the weights that take turns, together larger than the card's cache. An event
takes about two microseconds more than a kernel in a graph.
"""

import json
import sys
from statistics import median
from typing import Any, Callable

import torch

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

TOKENS = (1, 4, 16)
RUNS = 200
GROUP = 64

if triton is not None:

    @triton.jit
    def two_bit(words, scales, x, y, columns, ROWS: tl.constexpr, WIDTH: tl.constexpr):
        """y = W x. A byte holds weights 4 i to 4 i + 3, lowest bits first, each less 2."""
        rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
        total = tl.zeros((ROWS,), tl.float32)
        for begin in range(0, columns, WIDTH):
            places = begin + tl.arange(0, WIDTH)
            packed = tl.load(words + rows[:, None] * (columns // 4) + places[None, :] // 4)
            states = ((packed >> (places[None, :] % 4 * 2)) & 3).to(tl.float32) - 2.0
            scale = tl.load(scales + rows[:, None] * (columns // 64) + places[None, :] // 64).to(tl.float32)
            total += tl.sum(states * scale * tl.load(x + places)[None, :].to(tl.float32), axis=1)
        tl.store(y + rows, total)


def time_in_turn(run: Callable[[int], Any], copies: int) -> float:
    """Median seconds of a run, of copies that take turns."""
    for i in range(10):
        run(i % copies)
    times = []
    for i in range(RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run(i % copies)
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return median(times)


def copies_of(size: int) -> int:
    """Copies of `size` bytes that together are four times any cache of today's cards."""
    return max(2, -(-(512 << 20) // size))


def dense(rows: int, columns: int) -> list[dict[str, Any]]:
    copies = copies_of(rows * columns * 2)
    weights = torch.randn(copies, rows, columns, device="cuda", dtype=torch.bfloat16)
    results = []
    for tokens in TOKENS:
        x = torch.randn(tokens, columns, device="cuda", dtype=torch.bfloat16)
        seconds = time_in_turn(lambda i: x @ weights[i].T, copies)
        results.append({"name": "torch bf16", "tokens": tokens, "median_seconds": seconds})
    return results


def packed(rows: int, columns: int) -> dict[str, Any]:
    copies = copies_of(rows * columns // 4)
    words = torch.randint(0, 256, (copies, rows, columns // 4), device="cuda", dtype=torch.uint8)
    scales = torch.rand(copies, rows, columns // GROUP, device="cuda").to(torch.bfloat16)
    x = torch.randn(columns, device="cuda", dtype=torch.bfloat16)
    y = torch.empty(rows, device="cuda", dtype=torch.float32)

    def run(i: int) -> None:
        two_bit[(rows // 16,)](words[i], scales[i], x, y, columns, ROWS=16, WIDTH=256, num_warps=4)

    run(0)
    places = torch.arange(4, device="cuda", dtype=torch.uint8) * 2
    states = (words[0][:, :, None] >> places & 3).reshape(rows, columns).to(torch.float32) - 2.0
    expected = (states * scales[0].float().repeat_interleave(GROUP, 1)) @ x.float()
    if not torch.allclose(y, expected, rtol=1e-3, atol=1e-2 * columns**0.5):
        sys.exit("torch_gpu.py: the Triton kernel's product is wrong")
    return {"name": "triton 2-bit", "tokens": 1, "median_seconds": time_in_turn(run, copies)}


def main() -> None:
    results = []
    torch.backends.cuda.matmul.allow_tf32 = False
    for shape in sys.argv[1:]:
        rows, columns = (int(part) for part in shape.split("x"))
        found = dense(rows, columns) + ([packed(rows, columns)] if triton is not None else [])
        results += [{**row, "shape": shape} for row in found]
    versions = {"torch": torch.__version__, **({"triton": triton.__version__} if triton is not None else {})}
    print(json.dumps({"versions": versions, "results": results}))


if __name__ == "__main__":
    main()
