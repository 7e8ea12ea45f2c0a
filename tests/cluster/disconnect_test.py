"""Clients that go away, before and after their first token: what they held is free at once."""

import os
import statistics
import time

import pytest

from tests.cluster import cluster

MODEL = os.environ["SPIN_DEMO_MODEL"]
PROMPT = [1 + i % 999 for i in range(1900)]  # over a second of prefill on two cores
# The longer of 100 ms and one prefill unit: 128 tokens of one layer, 3 ms of the demo model here.
FREED_LIMIT_S = 0.1
REPEATS = 5


@pytest.fixture(scope="module", name="c")
def one_worker(tmp_path_factory):
    options = ["--max-model-len", "2048", "--kv-hbm-bytes", "256MiB"]
    with cluster.running(tmp_path_factory.mktemp("cluster"), workers=1, model=MODEL,
                         worker_options=options) as one:
        yield one


def ask(c, door, prompt, max_tokens):
    return (c.http if door == "http" else c.grpc)(prompt, max_tokens=max_tokens, temperature=0)


def freed_after(c, stream):
    """Seconds from the client's going to the worker's holding no page."""
    assert pages_bytes(c) > 0
    started = time.monotonic()
    stream.drop()
    cluster.wait_until(lambda: pages_bytes(c) == 0, 10, "no page is held", interval_s=0.001)
    spent = time.monotonic() - started
    c.wait_idle()
    return spent


def pages_bytes(c):
    return c.workers[0].metrics()["spin_kv_used_bytes"]


def judge(spent, what):
    print(f"{what}: free after {', '.join(f'{1e3 * s:.1f}' for s in spent)} ms")
    assert statistics.median(spent) < FREED_LIMIT_S, spent


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_before_the_first_token(c, door):
    before = c.workers[0].metrics().get("spin_requests_total", reason="cancelled")
    spent = []
    for _ in range(REPEATS):
        stream = ask(c, door, PROMPT, 64)
        cluster.wait_until(lambda: c.workers[0].load().running == 1, 10, "prefill has begun",
                           interval_s=0.001)
        time.sleep(0.1)  # into the prompt
        assert stream.progress == 0
        spent.append(freed_after(c, stream))
    judge(spent, f"{door}, before the first token")
    cancelled = c.workers[0].metrics().get("spin_requests_total", reason="cancelled") - before
    assert cancelled == REPEATS


@pytest.mark.parametrize("door", ["http", "grpc"])
def test_after_the_first_token(c, door):
    spent = []
    for _ in range(REPEATS):
        stream = ask(c, door, PROMPT[:20], 1900)
        stream.wait_first()
        spent.append(freed_after(c, stream))
    judge(spent, f"{door}, after the first token")


def test_one_goes_and_the_others_stay(c):
    """The neighbours of one that leaves get what they would have got alone."""
    alone = ask(c, "http", "A stream that stays.", 60).wait()
    stays = ask(c, "http", "A stream that stays.", 60)
    goes = ask(c, "grpc", "A stream that goes.", 1900).wait_first()
    goes.drop()
    answer = stays.wait()
    assert not answer.error
    assert answer.content() == alone.content()
    c.wait_idle()


def test_gone_clients_are_counted(c):
    before = c.metric("spin_router_http_clients_gone_total")
    ask(c, "http", "Counted.", 1900).wait_first().drop()
    cluster.wait_until(lambda: c.metric("spin_router_http_clients_gone_total") == before + 1, 5,
                       "it is counted")
    c.wait_idle()
    assert c.metric("spin_router_generations_ended_total", reason="cancelled") > 0
