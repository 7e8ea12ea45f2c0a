"""spin.v1.Worker as a client that we did not write (grpcio, Google's protobuf) sees it."""

import math
import signal
import socket
import struct
import time

import grpc
import pytest

from tests.worker.service.spin_grpc import (CANCELLED, LENGTH, MESSAGES, MODEL, STOP, collect,
                                            foreign_client, request, run, running, wait_until)

# One engine step of the demo model takes 10 to 20 ms here, a prefill unit less.
FREED_LIMIT_S = 0.5
READY_LIMIT_S = 2.0  # with the weights in the page cache


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with open(MODEL, "rb") as file:  # into the page cache
        while file.read(1 << 24):
            pass
    with running(tmp_path_factory.mktemp("worker")) as one:
        yield one
        assert one.process.poll() is None, one.log()  # it outlived all of this


def refused(worker, message):
    """(code, text) of a call that must fail; the worker still answers after it."""
    with pytest.raises(grpc.RpcError) as failure:
        list(worker.generate(message))
    assert worker.health() == 1
    return failure.value.code(), failure.value.details()


# --- what it says about itself ---


def test_ready_within_two_seconds(worker):
    print(f"ready after {worker.ready_s * 1e3:.0f} ms")
    assert worker.ready_s < READY_LIMIT_S
    log = worker.log()
    assert "configuration in force" in log and "ready in" in log
    assert "memory: kv slots" in log and "memory: kv blocks" in log and f"listening: grpc={worker.address}" in log


def test_describe(worker):
    answer = worker.describe()
    assert answer.peer.grpc_address == worker.address
    assert answer.peer.incarnation != 0
    assert len(answer.model.model_id) == 16
    assert answer.model.vocab == 49152 and answer.model.max_model_len == 2048
    # docs/kv-layout.md: layers, kv heads, head dim of SmolLM2-135M as little-endian u32.
    assert struct.pack("<III", 30, 3, 64) in answer.model.kv_layout
    assert answer.role == "unified" and answer.algorithm == "dense"
    assert answer.device == "CPU" or answer.backend == "cuda"
    assert answer.capacity.sequences_max == 32 and answer.capacity.queue_max == 256
    assert answer.min_context == 4096 and answer.budget_tokens == 0
    assert answer.capacity.kv_tokens >= 2048
    assert answer.capacity.kv_device_bytes == 256 << 20  # as spin_grpc.py asks
    assert answer.capacity.kv_host_bytes >= answer.capacity.kv_tokens * 2 * 30 * 3 * 64 * 2
    assert not answer.draining


def test_incarnation_is_drawn_anew(worker, tmp_path):
    with running(tmp_path, model="random:tiny") as other:
        assert other.describe().peer.incarnation != worker.describe().peer.incarnation
        assert other.describe().model.model_id != worker.describe().model.model_id


def test_health(worker):
    assert worker.health() == 1
    assert worker.health("spin.v1.Worker") == 1
    with pytest.raises(grpc.RpcError) as failure:
        worker.health("spin.v1.Nobody")
    assert failure.value.code() == grpc.StatusCode.NOT_FOUND


# --- answers ---


def test_tokens_and_usage(worker):
    tokens, last = collect(worker.generate(request(range(100, 140), max_tokens=12)))
    assert len(tokens) == 12
    assert last.finish.reason == LENGTH
    assert last.finish.usage.prompt_tokens == 40
    assert last.finish.usage.completion_tokens == 12
    assert last.finish.usage.prefill_ns > 0 and last.finish.usage.decode_ns > 0


def test_greedy_is_the_same_alone_and_together(worker):
    prompts = [[200 + i, 7, 300 + 2 * i] * (1 + i) for i in range(4)]
    alone = [collect(worker.generate(request(p)))[0] for p in prompts]
    streams = [worker.generate(request(p)) for p in prompts]
    assert [collect(s)[0] for s in streams] == alone


