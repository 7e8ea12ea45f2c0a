"""Two engines that share a machine's cores against one that has them all: usage:

    two_workers.py ENGINE_BENCH MODEL [--runs N]

The same eight sequences decode greedily: in one engine with every core, then four each in two engines
with half of the cores, at the same time. Tokens per second of both together over those of the one say
what sharing costs; more threads than cores would show here. Medians of alternating runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading

CONTEXT, STEPS, SEQUENCES = 128, 160, 8


class Engine:
    def __init__(self, program, model, threads):
        self.process = subprocess.Popen([program, model, str(threads)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.process.stdout.readline()

    def tokens_per_s(self, sequences):
        self.process.stdin.write(f"decode {CONTEXT} {STEPS} {sequences}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit("engine_bench ended")
        return 1e3 * sequences / float(answer)

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)


def together(engines, sequences):
    rates = [0.0] * len(engines)

    def run(i):
        rates[i] = engines[i].tokens_per_s(sequences)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(engines))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engine_bench")
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        sys.exit("two workers need two cores")
    one = Engine(arguments.engine_bench, arguments.model, cores)
    two = [Engine(arguments.engine_bench, arguments.model, cores // 2) for _ in range(2)]
    single, shared = [], []
    one.tokens_per_s(SEQUENCES), together(two, SEQUENCES // 2)  # does not count
    for _ in range(arguments.runs):
        single.append(one.tokens_per_s(SEQUENCES))
        shared.append(together(two, SEQUENCES // 2))
    for engine in [one, *two]:
        engine.close()
    print("one, tok/s:  " + " ".join(f"{rate:.0f}" for rate in single))
    print("two, tok/s:  " + " ".join(f"{rate:.0f}" for rate in shared))
    ratio = statistics.median(shared) / statistics.median(single)
    print(f"RESULT two_workers_ratio={ratio:.2f} one_tokens_per_s={statistics.median(single):.0f} "
          f"two_tokens_per_s={statistics.median(shared):.0f} runs={arguments.runs}")


if __name__ == "__main__":
    main()
