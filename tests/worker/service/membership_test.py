"""A worker and a router that is not ours (a grpcio server): who it is, how busy, how it ends."""

import contextlib
import hashlib
import queue
import signal
import threading
import time
from concurrent import futures

import grpc
import pytest

from tests.worker.service.spin_grpc import (CANCELLED, MESSAGES, collect, request, run, running,
                                            wait_until)

INTERVAL_MS = 100
SECRET = "open sesame"
# docs of kvstore/block/key.h: BLAKE2b-256 of a name that no tenant has, keyed with the secret.
TOKEN = hashlib.blake2b(b"/cluster", digest_size=32, key=SECRET.encode()).hexdigest()


class Router(grpc.GenericRpcHandler):
    """Serves Cluster/Join; remembers every stream's messages and metadata."""

    def __init__(self):
        self.streams = queue.Queue()  # of (metadata, queue of messages; None at the end)

    def service(self, details):
        if details.method != "/spin.v1.Cluster/Join":
            return None
        return grpc.stream_stream_rpc_method_handler(
            self.join, request_deserializer=MESSAGES["MemberMessage"].FromString,
            response_serializer=MESSAGES["RouterMessage"].SerializeToString)

    def join(self, requests, context):
        messages = queue.Queue()
        greeted = threading.Event()
        self.streams.put((dict(context.invocation_metadata()), messages))

        def read():
            with contextlib.suppress(grpc.RpcError, Exception):
                for message in requests:
                    messages.put(message)
                    greeted.set()
            messages.put(None)
            greeted.set()  # there is nothing to wait for

        reader = threading.Thread(target=read)
        reader.start()
        # A router answers a hello. A welcome before it would let the worker end the stream, where it
        # has another to this router, while the hello is still on its way.
        if greeted.wait(10):
            yield MESSAGES["RouterMessage"](
                welcome={"router_id": "other", "status_interval_ms": INTERVAL_MS})
        reader.join()


@contextlib.contextmanager
def routing():
    router = Router()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), handlers=[router])
    router.port = server.add_insecure_port("127.0.0.1:0")
    router.address = f"127.0.0.1:{router.port}"
    server.start()
    try:
        yield router
    finally:
        server.stop(0).wait()


@pytest.fixture
def router():
    with routing() as one:
        yield one


def until(messages, accepts, limit_s=5):
    """The first message that is accepted; fails when the stream ends first."""
    deadline = time.monotonic() + limit_s
    while True:
        message = messages.get(timeout=max(deadline - time.monotonic(), 0.001))
        assert message is not None, "the stream has ended"
        if accepts(message):
            return message


def is_status(message):
    return message.HasField("status")


def test_hello_is_what_describe_says(router, tmp_path):
    with running(tmp_path, "--router", router.address) as worker:
        _, messages = router.streams.get(timeout=10)
        hello = messages.get(timeout=5).hello
        described = worker.describe()
        assert hello.peer == described.peer and hello.peer.id == worker.address
        assert hello.model == described.model and hello.capacity == described.capacity
        assert hello.kind == 1 and hello.protocol == 1
        assert (hello.role, hello.algorithm) == ("unified", "dense")
        assert (hello.min_context, hello.budget_tokens) == \
            (described.min_context, described.budget_tokens) == (4096, 0)
        assert hello.version == described.version != ""
        assert hello.device == described.device != ""


def test_status_follows_the_load_at_the_routers_interval(router, tmp_path):
    with running(tmp_path, "--router", router.address) as worker:
        _, messages = router.streams.get(timeout=10)
        assert until(messages, is_status).status.load.running == 0
        stream = worker.generate(request(max_tokens=2000))
        next(stream)
        busy = until(messages, lambda m: is_status(m) and m.status.load.running == 1).status
        assert busy.load.kv_tokens_used > 0 and not busy.draining and busy.role == "unified"
        assert busy.load.kv_hbm_bytes_used > 0 and busy.load.kv_host_bytes_used > 0
        held = until(messages, lambda m: is_status(m) and m.status.requests).status
        assert [one.request_id for one in held.requests] == ["test"]
        assert held.requests[0].resident and not held.requests[0].suspended
        assert held.requests[0].tokens >= 3 and held.requests[0].slots > 0
        stream.cancel()
        idle = until(messages, lambda m: is_status(m) and m.status.load.running == 0).status
        assert idle.load.kv_tokens_used == idle.load.kv_hbm_bytes_used == 0
        until(messages, lambda m: is_status(m) and not m.status.requests)
        started = time.monotonic()
        for _ in range(5):
            until(messages, is_status)
        assert 4 * INTERVAL_MS / 1e3 < time.monotonic() - started < 10 * INTERVAL_MS / 1e3


