"""How many streamed tokens a second spin-bench can follow before it is the narrow place itself.

usage: limit.py SPIN_BENCH STUB [--driver http|grpc] ... (--help)

The stub sends every stream a token each 10 ms, in a message of its own; more and more streams, until
spin-bench says that it was the limit. Generator and stub each have a processor to themselves where
there are two. The result is the highest rate of a step in which nothing was late.
"""

import argparse
import os
import sys
import tempfile

from servers import bench, stub

ITL_MS = 10
TOKENS = 200  # of an answer: requests are part of the picture
STREAMS = (200, 300, 400, 500, 600, 700, 800, 1000, 1200, 1600, 2000, 3000)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("stub")
    parser.add_argument("--driver", choices=("http", "grpc"), default="http")
    parser.add_argument("--duration", type=float, default=6, help="seconds of a step")
    parser.add_argument("--tries", type=int, default=2, help="of a step, before it counts as too much")
    return parser.parse_args()


def step(options, folder, streams, cpus):
    """One run of so many streams: tokens/s, and why it was the generator's limit ("" when it was not)."""
    with stub(options.stub, folder, "--ttft=10ms", f"--itl={ITL_MS}ms", cpus=cpus[0]) as targets:
        done, runs = bench(options.program, folder, "--target", targets[options.driver == "grpc"],
                           f"--workload=fixed:50,{TOKENS}", f"--concurrency={streams}", "--metrics=none",
                           "--warm-up=3s", f"--duration={options.duration}s", cpus=cpus[1])
    run = runs[0]
    if done.returncode != 0:
        raise SystemExit(f"{streams} streams: {done.stdout}{done.stderr}")
    # The window ends with the last answer; the steady middle is what was followed.
    curve = run["timeline"]["output_tokens_per_s"]
    first = int(3000 / run["timeline"]["step_ms"])
    steady = curve[first:first + int(options.duration * 1000 / run["timeline"]["step_ms"])]
    rate = sum(steady) / len(steady)
    generator = run["generator"]
    why = generator["limited_why"] if generator["limited"] else ""
    itl = run["latencies"]["itl"]
    print(f"{streams:5d} streams  {rate:9.0f} tokens/s  itl p50 {itl['p50_ms']:6.2f} p99 {itl['p99_ms']:7.2f} ms  "
          f"busiest thread {100 * generator['cpu_busiest']:3.0f} %  {why or 'in time'}",
          flush=True)
    return rate, why


def main():
    options = arguments()
    usable = sorted(os.sched_getaffinity(0))
    cpus = ({usable[0]}, {usable[1]}) if len(usable) > 1 else (None, None)
    best, why = 0.0, ""
    with tempfile.TemporaryDirectory() as folder:
        for streams in STREAMS:
            for _ in range(options.tries):
                rate, why = step(options, folder, streams, cpus)
                if not why:
                    best = max(best, rate)
                    break
            if why:
                break
    print(f"RESULT tokens_per_s={best:.0f} driver={options.driver} said_so={'yes' if why else 'no'}")
    return 0 if best > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
