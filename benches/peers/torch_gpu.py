"""Torch's bf16 product, and Triton kernels for WINT2, on the GPU: one JSON object.

    python3 -m peers.torch_gpu 8192x8192 ...

The Triton kernels (`peers/wint2.py`) get planes as a container has them, of ccq-2.06 in groups of 64: with parameters
in q8, which our quantizer writes, and in f32, which is FastDeploy's WINT2. Their products are compared with those
of the reference decoder's weights before they are timed. Everything is timed as `ccq-verify bench` does it: copies of
the weights, together larger than the card's cache, take turns in a CUDA graph, whose median time is shared out.
"""

import json
import sys
from statistics import median
from typing import Any, Callable

import torch

try:
    import triton

    from . import wint2
except ImportError:
    triton = None

TOKENS = (1, 4, 16)
RUNS = 50
CHECKED_ROWS = 8
# Errors over the sum of abs(w x): sums in f32; weights rounded to bf16.
MOST_ERROR = {1: 1e-5, 4: 2**-8, 16: 2**-8}


def time_in_turn(run: Callable[[int], Any], copies: int) -> float:
    """Median seconds of a run, of copies that take turns."""
    for i in range(copies):
        run(i)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(copies):
            run(i)
    times = []
    for _ in range(RUNS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return median(times) / copies


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


def packed(kind: str, rows: int, columns: int) -> list[dict[str, Any]]:
    """Products with WINT2 weights, whose clusters are of this kind."""
    copies = copies_of(rows * columns // 4)
    weights = [wint2.any_planes(kind, rows, columns, "cuda") for _ in range(copies)]
    results = []
    for tokens in TOKENS:
        x = torch.randn(tokens, columns, device="cuda", dtype=torch.bfloat16)
        inputs = wint2.permuted(x, weights[0].groups)
        y = torch.empty(tokens, rows, device="cuda", dtype=torch.float32)
        wint2.multiply(weights[0], inputs, y)
        error = wint2.largest_error(weights[0], x, y, range(0, rows, -(-rows // CHECKED_ROWS)))
        if not error <= MOST_ERROR[tokens]:
            sys.exit(f"torch_gpu.py: the Triton kernel's products, {kind}, M = {tokens}, are {error} off")
        seconds = time_in_turn(lambda i: wint2.multiply(weights[i], inputs, y), copies)
        results.append({"name": f"triton WINT2 {kind}", "tokens": tokens, "median_seconds": seconds, "error": error})
    return results


def main() -> None:
    results = []
    torch.backends.cuda.matmul.allow_tf32 = False
    for shape in sys.argv[1:]:
        rows, columns = (int(part) for part in shape.split("x"))
        found = dense(rows, columns)
        if triton is not None:
            found += [row for kind in wint2.CLUSTERS for row in packed(kind, rows, columns)]
        results += [{**row, "shape": shape} for row in found]
    versions = {"torch": torch.__version__, **({"triton": triton.__version__} if triton is not None else {})}
    print(json.dumps({"versions": versions, "results": results}))


if __name__ == "__main__":
    main()
