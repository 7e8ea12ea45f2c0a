"""Errors as the `openai` package raises them, and as they stand on the wire: status, headers, body."""

import contextlib
import http.client
import json
import socket
import time

import openai
import pytest

from tests.cluster import cluster

KEY = "sk-of-a-test"
LIMIT = 256


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("errors"), workers=1,
                         router_options=("--api-key", KEY),
                         worker_options=("--max-model-len", str(LIMIT))) as one:
        yield one
        assert one.router.alive() and one.workers[0].alive(), one.logs()
        one.wait_idle()


@pytest.fixture(scope="module", name="client")
def make_client(running):
    with openai.OpenAI(base_url=f"http://{running.router.http_address}/v1", api_key=KEY,
                       max_retries=0, timeout=60) as one:
        yield one


def send(running, method, path, body=None, **headers):
    """(status, headers, JSON or text) of a request that no package has made better."""
    connection = http.client.HTTPConnection(running.router.http_address, timeout=30)
    with contextlib.closing(connection):
        connection.request(method, path, body, {"Authorization": f"Bearer {KEY}", **headers})
        response = connection.getresponse()
        text = response.read().decode()
        fields = {name.lower(): value for name, value in response.getheaders()}
        is_json = fields.get("content-type") == "application/json" and text
        return response.status, fields, json.loads(text) if is_json else text


def post(running, path, **fields):
    return send(running, "POST", path, json.dumps(fields))


def refused(client, kind, code, param=None, **fields):
    with pytest.raises(kind) as failure:
        client.completions.create(**{"model": cluster.NAME, "prompt": "hi", **fields})
    error = failure.value
    assert error.code == code and error.param == param, error
    assert failure.value.response.headers["x-request-id"]
    return error.message


# --- as the package sees them ---


def test_unknown_model(client):
    message = refused(client, openai.NotFoundError, "model_not_found", "model", model="gpt-9")
    assert "gpt-9" in message and cluster.NAME in message


def test_bad_key(running):
    with openai.OpenAI(base_url=f"http://{running.router.http_address}/v1", api_key="wrong",
                       max_retries=0) as client:
        refused(client, openai.AuthenticationError, "invalid_api_key")
        with pytest.raises(openai.AuthenticationError):
            client.models.list()


def test_prompt_over_the_limit(client):
    message = refused(client, openai.BadRequestError, "context_length_exceeded", "prompt",
                      prompt="x" * 300)
    assert "300" in message and str(LIMIT) in message
    message = refused(client, openai.BadRequestError, "context_length_exceeded", "max_tokens",
                      prompt="x" * 200, max_tokens=57)
    assert "200" in message and "57" in message and str(LIMIT) in message
    client.completions.create(model=cluster.NAME, prompt="x" * 200, max_tokens=56)
    with pytest.raises(openai.BadRequestError) as failure:  # room for the prompt, not for an answer
        client.chat.completions.create(model=cluster.NAME,
                                       messages=[{"role": "user", "content": "x" * 300}])
    assert failure.value.code == "context_length_exceeded"


@pytest.mark.parametrize("field, value", [
    ("temperature", -0.1), ("top_p", 0), ("n", 0), ("max_tokens", -1), ("presence_penalty", 3),
    ("stop", [""]), ("logit_bias", {"x": 1}), ("logprobs", 21)])
def test_out_of_range(client, field, value):
    assert field in refused(client, openai.BadRequestError, "invalid_value", field,
                            **{field: value})


def test_token_out_of_range(client):
    assert "511" in refused(client, openai.BadRequestError, "invalid_value", "prompt[1]",
                            prompt=[5, 512])
    refused(client, openai.BadRequestError, "invalid_value", "logit_bias", logit_bias={"512": 1})


def test_unknown_and_unsupported_fields(client):
    assert "frobnicate" in refused(client, openai.BadRequestError, "unknown_parameter",
                                   "frobnicate", extra_body={"frobnicate": 1})
    refused(client, openai.BadRequestError, "unsupported_parameter", "suffix", suffix="x")
    refused(client, openai.BadRequestError, "unsupported_parameter", "best_of", best_of=2)
    with pytest.raises(openai.BadRequestError) as failure:
        client.chat.completions.create(
            model=cluster.NAME, messages=[{"role": "user", "content": "x"}],
            tools=[{"type": "function", "function": {"name": "f"}}])
    assert failure.value.code == "unsupported_parameter" and failure.value.param == "tools"


