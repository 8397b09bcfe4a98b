"""What choosing encodings for a budget gains over one encoding for all, and which budgets it can use up: the tables of
docs/allocation.md.

    cargo build --release -p ccq-convert
    python3 benches/allocation.py [--model FOLDER] [--write docs/allocation.md] [--tool target/debug/ccq-convert]

FOLDER is all-MiniLM-L6-v2 (`python3 testdata/minilm.py model FOLDER`); without it the one layer in testdata is
all there is, and `--write` fills in the table of that alone. Errors are those of the files written, not those that the
choice was made by. A quarter of an hour on two cores; standard library only.
"""

import argparse
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "target/release/ccq-convert"
LAYER = ROOT / "testdata/all-minilm-l6-v2-layer0.safetensors"
EMBEDDINGS = ["--quantize", "*word_embeddings*", "--quantize", "*position_embeddings*"]
FAMILIES = ("int2", "ccq-2.06", "ccq-2.5", "ccq-2.75", "ccq-3.31", "wint4", "ccq-5.5", "wint8")
UNIFORM = [(name, size) for name in FAMILIES for size in ("32", "64", "128")]
UNIFORM += [(name, "channel") for name in ("int2", "wint4", "wint8")]
# Budgets, in hundredths of a bit a parameter. Embeddings that stay raw take 17 bits of the model's average themselves;
# its other matrices then have 2.2 to 8.5 bits as well.
SWEEP, SWEEP_RAW = range(220, 851, 5), range(1800, 2106, 5)
TOLERANCE = 0.01


def convert(tool, model, args):
    with tempfile.TemporaryDirectory() as folder:
        command = [tool, model, f"{folder}/out.ccq", "--json", *args]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)


def parameters(tensor):
    return math.prod(tensor["shape"])


def measured(report, names):
    """Size of the file, mean relative error weighted by parameters, pooled relative error."""
    free = [tensor for tensor in report["tensors"] if tensor["name"] in names]
    error = sum(parameters(tensor) * (tensor["relative_mse"] or 0) for tensor in free)
    total = report["total"]
    return total["bpw"], error / sum(map(parameters, free)), total["relative_mse"]


