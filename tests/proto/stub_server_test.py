"""gRPC's Python client, which is not ours, against the server half of proto/rpc: streams of requests,
tokens, and the health service as its protocol defines it."""

import contextlib
import os
import pathlib
import queue
import subprocess
import time

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
import grpc
import pytest

UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN = range(4)
WATCHERS_MAX = 64  # proto/rpc_internal.h
CALLS_MAX = 16  # stub_server.c, of each method
LIMIT_S = 20  # nothing here takes a second; a hang fails instead


def load_messages():
    files = descriptor_pb2.FileDescriptorSet.FromString(
        pathlib.Path(os.environ["SPIN_DESCRIPTORS"]).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return {name.split(".")[-1]: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
            for name in ("spin.v1.GenerateRequest", "spin.v1.GenerateResponse",
                         "grpc.health.v1.HealthCheckRequest", "grpc.health.v1.HealthCheckResponse")}


MESSAGES = load_messages()


class Server:
    def __init__(self):
        self.process = subprocess.Popen([os.environ["SPIN_STUB"]], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        port = int(self.process.stdout.readline())
        # Loopback, whatever proxy the environment names.
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", [("grpc.enable_http_proxy", 0)])

    def stub(self, path, kind="unary_unary", messages="Generate"):
        names = {"Generate": ("GenerateRequest", "GenerateResponse"),
                 "Health": ("HealthCheckRequest", "HealthCheckResponse")}[messages]
        return getattr(self.channel, kind)(
            path, request_serializer=MESSAGES[names[0]].SerializeToString,
            response_deserializer=MESSAGES[names[1]].FromString)

    def echo(self, requests):
        return self.stub("/t.T/Echo", "stream_stream")(requests, timeout=LIMIT_S)

    def set_serving(self, serving):
        self.stub("/t.T/Serving")(request(int(serving)), timeout=LIMIT_S)

    def check(self, service=""):
        return self.stub("/grpc.health.v1.Health/Check", messages="Health")(
            MESSAGES["HealthCheckRequest"](service=service), timeout=LIMIT_S).status

    def watch(self, service=""):
        return self.stub("/grpc.health.v1.Health/Watch", "unary_stream", "Health")(
            MESSAGES["HealthCheckRequest"](service=service), timeout=LIMIT_S)

    def stop(self):
        """Ends the process in order and returns its exit status."""
        self.process.stdin.close()
        return self.process.wait(LIMIT_S)


@pytest.fixture(name="server")
def running_server():
    server = Server()
    yield server
    server.channel.close()
    with contextlib.suppress(OSError):
        server.process.stdin.close()
    try:
        assert server.process.wait(LIMIT_S) == 0
    finally:
        server.process.kill()


def request(*tokens):
    return MESSAGES["GenerateRequest"](prompt_tokens=list(tokens))


def wait_until(condition, limit_s):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {limit_s} s"
        time.sleep(0.002)


def token(response):
    assert len(response.tokens) == 1
    return response.tokens[0].token


def fails_with(code, call, *arguments, **options):
    with pytest.raises(grpc.RpcError) as caught:
        result = call(*arguments, timeout=LIMIT_S, **options)
        if hasattr(result, "__next__"):
            list(result)
    assert caught.value.code() == code, caught.value
    return caught.value.details()


def test_echo_in_turns_and_all_at_once(server):
    sent = queue.Queue()
    call = server.echo(iter(sent.get, None))
    for value in range(50):
        sent.put(request(value))
        assert token(next(call)) == value
    sent.put(None)
    assert list(call) == []
    assert call.code() == grpc.StatusCode.OK
    assert [token(r) for r in server.echo(request(v) for v in range(2000))] == list(range(2000))
    assert list(server.echo(iter(()))) == []


def test_server_ends_a_stream_that_the_client_has_not(server):
    sent = queue.Queue()
    call = server.echo(iter(sent.get, None))
    sent.put(request(-1))
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    sent.put(None)
    assert caught.value.code() == grpc.StatusCode.OUT_OF_RANGE
    assert caught.value.details() == "negative"


def test_streams_of_another_shape(server):
    assert token(server.stub("/t.T/Echo")(request(5), timeout=LIMIT_S)) == 5
    one = server.stub("/t.T/One", "stream_unary")
    assert "no request message" in fails_with(grpc.StatusCode.INVALID_ARGUMENT, one, iter(()))
    assert token(one(iter([request(1), request(2)]), timeout=LIMIT_S)) == 1


def test_calls_over_the_limit_are_refused_and_do_not_wait(server):
    sent = queue.Queue()
    calls = [server.echo(iter(sent.get, None)) for _ in range(CALLS_MAX)]
    wait_until(lambda: probe_is_refused(server), LIMIT_S)
    text = fails_with(grpc.StatusCode.RESOURCE_EXHAUSTED, server.stub("/t.T/Echo"), request(1))
    assert f"{CALLS_MAX} calls are open" in text
    for _ in calls:
        sent.put(None)
    for call in calls:
        assert list(call) == []
    assert token(server.stub("/t.T/Echo")(request(5), timeout=LIMIT_S)) == 5


def probe_is_refused(server):
    try:
        server.stub("/t.T/Echo")(request(1), timeout=LIMIT_S)
        return False
    except grpc.RpcError as error:
        return error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_messages_that_cannot_be_taken(server):
    echo = server.stub("/t.T/Echo", "stream_stream")
    assert "at most 65536" in fails_with(grpc.StatusCode.RESOURCE_EXHAUSTED, echo,
                                         iter([request(1), request(*range(1 << 16))]))
    raw = server.channel.stream_stream("/t.T/Echo")
    assert "malformed" in fails_with(grpc.StatusCode.INVALID_ARGUMENT, raw, iter([b"\xff"]))
    # Over what gRPC core lets through for any method.
    fails_with(grpc.StatusCode.RESOURCE_EXHAUSTED, raw, iter([bytes(17 << 20)]))
    # A few compressed bytes could ask for gigabytes.
    fails_with(grpc.StatusCode.UNIMPLEMENTED, echo, iter([request(1)]),
               compression=grpc.Compression.Gzip)
    assert token(server.stub("/t.T/One")(request(3), timeout=LIMIT_S)) == 3


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", "Bearer correct",
                                   "Bearer correct horse ", "Bearer correct horsf",
                                   "Bearer Correct horse", "Basic correct horse", "correct horse",
                                   "Bearer " + 3000 * "x"])
