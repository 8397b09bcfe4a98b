#!/usr/bin/env python3
"""Everything to do on a machine with an NVIDIA GPU, in one call: build, test, measure, compare.

    python3 benches/gpu.py                           under ten minutes; writes benches/gpu.json and docs/gpu.md
    python3 benches/gpu.py --json FILE --page FILE   other places for the results and their table
    python3 benches/gpu.py --check                   is docs/gpu.md what benches/gpu.json says? Needs no GPU

Builds with cargo; runs every test of the kernels on the card (CCQ_REQUIRE_GPU=1), and under compute-sanitizer where
that is found; runs `ccq-verify bench`; times torch's bf16 product and Triton kernels for WINT2, on the planes of
ccq-2.06, where this Python, or `--python`, has torch and triton. Standard library only; 3 is returned where there is no GPU.
"""

import argparse
import ctypes
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Optional

from peers import gpu_report

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ["8192x8192", "4096x4096"]
ENCODINGS = ["ccq-2.75", "ccq-2.5", "ccq-2.06", "ccq-3.31", "ccq-5.5", "int2", "wint4", "wint8"]
NO_GPU = 3
SECONDS = 600
SANITIZERS = ["memcheck", "racecheck", "synccheck"]


def main() -> None:
    arguments = parse()
    if arguments.check:
        results = json.loads(arguments.json.read_text("utf-8")) if arguments.json.exists() else None
        if gpu_report.fill(arguments.page.read_text("utf-8"), results) != arguments.page.read_text("utf-8"):
            sys.exit(f"gpu.py: {arguments.page} is not what {arguments.json} says: fill it in with gpu.py")
        return
    card = find_card()
    if isinstance(card, str):
        print(f"gpu.py: no GPU, nothing was built, run or written: {card}", file=sys.stderr)
        sys.exit(NO_GPU)
    results = measure(card, arguments.python, time.monotonic() + SECONDS)
    arguments.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    page = arguments.page.read_text("utf-8")
    arguments.page.write_text(gpu_report.fill(page, results), "utf-8")
    print(gpu_report.table(results))
    failed = [step["name"] for step in results["steps"] if step["ok"] is False]
    if failed:
        sys.exit(f"gpu.py: failed: {', '.join(failed)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--json", type=Path, default=ROOT / "benches" / "gpu.json", metavar="FILE", help="the results")
    add("--page", type=Path, default=ROOT / "docs" / "gpu.md", metavar="FILE", help="the page of their table")
    add("--python", default=sys.executable, metavar="FILE", help="a Python with torch and triton")
    add("--check", action="store_true", help="compare the page with the results, and write nothing")
    return parser.parse_args()


def find_card() -> "dict[str, Any] | str":
    """The first card and its driver, or why there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"the driver does not load ({error})"
    code = driver.cuInit(0)
    count, version, device = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if code != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return f"the driver has no device (cuInit returned {code})"
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGet(ctypes.byref(device), 0)
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGetName(name, 256, device)
    cuda = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    return {"name": name.value.decode(), "cuda": cuda, "driver": output(["nvidia-smi", *QUERY]) or "unknown"}


QUERY = ["--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]


def output(command: list[str]) -> Optional[str]:
    """What a command prints, or None where it fails."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def measure(card: dict[str, Any], python: str, deadline: float) -> dict[str, Any]:
    """Every step; one that fails is recorded, and the next ones go on."""
    steps: list[dict[str, Any]] = []

    def step(name: str, command: list[str], **environment: str) -> Optional[str]:
        print(f"== {name}", file=sys.stderr, flush=True)
        begin = time.monotonic()
        try:
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **environment}, text=True,
                stdout=subprocess.PIPE, timeout=max(deadline - begin, 1.0),
            )
            ok, text = done.returncode == 0, done.stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            ok, text = False, str(error)
        seconds = round(time.monotonic() - begin, 1)
        steps.append({"name": name, "ok": ok, "seconds": seconds})
        if not ok:
            print(text[-4000:], file=sys.stderr)
        return text if ok else None

    def skip(name: str, why: str) -> None:
        steps.append({"name": name, "ok": None, "seconds": 0.0, "why": why})

    step("build", ["cargo", "build", "--release", "--locked", "-p", "ccq-verify"])
    tests = ["cargo", "test", "--release", "--locked", "-p", "ccq-cuda", "--test", "gpu", "--test", "device"]
    built = step("build the tests", [*tests, "--no-run", "--message-format=json"])
    step("tests on the card", tests, CCQ_REQUIRE_GPU="1")
    bench = [str(ROOT / "target/release/ccq-verify"), "bench", "--device", "cuda", "--json"]
    bench += [part for shape in SHAPES for part in ("--shape", shape)]
    bench += [part for encoding in ENCODINGS for part in ("--encoding", encoding)]
    ours = step("ccq-verify bench", bench)
    peers = step("torch and triton", [python, "-m", "peers.torch_gpu", *SHAPES], PYTHONPATH=str(ROOT / "benches"))
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    binary = test_binary(built or "")
    for tool in SANITIZERS:
        if sanitizer and binary:
            command = [sanitizer, "--tool", tool, "--error-exitcode", "1", binary, "--skip", "simulated_driver"]
            step(tool, [*command, "--test-threads=1", "gemv"], CCQ_REQUIRE_GPU="1", CCQ_GPU_QUICK="1")
        else:
            skip(tool, "compute-sanitizer was not found" if binary else "the tests were not built")
    return {
        "date": datetime.date.today().isoformat(),
        "card": card,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "commit": output(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]),
        "steps": steps,
        "ours": json.loads(ours) if ours else None,
        "peers": json.loads(peers) if peers else None,
    }


def test_binary(messages: str) -> Optional[str]:
    """The program of the test target `gpu`, from cargo's messages."""
    for line in messages.splitlines():
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("executable") and message.get("target", {}).get("name") == "gpu":
            return str(message["executable"])
    return None


if __name__ == "__main__":
    main()
