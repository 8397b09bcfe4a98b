#!/usr/bin/env python3
"""Counts the instructions of gemv's loops in the machine code that its PTX assembles to.

    kernels/count_sass.py            print the table of docs/gpu.md
    kernels/count_sass.py --write    put it there

Counts are static: every instruction between a loop's first and its backward branch once, whatever the branches
inside it skip (other placements of local scales). Issue slots a weight are
those of the loop over 4 bytes of words, plus the rest of the loop over units, over the weights of 4 rows that a lane
decodes in them. Copies to shared memory, sums between warps and everything outside these loops are not counted.
What an instruction costs, and how long it waits, is not in these counts.

Needs what build_ptx.py needs, and installs NVIDIA's disassembler beside the compiler.
"""

import argparse
import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import venv

import build_ptx

DISASSEMBLER = ["nvidia-cuda-cuobjdump==13.5.37", "nvidia-cuda-nvdisasm==13.5.37"]
PAGE = build_ptx.HERE.parent / "docs" / "gpu.md"
# Name, weights of a unit in groups of 64, its turns of the loop over 4 bytes of words, and which loops are those of
# groups of 64, where a code has several: the shortest, unless local scales have more parts there than elsewhere.
CODES = {
    "ccq275": ("ccq-2.75", 64, 5, min),
    "ccq25": ("ccq-2.5", 64, 4, min),
    "ccq206_q8": ("ccq-2.06, q8", 64, 4, min),
    "ccq206_f32": ("ccq-2.06, f32", 64, 4, min),
    "ccq331": ("ccq-3.31", 64, 6, min),
    "ccq55": ("ccq-5.5", 64, 10, max),
    "int2": ("int2", 64, 4, min),
    "wint4": ("wint4", 64, 8, min),
    "wint8": ("wint8", 32, 8, min),
}
ROWS = 4
ARCHITECTURE = "sm_90"
# What the columns count, by the first part of an instruction's name.
INTEGER = {"LOP3", "SHF", "PRMT", "IADD3", "IMAD", "LEA", "ISETP", "SEL", "IABS", "IMNMX", "VIADD", "MOV", "SGXT"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the table into docs/gpu.md")
    table = markdown(disassemble())
    if not parser.parse_args().write:
        print(table)
        return
    text = PAGE.read_text("utf-8")
    block = f"<!-- count_sass.py -->\n{table}\n<!-- end -->"
    pattern = r"<!-- count_sass\.py -->\n.*?<!-- end -->"
    PAGE.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), "utf-8")


def disassemble():
    """The instructions of each kernel of gemv.ptx: address, name, target of a branch."""
    toolkit = build_ptx.install()
    tools = install()
    with tempfile.TemporaryDirectory() as folder:
        cubin = pathlib.Path(folder) / "gemv.cubin"
        ptx = build_ptx.HERE / "ptx" / "gemv.ptx"
        subprocess.run([toolkit / "bin" / "ptxas", f"-arch={ARCHITECTURE}", ptx, "-o", cubin], check=True)
        environment = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        command = [tools / "cuobjdump", "-sass", cubin]
        text = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    kernels, current = {}, []
    for line in text.splitlines():
        if found := re.search(r"Function : (\w+)", line):
            current = kernels.setdefault(found[1], [])
        elif found := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+ )?\s*([A-Z0-9_.]+)(.*?);", line):
            target = re.search(r"0x([0-9a-f]+)", found[3]) if found[2].startswith("BRA") else None
            current.append((int(found[1], 16), found[2], int(target[1], 16) if target else None))
    return kernels


def install():
    """The folder of the disassembler, installed if it is not there yet."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    folder = cache / "ccq" / "cuobjdump-13.5.37"
    stamp = folder / "installed"
    if not stamp.exists() or stamp.read_text() != "\n".join(DISASSEMBLER):
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([folder / "bin" / "python", "-m", "pip", "install", "--quiet", *DISASSEMBLER], check=True)
        stamp.write_text("\n".join(DISASSEMBLER))
    found = list(folder.glob("lib*/python*/site-packages/nvidia/cu13/bin"))
    if not found:
        sys.exit(f"no disassembler in {folder}: remove that folder and try again")
    return found[0]


def loops(instructions, which):
    """The two innermost loops around matrix instructions, over words and over units: of several, those `which` takes.

    Those are of groups of 64, where a code has loops of their own for them, and of usual parameters of f32 clusters.
    """
    products = [address for address, name, _ in instructions if name.startswith("HMMA")]
    around = [
        (target, address)
        for address, _, target in instructions
        if target is not None and target <= address and any(target <= p <= address for p in products)
    ]
    around.sort(key=lambda loop: loop[1] - loop[0])

    def within(inner, outer):
        return outer[0] < inner[0] and inner[1] < outer[1]

    inner = [loop for loop in around if not any(within(other, loop) for other in around)]
    pairs = [(loop, next(outer for outer in around if within(loop, outer))) for loop in inner]
    return which(pairs, key=lambda pair: pair[1][1] - pair[1][0])


def count(instructions, loop, but=None):
    """Instructions of a loop, by name, but for those of a loop within."""
    counts = collections.Counter()
    for address, name, _ in instructions:
        if loop[0] <= address <= loop[1] and not (but and but[0] <= address <= but[1]):
            counts[name.split(".")[0]] += 1
    return counts


def markdown(kernels):
    head = ["code", "activations", "tokens", "slots a weight", "of them matrix", "f16 arithmetic", "integer and moves"]
    rows = [head + ["shared and global loads", "loop over words", "rest of a unit"], ["---"] * 3 + ["---:"] * 7]
    for suffix, (name, weights, turns, which) in CODES.items():
        for element in ("f16", "bf16"):
            for tokens in (8, 16):
                instructions = kernels[f"gemv_{suffix}_{element}_{tokens}"]
                inner, outer = loops(instructions, which)
                words, unit = count(instructions, inner), count(instructions, outer, inner)
                slots = {k: (turns * words[k] + unit[k]) / (weights * ROWS) for k in words | unit}
                loads = sum(v for k, v in slots.items() if k in {"LDS", "LDG", "LD"})
                integer = sum(v for k, v in slots.items() if k in INTEGER)
                rows.append(
                    [name, element, f"1 to {tokens}" if tokens == 8 else "9 to 16", f"{sum(slots.values()):.2f}"]
                    + [f"{slots.get(k, 0.0):.2f}" for k in ("HMMA",)]
                    + [f"{slots.get('HFMA2', 0) + slots.get('HMUL2', 0) + slots.get('HADD2', 0):.2f}"]
                    + [f"{integer:.2f}", f"{loads:.2f}", str(words.total()), str(unit.total())]
                )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    main()
