"""Asks the local cluster and the simulation for the same requests, and compares.

usage: check.py FOLDER_OF_PROGRAMS MODEL TARGET [--workers N] [--runs N] ... (--help)

A round: step-times measures a table of the cluster's workers, all of them at once; spin-bench runs
a workload of one seed against TARGET; spin-sim runs the same seed on the table. So whatever else the
machine does in these minutes is on both sides.
A ratio is simulated over real; judged is the median over the rounds of each figure's ratio.
Everything is left in --folder: tables and both sides' runs, for spin-bench compare.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

LIMIT = 0.15  # how far from 1 a median ratio may be
TABLE_LIMIT_S = 3600
RUN_LIMIT_S = 1800
FIGURES = {  # name: (where in the file, judged)
    "output_tokens_per_s": (("rates", "output_tokens_per_s"), True),
    "ttft_p50_ms": (("latencies", "ttft", "p50_ms"), True),
    "tpot_p50_ms": (("latencies", "tpot", "p50_ms"), False),
    "e2e_p50_ms": (("latencies", "e2e", "p50_ms"), False),
    "ttft_p90_ms": (("latencies", "ttft", "p90_ms"), False),
}


def run(command, limit_s):
    """Runs a program; its words go to standard error, its failure ends this one."""
    done = subprocess.run([str(word) for word in command], stdout=sys.stderr, timeout=limit_s)
    if done.returncode != 0:
        sys.exit(f"{command[0]}: exit code {done.returncode}")


def read_figures(path):
    """The figures of the one run in a file, all of whose requests must have been answered."""
    [one] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    failed = {name: count for name, count in one["outcomes"].items() if name != "ok" and count > 0}
    if failed or one["counts"]["measured"] == 0:
        sys.exit(f"{path}: {one['counts']['measured']} requests measured, failed: {failed}")
    figures = {}
    for name, (keys, _) in FIGURES.items():
        value = one
        for key in keys:
            value = value[key]
        figures[name] = value
    return figures


def schedule_options(options, seed):
    words = ["--workload", options.workload, "--scale", options.scale, "--seed", seed,
             "--requests", options.requests]
    if options.rate > 0:
        return words + ["--rate", options.rate]
    return words + ["--concurrency", options.concurrency]


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("programs", type=pathlib.Path)
    parser.add_argument("model", help="the workers' model file")
    parser.add_argument("target", help="host:port of the gRPC of the cluster's router")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="of each; 0: cores / workers")
    parser.add_argument("--sparse-attention", default="dense", help="of the workers")
    parser.add_argument("--device", default="cpu", help="of the workers")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--workload", default="chat")
    parser.add_argument("--scale", type=float, default=0.25)
    parser.add_argument("--requests", type=int, default=120)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0, help="requests/s; 0: a closed loop")
    parser.add_argument("--table", type=pathlib.Path, help="of an earlier check; else each round measures its own")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(".cache/sim"))
    return parser.parse_args()


def measure_table(options, seed):
    if options.table is not None:
        return options.table
    table = options.folder / f"{seed}.times"
    run([options.programs / "bench/sim/step-times", "--target", options.target, "--workers",
         options.workers, "--longest-prompt", 512, "--longest-context", 512, "--step-tokens", 4096,
         "--output", table, "--", "--model", options.model, "--threads", options.threads,
         "--device", options.device, "--sparse-attention", options.sparse_attention], TABLE_LIMIT_S)
    return table


def compare(options, seed):
    """One round; returns simulated over real, by figure."""
    table = measure_table(options, seed)
    real_path = options.folder / f"real-{seed}.json"
    simulated_path = options.folder / f"simulated-{seed}.json"
    schedule = schedule_options(options, seed)
    run([options.programs / "bench/load/spin-bench", "--target", options.target, *schedule,
         "--progress", "off", "--json", real_path], RUN_LIMIT_S)
    run([options.programs / "bench/sim/spin-sim", "--step-times", table, "--workers",
         options.workers, *schedule, "--json", simulated_path], RUN_LIMIT_S)
    real = read_figures(real_path)
    simulated = read_figures(simulated_path)
    ratios = {name: simulated[name] / real[name] for name in FIGURES}
    print(f"seed {seed}: " + "  ".join(
        f"{name} {real[name]:.1f} real, {simulated[name]:.1f} simulated ({ratios[name]:.3f})"
        for name in FIGURES), flush=True)
    return ratios


def main():
    options = parse()
    if options.threads == 0:
        options.threads = max(len(os.sched_getaffinity(0)) // options.workers, 1)
    options.folder.mkdir(parents=True, exist_ok=True)
    ratios = [compare(options, seed) for seed in range(1, options.runs + 1)]
    outside = []
    for name, (_, judged) in FIGURES.items():
        values = [one[name] for one in ratios]
        middle = statistics.median(values)
        print(f"RESULT sim_over_real_{name}={middle:.3f} least={min(values):.3f} "
              f"most={max(values):.3f} runs={len(values)}")
        if judged and abs(middle - 1) > LIMIT:
            outside.append(name)
    if outside:
        sys.exit(f"more than {LIMIT:.0%} off: {', '.join(outside)}")


if __name__ == "__main__":
    main()
