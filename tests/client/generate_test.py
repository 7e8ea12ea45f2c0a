"""spin generate, as a person or a script runs it, against a real worker."""

import json
import os
import signal
import socket
import subprocess
import time

import pytest

from tests.worker.service.spin_grpc import CLEAN, MODEL, running, spin


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with running(tmp_path_factory.mktemp("worker")) as one:
        yield one


def generate(worker, *arguments, given=None):
    return spin("generate", "--worker", worker.address, "--model", MODEL, *arguments, given=given)


def endless(worker):
    """A client that prints for longer than any test takes."""
    return subprocess.Popen([os.environ["SPIN_CLIENT"], "generate", "--worker", worker.address,
                             "--model", MODEL, "--max-tokens", "1500", "--ignore-eos", "Go on."],
                            env=CLEAN, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def answer(worker, *arguments):
    done = generate(worker, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_answer_and_timings(worker):
    done = generate(worker, "--max-tokens", "12", "Say hello.")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n") and len(done.stdout) > 1
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["prompt", "output", "total"]
    assert "tok/s" in lines[0] and "first after" in lines[1] and "finished:" in lines[2]


def test_the_prompt_may_come_from_anywhere(worker, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("Count to three.")
    options = ["--max-tokens", "6"]
    wanted = answer(worker, *options, "Count to three.")
    assert answer(worker, *options, "--prompt", "Count to three.")["tokens"] == wanted["tokens"]
    assert answer(worker, *options, "--file", str(file))["tokens"] == wanted["tokens"]
    for arguments in ([], ["--file", "-"]):
        done = generate(worker, "--json", *options, *arguments, given="Count to three.")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tokens"] == wanted["tokens"]
    assert wanted["prompt_tokens"] > 10  # the template's words, too
    assert answer(worker, *options, "--raw", "Count to three.")["prompt_tokens"] < 10
    longer = answer(worker, *options, "--system", "You are a very tired pirate.", "Count to three.")
    assert longer["prompt_tokens"] != wanted["prompt_tokens"]


def test_json_is_whole(worker):
    one = answer(worker, "--max-tokens", "5", "--ignore-eos", "--logprobs", "--raw", "The")
    assert one["finish_reason"] == "length"
    assert one["completion_tokens"] == len(one["tokens"]) == len(one["logprobs"]) == 5
    assert all(value <= 0 for value in one["logprobs"])
    assert one["ttft_s"] > 0 and one["total_s"] >= one["ttft_s"]


def test_stop_string_ends_the_text_before_it(worker):
    whole = answer(worker, "--max-tokens", "24", "--raw", "One, two, three,")["text"]
    stop = whole[8:11]
    cut = answer(worker, "--max-tokens", "24", "--stop", stop, "--raw", "One, two, three,")
    assert cut["text"] == whole[:whole.index(stop)]
    assert cut["finish_reason"] == "stop"


def test_seed_decides(worker):
    options = ["--temperature", "1.2", "--max-tokens", "12", "--raw", "Once"]
    first, same, other = (answer(worker, "--seed", seed, *options)["tokens"]
                          for seed in ("5", "5", "6"))
    assert first == same != other


def test_interrupt_cancels_cleanly(worker):
    with endless(worker) as client:
        client.stdout.read(1)
        client.send_signal(signal.SIGINT)
        _, errors = client.communicate(timeout=10)
    assert client.returncode == 130
    assert "interrupted" in errors
    worker.wait_idle()


def test_reader_that_leaves(worker):
    with endless(worker) as client:
        client.stdout.read(1)
        client.stdout.close()
        assert client.wait(10) == 1
        assert "standard output" in client.stderr.read()
    worker.wait_idle()


def test_deadline(worker):
    done = generate(worker, "--deadline", "300ms", "--max-tokens", "1500", "--ignore-eos", "Go on.")
    assert done.returncode == 1
    assert "DEADLINE_EXCEEDED" in done.stderr


@pytest.mark.parametrize("arguments, code, text", [
    (["--worker", "nowhere", "x"], 1, "host:port"),
    (["--model", "/nowhere.gguf", "x"], 1, "/nowhere.gguf"),
    (["--file", "/nowhere.txt"], 1, "/nowhere.txt"),
    (["--prompt", "x", "y"], 1, "given 2 times"),
    (["--temperature", "-1", "x"], 2, "--temperature"),
    (["--no-such-thing", "x"], 2, "no-such-thing"),
    (["--chat-template", "nobody", "x"], 1, "nobody"),
    (["--stop", "", "x"], 1, "--stop: 0 bytes"),
    (["x", "y"], 2, ""),
    ([""], 1, "prompt"),
])
def test_mistakes_are_named(worker, arguments, code, text):
    done = generate(worker, *(["--raw"] if arguments == [""] else []), *arguments)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert done.stdout == ""


def test_a_prompt_over_the_limit_says_the_limit(worker):
    done = generate(worker, "--raw", "word " * 3000)
    assert done.returncode == 1
    assert "OUT_OF_RANGE" in done.stderr and "2048" in done.stderr


def test_nobody_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for command in (["generate", "--model", MODEL], ["status"]):
            started = time.monotonic()
            done = spin(*command, "--worker", address, "--connect-timeout", "300ms",
                        *(["x"] if command[0] == "generate" else []))
            assert done.returncode == 1
            assert f"no worker answers at {address}" in done.stderr
            assert "spin-worker" in done.stderr
            assert time.monotonic() - started < 3


def test_help():
    assert "generate" in spin("--help").stdout and "status" in spin("--help").stdout
    assert spin().returncode == 2
    assert spin("nonsense").returncode == 2
    shown = spin("generate", "--help")
    assert shown.returncode == 0 and "--max-tokens" in shown.stdout
