"""Writes a GGUF file of random blocks with PyPI's `gguf`, and what its reference makes of them.

    gguf_oracle.py FOLDER    FOLDER/oracle.gguf, and of each tensor FOLDER/NAME.f32 and FOLDER/NAME.f16
"""

import pathlib
import sys

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type

ROWS = 6
# Where the binary16 numbers of a block are.
SCALES = {Type.Q4_0: [0], Type.Q8_0: [0], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208]}


def blocks(random, kind, shape):
    """Random bytes; the exponents of the scales are small enough for weights that F16 has."""
    _, size = GGML_QUANT_SIZES[kind]
    data = random.integers(0, 256, size=(*shape, size), dtype=np.uint8)
    for at in SCALES[kind]:
        scale = data[..., at:at + 2].copy().view(np.uint16)
        scale[...] = (scale & 0x83FF) | (random.integers(0, 18, size=scale.shape, dtype=np.uint16) << 10)
        data[..., at:at + 2] = scale.view(np.uint8)
    return data.reshape(*shape[:-1], -1)


def main(folder):
    random = np.random.default_rng(20260711)
    writer = gguf.GGUFWriter(folder / "oracle.gguf", "gpt-oss")
    writer.add_context_length(4096)
    writer.add_float32("gpt-oss.some_float", 0.5)
    writer.add_bool("some.flag", True)
    writer.add_int64("some.number", -7)
    writer.add_token_list(["<s>", "a", "b"])
    writer.add_chat_template("{{ messages }}")
    values = {}
    for kind in SCALES:
        for stack in ((), (3,)):
            data = blocks(random, kind, (*stack, ROWS, 4))
            name = f"blk.0.{kind.name.lower()}{'_exps' if stack else ''}.weight"
            writer.add_tensor(name, data, raw_dtype=kind)
            values[name] = gguf.quants.dequantize(data, kind)
    plain = random.standard_normal((ROWS, 7), dtype=np.float32)
    for kind in (Type.F32, Type.F16, Type.BF16):
        data = gguf.quants.quantize(plain, kind)
        name = f"output_norm.{kind.name.lower()}"
        writer.add_tensor(name, data, raw_dtype=kind if kind == Type.BF16 else None)
        values[name] = gguf.quants.dequantize(data, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for name, value in values.items():
        (folder / f"{name}.f32").write_bytes(value.astype("<f4").tobytes())
        (folder / f"{name}.f16").write_bytes(value.astype("<f2").tobytes())
        print(name, *value.shape)


main(pathlib.Path(sys.argv[1]))
