#!/usr/bin/env python3
"""ccq and ggml on the same tensors in one run: error, bits a weight, speed of quantizing and of decoding.

    python3 benches/compare.py                      Gauss and MiniLM, every table, about ten minutes
    python3 benches/compare.py --quick              a little of each, without MiniLM: under a minute
    python3 benches/compare.py --json FILE          also write the results, each round's speeds included
    python3 benches/compare.py --json FILE --write docs/accuracy.md     and fill in the tables of a page
    python3 benches/compare.py --from FILE --check docs/accuracy.md     is the page what the results say?
    python3 benches/compare.py --from FILE --kernels --json FILE        measure the kernels' speed anew, keep the rest

ggml comes from the package llama-cpp-python, whose shared libraries hold its quantizers and dequantizers. It
is installed from PyPI into a virtual environment in the cache folder, which takes a C++ compiler and, on two
cores, a quarter of an hour; `--venv DIR` takes an environment that has it. As it builds by itself, the
quantizers do without the machine's vector instructions; to let them have those, install it with
CMAKE_ARGS="-DCMAKE_C_FLAGS=-march=native -DCMAKE_CXX_FLAGS=-march=native" in the environment.

One thread each. In every round each of our qualities is followed by one of its peers; speeds are medians over
the rounds, and a ratio is the median of the ratios within the rounds. Decoding goes row by row into one
buffer. ggml gets importances of one, which is where its error is lowest; `plain` is without, and faster.
`--from` needs neither the network nor numpy, unless with `--kernels`.

The kernels' speeds are those of 4096 x 4096 weights: of the fastest of many passes, each over another copy, the
best of the rounds, and ratios are medians of those within the rounds. Work on the same cores slows all of them down:
run it alone, or with `nice -n -20`.
"""

import argparse
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

from peers import report

PACKAGES = ["llama-cpp-python==0.3.36", "numpy"]


def main() -> None:
    arguments = parse()
    results = json.loads(arguments.results.read_text("utf-8")) if arguments.results else None
    if results and not arguments.kernels:
        finish(results, arguments)
        return
    arguments.cache.mkdir(parents=True, exist_ok=True)
    python = environment(arguments.venv or arguments.cache / "venv", arguments.venv is not None)
    if os.environ.get("CCQ_COMPARE") != "inside":
        one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        command = [str(python), *sys.argv]
        sys.exit(subprocess.call(command, env={**os.environ, **one, "CCQ_COMPARE": "inside"}))
    from peers import measure  # needs the environment

    if results is None:
        results = measure.everything(arguments)
    finish(measure.speeds(arguments, results), arguments)


def parse() -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ccq-compare"
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    add = parser.add_argument
    add("--quick", action="store_true", help="a smoke run: small data, one round")
    add("--rounds", type=int, default=3, metavar="N", help="rounds of every measurement of speed (default 3)")
    add("--cache", type=Path, default=cache, metavar="DIR", help=f"weights and environment (default {cache})")
    add("--venv", type=Path, metavar="DIR", help="a virtual environment with numpy and llama-cpp-python")
    add("--figures", type=Path, metavar="FILE", help="the compiled example `figures`, instead of building it")
    add("--speed", type=Path, metavar="FILE", help="the compiled example `speed`, likewise")
    add("--kernels", action="store_true", help="with --from: measure the speed of the kernels again")
    add("--json", type=Path, metavar="FILE", help="write the results")
    add("--from", dest="results", type=Path, metavar="FILE", help="take the results of a --json")
    add("--markdown", action="store_true", help="print tables in Markdown, not in text")
    add("--write", type=Path, nargs="+", default=[], metavar="PAGE", help="fill in the tables of these pages")
    add("--check", type=Path, nargs="+", default=[], metavar="PAGE", help="fail if their tables differ")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    for page in [arguments.results, arguments.figures, arguments.speed, *arguments.write, *arguments.check]:
        if page is not None and not page.is_file():
            parser.error(f"{page} is not a file")
    return arguments


def environment(folder: Path, given: bool) -> Path:
    """The interpreter of a virtual environment that has the packages, installing them if need be."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    probe = "import numpy, importlib.metadata as m; m.version('llama-cpp-python')"
    if python.exists() and subprocess.run([python, "-c", probe], stderr=subprocess.DEVNULL).returncode == 0:
        return python
    if given:
        sys.exit(f"compare.py: {folder} has no numpy and llama-cpp-python; without --venv they are installed")
    print(f"installing {' and '.join(PACKAGES)} in {folder}; this compiles ggml", file=sys.stderr)
    try:
        venv.create(folder, with_pip=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"compare.py: Python could not make a virtual environment in {folder}: {error}")
    fresh = ["--no-cache-dir"] if "CMAKE_ARGS" in os.environ else []  # a cached build has other flags
    if subprocess.run([python, "-m", "pip", "install", "--quiet", *fresh, *PACKAGES]).returncode:
        sys.exit(
            "compare.py: pip could not install llama-cpp-python, for the reasons above: it needs the network "
            "and a C++ compiler; --venv DIR takes an environment that has it"
        )
    return python


def finish(results: report.Results, arguments: argparse.Namespace) -> None:
    """Everything that is written or printed."""
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    for page in arguments.write:
        page.write_text(report.fill(page.read_text("utf-8"), results), "utf-8")
    stale = report.stale(arguments.check, results)
    if arguments.markdown:
        for name, block in report.markdown(results).items():
            print(f"<!-- compare.py: {name} -->\n{block}\n<!-- end -->\n")
    elif not (arguments.write or arguments.check):
        print(report.text(results))
    if stale:
        sys.exit(f"compare.py: out of date, run with --write: {', '.join(map(str, stale))}")


if __name__ == "__main__":
    main()
