#!/usr/bin/python3
"""Tables in Markdown out of the logs of bench/gpu.sh: usage: tables.py LOG...

One table for each kind of RESULT line that the programs of whole models print; what a log does not have
is left out. `x` is the median step over the larger of its HBM and PCIe floors, `x serial` over their sum,
`speed-up` is dense over this one.
"""

import re
import sys

FIELD = re.compile(r'(\w+)=("[^"]*"|\S+)')


def read(paths):
    """The RESULT lines of all logs by kind, as dictionaries."""
    kinds = {}
    for path in paths:
        with open(path, encoding="utf-8") as log:
            for line in log:
                words = line.split(maxsplit=2)
                if len(words) == 3 and words[0] == "RESULT":
                    fields = {name: value.strip('"') for name, value in FIELD.findall(words[2])}
                    kinds.setdefault(words[1], []).append(fields)
    return kinds


def table(title, columns, rows):
    """columns: heading -> function of a row's fields."""
    if not rows:
        return ""
    lines = [f"**{title}**", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(value(row) for value in columns.values()) + " |" for row in rows]
    return "\n".join(lines) + "\n\n"


def number(name, digits=2, scale=1.0):
    """A field with so many digits; empty where a row has none."""
    return lambda row: f"{float(row[name]) * scale:.{digits}f}" if name in row else ""


def text(name):
    return lambda row: row.get(name, "")


def context(row):
    tokens = int(row["context"])
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


def choices(row):
    if row["algorithm"] == "dense":
        return ""
    return "recorded" if row["choices"] == "trace" else f"{row['overlap']} %"


PLACE = {"context": context, "batch": text("batch"), "algorithm": text("algorithm")}


def decode_table(rows):
    return table("Decode step", {
        **PLACE, "overlap": choices, "hit": number("hit", 3), "slots": text("slots"), "ms": number("ms"),
        "floor ms": number("floor_ms"), "x": number("x"), "x serial": number("x_serial"),
        "dense ms": number("dense_ms"), "its floor": number("dense_floor_ms"), "speed-up": number("speedup"),
        "tokens/s": number("tokens_per_s", 0),
        "frames": lambda row: "aliased" if row["aliased"] == "yes" else ""}, rows)


def part_tables(kinds):
    gather = table("What gather adds to a step", {
        **PLACE, "overlap": lambda row: row["overlap"] + " %", "ms": number("ms"), "us a layer": number("us_layer", 1),
        "MiB a layer": number("list_mib_layer"), "GB/s": number("gbps", 1), "of 51.2": number("share")},
                   kinds.get("gather", []))
    return gather + table("What select adds to a step", {
        **PLACE, "ms": number("ms"), "us a layer": number("us_layer", 1), "floor ms": number("floor_ms")},
                          kinds.get("select", []))


def other_tables(kinds):
    out = table("Left out", {**PLACE, "why": text("why"), "GB of KV": text("kv_gb")}, kinds.get("skipped", []))
    out += table("Ablation", {
        **PLACE, "step": text("step"), "hit": number("hit", 3), "ms": number("ms"),
        "tokens/s": number("tokens_per_s", 0), "over base": number("speedup")}, kinds.get("ablation", []))
    out += table("Prefill", {
        "way": text("way"), "tokens": text("tokens"), "ms": number("ms", 1), "tokens/s": number("tokens_per_s", 0),
        "TFLOP/s": number("tflops", 1), "products alone": number("gemm_tflops", 1), "share": number("share")},
                 kinds.get("prefill", []))
    out += table("Index and Offload", {"ms": number("ms", 1), "share": number("share", 3)},
                 kinds.get("prefill_index_offload", []))
    checks = [row for row in kinds.get("model_check", []) if "reference" in row]
    return out + table("Beside the reference", {
        "run": text("run"), "weights of the reference": text("reference"), "positions": text("positions"),
        "top-1 %": number("top1"), "first other: margin": number("first_margin", 4),
        "largest": number("largest_margin", 4), "logits apart": number("relative_l2", 4),
        "perplexity": number("perplexity", 3), "of the reference": number("perplexity_reference", 3)}, checks)


def main(paths):
    if not paths:
        sys.stderr.write(__doc__)
        return 2
    kinds = read(paths)
    sys.stdout.write(decode_table(kinds.get("decode", [])) + part_tables(kinds) + other_tables(kinds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