def test_wrong_tokens(server, given):
    metadata = [] if given is None else [("authorization", given)]
    secret = server.stub("/t.T/Secret")
    text = fails_with(grpc.StatusCode.UNAUTHENTICATED, secret, request(1), metadata=metadata)
    assert "correct" not in text


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_right_token(server, scheme):
    metadata = [("x-other", "1"), ("authorization", f"{scheme} correct horse")]
    assert token(server.stub("/t.T/Secret")(request(4), timeout=LIMIT_S, metadata=metadata)) == 4


def test_handlers_see_token_and_peer(server):
    whose = server.stub("/t.T/Whose")
    text = fails_with(grpc.StatusCode.NOT_FOUND, whose, request(1))
    assert text.startswith("[] ipv4:127.0.0.1:")
    text = fails_with(grpc.StatusCode.NOT_FOUND, whose, request(1),
                      metadata=[("authorization", "Bearer me too")])
    assert text.startswith("[me too] ipv4:127.0.0.1:")


def test_watch_sends_every_change(server):
    calls = [server.watch(), server.watch("t.T")]
    for call in calls:
        assert next(call).status == NOT_SERVING
    for status in (SERVING, NOT_SERVING, SERVING):
        server.set_serving(status == SERVING)
        server.set_serving(status == SERVING)  # no change: nothing is sent
        for call in calls:
            assert next(call).status == status
        assert server.check() == server.check("t.T") == status
    assert next(server.watch()).status == SERVING


def test_watch_of_an_unknown_service_stays(server):
    fails_with(grpc.StatusCode.NOT_FOUND,
               server.stub("/grpc.health.v1.Health/Check", messages="Health"),
               MESSAGES["HealthCheckRequest"](service="t.Nobody"))
    call = server.watch("t.Nobody")
    known = server.watch()
    assert next(call).status == SERVICE_UNKNOWN
    assert next(known).status == NOT_SERVING
    server.set_serving(True)
    assert next(known).status == SERVING
    assert call.is_active()
    assert server.stop() == 0
    assert statuses_to_the_end(call) == []


def statuses_to_the_end(call):
    statuses = []
    with pytest.raises(grpc.RpcError) as caught:
        for response in call:
            statuses.append(response.status)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    return statuses


def test_watchers_are_limited_and_leave(server):
    calls = [server.watch() for _ in range(WATCHERS_MAX)]
    for call in calls:
        assert next(call).status == NOT_SERVING
    with pytest.raises(grpc.RpcError) as caught:
        next(server.watch())
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert server.check() == NOT_SERVING  # probes have places of their own
    for call in calls:
        call.cancel()
    wait_until(lambda: watch_begins(server), LIMIT_S)


def watch_begins(server):
    try:
        return next(server.watch()).status == NOT_SERVING
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        return False


def test_stop_ends_every_watch(server):
    server.set_serving(True)
    calls = [server.watch() for _ in range(3)]
    for call in calls:
        assert next(call).status == SERVING
    assert server.stop() == 0  # and without waiting for them
    for call in calls:
        assert statuses_to_the_end(call) == [NOT_SERVING]