def test_drain_is_told_at_once_and_goodbye_last(router, tmp_path):
    with running(tmp_path, "--router", router.address, "--shutdown-grace", "500ms") as worker:
        _, messages = router.streams.get(timeout=10)
        stream = worker.generate(request(max_tokens=2000))
        next(stream)
        until(messages, lambda m: is_status(m) and m.status.load.running == 1)
        started = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        until(messages, lambda m: is_status(m) and m.status.draining)
        assert time.monotonic() - started < INTERVAL_MS / 1e3
        # While it waits for its streams it goes on telling how busy it is.
        until(messages, lambda m: is_status(m) and m.status.load.running == 1)
        until(messages, is_status)
        # A router that sees UNAVAILABLE goes on elsewhere.
        answers = []
        with pytest.raises(grpc.RpcError) as failure:
            answers.extend(stream)
        assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
        goodbye = until(messages, lambda m: m.HasField("goodbye"))
        assert goodbye.goodbye.reason == "shutting down"
        assert messages.get(timeout=5) is None
        assert worker.process.wait(5) == 0


def test_cut_off_streams_say_so_in_their_last_message(tmp_path):
    with running(tmp_path, "--shutdown-grace", "100ms") as worker:
        stream = worker.generate(request(max_tokens=2000))
        next(stream)
        worker.process.send_signal(signal.SIGTERM)
        last = None
        with pytest.raises(grpc.RpcError) as failure:
            for last in stream:
                pass
        assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
        assert last.finish.reason == CANCELLED


def test_the_id_outlives_a_restart_and_the_incarnation_does_not(router, tmp_path):
    seen = []
    for _ in range(2):
        with running(tmp_path, "--router", router.address, "--advertise-address", "here.local:1234",
                     model="random:tiny"):
            _, messages = router.streams.get(timeout=10)
            seen.append(messages.get(timeout=5).hello.peer)
        (tmp_path / "port").unlink()  # it was killed
    assert [peer.id for peer in seen] == ["here.local:1234"] * 2
    assert [peer.grpc_address for peer in seen] == ["here.local:1234"] * 2
    assert seen[0].incarnation != seen[1].incarnation


def test_advertised_port_0_is_the_bound_one(router, tmp_path):
    with running(tmp_path, "--router", router.address, "--advertise-address", "here.local:0",
                 model="random:tiny") as worker:
        _, messages = router.streams.get(timeout=10)
        port = worker.address.rpartition(":")[2]
        assert messages.get(timeout=5).hello.peer.id == f"here.local:{port}"


def test_every_router_of_the_list_is_joined(router, tmp_path):
    with routing() as other, running(tmp_path, "--router", f"{router.address},{other.address}",
                                     model="random:tiny") as worker:
        for one in (router, other):
            _, messages = one.streams.get(timeout=10)
            assert messages.get(timeout=5).HasField("hello")
        # Both call themselves "other": to the worker these are two ways to one router.
        wait_until(lambda: "spin_worker_routers" in worker.get("/metrics")[2], 5)
        wait_until(lambda: 'spin_worker_routers{model_name="random:tiny"} 1\n'
                   in worker.get("/metrics")[2], 5)


# --- the cluster's secret ---


def test_the_token_is_shown_and_asked_for(router, tmp_path):
    with running(tmp_path, "--router", router.address, "--cluster-secret", SECRET,
                 model="random:tiny", token=TOKEN) as worker:
        metadata, _ = router.streams.get(timeout=10)
        assert metadata["authorization"] == f"Bearer {TOKEN}"
        assert len(collect(worker.generate(request()))[0]) == 8
        assert worker.describe().role == "unified"
        for wrong in (None, [("authorization", "Bearer " + "0" * 64)],
                      [("authorization", TOKEN)]):
            worker.metadata = wrong
            for call in (worker.describe, lambda: list(worker.generate(request()))):
                with pytest.raises(grpc.RpcError) as failure:
                    call()
                assert failure.value.code() == grpc.StatusCode.UNAUTHENTICATED
        assert worker.health() == 1  # probes have no token


# --- what it refuses to start with ---


@pytest.mark.parametrize("options, said", [
    (["--listen", "0.0.0.0:0", "--router", "127.0.0.1:1"], "--advertise-address"),
    (["--listen", "[::]:0", "--router", "127.0.0.1:1"], "--advertise-address"),
    (["--advertise-address", "nowhere"], '--advertise-address: address "nowhere"'),
    (["--advertise-address", "host:65536"], "0..65535"),
    (["--router", "nowhere"], "nowhere"),
    (["--router", "a:1,,b:2"], "host:port"),
    (["--cluster-secret", ""], "--cluster-secret"),
    (["--tls-cert", "/nowhere.pem", "--tls-key", "/nowhere.key"], "/nowhere"),
    (["--http-listen", "nowhere"], "nowhere"),
])
def test_refused_options(options, said):
    given = ["--model", "random:tiny", "--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"]
    done = run(*given, *options)
    assert done.returncode != 0
    assert said in done.stderr, done.stderr
