"""A cluster of ours and llama-cpp-python's server: same model, same requests, in turns.

usage: compare_llamacpp.py SPIN_BENCH ROUTER WORKER MODEL --peer PATHS --out FOLDER [--repeat N] [BENCH OPTIONS]

Each repetition starts one server on all processors, asks it for the workload over HTTP, stops it and
starts the other: neither has the machine while the other is measured, and a slow minute hits both.
Both get the very same bodies: greedy, and with the model's end tokens out of reach, so that every
answer has the length of the plan (ignore_eos, which says it better, the peer does not know).

FOLDER gets spin-N.json, llamacpp-N.json, and the comparison as comparison.html, .json and .txt.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

from servers import ENVIRONMENT, answers, bench, process, wait_until

CONTEXT = 4096
END_TOKENS = (0, 2)  # of SmolLM2: <|endoftext|>, <|im_end|>
PORT = 18431  # the peer cannot choose one itself
WORKLOAD = ["--workload=chat", "--scale=0.25", "--concurrency=4", "--duration=20s", "--warm-up=3s"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("router")
    parser.add_argument("worker")
    parser.add_argument("model")
    parser.add_argument("--peer", required=True, help="PYTHONPATH of llama_cpp and its server")
    parser.add_argument("--out", required=True)
    parser.add_argument("--repeat", type=int, default=3)
    options, flags = parser.parse_known_args()
    options.flags = flags or WORKLOAD
    return options


@contextlib.contextmanager
def spin(options, folder):
    """A router and a worker; yields its HTTP."""
    ports = {name: pathlib.Path(folder) / f"{name}.ports" for name in ("router", "worker")}
    router = [options.router, "--model", options.model, "--served-model-name", "demo", "--listen", "127.0.0.1:0",
              "--grpc-listen", "127.0.0.1:0", "--port-file", str(ports["router"])]
    with process("router", router, folder) as first:
        wait_until("the router", [first], ports["router"].exists)
        listens = dict(line.split() for line in ports["router"].read_text().splitlines())
        worker = [options.worker, "--model", options.model, "--served-model-name", "demo", "--listen", "127.0.0.1:0",
                  "--http-listen", "127.0.0.1:0", "--router", listens["grpc"], "--max-model-len", str(CONTEXT)]
        with process("worker", worker, folder) as second:
            url = f"http://{listens['http']}"
            wait_until("the cluster", [first, second], lambda: answers(f"{url}/health"))
            yield url


@contextlib.contextmanager
def llamacpp(options, folder):
    """llama-cpp-python's server; yields its HTTP. By itself it ends an answer when the next request comes."""
    command = [sys.executable, "-m", "llama_cpp.server", "--model", options.model, "--model_alias", "demo",
               "--host", "127.0.0.1", "--port", str(PORT), "--n_ctx", str(CONTEXT),
               "--n_threads", str(os.cpu_count()), "--n_threads_batch", str(os.cpu_count()),
               "--interrupt_requests", "false"]
    with process("llamacpp", command, folder, env={"PYTHONPATH": options.peer}) as running:
        url = f"http://127.0.0.1:{PORT}"
        wait_until("llama_cpp.server", [running], lambda: answers(f"{url}/v1/models"))
        yield url


def measure(options, name, server, number, folder):
    """One run against one server; its report is kept."""
    body = json.dumps({"logit_bias": {str(token): -100 for token in END_TOKENS}})
    with server(options, folder) as url:
        done, runs = bench(options.program, folder, "--target", url, "--model=demo", f"--label={name}",
                           "--no-ignore-eos", f"--extra-body={body}", f"--seed={number + 1}",
                           *options.flags)
    print(done.stdout, flush=True)
    if done.returncode not in (0, 3):
        raise SystemExit(f"{name}: {done.stderr}")
    report = pathlib.Path(options.out) / f"{name}-{number}.json"
    report.write_bytes((pathlib.Path(folder) / "report.json").read_bytes())
    return str(report), runs[0]["rates"]["output_tokens_per_s"]


def compare(options, reports):
    out = pathlib.Path(options.out)
    done = subprocess.run([options.program, "compare", *reports["llamacpp"], "vs", *reports["spin"],
                           f"--html={out / 'comparison.html'}", f"--json={out / 'comparison.json'}"],
                          env=ENVIRONMENT, capture_output=True, text=True)
    (out / "comparison.txt").write_text(done.stdout)
    print(done.stdout + done.stderr, flush=True)
    return done.returncode


def main():
    options = arguments()
    pathlib.Path(options.out).mkdir(parents=True, exist_ok=True)
    reports = {"spin": [], "llamacpp": []}
    rates = {"spin": [], "llamacpp": []}
    for number in range(options.repeat):
        for name, server in (("spin", spin), ("llamacpp", llamacpp)):
            with tempfile.TemporaryDirectory() as folder:
                report, rate = measure(options, name, server, number, folder)
            reports[name].append(report)
            rates[name].append(rate)
    code = compare(options, reports)
    print(" ".join(["RESULT"] + [f"{name}_tokens_per_s={sorted(values)[len(values) // 2]:.1f}"
                                 for name, values in rates.items()]))
    return code


if __name__ == "__main__":
    sys.exit(main())
