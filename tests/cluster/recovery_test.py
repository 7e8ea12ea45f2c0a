"""kill -9, SIGSTOP and SIGTERM of workers and router while eight streams of every kind run.

Every stream is compared, text, token ids, logprobs and count, with the same request when nothing
happened: so nothing comes twice, nothing is missing, and greedy and seeded text is the same.
"""

import os
import random
import signal
import time

import pytest

from tests.cluster import cluster

MODEL = os.environ.get("SPIN_DEMO_MODEL", cluster.MODEL)
ROUNDS = int(os.environ.get("SPIN_ROUNDS", "20"))
TOKENS = int(os.environ.get("SPIN_TOKENS", "250"))
SEED = 20261123
# `ref` operations are slow on purpose: a stream of the tiny model then lasts long enough to be hit.
# Two compute threads for two workers on two cores.
WORKER_OPTIONS = ["--threads", "1", "--max-model-len", "2048", "--kv-hbm-bytes", "256MiB"]
if MODEL == cluster.MODEL:
    WORKER_OPTIONS += ["--ops", "ref"]
WORKER_TIMEOUT_S = 1.0

HTTP, GRPC = "http", "grpc"
# What streams at once: both doors, greedy and drawn, with logprobs, the prompt's too, with a stop
# string that holds text back, with penalties, whose state is the tokens before.
REQUESTS = [
    (HTTP, {"prompt": "The first of eight", "temperature": 0}),
    (HTTP, {"prompt": "Drawn with a seed", "temperature": 1.0, "seed": 7,
            "stop": ["no such text", "nor this"]}),
    (HTTP, {"prompt": "With its logprobs", "temperature": 0, "logprobs": 3, "echo": True}),
    (HTTP, {"prompt": "Cut at the top", "temperature": 0.9, "top_p": 0.9, "top_k": 40, "seed": 11,
            "logprobs": 1}),
    (GRPC, {"prompt": "Through the other door", "temperature": 0}),
    (GRPC, {"prompt": "Drawn there as well", "temperature": 1.1, "seed": 23}),
    (GRPC, {"prompt": "Its logprobs, too", "temperature": 0, "logprobs": True, "top_logprobs": 4}),
    (GRPC, {"prompt": "Punished for repeating", "temperature": 0.8, "seed": 5,
            "frequency_penalty": 0.5, "repetition_penalty": 1.2}),
]


@pytest.fixture(scope="module", name="c")
def two_workers(tmp_path_factory):
    router_options = ["--worker-timeout", f"{WORKER_TIMEOUT_S}s"]
    with cluster.running(tmp_path_factory.mktemp("cluster"), workers=2, model=MODEL,
                         router_options=router_options, worker_options=WORKER_OPTIONS) as one:
        yield one


@pytest.fixture(scope="module", name="undisturbed")
def answers_when_nothing_happens(c):
    answers = finish(ask_all(c))
    for answer, (door, fields) in zip(answers, REQUESTS):
        assert answer.finish == "length", answer
        if door == GRPC:
            assert len(answer.tokens) == TOKENS
        if "logprobs" in fields:
            prompt_tokens = len(answer.logprobs) - TOKENS
            assert (prompt_tokens > 0) == ("echo" in fields) and answer.logprobs[-1] <= 0
    assert len({answer.text for answer in answers}) == len(answers)
    return answers


def ask_all(c):
    ask = {HTTP: c.http, GRPC: c.grpc}
    return [ask[door](max_tokens=TOKENS, **fields) for door, fields in REQUESTS]


def finish(streams):
    answers = [stream.wait() for stream in streams]
    for answer in answers:
        assert not answer.error, answer.error
        assert answer.completion_tokens == TOKENS
    return answers


def assert_same(answers, undisturbed):
    for answer, expected, (door, fields) in zip(answers, undisturbed, REQUESTS):
        assert answer.content() == expected.content(), (door, fields)


def wait_progress(streams, rng):
    """Until a stream of the seed's choice has come as far as the seed says, or all have ended."""
    stream = rng.choice(streams)
    events = rng.randrange(1, TOKENS // 2)
    cluster.wait_until(lambda: stream.progress >= events or not stream.is_alive(),
                       cluster.ANSWER_LIMIT_S, f"{events} events", interval_s=0.0005)


def requests_of(worker):
    return worker.metrics()["spin_requests_total"]


def test_killed_workers(c, undisturbed):
    rng = random.Random(SEED)
    moved_rounds = 0
    for number in range(ROUNDS):
        before = c.metric("spin_router_recoveries_total")
        streams = ask_all(c)
        victim = rng.choice(c.workers)
        wait_progress(streams, rng)
        victim.kill()
        assert_same(finish(streams), undisturbed)
        moved = c.metric("spin_router_recoveries_total") - before
        moved_rounds += moved > 0
        victim.restart()
        c.wait_workers(2)
        print(f"round {number}: killed {victim.name}, {moved:.0f} streams moved")
    assert moved_rounds > ROUNDS // 2, "most kills have to hit running streams"


def test_a_restarted_worker_is_used_again(c, undisturbed):
    for worker in c.workers:
        worker.kill()
        worker.restart()
        c.wait_workers(2)
        assert requests_of(worker) == 0
        assert_same(finish(ask_all(c)), undisturbed)
        assert requests_of(worker) > 0


def test_no_worker_for_a_while(c, undisturbed):
    """Streams wait for a worker to come, and go on where they were."""
    streams = ask_all(c)
    for stream in streams:
        stream.wait_first()
    for worker in c.workers:
        worker.kill()
    c.workers[0].restart()
    assert_same(finish(streams), undisturbed)
    c.workers[1].restart()
    c.wait_workers(2)


def test_a_stopped_worker(c, undisturbed):
    before = c.metric("spin_router_recoveries_total")
    streams = ask_all(c)
    for stream in streams:
        stream.wait_first()
    stopped = c.workers[0]
    stopped.signal(signal.SIGSTOP)
    started = time.monotonic()
    try:
        cluster.wait_until(lambda: c.metric("spin_router_recoveries_total") > before,
                           10 * WORKER_TIMEOUT_S, "streams move away from a stopped worker",
                           interval_s=0.02)
        print(f"moved after {time.monotonic() - started:.2f} s")
        # It wakes up while they go on elsewhere: what it still sends is nobody's.
        stopped.signal(signal.SIGCONT)
        assert_same(finish(streams), undisturbed)
    finally:
        stopped.signal(signal.SIGCONT)
    c.wait_workers(2)
    c.wait_idle()
    assert_same(finish(ask_all(c)), undisturbed)


def test_sigterm_of_a_worker_moves_its_streams(c, undisturbed):
    streams = ask_all(c)
    for stream in streams:
        stream.wait_first()
    leaver = c.workers[1]
    assert leaver.terminate() == 0, leaver.log()
    assert_same(finish(streams), undisturbed)
    leaver.restart()
    c.wait_workers(2)


def test_nothing_is_left(c):
    """After all of this no generation, no sequence and no page is held anywhere."""
    c.wait_idle()
    for worker in c.workers:
        assert worker.metrics()["spin_kv_used_bytes"] == 0
    assert c.metric("spin_router_queue_length") == 0
