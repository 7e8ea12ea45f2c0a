"""What a streamed token costs the router, and how long it is on its way through it.

usage: overhead.py ROUTER STUB_WORKER STREAM_CLIENT SOCKET_FLOOR [--runs N] ... (--help)

Router, four stub workers and a client are processes of their own; each run starts new ones. First
the client streams at a high rate, and the router's processor time over the tokens is what a token
costs. Then at half of the rate that one processor second has to carry (20,000), once with every
stream at its own phase and once with all tokens of a worker at the same moment, as an engine sends
them: a token's latency is from the stub's send to the client's read, so the wire, twice, and the
client are part of it: an upper bound. The floor is what a read and a write of a socket cost alone.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

MODEL = "random:tiny"  # one byte, one token, one character
NAME = "stub"
STREAMS = 400
WORKERS = 4
HIGH_RATE = 20000  # tokens/s of all streams
ANSWER_TOKENS = 256
READY_LIMIT_S = 30
STOP_LIMIT_S = 30


@dataclasses.dataclass
class Programs:
    router: str
    stub_worker: str
    stream_client: str
    socket_floor: str


class Processes:
    """A router and its stub workers, new for every run, killed at its end."""

    def __init__(self, programs, folder, stream_rate, pattern):
        self.folder = pathlib.Path(folder)
        self.times = self.folder / "times"
        self.running = []
        self.router = self.start("router", [
            programs.router, "--model", MODEL, "--served-model-name", NAME, "--listen",
            "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0"])
        addresses = dict(line.split() for line in self.port_file("router").read_text().splitlines())
        self.http = addresses["http"]
        for i in range(WORKERS):
            self.start(f"worker{i}", [
                programs.stub_worker, "--model", NAME, "--router", addresses["grpc"],
                "--tokens-per-s", str(stream_rate), "--pattern", pattern, "--times",
                str(self.times)])

    def port_file(self, name):
        return self.folder / f"{name}.port"

    def start(self, name, command):
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command, "--port-file",
                 str(self.port_file(name))],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.append(process)
        deadline = time.monotonic() + READY_LIMIT_S
        while not self.port_file(name).exists():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{name} does not start: {(self.folder / f'{name}.log').read_text()}")
            time.sleep(0.01)
        return process

    def stop(self):
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def measure(programs, rate, seconds, pattern, perf=None):
    """One run at `rate` tokens/s of all streams together; what the client printed."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        processes = Processes(programs, folder, rate / STREAMS, pattern)
        try:
            command = [programs.stream_client, "--router", processes.http, "--model", NAME,
                       "--times", str(processes.times), "--streams", str(STREAMS), "--tokens",
                       str(ANSWER_TOKENS), "--router-pid", str(processes.router.pid), "--warmup",
                       "3s", "--measure", f"{seconds}s"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
                if perf is not None:
                    time.sleep(4)
                    record_profile(processes.router.pid, perf)
                output, _ = client.communicate(timeout=seconds + 60)
            if client.returncode != 0:
                sys.exit(f"the client failed; router: "
                         f"{(processes.folder / 'router.log').read_text()[-2000:]}")
            return json.loads(output)
        finally:
            processes.stop()


def record_profile(pid, path):
    """Where the router's time goes: `perf` for three seconds, by library and by function."""
    if shutil.which("perf") is None:
        return
    data = f"{path}.data"
    recorded = subprocess.run(["perf", "record", "--quiet", "--freq", "999", "--pid", str(pid),
                               "--output", data, "--", "sleep", "3"], stderr=subprocess.DEVNULL,
                              check=False)
    if recorded.returncode != 0:
        print("perf: not allowed to record here")
        return
    for keys in ("comm,dso", "comm,dso,symbol"):
        report = subprocess.run(["perf", "report", "--stdio", "--input", data, "--sort", keys,
                                 "--percent-limit", "0.7"], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True, check=False)
        lines = [" ".join(line.split()).removesuffix(" - -") for line in report.stdout.splitlines()
                 if line.strip() and not line.startswith("#")]
        print(f"perf, {keys}:\n" + "\n".join(lines))
    pathlib.Path(data).unlink(missing_ok=True)


def measure_floor(programs, runs):
    """Microseconds of processor time: what one read and one write of a token's bytes take."""
    sums = []
    for _ in range(runs):
        output = subprocess.run([programs.socket_floor], stdout=subprocess.PIPE, text=True,
                                check=True, timeout=60).stdout
        sums.append(sum(float(line.split("=")[1]) for line in output.splitlines()))
        print("floor: " + ", ".join(output.split()), flush=True)
    return sums


def per_cpu_s(result):
    return result["tokens"] / result["router_cpu_s"]


def report(result, what, rate):
    latency = result["latency_ms"]
    print(f"{what}: asked {rate:.0f} tokens/s, streamed "
          f"{result['tokens'] / result['seconds']:.0f}, router "
          f"{100 * result['router_cpu_s'] / result['seconds']:.0f} % of a processor, "
          f"{per_cpu_s(result):.0f} tokens per processor second, "
          f"{result['tokens'] / max(1, result['events']):.2f} tokens per event, latency ms p50 "
          f"{latency['p50']:.2f} p90 {latency['p90']:.2f} p99 {latency['p99']:.2f} max "
          f"{latency['max']:.1f}, {result['answers']} answers, {result['untimed']} untimed",
          flush=True)


def several(programs, options, what, rate, pattern="spread"):
    results = []
    for number in range(options.runs):
        result = measure(programs, rate, options.seconds, pattern)
        report(result, f"{what} {number + 1}", rate)
        results.append(result)
    return results


def spread(values, digits):
    return (f"{statistics.median(values):.{digits}f} "
            f"({min(values):.{digits}f} to {max(values):.{digits}f})")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs", nargs=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--rate", type=float, default=HIGH_RATE)
    parser.add_argument("--perf", action="store_true", help="one more run, under perf")
    parser.add_argument("--realtime", action="store_true",
                        help="all of it before whatever else the machine runs (SCHED_RR)")
    options = parser.parse_args()
    if options.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # inherited
    programs = Programs(*options.programs)
    print(f"{STREAMS} streams of {ANSWER_TOKENS} tokens, {WORKERS} stub workers, {options.runs} "
          f"runs of {options.seconds} s", flush=True)

    costs = [per_cpu_s(r) for r in several(programs, options, "high rate", options.rate)]
    half = options.rate / 2
    halves = several(programs, options, "half rate", half)
    steps = several(programs, options, "half rate, in steps", half, pattern="step")
    latencies = [result["latency_ms"]["p99"] for result in halves]
    step_latencies = [result["latency_ms"]["p99"] for result in steps]
    if options.perf:
        with tempfile.TemporaryDirectory() as folder:
            measure(programs, options.rate, options.seconds, "spread",
                    perf=pathlib.Path(folder) / "perf")
    floors = measure_floor(programs, options.runs)
    print(f"processor time of a token, us: {1e6 / statistics.median(costs):.1f}; floor, a read and a "
          f"write: {spread(floors, 1)}")
    print(f"tokens per processor second: {spread(costs, 0)}")
    print(f"p99 at {half:.0f} tokens/s, ms: {spread(latencies, 2)}; all tokens of a worker at the "
          f"same moment: {spread(step_latencies, 2)}")
    print(f"RESULT tokens_per_cpu_s={statistics.median(costs):.0f} "
          f"added_p99_ms={statistics.median(latencies):.2f} "
          f"added_p99_ms_steps={statistics.median(step_latencies):.2f} "
          f"floor_us={statistics.median(floors):.1f} rate={half:.0f} "
          f"streams={STREAMS} runs={options.runs}")


if __name__ == "__main__":
    main()
