"""Decodes FastDeploy's CCQ tensors by its kernels' formula, in plain Python.

    fastdeploy.py MODEL.safetensors FOLDER    for each layer FOLDER/NAME.f32, row by row of output channels

Both forms of the formula that the kernels use are computed, and must agree.
"""

import json
import math
import pathlib
import struct
import sys
from fractions import Fraction


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def fused(q, scale, addend):
    """q * scale + addend, exactly, rounded once to the nearest f32, ties to even."""
    exact = Fraction(q) * Fraction(scale) + Fraction(addend)
    near = f32(float(exact))
    bits, = struct.unpack("<i", struct.pack("<f", abs(near)))
    sign = -1 if near < 0 else 1
    candidates = []
    for neighbour in (bits - 1, bits, bits + 1):
        if neighbour >= 0:
            value = sign * struct.unpack("<f", struct.pack("<i", neighbour))[0]
            candidates.append((abs(Fraction(value) - exact), neighbour & 1, value))
    return min(candidates)[2]


class File:
    def __init__(self, path):
        data = pathlib.Path(path).read_bytes()
        length, = struct.unpack_from("<Q", data)
        self.header = json.loads(data[8:8 + length])
        self.header.pop("__metadata__", None)
        self.data = data[8 + length:]

    def tensor(self, name):
        entry = self.header[name]
        begin, end = entry["data_offsets"]
        raw = self.data[begin:end]
        kind = entry["dtype"]
        if kind == "BF16":
            words = struct.unpack("<%dH" % (len(raw) // 2), raw)
            values = [struct.unpack("<f", struct.pack("<I", word << 16))[0] for word in words]
        else:
            letter = {"U8": "B", "U16": "H", "F16": "e", "F32": "f"}[kind]
            values = struct.unpack("<%d%s" % (len(raw) // struct.calcsize(letter), letter), raw)
        return values, entry["shape"], kind


def wint2(file, base):
    q, (down, n), _ = file.tensor(base + ".quant_weight")
    scales, _, _ = file.tensor(base + ".weight_scale")
    super_scales, _, _ = file.tensor(base + ".super_scales")
    code_scale, _, _ = file.tensor(base + ".code_scale")
    code_zp, _, _ = file.tensor(base + ".code_zp")
    rows = []
    for column in range(n):
        row = []
        addend = f32(code_zp[column] + 0.5)
        codes = {}
        for k in range(down * 4):
            byte = q[k // 4 * n + column]
            if byte not in codes:
                code = math.floor(fused(byte, code_scale[column], addend))
                plain = f32(f32(f32(byte * code_scale[column]) + code_zp[column]) + 0.5)
                assert math.floor(plain) == code, (base, column, byte)
                codes[byte] = code
            state = (codes[byte] >> (9, 6, 3, 0)[k % 4]) & 0x3F
            pair = scales[k // 128 * n + column]
            local = pair >> 4 if k // 64 % 2 == 0 else pair & 0xF
            row.append(f32((state - 32) * f32(local * super_scales[column])))
        rows.append(row)
    return rows


def wint25(file, base):
    words, (down, n), _ = file.tensor(base + ".quant_weight")
    super_scales, _, _ = file.tensor(base + ".super_scales")
    rows = []
    for column in range(n):
        row = []
        for k in range(down // 10 * 64):
            group, place = divmod(k, 64)
            local = words[(group * 10 + 9) * n + column] & 0x1FFF
            word = words[(group * 10 + place // 7) * n + column]
            state = (word >> (13, 11, 9, 6, 4, 2, 0)[place % 7]) & 7
            row.append(f32((state - 4) * f32(local * super_scales[column])))
        rows.append(row)
    return rows


def main(path, folder):
    file = File(path)
    for name in file.header:
        if name.endswith(".quant_weight"):
            base = name[:-len(".quant_weight")]
            kind = file.header[name]["dtype"]
            if base + ".super_scales" not in file.header:
                continue
            rows = wint2(file, base) if kind == "U8" else wint25(file, base)
            flat = [value for row in rows for value in row]
            (pathlib.Path(folder) / (base + ".f32")).write_bytes(struct.pack("<%df" % len(flat), *flat))


main(*sys.argv[1:])
