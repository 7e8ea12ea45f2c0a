"""spin-bench and a client that we did not write its timing with, against moments that are known.

usage: agreement.py SPIN_BENCH STUB [--requests N] (--help)

The stub answers after 200 ms and then every 20 ms. The other client is httpx, asyncio and sixty
lines: the same requests at the same rate, one after the other, its own clock. Both are compared with
the script and with each other: ttft, gaps and whole answers, in their medians and means.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time

import httpx

from servers import bench, stub

TTFT_MS = 200
ITL_MS = 20
TOKENS = 40
RATE = 5
PART, LEAST_MS = 0.03, 1.0  # how far apart two may be: the larger of them


async def ask(client, url, at_s, seen):
    """One request at its moment; notes (ttft, e2e) and the gaps, in ms."""
    await asyncio.sleep(at_s - time.perf_counter())
    body = {"model": "stub", "prompt": "word " * 50, "max_tokens": TOKENS, "stream": True, "temperature": 0}
    moments = []
    async with client.stream("POST", f"{url}/v1/completions", json=body) as reply:
        assert reply.status_code == 200
        async for line in reply.aiter_lines():
            now_s = time.perf_counter()
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            choices = json.loads(line[6:])["choices"]
            if choices and choices[0]["text"]:
                moments.append(now_s)
    assert len(moments) == TOKENS
    seen["ttft"].append(1000 * (moments[0] - at_s))
    seen["e2e"].append(1000 * (moments[-1] - at_s))
    seen["itl"] += [1000 * (after - before) for before, after in zip(moments, moments[1:])]


async def ask_all(url, requests):
    seen = {"ttft": [], "itl": [], "e2e": []}
    async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
        (await client.get(f"{url}/v1/models")).raise_for_status()  # as spin-bench does before it starts
        start_s = time.perf_counter() + 0.2
        await asyncio.gather(*(ask(client, url, start_s + i / RATE, seen) for i in range(requests)))
    return {name: {"p50_ms": statistics.median(values), "mean_ms": statistics.fmean(values)}
            for name, values in seen.items()}


def measure(program, program_stub, requests):
    """Latencies of each client by its name."""
    with tempfile.TemporaryDirectory() as folder, \
            stub(program_stub, folder, f"--ttft={TTFT_MS}ms", f"--itl={ITL_MS}ms") as targets:
        found = {"httpx": asyncio.run(ask_all(targets[0], requests))}
        for name, target in zip(("spin-bench-http", "spin-bench-grpc"), targets):
            done, runs = bench(program, folder, "--target", target, f"--workload=fixed:50,{TOKENS}",
                               "--arrival=constant", f"--rate={RATE}", f"--requests={requests}", "--metrics=none")
            assert done.returncode == 0, done.stdout + done.stderr
            found[name] = runs[0]["latencies"]
    return found


def differences(found, figures=("p50_ms", "mean_ms")):
    """(latency, figure, client, other, value, other's value, whether they agree)."""
    script = {"ttft": TTFT_MS, "itl": ITL_MS, "e2e": TTFT_MS + (TOKENS - 1) * ITL_MS}
    scripted = {name: {"p50_ms": value, "mean_ms": value} for name, value in script.items()}
    for client in ("spin-bench-http", "spin-bench-grpc"):
        for other, values in (("script", scripted), ("httpx", found["httpx"])):
            for latency in script:
                for figure in figures:
                    a, b = found[client][latency][figure], values[latency][figure]
                    yield latency, figure, client, other, a, b, abs(a - b) <= max(PART * b, LEAST_MS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("stub")
    parser.add_argument("--requests", type=int, default=50)
    options = parser.parse_args()
    worst = 0.0
    apart = 0
    for latency, figure, client, other, a, b, agree in differences(
            measure(options.program, options.stub, options.requests)):
        worst = max(worst, abs(a - b) / b)
        apart += not agree
        print(f"{client:16s} {latency:5s} {figure:8s} {a:9.3f} ms, {other:7s} {b:9.3f} ms"
              f"{'' if agree else '  APART'}")
    print(f"RESULT apart={apart} worst_part={worst:.4f} allowed_part={PART} or_ms={LEAST_MS}")
    return 1 if apart else 0


if __name__ == "__main__":
    sys.exit(main())
