"""The bounded queue: 429 when it is full, tenants in turn, deadlines, and nobody else disturbed."""

import json
import time

import grpc
import pytest

from tests.cluster import cluster

# A worker with 2 places has room for 2 + 2 / 4 + 1 = 3; what is more waits at the router.
PLACES = 3
TENANT_QUEUE = 5
QUEUE = 8
KEYS = {"ada": "key-of-ada", "bob": "key-of-bob"}
LONG = [ord("p")] * 2048  # one turn of a tenant


@pytest.fixture(name="hold")
def hold_file(tmp_path):
    path = tmp_path / "hold"
    path.touch()
    return path


@pytest.fixture(name="c")
def one_stub(tmp_path, hold):
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps(KEYS))
    with cluster.running(tmp_path, workers=1, stub=True,
                         worker_options=["--hold-file", str(hold), "--max-num-seqs", "2",
                                         "--tokens-per-s", "100"],
                         router_options=["--api-keys-file", str(keys), "--max-queue", str(QUEUE),
                                         "--max-queue-per-tenant", str(TENANT_QUEUE)]) as one:
        yield one


def key_of(tenant):
    return [("Authorization", f"Bearer {KEYS[tenant]}")]


def ask(c, tenant, prompt="x", headers=(), **fields):
    return c.http(prompt, headers=[*key_of(tenant), *headers], max_tokens=10, **fields)


def ask_grpc(c, tenant):
    metadata = [("authorization", f"Bearer {KEYS[tenant]}")]
    return c.grpc("x", metadata=metadata, max_tokens=10)


def fill_places(c):
    streams = [ask(c, "ada") for _ in range(PLACES)]
    cluster.wait_until(lambda: c.workers[0].load().running == PLACES, 10, "all places are taken")
    return streams


def wait_queued(c, count):
    cluster.wait_until(lambda: c.metric("spin_router_queue_length") == count, 10,
                       f"{count} are queued")


def queue(c, tenant, count, prompt="x"):
    """Asks one after the other, so that their order is known."""
    before = c.metric("spin_router_queue_length")
    streams = []
    for i in range(count):
        streams.append(ask(c, tenant, prompt))
        wait_queued(c, before + i + 1)
    return streams


def assert_refused(stream, whose):
    answer = stream.wait(5)
    assert answer.status == 429, answer
    assert int(answer.headers["retry-after"]) >= 1
    error = json.loads(answer.error)["error"]
    assert whose in error["message"] and str(error["message"]), error


def test_full_queues(c, hold):
    streams = fill_places(c)
    streams += queue(c, "ada", TENANT_QUEUE)
    assert_refused(ask(c, "ada"), str(TENANT_QUEUE))  # ada's own limit
    streams += queue(c, "bob", QUEUE - TENANT_QUEUE)  # which is not bob's
    assert_refused(ask(c, "bob"), str(QUEUE))  # the limit of all
    refused = ask_grpc(c, "bob").wait(5)
    assert refused.error.startswith("RESOURCE_EXHAUSTED"), refused
    assert c.metric("spin_router_refused_total", reason="queue_full") == 3
    assert c.metric("spin_router_http_responses_total", code="429") == 2
    # Whoever was let in is answered as if nobody had been refused.
    hold.unlink()
    answers = [stream.wait() for stream in streams]
    assert all(not answer.error and len(answer.text) == 10 for answer in answers)
    c.wait_idle()


def test_tenants_take_turns(c, hold):
    streams = fill_places(c)
    ada = queue(c, "ada", TENANT_QUEUE, LONG)
    bob = queue(c, "bob", QUEUE - TENANT_QUEUE, LONG)
    hold.unlink()
    for stream in [*streams, *ada, *bob]:
        assert not stream.wait().error
    begun = sorted([(s.started_at + s.answer.first_s, "ada") for s in ada] +
                   [(s.started_at + s.answer.first_s, "bob") for s in bob])
    order = [tenant for _, tenant in begun]
    print("order of first tokens: " + " ".join(order))
    # Ada asked first and five times; bob's three do not wait for all of hers.
    assert order.index("bob") < 3
    assert order[-1] == "ada"


def test_deadlines(c, hold):
    streams = fill_places(c)
    started = time.monotonic()
    timeout = [*key_of("bob"), ("X-Request-Timeout", "0.3")]
    status, reply = c.router.complete("x", headers=timeout, max_tokens=10)
    assert status == 504 and "deadline" in reply["error"]["message"], reply
    assert 0.25 < time.monotonic() - started < 2
    # A stream has its 200 by then and hears of it in an event.
    assert "deadline" in c.http("x", headers=timeout, max_tokens=10).wait(5).error
    wait_queued(c, 0)
    # gRPC's own deadline, which travels with the call.
    method = c.channel.unary_stream(
        "/spin.v1.Inference/Generate",
        request_serializer=cluster.MESSAGES["InferenceRequest"].SerializeToString,
        response_deserializer=cluster.MESSAGES["InferenceResponse"].FromString)
    with pytest.raises(grpc.RpcError) as failure:
        list(method(cluster.MESSAGES["InferenceRequest"](prompt={"text": "x"},
                                                         sampling={"max_tokens": 5}),
                    timeout=0.3, metadata=[("authorization", f"Bearer {KEYS['bob']}")]))
    assert failure.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_queued(c, 0)
    # One that runs is cut off, too, and its place is free again.
    hold.unlink()
    for stream in streams:
        assert not stream.wait().error
    running = c.http("x", headers=[*key_of("ada"), ("X-Request-Timeout", "0.5")], max_tokens=2000)
    answer = running.wait(5)
    assert "deadline" in answer.error.lower() and 10 < len(answer.text) < 2000, answer
    c.wait_idle()
    assert c.metric("spin_router_generations_ended_total", reason="deadline") >= 2


def test_a_client_that_leaves_the_queue(c, hold):
    streams = fill_places(c)
    leaver = ask(c, "bob")
    wait_queued(c, 1)
    leaver.drop()
    wait_queued(c, 0)
    hold.unlink()
    for stream in streams:
        assert not stream.wait().error
    c.wait_idle()
