"""Five thousand streams at once, idle: held, answered when their tokens come, or gone at once."""

import os
import time

import pytest

from tests.cluster import cluster

STREAMS = int(os.environ.get("SPIN_STREAMS", "5000"))
TOKENS = 4
OPEN_LIMIT_S = 60
# What a stream may cost the router: its connection, its generation, its call to the worker.
STREAM_BYTES_MAX = 64 << 10


@pytest.fixture(scope="module", name="hold")
def hold_file(tmp_path_factory):
    return tmp_path_factory.mktemp("hold") / "hold"


@pytest.fixture(scope="module", name="c")
def two_stubs(tmp_path_factory, hold):
    with cluster.running(tmp_path_factory.mktemp("cluster"), workers=2, stub=True,
                         worker_options=["--hold-file", str(hold), "--tokens-per-s", "20"]) as one:
        yield one


def running(c):
    return sum(worker.load().running for worker in c.workers)


def open_streams(c):
    started = time.monotonic()
    held = c.held(STREAMS, "an idle stream", max_tokens=TOKENS)
    cluster.wait_until(lambda: running(c) == STREAMS, OPEN_LIMIT_S, "all streams are at workers",
                       interval_s=0.05)
    print(f"{STREAMS} streams open after {time.monotonic() - started:.2f} s")
    return held


def test_held_and_answered(c, hold):
    hold.touch()
    before = c.router.resident_bytes()
    held = open_streams(c)
    each = (c.router.resident_bytes() - before) / STREAMS
    print(f"router: {each / 1024:.1f} KiB resident per idle stream, {c.router.threads()} threads")
    assert each < STREAM_BYTES_MAX
    assert c.metric("spin_router_generations_running") == STREAMS
    assert c.metric("spin_router_http_connections") >= STREAMS
    # One more is served while they wait: health, at once.
    started = time.monotonic()
    assert c.router.get("/health")[0] == 200
    assert time.monotonic() - started < 1
    hold.unlink()
    assert held.read_all(60) == STREAMS
    held.close()
    c.wait_idle(30)
    assert c.metric("spin_router_generations_ended_total", reason="length") == STREAMS


def test_all_disconnect(c, hold):
    hold.touch()
    held = open_streams(c)
    started = time.monotonic()
    held.close()
    cluster.wait_until(lambda: running(c) == 0, 30, "no stream is left", interval_s=0.02)
    print(f"all gone after {time.monotonic() - started:.2f} s")
    c.wait_idle()
    hold.unlink()
    answer = c.http("afterwards", max_tokens=TOKENS).wait()
    assert not answer.error and len(answer.text) == TOKENS
