#!/usr/bin/env python3
"""Compiles cu/*.cu to the PTX that is checked in.

    kernels/build_ptx.py           rewrite ptx/*.ptx and ptx/registers.txt
    kernels/build_ptx.py --check   fail when they differ from the sources, when a kernel spills,
                                   or when one needs more registers than ptx/registers.txt says

Needs Python 3.9, its venv and pip, and g++. The compiler, pinned below, is installed from Python packages into a
folder of the user's cache (CCQ_CUDA_VENV to choose another), so that the same sources give the same bytes. The PTX is for compute_80, with its version lowered, so that drivers since CUDA 11.0 take it.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.3.5.0.6",
]
KERNELS = ["dequantize", "squared_error", "gemv", "moe_gemv"]
PTX_VERSION = "7.0"
# Architectures on which registers and spills are counted.
ASSEMBLED_FOR = ["sm_80", "sm_90"]
REGISTERS = HERE / "ptx" / "registers.txt"
HEADER = "# Registers of each kernel, by architecture. Written by build_ptx.py, which fails when they grow.\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with what is checked in; write nothing")
    check = parser.parse_args().check
    toolkit = install()
    problems, table = [], {}
    for name in KERNELS:
        text = compile_ptx(toolkit, name)
        for architecture in ASSEMBLED_FOR:
            count_registers(toolkit, text, architecture, table, problems)
        path = HERE / "ptx" / f"{name}.ptx"
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            problems.append(f"{path.relative_to(HERE.parent)} is not what cu/{name}.cu compiles to")
    if check:
        compare_registers(table, problems)
    else:
        lines = [f"{kernel} {architecture} {count}\n" for (kernel, architecture), count in sorted(table.items())]
        REGISTERS.write_text(HEADER + "".join(lines))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit("run kernels/build_ptx.py and look at the difference" if check else 1)
    print(f"{len(table) // len(ASSEMBLED_FOR)} kernels, at most {max(table.values())} registers, no spills")


def install():
    """The folder of the compiler, installed if it is not there yet."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    folder = pathlib.Path(os.environ.get("CCQ_CUDA_VENV", cache / "ccq" / "nvcc-13.0.88"))
    stamp = folder / "installed"
    wanted = "\n".join(PACKAGES)
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        python = folder / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
        stamp.write_text(wanted)
    found = list(folder.glob("lib*/python*/site-packages/nvidia/cu13"))
    if not found:
        sys.exit(f"no CUDA compiler in {folder}: remove that folder and try again")
    return found[0]


def compile_ptx(toolkit, name):
    """PTX of a kernel file: version lowered, comments and hints of newer versions left out."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "out.ptx"
        command = [toolkit / "bin" / "nvcc", "-std=c++17", "-arch=compute_80", "-O3", "-fmad=false", "-ptx"]
        command += [f"-I{toolkit / 'include'}", f"-I{toolkit / 'include' / 'cccl'}", f"{name}.cu", "-o", out]
        subprocess.run(command, check=True, cwd=HERE / "cu")
        text = out.read_text()
    text = re.sub(r"^\.version .*$", f".version {PTX_VERSION}", text, flags=re.M)
    text = re.sub(r"^\s*(//.*|\.pragma \"used_bytes_mask.*|)\n", "", text, flags=re.M)
    return f"// Generated from cu/{name}.cu by build_ptx.py.\n" + re.sub(r"\s*//.*$", "", text, flags=re.M)


def count_registers(toolkit, text, architecture, table, problems):
    """Assembles PTX, for the assembler's word that it is valid, and what it says of each kernel."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "in.ptx"
        source.write_text(text)
        command = [toolkit / "bin" / "ptxas", f"-arch={architecture}", "-v", source, "-o", source.with_suffix(".o")]
        result = subprocess.run(command, check=False, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(result.stdout + result.stderr)
    kernel = None
    for line in (result.stdout + result.stderr).splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = found[1]
        if found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if any(int(count) for count in found.groups()):
                problems.append(f"{kernel} spills on {architecture}: {line.strip()}")
        if found := re.search(r"Used (\d+) registers", line):
            table[kernel, architecture] = int(found[1])


def compare_registers(table, problems):
    lines = REGISTERS.read_text().splitlines() if REGISTERS.exists() else []
    known = {(k, a): int(n) for k, a, n in (line.split() for line in lines if not line.startswith("#"))}
    for key in sorted(table.keys() | known.keys()):
        if key not in known or key not in table:
            problems.append(f"{' on '.join(key)} is only in one of ptx/registers.txt and cu/")
        elif table[key] > known[key]:
            problems.append(f"{' on '.join(key)} needs {table[key]} registers, {known[key]} before")


if __name__ == "__main__":
    main()
