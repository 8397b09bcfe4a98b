"""Everything that is measured, in the order in which it is measured."""

import argparse
import datetime
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Callable, Optional

import numpy as np

from . import bits, data, kernels, ours, rtn, study
from .ggml import Ggml

Row = dict[str, Any]
# A name, and what measures it once on a data set.
Contender = tuple[str, Callable[[data.Dataset], Row]]

QUALITIES = ("fast", "balanced", "best")
# Ours, and the types of ggml nearest in size; the first of them is the one to beat.
FAMILIES: dict[str, list[str]] = {
    "ccq-2.06": ["IQ2_XXS", "IQ2_XS"],
    "ccq-2.5": ["IQ2_S"],
    "ccq-2.75": ["Q2_K", "Q2_K plain"],
    "ccq-3.31": ["Q3_K", "Q3_K plain", "IQ3_S", "IQ3_XXS"],
    "wint4": ["Q4_K", "Q4_K plain", "Q4_0", "Q4_0 plain", "IQ4_XS"],
    "ccq-5.5": ["Q5_K", "Q5_K plain", "Q5_0", "Q5_0 plain", "Q6_K"],
    "int2": ["TQ2_0"],
}
SPEEDS = ("quantize_mweights_per_s", "decode_gweights_per_s")


def everything(arguments: argparse.Namespace) -> dict[str, Any]:
    """The results that compare.py writes."""
    start = _machine()
    library = Ggml()
    figures = arguments.figures or ours.build("ccq-quantize", "figures")
    quick, cache = arguments.quick, arguments.cache
    rounds = 1 if quick else arguments.rounds
    sets = [data.gauss(cache, 16), data.layer0()] if quick else [data.gauss(cache, 256), data.minilm(cache)]
    rows: list[Row] = []
    pairs: list[Row] = []
    for tensors in sets:
        for encoding, peers in FAMILIES.items():
            family = _family(figures, library, tensors, encoding, rounds)
            rows += family
            pairs += _pairs(family, peers)
        rows += _in_turn([_rounding(width) for width in (2, 4)], tensors, 1)
        rows += _groups(figures, tensors)
    return {
        "date": datetime.date.today().isoformat(),
        "machine": start,
        "versions": {"ccq": _version(), "numpy": np.__version__, **library.versions()},
        "threads": 1,
        "rounds": rounds,
        "data": {tensors.name: tensors.shape() for tensors in sets},
        "rows": rows,
        "pairs": pairs,
        "codes": study.codes(quick),
        "positions": study.positions(quick),
    }


def speeds(arguments: argparse.Namespace, results: dict[str, Any]) -> dict[str, Any]:
    """The same results with the speed of the kernels measured anew."""
    machine, versions = _machine(), {"ccq": _version(), **Ggml().versions()}
    rounds = 1 if arguments.quick else max(arguments.rounds, 5)
    return {**results, "speed": kernels.everything(machine, versions, arguments.speed, rounds)}


def _family(figures: Path, library: Ggml, tensors: data.Dataset, encoding: str, rounds: int) -> list[Row]:
    """The paper's method once, then ours and the peers in turn, round by round."""
    paper = [] if encoding == "wint4" else [_ours(figures, encoding, "balanced", "paper")]
    qualities = ("balanced",) if encoding == "int2" else QUALITIES
    mine = [_ours(figures, encoding, quality, "search") for quality in qualities]
    theirs = [_peer(library, name) for name in FAMILIES[encoding]]
    rows = _in_turn(paper, tensors, 1) + _in_turn(_alternate(mine, theirs), tensors, rounds)
    order = [name for name, _ in [*paper, *mine, *theirs]]
    return sorted(rows, key=lambda row: order.index(row["name"]))


def _ours(figures: Path, encoding: str, quality: str, method: str) -> Contender:
    name = f"{encoding} {method if method == 'paper' else quality}"
    return name, lambda tensors: ours.measure(figures, tensors, encoding, quality, method)


def _peer(library: Ggml, name: str) -> Contender:
    kind, _, plain = name.partition(" ")
    return name, lambda tensors: library.measure(kind, tensors.matrices, importance=not plain).row()


