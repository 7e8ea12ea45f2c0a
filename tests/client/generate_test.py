"""spin generate, as a person or a script runs it, against a real router and workers."""

import json
import os
import signal
import time

import pytest

from tests.client.cli import answer, generate, nobody, spin, started
from tests.cluster import cluster

MODEL_LEN = 600


@pytest.fixture(scope="module")
def c(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("cluster"), workers=1,
                         worker_options=("--max-model-len", str(MODEL_LEN))) as one:
        yield one


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A worker without a model that needs 20 seconds for 1,000 tokens."""
    with cluster.running(tmp_path_factory.mktemp("slow"), workers=1, stub=True,
                         worker_options=("--tokens-per-s", "50")) as one:
        yield one


def endless(c):
    return started("generate", "--router", c.router.address, "--max-tokens", "1000",
                   "--ignore-eos", "--raw", "Go on.")


def test_answer_and_timings(c):
    done = generate(c, "--max-tokens", "12", "--ignore-eos", "Say hello.")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n") and len(done.stdout) > 1
    lines = done.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["prompt", "output", "total"]
    assert "tok/s" in lines[0] and "first after" in lines[1] and "finished: length" in lines[2]
    quiet = generate(c, "--max-tokens", "12", "--ignore-eos", "--no-stats", "Say hello.")
    assert quiet.stderr == "" and quiet.stdout == done.stdout


def test_the_prompt_may_come_from_anywhere(c, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("Count to three.")
    options = ["--max-tokens", "6", "--ignore-eos"]
    wanted = answer(c, *options, "Count to three.")
    assert answer(c, *options, "--prompt", "Count to three.")["tokens"] == wanted["tokens"]
    assert answer(c, *options, "--file", str(file))["tokens"] == wanted["tokens"]
    for arguments in ([], ["--file", "-"]):
        assert answer(c, *options, *arguments,
                      given="Count to three.")["tokens"] == wanted["tokens"]
    # One token a byte in this model: the template's words are counted, too.
    assert answer(c, *options, "--raw", "Count to three.")["prompt_tokens"] == 15
    assert wanted["prompt_tokens"] > 30
    longer = answer(c, *options, "--system", "You are a very tired pirate.", "Count to three.")
    assert longer["prompt_tokens"] > wanted["prompt_tokens"] + 28


def test_json_is_whole(c):
    one = answer(c, "--max-tokens", "5", "--ignore-eos", "--logprobs", "--raw", "The")
    assert one["finish_reason"] == "length"
    assert one["completion_tokens"] == len(one["tokens"]) == len(one["logprobs"]) == 5
    assert all(value <= 0 for value in one["logprobs"])
    assert one["ttft_s"] > 0 and one["total_s"] >= one["ttft_s"]
    assert one["recoveries"] == 0
    # The same tokens as another client gets over the same door, and their logprobs.
    other = c.grpc("The", max_tokens=5, logprobs=True).wait()
    assert other.tokens == one["tokens"]
    assert other.logprobs == pytest.approx(one["logprobs"])


def test_logprobs_for_people(c):
    done = generate(c, "--max-tokens", "3", "--ignore-eos", "--logprobs", "--raw", "The")
    lines = [line.split() for line in done.stderr.splitlines() if line.startswith("logprob")]
    assert len(lines) == 3 and all(float(line[2]) <= 0 for line in lines)


def test_stop_strings_end_the_text_before_them(slow):
    whole = answer(slow, "--seed", "7", "--max-tokens", "12", "--raw", "x")["text"]
    assert len(whole) == 12
    for stop, end in ((whole[5:7], 5), (f"nothing|||{whole[8:]}|||{whole[3:5]}", 3)):
        cut = answer(slow, "--seed", "7", "--max-tokens", "12", "--stop", stop, "--raw", "x")
        assert cut["text"] == whole[:end]
        assert cut["finish_reason"] == "stop"


def test_seed_decides(c):
    options = ["--temperature", "1.2", "--max-tokens", "12", "--ignore-eos", "--raw", "Once"]
    first, same, other = (answer(c, "--seed", seed, *options)["tokens"]
                          for seed in ("5", "5", "6"))
    assert first == same != other


def test_interrupt_cancels_cleanly(slow):
    with endless(slow) as client:
        client.stdout.read(1)
        client.send_signal(signal.SIGINT)
        _, errors = client.communicate(timeout=10)
    assert client.returncode == 130
    assert "interrupted" in errors and "finished: cancelled" in errors
    slow.wait_idle()


def test_reader_that_leaves(slow):
    with endless(slow) as client:
        client.stdout.read(1)
        client.stdout.close()
        assert client.wait(10) == 1
        assert "standard output" in client.stderr.read()
    slow.wait_idle()


def test_deadline(slow):
    done = generate(slow, "--deadline", "300ms", "--max-tokens", "1000", "--ignore-eos", "Go on.")
    assert done.returncode == 1
    assert "deadline passed" in done.stderr
    slow.wait_idle()


@pytest.mark.parametrize("arguments, code, text", [
    (["--router", "nowhere", "x"], 1, "host:port"),
    (["--file", "/nowhere.txt"], 1, "/nowhere.txt"),
    (["--prompt", "x", "y"], 1, "given 2 times"),
    (["--temperature", "-1", "x"], 2, "--temperature"),
    (["--no-such-thing", "x"], 2, "no-such-thing"),
    (["--stop", "", "x"], 1, "--stop: text 1 is empty"),
    (["--stop", "a||||||b", "x"], 1, "--stop: text 2 is empty"),
    (["--stop", "a" * 257, "x"], 1, "stop[0]: 257 bytes"),
    (["--model", "other", "x"], 1, "not found: model"),
    (["--tls-ca", "/nowhere.pem", "x"], 1, "/nowhere.pem"),
    (["x", "y"], 2, ""),
    ([""], 1, "prompt"),
])
def test_mistakes_are_named(c, arguments, code, text):
    done = generate(c, *(["--raw"] if arguments == [""] else []), *arguments)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
    assert done.stdout == ""


def test_a_prompt_over_the_limit_says_the_limit(c):
    done = generate(c, "--raw", "word " * 300)
    assert done.returncode == 1
    assert "over a limit" in done.stderr and str(MODEL_LEN) in done.stderr


def test_a_key(tmp_path):
    with cluster.running(tmp_path, workers=1, router_options=("--api-key", "sesame")) as one:
        done = generate(one, "x")
        assert done.returncode == 1
        assert "not allowed" in done.stderr and "SPIN_API_KEY" in done.stderr
        assert generate(one, "--api-key", "sesame", "--max-tokens", "2", "x").returncode == 0
        done = spin("generate", "--max-tokens", "2", "x",
                    env={"SPIN_API_KEY": "sesame", "SPIN_ROUTER": one.router.address})
        assert done.returncode == 0, done.stderr


def test_nobody_there():
    with nobody() as address:
        for command in (["generate", "x"], ["chat"], ["status"]):
            began = time.monotonic()
            done = spin(*command, "--router", address, "--connect-timeout", "300ms")
            assert done.returncode == 1
            assert f"cannot reach the router at {address}" in done.stderr
            assert "deploy/local up" in done.stderr and "--router" in done.stderr
            assert time.monotonic() - began < 3


def test_the_router_dies(tmp_path):
    with cluster.running(tmp_path, workers=1, stub=True,
                         worker_options=("--tokens-per-s", "50")) as one:
        with endless(one) as client:
            client.stdout.read(1)
            one.router.kill()
            _, errors = client.communicate(timeout=20)
        assert client.returncode == 1
        assert f"the router at {one.router.address} is lost" in errors
        assert "finished: error" in errors


def test_a_worker_dies_and_the_text_is_the_same(tmp_path):
    with cluster.running(tmp_path, workers=2, stub=True,
                         worker_options=("--tokens-per-s", "100")) as one:
        options = ["generate", "--router", one.router.address, "--max-tokens", "150",
                   "--ignore-eos", "--raw", "--json", "--seed", "7", "Go on."]
        wanted = json.loads(spin(*options).stdout)
        with started(*options) as client:
            cluster.wait_until(lambda: any(w.load().running for w in one.workers), 10)
            time.sleep(0.3)  # some 30 tokens
            busy = next(w for w in one.workers if w.load().running)
            busy.kill()
            text, errors = client.communicate(timeout=30)
        assert client.returncode == 0, errors
        got = json.loads(text)
        assert got["recoveries"] == 1
        assert got["text"] == wanted["text"] and got["tokens"] == wanted["tokens"]


def test_help():
    assert all(name in spin("--help").stdout for name in ("generate", "chat", "status"))
    assert spin().returncode == 2
    assert spin("nonsense").returncode == 2
    for command, option in (("generate", "--max-tokens"), ("chat", "--system"),
                            ("status", "watch")):
        shown = spin(command, "--help")
        assert shown.returncode == 0 and option in shown.stdout


def test_the_demo_model_over_both_doors(tmp_path):
    """What a person reads is what HTTP clients get."""
    with cluster.running(tmp_path, workers=1, model=os.environ["SPIN_DEMO_MODEL"],
                         worker_options=("--max-model-len", "512")) as one:
        question = "Say hello to a café, please."
        done = generate(one, "--max-tokens", "24", question)
        assert done.returncode == 0, done.stderr
        body = {"messages": [{"role": "user", "content": question}], "temperature": 0,
                "max_tokens": 24}
        status, text = cluster.http_request(
            one.router.http_address, "POST", "/v1/chat/completions", json.dumps(body),
            [("Content-Type", "application/json")])
        assert status == 200
        assert done.stdout == json.loads(text)["choices"][0]["message"]["content"] + "\n"
        assert len(done.stdout.split()) > 8  # words