def test_twenty_megabytes(client):
    with pytest.raises(openai.APIStatusError) as failure:
        client.completions.create(model=cluster.NAME, prompt="x" * 20_000_000)
    assert failure.value.status_code == 413
    assert failure.value.code == "request_too_large"


def test_deadline(client):
    with pytest.raises(openai.InternalServerError) as failure:
        client.with_options(default_headers={"X-Request-Timeout": "0.001"}).completions.create(
            model=cluster.NAME, prompt="x", max_tokens=200, extra_body={"ignore_eos": True})
    assert failure.value.status_code == 504 and failure.value.code == "deadline_exceeded"


def test_deadline_of_a_stream(client):
    """Its headers are out: the error is an event, and the package raises it all the same."""
    stream = client.with_options(default_headers={"X-Request-Timeout": "0.001"}).completions.create(
        model=cluster.NAME, prompt="x", max_tokens=200, stream=True,
        extra_body={"ignore_eos": True})
    with pytest.raises(openai.APIError) as failure:
        list(stream)
    assert failure.value.code == "deadline_exceeded"


# --- on the wire ---


def test_malformed_json(running):
    status, headers, answer = send(running, "POST", "/v1/completions", '{"prompt": "a",\n "n" 2}')
    assert status == 400 and headers["content-type"] == "application/json"
    assert answer["error"]["code"] == "invalid_json"
    assert "line 2, byte" in answer["error"]["message"]
    assert send(running, "POST", "/v1/completions", "")[0] == 400
    assert send(running, "POST", "/v1/completions", "[1]")[0] == 400


def test_headers(running):
    status, headers, _ = send(running, "POST", "/v1/completions",
                              '{"prompt": "a", "max_tokens": 1}', **{"X-Request-Id": "mine-1"})
    assert status == 200 and headers["x-request-id"] == "mine-1"
    _, headers, _ = send(running, "GET", "/health", **{"X-Request-Id": "a b"})  # not for a log line
    assert headers["x-request-id"].startswith("req-")
    status, headers, _ = send(running, "GET", "/v1/models", Authorization="Bearer nobody")
    assert status == 401 and headers["www-authenticate"] == "Bearer"
    status, headers, _ = send(running, "GET", "/v1/models", Authorization=f"bearer  {KEY}")
    assert status == 200
    for value in ("0", "-1", "soon", "1e9", "86401", "1.2.3", ""):
        status, _, answer = send(running, "POST", "/v1/completions", '{"prompt": "a"}',
                                 **{"X-Request-Timeout": value})
        assert status == 400 and answer["error"]["param"] == "X-Request-Timeout", value


def test_routes(running):
    status, _, answer = send(running, "GET", "/v1/nothing")
    assert status == 404 and answer["error"]["code"] == "not_found"
    status, headers, _ = send(running, "GET", "/v1/completions")
    assert status == 405 and headers["allow"] == "POST"
    status, headers, _ = send(running, "DELETE", "/health")
    assert status == 405 and headers["allow"] == "GET"
    assert send(running, "HEAD", "/health")[0] == 200
    assert send(running, "GET", "/health?verbose=1")[0] == 200


def test_pages_without_a_key(running):
    for path, wanted in (("/health", 200), ("/metrics", 200), ("/config", 401),
                         ("/v1/models", 401), ("/tokenize", 405)):
        assert send(running, "GET", path, Authorization="")[0] == wanted
    _, headers, text = send(running, "GET", "/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert f'model_name="{cluster.NAME}"' in text
    status, _, text = send(running, "GET", "/config")
    assert status == 200 and "max" in text and KEY not in text


def test_tokenize(running):
    assert post(running, "/tokenize", prompt="ab")[2] == {
        "tokens": [97, 98], "count": 2, "max_model_len": LIMIT}
    assert post(running, "/detokenize", tokens=[104, 105])[2] == {"prompt": "hi"}
    status, _, answer = post(running, "/tokenize",
                             messages=[{"role": "user", "content": "hi"}], model=cluster.NAME)
    assert status == 200 and answer["count"] == len(answer["tokens"]) > 2
    assert post(running, "/tokenize", prompt="ab", model="another")[0] == 404
    assert post(running, "/tokenize", tokens=[1])[0] == 400
    # Read and tokenised on another thread: more than 4 KiB.
    text = "abc " * 50_000
    _, _, answer = post(running, "/tokenize", prompt=text)
    assert answer["count"] == len(text)
    assert post(running, "/detokenize", tokens=answer["tokens"])[2]["prompt"] == text


def test_large_body_then_gone(running):
    """The client leaves while its megabytes are tokenised; nothing waits for it."""
    host, port = running.router.http_address.rsplit(":", 1)
    body = json.dumps({"prompt": "abc " * 2_000_000}).encode()
    before = running.metric("spin_router_http_connections")
    with socket.create_connection((host, int(port)), 10) as one:
        one.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"
                    b"Content-Length: %d\r\n\r\n" % (KEY.encode(), len(body)) + body)
    cluster.wait_until(lambda: running.metric("spin_router_http_connections") <= before, 10)
    assert post(running, "/tokenize", prompt="a")[0] == 200


