"""This project's quantizer, through its `figures` example."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from . import bits
from .data import ROOT, Dataset


def build(package: str, example: str) -> Path:
    """Compiles an example and returns its path."""
    command = ["cargo", "build", "--release", "--quiet", "-p", package, "--example", example]
    try:
        subprocess.run(command, cwd=ROOT, check=True)
        metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps"]
        found = json.loads(subprocess.check_output(metadata, cwd=ROOT))
    except FileNotFoundError:
        sys.exit(f"compare.py: there is no cargo; install Rust, or name the compiled example with --{example}")
    except subprocess.CalledProcessError:
        sys.exit(f"compare.py: the {example} example does not compile")
    name = f"{example}.exe" if os.name == "nt" else example
    return Path(found["target_directory"]) / "release" / "examples" / name


def measure(figures: Path, data: Dataset, encoding: str, quality: str, method: str) -> dict[str, Any]:
    """One row of the example, on one thread; `encoding` may name a group size, as in ccq-2.06:32."""
    command = [str(figures), str(data.path), encoding, "--quality", quality, "--method", method]
    done = subprocess.run(command + ["--threads", "1", "--json"], stdout=subprocess.PIPE, text=True)
    rows = _rows(done.stdout) if done.returncode == 0 else []
    if len(rows) != 1:
        sys.exit(f"compare.py: no figures from: {' '.join(command)} --threads 1 --json")
    # A clock too coarse for a small matrix gives no speed.
    return {key: None if value in (math.inf, 0.0) else value for key, value in rows[0].items()}


def _rows(text: str) -> list[dict[str, Any]]:
    """JSON objects, one a line or in one array."""
    text = text.strip()
    if text.startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def check_bpw(row: dict[str, Any], data: Dataset, encoding: str, group: int) -> None:
    """Ends the run if the formula of the page and the bytes that were stored differ."""
    expected = sum(bits.stored(encoding, group, m.shape[1]) * m.size for m in data.matrices) / data.weights
    if abs(expected - row["bpw"]) > 1e-4:
        sys.exit(f"compare.py: {encoding}:{group} stores {row['bpw']} bits a weight, expected {expected}")