def _rounding(width: int) -> Contender:
    return f"RTN {width}-bit g64", lambda tensors: rtn.measure(width, tensors.matrices).row()


def _groups(figures: Path, tensors: data.Dataset) -> list[Row]:
    """Group sizes, and a check of the formula for bits a weight."""
    rows = []
    for encoding in bits.WORDS:
        for group in bits.GROUPS:
            row = ours.measure(figures, tensors, f"{encoding}:{group}", "balanced", "search")
            ours.check_bpw(row, tensors, encoding, group)
            rows.append({**_summary(f"{encoding}, {group}", tensors.name, [row]), "table": "groups"})
    return rows


def _alternate(mine: Sequence[Contender], theirs: Sequence[Contender]) -> list[Contender]:
    """Ours, theirs, ours, theirs, ..., then what is left."""
    paired = min(len(mine), len(theirs))
    turns = [contender for pair in zip(mine, theirs) for contender in pair]
    return turns + list(mine[paired:]) + list(theirs[paired:])


def _in_turn(contenders: Sequence[Contender], tensors: data.Dataset, rounds: int) -> list[Row]:
    """Each contender once a round, in this order."""
    samples: dict[str, list[Row]] = {name: [] for name, _ in contenders}
    for number in range(rounds):
        for name, run in contenders:
            print(f"{tensors.name}, round {number + 1}: {name}", file=sys.stderr)
            samples[name].append(run(tensors))
    return [_summary(name, tensors.name, samples[name]) for name, _ in contenders]


def _summary(name: str, data_name: str, samples: list[Row]) -> Row:
    """Medians, and the speeds of each round."""
    rounds = {speed: [sample.get(speed) for sample in samples] for speed in SPEEDS}
    medians: dict[str, Optional[float]] = {}
    for speed, values in rounds.items():
        known = [value for value in values if value]
        medians[speed] = median(known) if known else None
    fixed = {key: samples[0][key] for key in ("bpw", "relative_mse")}
    return {"table": "errors", "data": data_name, "name": name, **fixed, **medians, "rounds": rounds}


def _pairs(rows: list[Row], peers: list[str]) -> list[Row]:
    """Ours over each peer: errors, and for speeds the median of the ratios within the rounds."""
    pairs = []
    mine = [row for row in rows if row["name"] not in peers and not row["name"].endswith(" paper")]
    for peer in (row for row in rows if row["name"] in peers):
        for row in mine:
            pair = {"data": row["data"], "ours": row["name"], "peer": peer["name"]}
            pair["first"] = peer["name"] == peers[0]
            pair["relative_mse"] = row["relative_mse"] / peer["relative_mse"]
            for speed in SPEEDS:
                both = zip(row["rounds"][speed], peer["rounds"][speed])
                ratios = [a / b for a, b in both if a and b]
                pair[speed] = median(ratios) if ratios else None
            pairs.append(pair)
    return pairs


def _machine() -> dict[str, Any]:
    """The processor, what it can do, and how busy it is."""
    cpu, flags = platform.processor() or platform.machine(), []
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line.partition(":") for line in info.read_text().splitlines()]
        fields = {key.strip(): value.strip() for key, _, value in reversed(lines)}
        cpu = fields.get("model name", cpu)
        flags = fields.get("flags", fields.get("Features", "")).split()
    known = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_vbmi", "asimd", "sve")
    isa = " ".join(flag for flag in known if flag in flags) or platform.machine()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 0.5:
        print(f"load average {load:.1f}: other work is running, speeds will drift", file=sys.stderr)
    system = f"{platform.system()} {platform.machine()}"
    return {"cpu": cpu, "cores": os.cpu_count(), "isa": isa, "system": system, "load": load}


def _version() -> str:
    """The version of this tree, with the commit where there is one."""
    lines = (data.ROOT / "Cargo.toml").read_text("utf-8").splitlines()
    number = next((line.split('"')[1] for line in lines if line.startswith("version = ")), "unknown")
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(command, cwd=data.ROOT, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        commit = ""
    return f"{number} ({commit})" if commit else number