def test_counters(running):
    def read():
        page = running.router.metrics()
        return [page.get("spin_router_http_responses_total", code="4xx"),
                page.get("spin_router_refused_total", reason="invalid"),
                page.get("spin_router_refused_total", reason="bad_key")]

    before = read()
    assert post(running, "/v1/completions", prompt="a", temperature=-1)[0] == 400
    assert post(running, "/v1/completions", prompt="a", model="x")[0] == 404
    assert post(running, "/v1/completions", prompt="a", max_tokens=9999)[0] == 400
    assert send(running, "POST", "/v1/completions", "{}", Authorization="")[0] == 401
    assert [now - then for now, then in zip(read(), before)] == [4, 3, 1]


def test_echoes_have_room_or_are_refused(tmp_path):
    """A stream that cannot hold what it has to send at once says so, and cuts nobody off."""
    with cluster.running(tmp_path, workers=1,
                         router_options=("--write-buffer-bytes", "4KiB")) as one:
        def ask(count, **fields):
            return one.http("a" * 200, n=count, echo=True, max_tokens=1, **fields).wait()

        fits = ask(10)
        assert fits.status == 200 and not fits.error and fits.text.count("a" * 200) == 10
        over = ask(11)
        assert over.status == 400 and json.loads(over.error)["error"]["param"] == "echo"
        status, reply = one.router.complete("a" * 200, n=11, echo=True, max_tokens=1)
        assert status == 200 and all(c["text"].startswith("a" * 200) for c in reply["choices"])
        one.wait_idle()
        assert one.metric("spin_router_http_slow_clients_total") == 0


def test_server_errors_are_counted_as_such(running):
    """What the HTTP server refuses itself: 505 is no mistake of a 4xx kind."""
    codes = ("4xx", "5xx")
    page = running.router.metrics()
    before = [page.get("spin_router_http_responses_total", code=code) for code in codes]
    host, port = running.router.http_address.rsplit(":", 1)
    for line, status in ((b"GET / HTTP/1.9", b"505"), (b"FETCH / HTTP/1.1", b"501"),
                         (b"GET x HTTP/1.1", b"400")):
        with socket.create_connection((host, int(port)), 10) as one:
            one.sendall(line + b"\r\nHost: x\r\n\r\n")
            assert one.recv(4096).split()[1] == status, line
    page = running.router.metrics()
    after = [page.get("spin_router_http_responses_total", code=code) for code in codes]
    assert [now - then for now, then in zip(after, before)] == [1, 2]


def test_without_a_worker(tmp_path):
    """503 and Retry-After, for requests and for the load balancer."""
    with cluster.running(tmp_path, workers=0) as alone:
        status, headers, answer = post(alone, "/v1/completions", prompt="a")
        assert status == 503 and int(headers["retry-after"]) >= 1
        assert answer["error"]["code"] == "service_unavailable"
        assert send(alone, "GET", "/health")[0] == 503
        assert send(alone, "GET", "/health")[2]["status"] == "no_workers"
        assert send(alone, "GET", "/v1/models")[2]["data"][0]["max_model_len"] is None
        assert post(alone, "/tokenize", prompt="ab")[2]["max_model_len"] is None
        started = time.monotonic()
        assert alone.router.terminate() == 0
        assert time.monotonic() - started < 5
