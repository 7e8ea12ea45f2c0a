"""`spin bench` as people run it: exit codes, what is printed and written, Ctrl-C, and that nothing fails in silence."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

import pytest

SPIN = os.environ["SPIN_CLIENT"]
STUB = os.environ["SPIN_STUB"]
LIMIT_S = 60


class Stub:
    def __init__(self, http, grpc):
        self.http = f"http://127.0.0.1:{http}"
        self.grpc = f"127.0.0.1:{grpc}"


@contextlib.contextmanager
def stub(folder, *flags):
    ports = pathlib.Path(folder) / "ports"
    process = subprocess.Popen([STUB, "--port-file", str(ports), "--grpc=127.0.0.1:0", *flags], env={})
    try:
        deadline = time.monotonic() + LIMIT_S
        while not ports.exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        yield Stub(*ports.read_text().split())
    finally:
        process.terminate()
        assert process.wait(LIMIT_S) == 0


def bench(*words, env=None):
    return subprocess.run([SPIN, "bench", *words], env=env or {}, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_reports_of_a_good_run(tmp_path, protocol):
    report, page = tmp_path / "a.json", tmp_path / "a.html"
    with stub(tmp_path, "--ttft=20ms", "--itl=5ms") as server:
        done = bench("--target", getattr(server, protocol), "--workload=fixed:30,10", "--rate=50", "--requests=20",
                     "--repeat=2", "--slo=ttft=5s", "--api-key", "secret-key", f"--json={report}", f"--html={page}")
    assert done.returncode == 0, done.stderr
    assert "20 ok" in done.stdout
    runs = json.loads(report.read_text())["runs"]
    assert [run["setup"]["repeat"] for run in runs] == [0, 1]
    for run in runs:
        assert run["setup"]["workload"] == "fixed:30,10"
        assert run["setup"]["model"] == "stub"
        assert run["counts"]["measured"] == 20
        assert run["counts"]["output_tokens"] == 200
        assert run["counts"]["prompt_tokens"] == 600
        assert 15 < run["latencies"]["ttft"]["p50_ms"] < 2000
        assert "secret-key" not in json.dumps(run)
    assert "<html" in page.read_text()
    assert "secret-key" not in page.read_text() + done.stdout


def test_some_failed(tmp_path):
    with stub(tmp_path, "--ttft=1ms", "--itl=1ms", "--fault=error", "--fault-every=4", "--fault-after=2") as server:
        done = bench("--target", server.http, "--workload=fixed:5,5", "--rate=100", "--requests=20")
    assert done.returncode == 3
    assert "15 ok" in done.stdout
    assert "server" in done.stdout and "5" in done.stdout
    assert "the stub was told to fail" in done.stdout


def test_all_failed(tmp_path):
    with stub(tmp_path, "--fault=refuse") as server:
        for target in server.http, server.grpc:
            done = bench("--target", target, "--workload=fixed:5,5", "--rate=100", "--requests=10")
            assert done.returncode == 1
            assert "not one request was answered" in done.stderr
            assert "the stub was told to" in done.stdout


def test_nobody_there():
    for target in "http://127.0.0.1:1", "127.0.0.1:1":
        done = bench("--target", target, "--connect-timeout=1s")
        assert done.returncode == 1
        assert "127.0.0.1:1" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("flags, says", [
    (["--rate=-1"], "--rate"),
    (["--rate=1e9"], "--rate"),
    (["--workload=nothing"], "longbench-v2"),
    (["--workload=trace:/no/such/file"], "/no/such/file"),
    (["--arrival=burst:0", "--rate=1"], "burst"),
    (["--concurrency=100000"], "--concurrency"),
    (["--slo=fast"], "--slo"),
    (["--repeat=0"], "--repeat"),
    (["--rates=1"], "rate"),
    (["compare"], "compare"),
])
def test_wrong_options(flags, says):
    done = bench(*flags)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stdout == ""


def test_wrong_body(tmp_path):
    with stub(tmp_path) as server:
        done = bench("--target", server.http, "--extra-body=[1]")
        assert done.returncode == 1
        assert "--extra-body" in done.stderr


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_interrupt_keeps_what_there_is(tmp_path, protocol):
    report = tmp_path / "a.json"
    with stub(tmp_path, "--ttft=1ms", "--itl=1ms") as server:
        process = subprocess.Popen(
            [SPIN, "bench", "--target", getattr(server, protocol), "--workload=fixed:5,5", "--rate=50",
             "--duration=100s", f"--json={report}"], env={}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    run = json.loads(report.read_text())["runs"][0]
    assert run["run"]["interrupted"]
    assert 0 < run["counts"]["measured"] < 1000


def test_a_trace_is_replayed(tmp_path):
    trace, report = tmp_path / "t.jsonl", tmp_path / "a.json"
    lines = [{"timestamp": 1000 + 100 * i, "input_length": 10 + i, "output_length": 3, "hash_ids": [i // 4]}
             for i in range(10)]
    trace.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with stub(tmp_path, "--ttft=1ms", "--itl=1ms") as server:
        done = bench("--target", server.http, f"--workload=trace:{trace}", f"--json={report}")
    assert done.returncode == 0, done.stderr
    run = json.loads(report.read_text())["runs"][0]
    assert run["setup"]["arrival"] == "trace"
    assert run["counts"]["prompt_tokens"] == sum(line["input_length"] for line in lines)
    assert run["counts"]["output_tokens"] == 30


def test_the_program_is_found_by_a_variable(tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho is \"$@\"\n")
    program.chmod(0o755)
    done = bench("--help", "x y", env={"SPIN_BENCH": str(program)})
    assert done.stdout == "is --help x y\n"
    done = bench("--help", env={"SPIN_BENCH": str(tmp_path / "none")})
    assert done.returncode == 1
    assert str(tmp_path / "none") in done.stderr
    assert "--workload" in bench("--help").stdout
