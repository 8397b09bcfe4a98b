"""How fast matrices are decoded and multiplied, ours through the `speed` example, ggml's through its graphs."""

import ctypes
import datetime
import itertools
import os
import subprocess
import sys
import time
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_void_p
from pathlib import Path
from statistics import median
from typing import Any, Optional

import numpy as np

from . import data, ggml, ours

Row = dict[str, Any]
ENCODINGS = ["ccq-2.06", "ccq-2.5", "ccq-2.75", "ccq-3.31", "wint4", "ccq-5.5", "wint8", "int2"]
# Ours, and the type of ggml nearest in size; "repacked" is the form in which ggml multiplies it fastest.
PAIRS = [
    ("ccq-2.06", "IQ2_XXS"),
    ("ccq-2.5", "IQ2_S"),
    ("ccq-2.75", "Q2_K"),
    ("ccq-2.75", "Q2_K repacked"),
    ("ccq-3.31", "Q3_K"),
    ("ccq-3.31", "IQ3_S"),
    ("wint4", "Q4_K"),
    ("wint4", "Q4_K repacked"),
    ("ccq-5.5", "Q5_K"),
]
ROWS = COLUMNS = 4096
# Weights are taken in turn from so many bytes of copies, of which no cache keeps any.
COPIES_BYTES = 256 << 20
DECODE_COPIES = 8
# Threads get more time to come to cores of their own; a cached product takes one copy, of 4 to 17 MB, again and again.
TURNS = 4
CACHED_PASSES = 256
DECODING = ["decode", "decode_f16", "decode_bf16", "matrix", "memset"]


def everything(machine: Row, versions: Row, program: Optional[Path], rounds: int) -> Row:
    """The tables `kernels` and `products`."""
    speed = Speed(program or ours.build("ccq", "speed"))
    kernels = _kernels(speed, rounds)
    peer = Graphs()
    return {
        "date": datetime.date.today().isoformat(),
        "machine": machine,
        "versions": versions,
        "rounds": rounds,
        "shape": f"{ROWS} x {COLUMNS}",
        "weights": ROWS * COLUMNS,
        "kernels": kernels,
        "products": [_pair(speed, peer, *pair, rounds) for pair in PAIRS],
    }


def _kernels(speed: "Speed", rounds: int) -> list[Row]:
    """Gweights/s of every operation, the best of all rounds; in each, encodings follow each other and one thread and two
    alternate, so that what a machine's neighbours do for some seconds does not meet one encoding alone."""
    runs = {encoding: _runs(speed.copies(encoding)) for encoding in ENCODINGS}
    samples: dict[str, dict[str, list[float]]] = {
        encoding: {name: [] for name in of} for encoding, of in runs.items()
    }
    for number in range(rounds):
        print(f"kernels, round {number + 1}", file=sys.stderr)
        for encoding, of in runs.items():
            for name, run in of.items():
                samples[encoding][name].append(speed.gweights(encoding, *run))
    return [
        {
            "encoding": encoding,
            "megabytes": speed.megabytes[encoding],
            "best": {name: max(values) for name, values in of.items()},
            "of_memset": median(a / b for a, b in zip(of["matrix"], of["memset"])),
            "rounds": of,
        }
        for encoding, of in samples.items()
    ]


def _runs(copies: int) -> dict[str, tuple[str, int, int, int]]:
    """Operation, copies of the weights, passes and threads of every measurement."""
    runs = {name: (name, DECODE_COPIES, DECODE_COPIES, 1) for name in DECODING}
    runs["exact"] = ("exact", copies, copies, 1)
    for name in ("int8", "read", "read_ahead", "int8 cached"):
        turns = (1, CACHED_PASSES) if "cached" in name else (copies, TURNS * copies)
        runs |= {f"{name} by {threads}": (name.split()[0], *turns, threads) for threads in (1, 2)}
    return runs


