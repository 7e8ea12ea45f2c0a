#!/usr/bin/env python3
"""Writes rope_golden.h: RoPE frequencies from the published formulas, in 50-digit arithmetic.

    python3 tests/model/weights/make_rope_golden.py > tests/model/weights/rope_golden.h

linear: 2306.15595. llama3: the Llama 3.1 release. yarn: 2309.00071. Each formula is written here as
the paper or release states it; nothing is shared with model/weights/rope_frequencies.c."""

import math
from decimal import Decimal, getcontext

getcontext().prec = 50
PI = Decimal("3.14159265358979323846264338327950288419716939937510582")


def plain(base, dim):
    """theta_i = base^(-2 i / dim), with 50 digits."""
    return [(-(Decimal(2 * i) / Decimal(dim)) * Decimal(base).ln()).exp() for i in range(dim // 2)]


def linear(base, dim, factor):
    """Position interpolation: every position is divided by the factor."""
    return [f / Decimal(factor) for f in plain(base, dim)]


def llama3(base, dim, factor, low, high, context):
    frequencies = []
    low_wavelength = Decimal(context) / Decimal(low)
    high_wavelength = Decimal(context) / Decimal(high)
    for f in plain(base, dim):
        wavelength = 2 * PI / f
        if wavelength < high_wavelength:
            frequencies.append(f)
        elif wavelength > low_wavelength:
            frequencies.append(f / Decimal(factor))
        else:
            smooth = (Decimal(context) / wavelength - Decimal(low)) / (Decimal(high) - Decimal(low))
            frequencies.append((1 - smooth) * f / Decimal(factor) + smooth * f)
    return frequencies


def yarn(base, dim, factor, fast, slow, context):
    """NTK-by-parts, with the ramp in the index of the pair, bounds rounded outwards."""

    def pair_with(rotations):
        turns = Decimal(context) / (Decimal(rotations) * 2 * PI)
        return Decimal(dim) * turns.ln() / (2 * Decimal(base).ln())

    low = max(math.floor(pair_with(fast)), 0)
    high = min(math.ceil(pair_with(slow)), dim - 1)
    width = Decimal(high - low) if high != low else Decimal("0.001")
    frequencies = []
    for i, f in enumerate(plain(base, dim)):
        ramp = min(max((Decimal(i) - low) / width, Decimal(0)), Decimal(1))
        keep = 1 - ramp
        frequencies.append(f / Decimal(factor) * (1 - keep) + f * keep)
    return frequencies


def yarn_magnitude(factor):
    """sqrt(1/t) = 0.1 ln(s) + 1."""
    return Decimal("0.1") * Decimal(factor).ln() + 1


CASES = [
    ("none", plain(10000, 64), 1,
     ".dim = 64, .base = 10000"),
    ("llama3_plain", plain(500000, 128), 1,
     ".dim = 128, .base = 500000"),
    ("linear", linear(10000, 64, 4), 1,
     ".scaling = SPIN_ROPE_SCALING_LINEAR, .dim = 64, .base = 10000, .factor = 4"),
    ("llama3", llama3(500000, 128, 8, 1, 4, 8192), 1,
     ".scaling = SPIN_ROPE_SCALING_LLAMA3, .dim = 128, .base = 500000, .factor = 8, "
     ".low_freq_factor = 1, .high_freq_factor = 4, .original_context = 8192"),
    ("llama3_32", llama3(500000, 64, 32, 1, 4, 8192), 1,
     ".scaling = SPIN_ROPE_SCALING_LLAMA3, .dim = 64, .base = 500000, .factor = 32, "
     ".low_freq_factor = 1, .high_freq_factor = 4, .original_context = 8192"),
    ("yarn", yarn(1000000, 128, 4, 32, 1, 32768), yarn_magnitude(4),
     ".scaling = SPIN_ROPE_SCALING_YARN, .dim = 128, .base = 1000000, .factor = 4, .beta_fast = 32, "
     ".beta_slow = 1, .original_context = 32768"),
    ("yarn_small", yarn(10000, 16, 16, 32, 1, 256), yarn_magnitude(16),
     ".scaling = SPIN_ROPE_SCALING_YARN, .dim = 16, .base = 10000, .factor = 16, .beta_fast = 32, "
     ".beta_slow = 1, .original_context = 256"),
    ("yarn_stated_magnitude", yarn(10000, 64, 4, 24, 2, 4096), Decimal("1.25"),
     ".scaling = SPIN_ROPE_SCALING_YARN, .dim = 64, .base = 10000, .factor = 4, .beta_fast = 24, "
     ".beta_slow = 2, .attention_factor = 1.25, .original_context = 4096"),
    ("yarn_no_ramp", yarn(10000, 16, 4, 1, 1, 8), yarn_magnitude(4),
     ".scaling = SPIN_ROPE_SCALING_YARN, .dim = 16, .base = 10000, .factor = 4, .beta_fast = 1, "
     ".beta_slow = 1, .original_context = 8"),
]


def main():
    print("/* rope_golden: frequencies from the published formulas; made by make_rope_golden.py.\n *")
    print(" * Why        50-digit arithmetic, written apart from the code under test. Do not edit.")
    print(" * Threading  Constants. */")
    print("#pragma once\n")
    print("#include \"model/weights/model.h\"\n")
    print("/* clang-format off */")
    for name, frequencies, _, _ in CASES:
        print(f"static const double rope_golden_{name}[] = {{")
        for f in frequencies:
            print(f"    {f:.25e},")
        print("};")
    print("static const struct rope_golden {")
    print("    const char *name;")
    print("    struct spin_rope_config config;")
    print("    const double *frequencies;")
    print("    double magnitude;")
    print("} rope_goldens[] = {")
    for name, _, magnitude, config in CASES:
        print(f"    {{\"{name}\",")
        print("     {" + ",\n      ".join(config.split(", ")) + "},")
        print(f"     rope_golden_{name}, {magnitude:.20f}}},")
    print("};")
    print("/* clang-format on */")


if __name__ == "__main__":
    main()
