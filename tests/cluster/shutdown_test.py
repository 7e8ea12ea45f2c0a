"""SIGTERM under load: of the router, and of everything at once."""

import signal
import time

import pytest

from tests.cluster import cluster

TOKENS = 150
SLOW = ["--tokens-per-s", "100"]  # 150 tokens take 1.5 s
GRACE_S = 1.0


@pytest.fixture(name="slow")
def slow_stubs(tmp_path):
    with cluster.running(tmp_path, workers=2, stub=True, worker_options=SLOW,
                         router_options=["--shutdown-grace", "20s"]) as one:
        yield one


def ask(c, tokens=TOKENS):
    streams = [c.http(f"stream {i}", max_tokens=tokens, seed=i + 1) for i in range(4)]
    streams += [c.grpc(f"stream {i}", max_tokens=tokens, seed=i + 1) for i in range(4)]
    for stream in streams:
        stream.wait_first()
    return streams


def test_router_lets_streams_finish(slow):
    streams = ask(slow)
    # A kept connection that asks nothing holds nobody up.
    idle = cluster.http.client.HTTPConnection(slow.router.http_address, timeout=10)
    idle.request("GET", "/health")
    assert idle.getresponse().read() is not None
    slow.router.signal(signal.SIGTERM)
    started = time.monotonic()
    cluster.wait_until(lambda: refuses(slow), 5, "the router refuses new work")
    for stream in streams:
        answer = stream.wait()
        assert not answer.error and answer.finish == "length", answer
        assert len(answer.text) == TOKENS
    assert slow.router.process.wait(10) == 0, slow.router.log()
    print(f"router gone {time.monotonic() - started:.2f} s after SIGTERM")
    idle.close()


def refuses(c):
    """A new request is refused as documented, or nobody listens any more."""
    try:
        status, _ = c.router.get("/health")
    except OSError:
        return True
    return status == 503


def test_router_grace_ends(tmp_path):
    with cluster.running(tmp_path, workers=1, stub=True, worker_options=["--tokens-per-s", "20"],
                         router_options=["--shutdown-grace", f"{GRACE_S}s"]) as c:
        streams = ask(c, tokens=2000)
        started = time.monotonic()
        assert c.router.terminate() == 0, c.router.log()
        spent = time.monotonic() - started
        print(f"router gone after {spent:.2f} s")
        assert GRACE_S * 0.9 < spent < GRACE_S + 4
        for stream in streams:
            answer = stream.wait()
            # Told, not dropped: an error in the stream, or UNAVAILABLE.
            assert "shutting down" in answer.error, answer
        cluster.wait_until(lambda: c.workers[0].is_idle(), 5, "the worker is rid of them")


def test_everything_at_once(tmp_path):
    with cluster.running(tmp_path, workers=2, stub=True, worker_options=SLOW,
                         router_options=["--shutdown-grace", f"{GRACE_S}s"]) as c:
        streams = ask(c)
        everything = [*c.workers, c.router]
        for one in everything:
            one.signal(signal.SIGTERM)
        for one in everything:
            assert one.process.wait(10) == 0, one.log()
        for stream in streams:
            answer = stream.wait()
            assert answer.error or answer.finish == "length", answer


def test_killed_router(slow):
    """Its workers drop what it asked for, and are there for the next one."""
    streams = ask(slow)
    slow.router.kill()
    for stream in streams:
        assert stream.wait(5).error
    cluster.wait_until(lambda: all(worker.is_idle() for worker in slow.workers), 5,
                       "workers are rid of its streams")
    slow.router.restart()
    started = time.monotonic()
    slow.wait_workers(2)
    print(f"workers are back {time.monotonic() - started:.2f} s after the router")
    answer = slow.http("afterwards", max_tokens=20).wait()
    assert not answer.error and len(answer.text) == 20


def test_two_routers(tmp_path):
    """Both serve the same workers; what one had asked for goes when it is killed, no more."""
    (tmp_path / "other").mkdir()
    one = cluster.Cluster(tmp_path, stub=True)
    other = cluster.Cluster(tmp_path / "other", stub=True)
    try:
        one.start_router()
        other.start_router()
        for _ in range(2):
            one.add_worker(*SLOW, other_routers=[other.router])
        one.wait_workers(2)
        other.wait_workers(2)
        lost, kept = ask(one), ask(other)
        assert sum(worker.load().running for worker in one.workers) == len(lost) + len(kept)
        one.router.kill()
        cluster.wait_until(
            lambda: sum(worker.load().running for worker in one.workers) <= len(kept), 5,
            "workers are rid of the killed router's streams")
        for stream in kept:
            answer = stream.wait()
            assert not answer.error and len(answer.text) == TOKENS
        assert all(stream.wait(5).error for stream in lost)
    finally:
        one.stop()
        other.stop()


def test_second_signal_ends_at_once(slow):
    ask(slow)
    slow.router.signal(signal.SIGTERM)
    cluster.wait_until(lambda: "shutting down" in slow.router.log(), 5, "the router says so")
    started = time.monotonic()
    slow.router.signal(signal.SIGTERM)
    assert slow.router.process.wait(5) != 0
    assert time.monotonic() - started < 1
