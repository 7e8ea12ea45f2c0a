"""Writes testdata/dtype_golden.bin: blocks of every format and what the gguf package makes of them.

Usage: python3 make_dtype_golden.py  (needs numpy and gguf; the output is committed)

Layout, little endian, per format in the order of SPIN_DTYPE_MAP:
    u32 number of blocks, u32 block bytes, u32 block values, then the blocks, then their values as F32.
Scales are random, zero, the smallest subnormal, negative, and the largest finite F16.
"""

import pathlib
import struct

import gguf
import numpy as np

TYPES = [
    (gguf.GGMLQuantizationType.F32, None),
    (gguf.GGMLQuantizationType.F16, None),
    (gguf.GGMLQuantizationType.BF16, None),
    (gguf.GGMLQuantizationType.Q8_0, [0]),
    (gguf.GGMLQuantizationType.Q4_0, [0]),
    (gguf.GGMLQuantizationType.Q4_1, [0, 2]),
    (gguf.GGMLQuantizationType.Q4_K, [0, 2]),
    (gguf.GGMLQuantizationType.Q6_K, [208]),
]
SCALES = [0.0123, 0.0, 6e-8, -1.75, 65504.0, 6.1e-5, -0.00077, 1.0]


def blocks_of(kind, scale_offsets, rng):
    """Random blocks whose F16 fields take the scales in turn."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    if scale_offsets is None:
        numbers = rng.standard_normal(64).astype(np.float32)
        numbers[:4] = [0.0, -0.0, 65504.0, -1e-7]
        return gguf.quants.quantize(numbers, kind).view(np.uint8).reshape(-1, size), values, size
    blocks = rng.integers(0, 256, (len(SCALES), size), dtype=np.uint8)
    for i, scale in enumerate(SCALES):
        for j, offset in enumerate(scale_offsets):
            other = SCALES[(i + 3 * j) % len(SCALES)]
            blocks[i, offset : offset + 2] = np.frombuffer(np.float16(other).tobytes(), np.uint8)
    return blocks, values, size


def main():
    rng = np.random.default_rng(20240501)
    target = pathlib.Path(__file__).parent / "testdata" / "dtype_golden.bin"
    with target.open("wb") as out:
        for kind, scale_offsets in TYPES:
            blocks, values, size = blocks_of(kind, scale_offsets, rng)
            numbers = gguf.quants.dequantize(blocks, kind).astype(np.float32)
            out.write(struct.pack("<III", len(blocks), size, values))
            out.write(blocks.tobytes())
            out.write(numbers.astype("<f4").tobytes())


if __name__ == "__main__":
    main()
