#!/usr/bin/env python3
"""Prints the model ids that random_model_test.c expects, from docs/formats.md alone: "Random weights"
and "Model id" written a second time. Needs the xxhash package.

    python3 tests/model/weights/make_id_golden.py"""

import hashlib
import math
import struct

import xxhash

MASK = 0xFFFFFFFF


def philox(seed, stream, counter):
    key = [seed & MASK, seed >> 32]
    x = [counter & MASK, counter >> 32, stream & MASK, stream >> 32]
    for _ in range(10):
        a, b = 0xD2511F53 * x[0], 0xCD9E8D57 * x[2]
        x = [(b >> 32) ^ x[1] ^ key[0], b & MASK, (a >> 32) ^ x[3] ^ key[1], a & MASK]
        key = [(key[0] + 0x9E3779B9) & MASK, (key[1] + 0xBB67AE85) & MASK]
    return x


def bf16(value):
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    return (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def matrix(seed, tensor, rows, cols):
    out = bytearray()
    amplitude = math.sqrt(3.0 / cols)
    for block in range(rows * cols // 8):
        for word in philox(seed, tensor, block):
            for u in (word & 0xFFFF, word >> 16):
                out += struct.pack("<H", bf16((2 * u - 65535) / 65536 * amplitude))
    data = bytes(out)
    return struct.pack("<QQQQQ", 2, rows, cols, len(data), xxhash.xxh3_64_intdigest(data))


def vector(seed, tensor, count, centre):
    data = b""
    for e in range(count):
        x = philox(seed, tensor, e)
        uniform = ((x[0] << 32 | x[1]) >> 11) * 2.0**-53
        data += struct.pack("<f", centre + 0.2 * (uniform - 0.5))
    return struct.pack("<QQ", len(data), xxhash.xxh3_64_intdigest(data))


def model_id(seed, s):
    q, kv, hidden, ffn = s["q"] * s["dim"], s["kv"] * s["dim"], s["hidden"], s["ffn"]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(b"spin-model-1")
    digest.update(struct.pack("<15Q", s["arch"], s["layers"], hidden, ffn, s["q"], s["kv"], s["dim"],
                              s["vocab"], s["tied"], s["bias"], s["norm"], 0, 0, s["dim"], 0))
    digest.update(struct.pack("<8d", s["eps"], s["base"], 0, 0, 0, 0, 0, 0))
    digest.update(vector(seed, 0, 0, 0))
    digest.update(matrix(seed, 0, s["vocab"], hidden))
    digest.update(vector(seed, 1, hidden, 1))
    if not s["tied"]:
        digest.update(matrix(seed, 2, s["vocab"], hidden))
    for layer in range(s["layers"]):
        t = 3 + 14 * layer
        digest.update(vector(seed, t, hidden, 1) + vector(seed, t + 10, hidden, 1))
        for number, count in ((5, q), (6, kv), (7, kv)):
            digest.update(vector(seed, t + number, count if s["bias"] else 0, 0))
        for number in (8, 9):
            digest.update(vector(seed, t + number, s["dim"] if s["norm"] else 0, 1))
        for number, rows, cols in ((1, q, hidden), (2, kv, hidden), (3, kv, hidden), (4, hidden, q),
                                   (11, ffn, hidden), (12, ffn, hidden), (13, hidden, ffn)):
            digest.update(matrix(seed, t + number, rows, cols))
    return digest.hexdigest()


TINY = dict(arch=0, layers=2, hidden=64, ffn=128, q=4, kv=2, dim=16, vocab=512, tied=1, bias=0,
            norm=0, eps=1e-5, base=1e4)
QWEN2 = dict(arch=1, layers=3, hidden=96, ffn=160, q=6, kv=2, dim=16, vocab=512, tied=1, bias=1,
             norm=0, eps=1e-6, base=1e6)
QWEN3 = dict(arch=2, layers=3, hidden=64, ffn=192, q=5, kv=1, dim=32, vocab=512, tied=0, bias=0,
             norm=1, eps=1e-6, base=1e6)

if __name__ == "__main__":
    print("random:tiny", model_id(0, TINY))
    print("random:tiny-qwen2:5", model_id(5, QWEN2))
    print("random:tiny-qwen3", model_id(0, QWEN3))