def test_seed_decides(worker):
    drawn = [collect(worker.generate(request(temperature=1.0, seed=seed, max_tokens=16)))[0]
             for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_stop_token_is_reported_and_not_sent(worker):
    tokens, _ = collect(worker.generate(request()))
    place = next(i for i in range(1, 8) if tokens[i] not in tokens[:i])
    sent, last = collect(worker.generate(request(stop_token_ids=[tokens[place]])))
    assert sent == tokens[:place]
    assert last.finish.reason == STOP and last.finish.stop_token == tokens[place]


def test_logprobs(worker):
    messages = list(worker.generate(request(max_tokens=3, logprobs=True, top_logprobs=5,
                                            prompt_logprobs=True)))
    tokens = [t for m in messages for t in m.tokens]
    prompt = [t for m in messages for t in m.prompt]
    assert [t.token for t in prompt] == [1, 2, 3]
    assert math.isnan(prompt[0].logprob)
    for token in tokens:
        assert len(token.top) == 5
        assert token.token == token.top[0].token  # greedy
        assert token.logprob == token.top[0].logprob <= 0
        assert [t.logprob for t in token.top] == sorted((t.logprob for t in token.top), reverse=True)


# --- refusals: a code, a sentence, and a worker that lives ---


@pytest.mark.parametrize("message, code, text", [
    (request(prompt=[]), "INVALID_ARGUMENT", "prompt_tokens: empty"),
    (request(prompt=[5, -1]), "INVALID_ARGUMENT", "prompt_tokens[1]: token -1"),
    (request(prompt=[49152]), "INVALID_ARGUMENT", "prompt_tokens[0]: token 49152"),
    (request(prompt=[1] * 10000), "OUT_OF_RANGE", "2048"),
    (request(temperature=math.nan), "INVALID_ARGUMENT", "temperature"),
    (request(temperature=-1), "INVALID_ARGUMENT", "temperature: -1"),
    (request(top_p=1.01), "INVALID_ARGUMENT", "top_p"),
    (request(max_tokens=0), "INVALID_ARGUMENT", "max_tokens: 0"),
    (request(top_logprobs=21), "INVALID_ARGUMENT", "top_logprobs: 21, at most 20"),
    (request(stop_token_ids=range(33)), "INVALID_ARGUMENT", "stop_token_ids"),
    (request(logit_bias=[{"token": 1, "bias": math.inf}]), "INVALID_ARGUMENT", "logit_bias.bias"),
    (MESSAGES["GenerateRequest"](prompt_tokens=[1]), "INVALID_ARGUMENT", "sampling: missing"),
    (MESSAGES["GenerateRequest"](prompt_tokens=[1], sampling={"max_tokens": 1},
                                 prefill_peer={"id": "p"}), "UNIMPLEMENTED", "prefill_peer"),
    (MESSAGES["GenerateRequest"](prompt_tokens=[1], sampling={"max_tokens": 1},
                                 algorithm={"name": "shadowkv"}), "FAILED_PRECONDITION",
     '"shadowkv" with budget_tokens 0, min_context 0, page_tokens 0; this worker runs "dense"'),
    (MESSAGES["GenerateRequest"](prompt_tokens=[1], sampling={"max_tokens": 1}, salt=b"short"),
     "INVALID_ARGUMENT", "salt: 5 bytes"),
    (MESSAGES["GenerateRequest"](request_id="x" * 64, prompt_tokens=[1]), "INVALID_ARGUMENT",
     "request_id: 64 bytes, at most 63"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_refused(worker, message, code, text):
    got, details = refused(worker, message)
    assert got.name == code and text in details, (got, details)


def raw_call(worker, path, payload, compression=None):
    call = worker.channel.unary_unary(path, request_serializer=lambda b: b,
                                      response_deserializer=lambda b: b)
    with pytest.raises(grpc.RpcError) as failure:
        call(payload, timeout=10, compression=compression)
    assert worker.health() == 1
    return failure.value


@pytest.mark.parametrize("payload", [b"\xff" * 20, b"\x22\x05\x01", b"\x0a\x7f", b"\x12\xff\xff\xff\xff\x0f"])
def test_malformed_message(worker, payload):
    failure = raw_call(worker, "/spin.v1.Worker/Generate", payload)
    assert failure.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "spin.v1.GenerateRequest: malformed" in failure.details()


def test_oversize_message(worker):
    failure = raw_call(worker, "/spin.v1.Worker/Generate", b"\x12" + bytes(17 << 20))
    assert failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    failure = raw_call(worker, "/spin.v1.Worker/Describe", bytes(5000))
    assert failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "at most 4096" in failure.details()


def test_a_message_that_asks_for_too_much_memory(worker):
    # 4 million empty logit_bias entries in 8 MB: 400 MB once parsed.
    sampling = b"\x42\x00" * 4_000_000
    length, varint = len(sampling), b""
    while length:
        varint += bytes([(length & 0x7F) | (0x80 if length > 0x7F else 0)])
        length >>= 7
    failure = raw_call(worker, "/spin.v1.Worker/Generate", b"\x22" + varint + sampling)
    assert failure.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "too many elements" in failure.details()


def test_unknown_methods_answer_at_once(worker):
    started = time.monotonic()
    for path in ("/spin.v1.Worker/Nothing", "/spin.v1.Worker/Prefill", "/x/y"):
        failure = raw_call(worker, path, b"")
        assert failure.code() == grpc.StatusCode.UNIMPLEMENTED
        assert path in failure.details()
    assert time.monotonic() - started < 2


def test_compressed_messages_are_refused(worker):
    failure = raw_call(worker, "/spin.v1.Worker/Generate", bytes(1 << 20), grpc.Compression.Gzip)
    assert failure.code() == grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_not_http2(worker):
    host, port = worker.address.split(":")
    for payload in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64):
        with socket.create_connection((host, int(port)), 5) as connection:
            connection.sendall(payload)
            connection.settimeout(5)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionError:
                pass
    assert worker.health() == 1


# --- clients that go ---


def test_cancel_frees_within_a_step(worker):
    for after in (0, 3):  # before the first token, and mid-stream
        stream = worker.generate(request([9] * (1500 if after == 0 else 3), max_tokens=500))
        for _ in range(after):
            next(stream)
        worker.wait_running()
        stream.cancel()
        spent = worker.wait_idle()
        print(f"cancelled after {after} messages: idle after {spent * 1e3:.1f} ms")
        assert spent < FREED_LIMIT_S


def test_deadline_ends_the_request(worker):
    with pytest.raises(grpc.RpcError) as failure:
        list(worker.generate(request(max_tokens=2000), timeout=0.3))
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert worker.wait_idle() < FREED_LIMIT_S


def test_killed_client_frees_within_a_step(worker):
    with foreign_client(worker) as client:
        client.kill()
        spent = worker.wait_idle()
    print(f"client killed: idle after {spent * 1e3:.1f} ms")
    assert spent < FREED_LIMIT_S


# --- the end ---


def test_sigterm_lets_streams_finish(tmp_path):
    with running(tmp_path) as worker:
        stream = worker.generate(request(max_tokens=40))
        next(stream)
        worker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: worker.health() == 2, 2)  # NOT_SERVING
        code, text = refused_while_draining(worker)
        assert code == grpc.StatusCode.UNAVAILABLE and "shutting down" in text
        assert worker.describe().draining
        messages = list(stream)
        assert messages[-1].finish.reason == LENGTH
        assert worker.process.wait(10) == 0
        assert not worker.port_file.exists()


def refused_while_draining(worker):
    with pytest.raises(grpc.RpcError) as failure:
        list(worker.generate(request()))
    return failure.value.code(), failure.value.details()


def test_the_grace_ends(tmp_path):
    with running(tmp_path, "--shutdown-grace", "200ms") as worker:
        stream = worker.generate(request(max_tokens=2000))
        next(stream)
        started = time.monotonic()
        worker.process.send_signal(signal.SIGINT)
        messages = []
        with pytest.raises(grpc.RpcError) as failure:
            for message in stream:
                messages.append(message)
        assert failure.value.code() == grpc.StatusCode.UNAVAILABLE
        assert messages[-1].finish.reason == CANCELLED
        assert worker.process.wait(10) == 0
        assert time.monotonic() - started < 3


def test_second_signal_ends_at_once(tmp_path):
    with running(tmp_path) as worker:
        next(worker.generate(request(max_tokens=2000)))
        worker.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "shutting down" in worker.log(), 5)
        started = time.monotonic()
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(10) != 0
        assert time.monotonic() - started < 1


def test_start_up_errors_name_the_option(worker):
    taken = run("--model", "random:tiny", "--listen", worker.address)
    assert taken.returncode == 1
    assert f"cannot listen on {worker.address}: Address already in use; choose another with --listen" \
        in taken.stderr
    assert run().returncode == 2
    assert "--model" in run().stderr
    missing = run("--model", "/nowhere/model.gguf")
    assert missing.returncode == 1 and "/nowhere/model.gguf" in missing.stderr
    bad = run("--model", "random:tiny", "--max-num-seqs", "0")
    assert bad.returncode == 2 and "--max-num-seqs" in bad.stderr and "1..1024" in bad.stderr
    port = run("--model", "random:tiny", "--listen", "nowhere")
    assert port.returncode == 1 and "host:port" in port.stderr
