"""Two hundred streams while workers are killed, stopped and told to go, again and again.

The client of the benchmark checks every token of every stream against what the stub draws for that
place, and stub workers refuse resumed tokens that they would not have drawn themselves.
"""

import json
import os
import random
import signal
import subprocess
import time

from tests.cluster import cluster

SEED = int(os.environ.get("SPIN_SEED", "20261123"))
SECONDS = int(os.environ.get("SPIN_SECONDS", "6"))
STREAMS = 200
WORKERS = 3
# Many may fail one sequence here; the default stops after 8.
ROUTER_OPTIONS = ["--worker-timeout", "1s", "--max-recoveries", "1000"]


def disturb(worker, rng):
    """One of the ways in which a worker goes away, and its return."""
    how = rng.choice(["kill", "kill", "stop", "terminate"])
    if how == "stop":
        worker.signal(signal.SIGSTOP)
        time.sleep(rng.uniform(0, 2.5))  # longer than the worker's timeout, or not
        worker.signal(signal.SIGCONT)
        return
    if how == "kill":
        worker.kill()
    else:
        assert worker.terminate() == 0, worker.log()
    time.sleep(rng.uniform(0, 0.5))
    worker.restart()


def start_client(c, times):
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", os.environ["SPIN_STREAM_CLIENT"], "--router",
         c.router.http_address, "--model", cluster.NAME, "--times", str(times), "--streams",
         str(STREAMS), "--tokens", "100", "--warmup", "1s", "--measure", f"{SECONDS}s"],
        env=cluster.CLEAN, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)


def test_storm(tmp_path):
    rng = random.Random(SEED)
    times = tmp_path / "times"
    with cluster.running(tmp_path, workers=WORKERS, stub=True, router_options=ROUTER_OPTIONS,
                         worker_options=["--tokens-per-s", "30", "--ttft", "50ms", "--times",
                                         str(times)]) as c:
        with start_client(c, times) as client:
            count = 0
            while client.poll() is None:
                disturb(rng.choice(c.workers), rng)
                count += 1
                # Others come and go in the meantime, by both doors.
                leaver = rng.choice([c.http, c.grpc])("a passer-by", max_tokens=200)
                time.sleep(rng.uniform(0, 0.5))
                leaver.drop()
            output, _ = client.communicate(timeout=30)
        assert client.returncode == 0, output
        result = json.loads(output)
        recoveries = c.metric("spin_router_recoveries_total")
        print(f"{count} disturbances, {recoveries:.0f} recoveries, {result['tokens']} tokens of "
              f"{result['answers']} answers checked")
        assert result["wrong"] == 0 and result["answers"] > 0
        assert recoveries > STREAMS / 2
        for worker in c.workers:
            assert worker.alive(), worker.log()
        c.wait_idle()