def table(tool, model, args, targets):
    uniform = [(f"{name}, {size}", convert(tool, model, ["--encoding", name, "--group-size", size, *args])) for name, size in UNIFORM]
    names = {tensor["name"] for tensor in uniform[0][1]["tensors"] if tensor["encoding"] != "raw"}
    uniform = [(label, *measured(report, names)) for label, report in uniform]
    lines = [
        "| budget, bpw | file, bpw | error | pooled | best uniform of at most that size | its bpw | error | pooled |",
        "| ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for target in targets:
        bpw, error, pooled = measured(convert(tool, model, ["--target-bpw", str(target), *args]), names)
        line = f"| {target} | {bpw:.3f} | {error:.4f} | {pooled:.4f} |"
        fitting = [row for row in uniform if row[1] <= target]
        if fitting:
            label, size, uniform_error, uniform_pooled = min(fitting, key=lambda row: row[2])
            line += f" {label} | {size:.3f} | {uniform_error:.4f} | {uniform_pooled:.4f} |"
        lines.append(line)
    return "\n".join(lines)


class Sweep:
    """What becomes of a row of budgets, which are hundredths of a bit a parameter; those that are too small are left out."""

    def __init__(self, tool, model, args, budgets):
        self.reports = {}
        for budget in budgets:
            command = [tool, model, "--dry-run", "--json", "--target-bpw", str(budget / 100), *args]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            if done.returncode == 0:
                self.reports[budget / 100] = json.loads(done.stdout)
            elif self.reports or "the smallest file of these candidates" not in done.stderr:
                sys.exit(f"{command}: {done.stderr}")
        least = self.reports[min(self.reports)]
        self.free = {tensor["name"] for tensor in least["tensors"] if tensor["encoding"] != "raw"}

    def row(self, name):
        """Cells of the table: budgets, how many are used up, the largest distance and where."""
        budgets = self.reports
        within = sum(unused(report) <= TOLERANCE for report in budgets.values())
        worst = max(budgets, key=lambda budget: unused(budgets[budget]))
        of_free = max(map(self.unused_of_free, budgets.values()))
        cells = [name, len(self.free), f"{min(budgets):.2f} to {max(budgets):.2f}", f"{within} of {len(budgets)}"]
        cells += [f"{unused(budgets[worst]):.2%}".replace("%", " %"), f"{worst:.2f} bpw", f"{of_free:.1%}".replace("%", " %")]
        return f"| {' | '.join(map(str, cells))} |"

    def unused_of_free(self, report):
        """The share of the bytes that the free matrices could have had."""
        taken = sum(tensor["bytes"] for tensor in report["tensors"] if tensor["name"] in self.free)
        missing = report["target"]["target_bytes"] - report["target"]["bytes"]
        return missing / (taken + missing)

    def gaps(self):
        """The ranges of budgets that stay unused: more than 1 % above a file, below the next with less error."""
        found = []
        for report in self.reports.values():
            if unused(report) > TOLERANCE:
                bits = 8 / report["total"]["parameters"]
                next_better = re.search(r"has less error below (\d+) bytes", "".join(report["warnings"]))
                end = f"{int(next_better[1]) * bits:.2f}" if next_better else "(unproven)"
                found.append(f"{report['target']['bytes'] * bits / (1 - TOLERANCE):.2f} to {end}")
        return ", ".join(dict.fromkeys(found)) or "none"

    def choices(self):
        """The candidates, and those that some matrix took."""
        reports = list(self.reports.values())
        free = (tensor for report in reports for tensor in report["tensors"] if tensor["name"] in self.free)
        return [row["encoding"] for row in reports[0]["target"]["uniform"]], {tensor["encoding"] for tensor in free}


def unused(report):
    return 1 - report["target"]["bytes"] / report["target"]["target_bytes"]


def sweeps(tool, model):
    """How close to a budget files come, of the layer and of the model with and without its embeddings."""
    with_embeddings, without = "model with its embeddings", "model without"
    found = {"layer": Sweep(tool, LAYER, [], SWEEP)}
    if model:
        found[with_embeddings] = Sweep(tool, model, EMBEDDINGS, SWEEP)
        found[without] = Sweep(tool, model, [], SWEEP_RAW)
    lines = [
        "| | free matrices | budgets, bpw | within 1 % | largest distance | at | largest, of the free matrices' share |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(sweep.row(name) for name, sweep in found.items()),
        "",
        "Budgets that stay unused, in bpw:",
        "",
        *(textwrap.fill(f"- {name}: {sweep.gaps()}", 120, subsequent_indent="  ") for name, sweep in found.items()),
        "",
    ]
    candidates, _ = found["layer"].choices()
    taken = set().union(*(sweep.choices()[1] for sweep in found.values()))
    never = ", ".join(name for name in candidates if name not in taken)
    lines.append(f"Candidates that no matrix took at any of these budgets: {never or 'none'}.")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--tool", type=pathlib.Path, default=TOOL)
    options = parser.parse_args()
    tables = {"sweep": sweeps(options.tool, options.model)}
    tables["layer"] = table(options.tool, LAYER, [], [2.3, 2.5, 2.75, 3, 3.5, 4, 4.4, 5])
    if options.model:
        tables["model"] = table(options.tool, options.model, EMBEDDINGS, [2.75, 3, 3.5, 4, 4.5, 5, 6])
    for name, text in tables.items():
        print(f"{name}\n{text}\n")
        if options.write and (options.model or name == "layer"):
            options.write.write_text(filled(options.write.read_text(), name, text))


def filled(page, name, text):
    """The page with another table of that name."""
    pattern = rf"(<!-- allocation.py: {name} -->\n).*?(<!-- end -->)"
    page, count = re.subn(pattern, lambda found: found[1] + text + "\n" + found[2], page, flags=re.S)
    assert count == 1, name
    return page


if __name__ == "__main__":
    main()
