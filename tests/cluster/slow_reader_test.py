"""Clients that stop reading are cut off, by bytes or by time, and nobody else notices."""

import json
import socket
import time

import grpc
import pytest

from tests.cluster import cluster

# Streams without an end that are large on the wire: alternatives beside every token.
RATE = 20000
ENDLESS = 900_000
STUB_OPTIONS = ["--tokens-per-s", str(RATE), "--max-model-len", "1000000"]
WRITE_BYTES = 256 << 10
WRITE_TIMEOUT_S = 1.0
CUT_OFF_LIMIT_S = 30
NEIGHBOUR_LIMIT_S = 2  # of 500 tokens in 25 ms


def start(folder, *router_options):
    return cluster.running(folder, workers=1, stub=True, worker_options=STUB_OPTIONS,
                           router_options=router_options)


@pytest.fixture(scope="module", name="by_bytes")
def limited_by_bytes(tmp_path_factory):
    with start(tmp_path_factory.mktemp("bytes"), "--write-buffer-bytes", str(WRITE_BYTES),
               "--write-timeout", "1h") as one:
        yield one


@pytest.fixture(scope="module", name="by_time")
def limited_by_time(tmp_path_factory):
    with start(tmp_path_factory.mktemp("time"), "--write-buffer-bytes", "1GiB",
               "--write-timeout", f"{WRITE_TIMEOUT_S}s") as one:
        yield one


class StalledHttp:
    """Asks for an endless stream, takes its first bytes and then nothing."""

    def __init__(self, c):
        host, port = c.router.http_address.rsplit(":", 1)
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # soon full
        self.socket.settimeout(10)
        self.socket.connect((host, int(port)))
        body = json.dumps({"model": cluster.NAME, "prompt": "x", "max_tokens": ENDLESS,
                           "stream": True, "ignore_eos": True, "logprobs": 5})
        self.socket.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: "
                             f"application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
                             ).encode())
        assert self.socket.recv(16).startswith(b"HTTP/1.1 200")

    def ended_early(self):
        """What there was before the cut comes, then the end: no [DONE]."""
        tail = b""
        try:
            while more := self.socket.recv(1 << 20):
                tail = (tail + more)[-64:]
        except ConnectionError:
            pass
        return b"[DONE]" not in tail

    def close(self):
        self.socket.close()


class StalledGrpc:
    def __init__(self, c):
        self.channel = cluster.open_channel(c.router.address)
        method = self.channel.unary_stream(
            "/spin.v1.Inference/Generate",
            request_serializer=cluster.MESSAGES["InferenceRequest"].SerializeToString,
            response_deserializer=cluster.MESSAGES["InferenceResponse"].FromString)
        self.call = method(cluster.MESSAGES["InferenceRequest"](
            prompt={"text": "x"}, return_tokens=True,
            sampling={"max_tokens": ENDLESS, "ignore_eos": True, "logprobs": True,
                      "top_logprobs": 20}))
        next(self.call)

    def ended_early(self):
        with pytest.raises(grpc.RpcError) as failure:
            for _ in self.call:
                pass
        return failure.value.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED,
                                        grpc.StatusCode.CANCELLED)

    def close(self):
        self.channel.close()


def cut_off(c, stalled, metric):
    """Seconds until the stalled reader is cut off; its neighbours are asked all the while."""
    before = c.metric(metric)
    expected = c.http("a neighbour", max_tokens=500, seed=3).wait().content()
    reader = stalled(c)
    started = time.monotonic()
    try:
        while c.metric(metric) == before:
            assert time.monotonic() - started < CUT_OFF_LIMIT_S, "never cut off"
            answer = c.http("a neighbour", max_tokens=500, seed=3).wait(NEIGHBOUR_LIMIT_S)
            assert not answer.error and answer.content() == expected
        spent = time.monotonic() - started
        assert c.metric(metric) == before + 1
        cluster.wait_until(c.workers[0].is_idle, 5, "the worker is rid of it")
        assert reader.ended_early()
    finally:
        reader.close()
    assert not c.http("afterwards", max_tokens=50).wait().error
    return spent


def test_http_by_bytes(by_bytes):
    spent = cut_off(by_bytes, StalledHttp, "spin_router_http_slow_clients_total")
    print(f"http, over {WRITE_BYTES} bytes: cut off after {spent:.1f} s")


def test_grpc_by_bytes(by_bytes):
    spent = cut_off(by_bytes, StalledGrpc, "spin_router_rpc_slow_clients_total")
    print(f"grpc, over its outbox: cut off after {spent:.1f} s")


def test_http_by_time(by_time):
    spent = cut_off(by_time, StalledHttp, "spin_router_http_slow_clients_total")
    print(f"http, {WRITE_TIMEOUT_S} s without a byte taken: cut off after {spent:.1f} s")
    assert spent > WRITE_TIMEOUT_S