def _pair(speed: "Speed", peer: "Graphs", encoding: str, kind: str, rounds: int) -> Row:
    """The int8 product of ours and ggml's of a vector, one thread, in turns: in a round on the same processor, as another
    machine's work on one of them would slow either one of ours or one of ggml's, and the next round on the next."""
    name, _, repacked = kind.partition(" ")
    product = peer.product(name, bool(repacked))
    copies = speed.copies(encoding)
    both: list[tuple[float, float]] = []
    processors = os.sched_getaffinity(0)
    turns = itertools.cycle(sorted(processors))
    for number, processor in zip(range(rounds), turns):
        print(f"products, round {number + 1}: {encoding} / {kind}", file=sys.stderr)
        _keep_on({processor}, speed)
        mine = speed.gweights(encoding, "int8", copies, copies, 1)
        both.append((mine, ROWS * COLUMNS / product.best() / 1e9))
    _keep_on(processors, speed)
    product.free()
    return {
        "ours": encoding,
        "peer": kind,
        "gweights_per_s": [max(mine for mine, _ in both), max(theirs for _, theirs in both)],
        "ratio": median(mine / theirs for mine, theirs in both),
        "rounds": both,
    }


def _keep_on(processors: set[int], speed: "Speed") -> None:
    """Has the example and this process, in which ggml works, run on these processors."""
    for process in (speed.process.pid, 0):
        os.sched_setaffinity(process, processors)


