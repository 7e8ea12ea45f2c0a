"""A stream that is silent gets comments, so that no proxy between takes it for dead; and comments are
no events: the `openai` package does not see them. The worker is a stub that thinks for 22 seconds."""

import socket
import threading
import time

import openai
import pytest

from tests.cluster import cluster

THINKS_S = 22
COMMENT = b": keep-alive\n\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("silence"), workers=1, stub=True,
                         worker_options=("--ttft", f"{THINKS_S}s")) as one:
        yield one


def read_raw(running, seen):
    """(seconds, bytes) of what came, up to the first event."""
    host, port = running.router.http_address.rsplit(":", 1)
    body = b'{"prompt": "a", "max_tokens": 2, "stream": true}'
    started = time.monotonic()
    with socket.create_connection((host, int(port)), 10) as one:
        one.settimeout(THINKS_S + 20)
        one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                    % len(body) + body)
        while not any(b"data: " in text for _, text in seen):
            text = one.recv(1 << 16)
            assert text, seen
            seen.append((time.monotonic() - started, text))


def test_comments_while_it_is_silent(running):
    seen = []
    reader = threading.Thread(target=read_raw, args=(running, seen))
    reader.start()
    with openai.OpenAI(base_url=f"http://{running.router.http_address}/v1", api_key="any",
                       max_retries=0, timeout=60) as client:
        chunks = list(client.completions.create(model=cluster.NAME, prompt="a", max_tokens=2,
                                                stream=True))
    reader.join()
    assert chunks[-1].choices[0].finish_reason == "length"
    headers, comment = seen[0], seen[1]
    assert headers[0] < 2 and headers[1].startswith(b"HTTP/1.1 200 OK\r\n")  # at once
    assert b"text/event-stream" in headers[1]
    assert 15 <= comment[0] <= 21 and COMMENT in comment[1]
    assert seen[-1][0] >= THINKS_S - 1
