"""Servers as processes: started for a measurement, ready when they say so, gone at its end."""

import contextlib
import json
import os
import pathlib
import subprocess
import time
import urllib.error
import urllib.request

READY_LIMIT_S = 120
STOP_LIMIT_S = 30
POLL_S = 0.05

# Nothing of the caller's environment is an option of ours by accident; no proxy is between us.
ENVIRONMENT = {"PATH": os.environ["PATH"], "NO_PROXY": "*"}


@contextlib.contextmanager
def process(name, command, folder, cpus=None, env=None):
    """Runs `command` with its output in FOLDER/NAME.log, on these processors, until the block ends."""
    log = pathlib.Path(folder) / f"{name}.log"
    with open(log, "wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out, env={**ENVIRONMENT, **(env or {})},
                                   preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None)
    running.log = log
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def wait_until(what, running, is_ready):
    """Until is_ready() is true; fails when a process has ended or it takes too long."""
    deadline = time.monotonic() + READY_LIMIT_S
    while not is_ready():
        for one in running:
            if one.poll() is not None:
                raise SystemExit(f"{what} ended with {one.returncode}: {one.log.read_text(errors='replace')[-800:]}")
        if time.monotonic() > deadline:
            raise SystemExit(f"{what} was not ready within {READY_LIMIT_S} s")
        time.sleep(POLL_S)


def answers(url):
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def stub(program, folder, *flags, cpus=None):
    """The stub server: yields "http://127.0.0.1:PORT" and "127.0.0.1:PORT" of its gRPC."""
    ports = pathlib.Path(folder) / "ports"
    ports.unlink(missing_ok=True)
    command = [program, "--port-file", str(ports), "--grpc=127.0.0.1:0", *flags]
    with process("stub", command, folder, cpus) as running:
        wait_until("the stub", [running], ports.exists)
        http, grpc = ports.read_text().split()
        yield f"http://127.0.0.1:{http}", f"127.0.0.1:{grpc}"


def bench(program, folder, *flags, cpus=None):
    """One command of spin-bench; returns its exit code, what it printed, and its runs."""
    report = pathlib.Path(folder) / "report.json"
    report.unlink(missing_ok=True)
    done = subprocess.run([program, *flags, f"--json={report}"], env=ENVIRONMENT, capture_output=True, text=True,
                          preexec_fn=(lambda: os.sched_setaffinity(0, cpus)) if cpus else None)
    if not report.exists():
        raise SystemExit(f"spin-bench exited with {done.returncode}: {done.stderr[-800:]}")
    return done, json.loads(report.read_text())["runs"]