class Speed:
    """The example, asked line by line."""

    def __init__(self, program: Path) -> None:
        self.process = subprocess.Popen(
            [str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.megabytes: dict[str, float] = {}

    def copies(self, encoding: str) -> int:
        if encoding not in self.megabytes:
            self._ask(encoding, "decode", 1, 1, 1)
        return int(COPIES_BYTES / 1e6 / self.megabytes[encoding]) + 1

    def gweights(self, encoding: str, operation: str, copies: int, passes: int, threads: int) -> float:
        return ROWS * COLUMNS / self._ask(encoding, operation, copies, passes, threads) / 1e9

    def _ask(self, encoding: str, operation: str, copies: int, passes: int, threads: int) -> float:
        process = self.process
        if process.stdin is None or process.stdout is None:
            raise AssertionError("opened with pipes")
        process.stdin.write(f"{encoding} {operation} {ROWS} {COLUMNS} {copies} {passes} {threads} 1\n")
        process.stdin.flush()
        answer = process.stdout.readline().split()
        if len(answer) != 2:
            sys.exit(f"compare.py: the speed example ended at {encoding} {operation}")
        self.megabytes[encoding] = float(answer[1])
        return float(answer[0])


class Graphs:
    """ggml's own matrix product, on one thread of its CPU backend."""

    def __init__(self) -> None:
        self.base, self.cpu = ggml.library("ggml-base"), ggml.library("ggml-cpu")
        for library, name, result, *arguments in [
            (self.base, "ggml_init", c_void_p, Parameters),
            (self.base, "ggml_free", None, c_void_p),
            (self.base, "ggml_new_tensor_2d", c_void_p, c_void_p, c_int, c_int64, c_int64),
            (self.base, "ggml_mul_mat", c_void_p, c_void_p, c_void_p, c_void_p),
            (self.base, "ggml_new_graph", c_void_p, c_void_p),
            (self.base, "ggml_build_forward_expand", None, c_void_p, c_void_p),
            (self.base, "ggml_tensor_overhead", c_size_t),
            (self.base, "ggml_graph_overhead", c_size_t),
            (self.base, "ggml_backend_alloc_ctx_tensors_from_buft", c_void_p, c_void_p, c_void_p),
            (self.base, "ggml_backend_buffer_free", None, c_void_p),
            (self.base, "ggml_backend_buft_name", c_char_p, c_void_p),
            (self.base, "ggml_backend_tensor_set", None, c_void_p, c_void_p, c_size_t, c_size_t),
            (self.base, "ggml_backend_graph_compute", c_int, c_void_p, c_void_p),
            (self.base, "ggml_backend_cpu_buffer_type", c_void_p),
            (self.base, "ggml_backend_reg_dev_get", c_void_p, c_void_p, c_size_t),
            (self.base, "ggml_backend_reg_get_proc_address", c_void_p, c_void_p, c_char_p),
            (self.cpu, "ggml_backend_cpu_reg", c_void_p),
            (self.cpu, "ggml_backend_cpu_init", c_void_p),
            (self.cpu, "ggml_backend_cpu_set_n_threads", None, c_void_p, c_int),
        ]:
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self.backend = self.cpu.ggml_backend_cpu_init()
        self.cpu.ggml_backend_cpu_set_n_threads(self.backend, 1)
        self.quantizer = ggml.Ggml()

    def product(self, name: str, repacked: bool) -> "Product":
        return Product(self, name, self._repack() if repacked else self.base.ggml_backend_cpu_buffer_type())

    def _repack(self) -> int:
        """The kind of memory whose tensors ggml lays out for its fastest products."""
        registry = self.cpu.ggml_backend_cpu_reg()
        address = self.base.ggml_backend_reg_get_proc_address(registry, b"ggml_backend_dev_get_extra_bufts")
        kinds = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)
        for kind in kinds(self.base.ggml_backend_reg_dev_get(registry, 0)):
            if kind is None:
                break
            if b"REPACK" in self.base.ggml_backend_buft_name(kind):
                return kind
        sys.exit("compare.py: this ggml has no repacked forms")


class Parameters(ctypes.Structure):
    """`struct ggml_init_params`."""

    _fields_ = [("size", c_size_t), ("memory", c_void_p), ("no_alloc", c_bool)]


class Product:
    """Copies of a matrix of one type, and a graph that multiplies each with a vector."""

    def __init__(self, graphs: Graphs, name: str, memory: int) -> None:
        self.graphs, base = graphs, graphs.base
        kind = ggml.TYPES[name]
        size = ROWS * base.ggml_row_size(kind, COLUMNS)
        copies = COPIES_BYTES // size + 1
        room = copies * (3 * base.ggml_tensor_overhead() + base.ggml_graph_overhead()) + (1 << 20)
        self.contexts = [base.ggml_init(Parameters(room, None, True)) for _ in range(2)]
        of_weights, of_vectors = self.contexts
        weights = [base.ggml_new_tensor_2d(of_weights, kind, COLUMNS, ROWS) for _ in range(copies)]
        x = base.ggml_new_tensor_2d(of_vectors, 0, COLUMNS, 1)
        products = [base.ggml_mul_mat(of_vectors, tensor, x) for tensor in weights]
        self.places = [
            base.ggml_backend_alloc_ctx_tensors_from_buft(of_weights, memory),
            base.ggml_backend_alloc_ctx_tensors_from_buft(of_vectors, base.ggml_backend_cpu_buffer_type()),
        ]
        packed = graphs.quantizer.pack(name, data.gaussian(1, 64 * COLUMNS).reshape(64, COLUMNS))
        packed = np.tile(packed, ROWS // 64)
        for tensor in weights:
            base.ggml_backend_tensor_set(tensor, packed.ctypes.data, 0, size)
        vector = data.gaussian(2, COLUMNS)
        base.ggml_backend_tensor_set(x, vector.ctypes.data, 0, vector.nbytes)
        self.graph_list = []
        for product in products:
            graph = base.ggml_new_graph(of_vectors)
            base.ggml_build_forward_expand(graph, product)
            self.graph_list.append(graph)

    def best(self) -> float:
        """Seconds of the fastest pass over one copy, each taken once."""
        best = float("inf")
        for graph in self.graph_list:
            start = time.perf_counter()
            self.graphs.base.ggml_backend_graph_compute(self.graphs.backend, graph)
            best = min(best, time.perf_counter() - start)
        return best

    def free(self) -> None:
        for place in self.places:
            self.graphs.base.ggml_backend_buffer_free(place)
        for context in self.contexts:
            self.graphs.base.ggml_free(context)
