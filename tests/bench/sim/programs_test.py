"""step-times and spin-sim as people run them: a table of a tiny model, measured here; then a large
cluster simulated on it, twice, and judged by its own file."""

import json
import os
import pathlib
import subprocess
import time

import pytest

STEP_TIMES = os.environ["STEP_TIMES"]
SPIN_SIM = os.environ["SPIN_SIM"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("sim") / "tiny.times"
    subprocess.run([STEP_TIMES, "--workers", "2", "--repeats", "2", "--longest-prompt", "600",
                    "--longest-context", "300", "--output", path, "--", "--model", "random:tiny",
                    "--device", "cpu", "--threads", "1", "--max-model-len", "4096",
                    "--max-num-seqs", "12"],
                   check=True, timeout=120, stderr=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    """The gRPC address of a router with two workers."""
    folder = tmp_path_factory.mktemp("cluster")
    log = (folder / "log").open("w")
    running = []

    def start(name, program, *words):
        port_file = folder / name
        running.append(subprocess.Popen(
            [program, "--model", "random:tiny", "--served-model-name", "tiny", "--listen",
             "127.0.0.1:0", "--port-file", port_file, *words], stdout=log, stderr=log))
        return port_file

    def wait(ready, what):
        deadline = time.monotonic() + 30
        while not ready():
            assert time.monotonic() < deadline, f"{what}: {(folder / 'log').read_text()[-2000:]}"
            time.sleep(0.02)

    ports = start("router", os.environ["SPIN_ROUTER"], "--grpc-listen", "127.0.0.1:0")
    wait(ports.exists, "router")
    grpc = dict(line.split() for line in ports.read_text().splitlines())["grpc"]
    for name in ("worker-1", "worker-2"):
        start(name, os.environ["SPIN_WORKER"], "--router", grpc, "--http-listen", "off",
              "--device", "cpu", "--threads", "1")
    wait(lambda: (folder / "log").read_text().count("member joined") == 2, "workers")
    yield grpc
    for process in running:
        process.kill()
        process.wait()
    log.close()


def rows(table, kind):
    found = [line.split() for line in table.read_text().splitlines() if line.startswith(kind + " ")]
    return [[int(number) for number in words[1:]] for words in found]


def test_table_has_what_was_asked_for(table):
    text = table.read_text()
    assert text.startswith("spin-step-times 1\n")
    for field in ["max_model_len 4096", "max_num_seqs 12", "workers 2", "threads 1",
                  "algorithm dense", "replay 0", "prefill_slots 4", "model random:tiny"]:
        assert f"\n{field}\n" in text
    prompts = rows(table, "prompt")
    assert [tokens for tokens, _ in prompts] == [1, 16, 64, 128, 256, 512, 600]
    assert prompts[-1][1] > prompts[0][1] > 0
    decodes = rows(table, "decode")
    assert sorted({sequences for sequences, _, _ in decodes}) == [1, 2, 4, 8, 12]
    for _, context, ns in decodes:
        assert 32 < context < 4096
        assert ns > 0
    [[first]] = rows(table, "first")
    assert 0 < first <= prompts[0][1]


def test_workers_of_a_cluster(router, tmp_path):
    path = tmp_path / "cluster.times"
    words = [STEP_TIMES, "--target", router, "--repeats", "1", "--longest-prompt", "200",
             "--longest-context", "64", "--output", path]
    worker = ["--", "--model", "random:tiny", "--device", "cpu", "--threads", "1",
              "--max-model-len", "4096", "--max-num-seqs", "4"]
    done = subprocess.run([*words, "--workers", "2", *worker], text=True, capture_output=True,
                          timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [tokens for tokens, _ in rows(path, "prompt")] == [1, 16, 64, 128, 200]
    assert sorted({sequences for sequences, _, _ in rows(path, "decode")}) == [1, 2, 4]
    assert "\nworkers 2\n" in pathlib.Path(path).read_text()
    done = subprocess.run([*words, "--workers", "3", *worker], text=True, capture_output=True,
                          timeout=60)
    assert done.returncode == 1
    assert "has 2 workers, and 3 were announced" in done.stderr


def simulate(table, path, *words):
    subprocess.run([SPIN_SIM, "--step-times", table, "--json", path, *words], check=True,
                   timeout=120, stdout=subprocess.DEVNULL)
    [run] = json.loads(path.read_text())["runs"]
    return run


def test_large_cluster(table, tmp_path):
    words = ["--workers", "1000", "--workload", "chat", "--rate", "200000", "--requests", "20000",
             "--max-queue", "100000", "--max-queue-per-tenant", "100000", "--max-generations",
             "100000", "--slo", "ttft=1s,tpot=100ms"]
    first = simulate(table, tmp_path / "first.json", *words)
    assert first["counts"]["measured"] == 20000
    assert sum(first["outcomes"].values()) == 20000
    assert first["outcomes"]["refused"] == 0  # chat's longest fits 4,096 tokens
    assert first["outcomes"]["ok"] == 20000
    latencies = first["latencies"]
    assert latencies["itl"]["count"] == first["counts"]["output_tokens"] - 20000
    assert latencies["ttft"]["p50_ms"] > 0
    second = simulate(table, tmp_path / "second.json", *words)
    for run in (first, second):  # all that is of the real world
        for part, key in (("setup", "command"), ("setup", "wall_start_ms"),
                          ("run", "simulated_in_s")):
            del run[part][key]
    assert first == second


def test_more_workers_wait_less(table, tmp_path):
    words = ["--workload", "chat", "--concurrency", "64", "--requests", "1000"]
    few = simulate(table, tmp_path / "few.json", "--workers", "2", *words)
    many = simulate(table, tmp_path / "many.json", "--workers", "16", *words)
    assert (many["rates"]["output_tokens_per_s"] > 2 * few["rates"]["output_tokens_per_s"])
    assert many["latencies"]["ttft"]["p50_ms"] < few["latencies"]["ttft"]["p50_ms"]


@pytest.mark.parametrize("words, code, says", [
    ([], 2, "\"--\" is missing"),
    (["--"], 2, "--model is required"),
    (["--workers", "0", "--", "--model", "random:tiny"], 2, "1..64"),
    (["--", "--model", "/nowhere.gguf"], 1, "/nowhere.gguf"),
    (["--", "--model", "random:tiny", "--device", "cpu", "--kv-host-bytes", "1"], 1,
     "--kv-host-bytes"),
])
def test_what_cannot_be_measured(words, code, says):
    done = subprocess.run([STEP_TIMES, *words], text=True, capture_output=True, timeout=60)
    assert done.returncode == code
    assert says in done.stderr.splitlines()[-1]
    assert done.stdout == ""


@pytest.mark.parametrize("words, code, says", [
    (["--workers", "1"], 2, "--step-times is required"),
    (["--step-times", "/nowhere"], 1, "/nowhere"),
    (["--step-times", "{table}", "--workers", "0"], 2, "1..1024"),
    (["--step-times", "{table}", "--workload", "nonsense"], 1, "nonsense"),
    (["--step-times", "{table}", "--arrival", "poisson"], 1, "--rate must be above 0"),
])
def test_bad_arguments(table, words, code, says):
    done = subprocess.run([SPIN_SIM] + [word.format(table=table) for word in words], text=True,
                          capture_output=True, timeout=60)
    assert done.returncode == code
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_refusals_are_counted(table, tmp_path):
    run = simulate(table, tmp_path / "run.json", "--workload", "fixed:4000,200", "--arrival",
                   "constant", "--rate", "100", "--requests", "50")
    assert run["outcomes"]["refused"] == 50
    assert "max_model_len, 4096" in run["errors"]["refused"]["first"]
