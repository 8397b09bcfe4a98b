"""What choosing encodings for a budget gains over one encoding for all: the tables of docs/allocation.md.

    cargo build --release -p ccq-convert
    python3 benches/allocation.py [--model FOLDER] [--write docs/allocation.md] [--tool target/debug/ccq-convert]

FOLDER is all-MiniLM-L6-v2 (`python3 testdata/minilm.py model FOLDER`); without it the one layer in testdata is
all there is. Errors are those of the files written, not those that the choice was made by. Standard library only.
"""

import argparse
import json
import pathlib
import re
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOL = ROOT / "target/release/ccq-convert"
LAYER = ROOT / "testdata/all-minilm-l6-v2-layer0.safetensors"
EMBEDDINGS = ["--quantize", "*word_embeddings*", "--quantize", "*position_embeddings*"]
UNIFORM = [(name, size) for name in ("int2", "ccq-2.06", "ccq-2.5", "ccq-2.75", "wint4", "wint8") for size in ("32", "64", "128")]
UNIFORM += [(name, "channel") for name in ("int2", "wint4", "wint8")]


def convert(tool, model, args):
    with tempfile.TemporaryDirectory() as folder:
        command = [tool, model, f"{folder}/out.ccq", "--json", *args]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return json.loads(done.stdout)


def measured(report, names):
    """Size of the file, mean relative error weighted by parameters, pooled relative error."""
    error = parameters = 0
    for tensor in report["tensors"]:
        if tensor["name"] in names:
            count = 1
            for dimension in tensor["shape"]:
                count *= dimension
            error += count * (tensor["relative_mse"] or 0)
            parameters += count
    total = report["total"]
    return total["bpw"], error / parameters, total["relative_mse"]


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=pathlib.Path)
    parser.add_argument("--write", type=pathlib.Path)
    parser.add_argument("--tool", type=pathlib.Path, default=TOOL)
    options = parser.parse_args()
    tables = {"layer": table(options.tool, LAYER, [], [2.3, 2.5, 2.75, 3, 3.5, 4, 4.4])}
    if options.model:
        tables["model"] = table(options.tool, options.model, EMBEDDINGS, [2.75, 3, 3.5, 4, 4.5, 5, 6])
    for name, text in tables.items():
        print(f"{name}\n{text}\n")
        if options.write:
            page = options.write.read_text()
            pattern = rf"(<!-- allocation.py: {name} -->\n).*?(<!-- end -->)"
            page, count = re.subn(pattern, lambda found: found[1] + text + "\n" + found[2], page, flags=re.S)
            assert count == 1, name
            options.write.write_text(page)


if __name__ == "__main__":
    main()
