"""How long spin-worker takes from exec to ready: usage: startup.py WORKER MODEL [RUNS]

Ready is when the worker has written its port file, which it does when it serves. The first start is
not counted: it brings the weights into the page cache.
"""

import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

READY_LIMIT_S = 120
STOP_LIMIT_S = 30
POLL_S = 0.001


def start_once(worker, model, folder):
    """Starts and stops one worker; returns the seconds until it was ready."""
    port_file = folder / "port"
    port_file.unlink(missing_ok=True)
    started = time.monotonic()
    process = subprocess.Popen([worker, "--model", model, "--listen", "127.0.0.1:0",
                                "--port-file", str(port_file)],
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        while not port_file.exists():
            if process.poll() is not None:
                sys.exit(f"the worker ended: {process.stderr.read().decode(errors='replace')}")
            if time.monotonic() - started > READY_LIMIT_S:
                sys.exit(f"not ready after {READY_LIMIT_S} s")
            time.sleep(POLL_S)
        return time.monotonic() - started
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main():
    worker, model = sys.argv[1:3]
    runs = int(sys.argv[3]) if len(sys.argv) > 3 else 11
    with tempfile.TemporaryDirectory() as folder:
        times = [start_once(worker, model, pathlib.Path(folder)) for _ in range(runs + 1)][1:]
    print("ready after, ms: " + " ".join(f"{1e3 * seconds:.0f}" for seconds in times))
    print(f"RESULT ready_ms_median={1e3 * statistics.median(times):.0f} "
          f"ready_ms_min={1e3 * min(times):.0f} ready_ms_max={1e3 * max(times):.0f} runs={runs}")


if __name__ == "__main__":
    main()
