"""The HTTP server against Python's client and raw sockets: what a well-behaved client gets, and what
becomes of the others. Every limit is reached, and its counter is looked at."""

import contextlib
import http.client
import json
import random
import resource
import socket
import threading
import time

import pytest

from tests.net.tool_server import (WAIT_S, Replies, is_closed, parse, receive_all, receive_until,
                                   reset, running)

HOST = b"Host: a\r\n"
GET = b"GET /echo HTTP/1.1\r\n" + HOST
POST = b"POST /echo HTTP/1.1\r\n" + HOST
HELD = b"4\r\nheld\r\n"


@pytest.fixture(scope="module")
def server():
    with running(idle_timeout=60000) as shared:
        yield shared


# Replies


def test_a_kept_connection_serves_many(server):
    before = server.stats()
    client = server.client()
    for number in range(20):
        client.request("POST", f"/echo?n={number}", body=b"b" * number, headers={"X-Test": "t"})
        response = client.getresponse()
        assert response.status == 200
        assert response.getheader("Content-Type") == "text/plain"
        assert response.getheader("Connection") == "keep-alive"
        assert response.read().decode() == (
            f"POST|/echo|n={number}|127.0.0.1:{server.port}|t|" + "b" * number)
    client.close()
    after = server.stats()
    assert after["requests"] - before["requests"] == 20 + 1  # and the second look
    assert after["connections"] - before["connections"] == 1 + 1


def test_date_is_what_rfc_9110_wants(server):
    client = server.client()
    client.request("GET", "/echo")
    date = client.getresponse().getheader("Date")
    assert abs(time.mktime(time.strptime(date, "%a, %d %b %Y %H:%M:%S GMT"))
               - time.mktime(time.gmtime())) <= 2
    client.close()


def test_bytes_may_come_one_by_one(server):
    raw = server.connect()
    for byte in POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n":
        raw.send(bytes([byte]))
    assert receive_until(raw, b"abc").endswith(b"|abc")
    raw.close()


def test_pipelined_requests_are_answered_in_order(server):
    raw = server.connect()
    targets = ["/echo?1", "/late?50", "/echo?2", "/stream?3", "/echo?4", "/burst?2", "/big?300000"]
    targets += [f"/echo?{number}" for number in range(200)]
    request = "".join(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n" for target in targets)
    raw.sendall(request.encode() + GET + b"Connection: close\r\n\r\n")
    replies = Replies(raw)
    for target in targets:
        wanted = {"/late?50": b"late", "/stream?3": b"chunk 0;chunk 1;chunk 2;",
                  "/burst?2": b"chunk 0;chunk 1;", "/big?300000": b"b" * 300000}.get(
                      target, f"GET|/echo|{target[6:]}|a|-|".encode())
        assert replies.next().read() == wanted
    assert replies.next().getheader("Connection") == "close"
    raw.close()


def test_head_and_replies_without_a_body(server):
    client = server.client()
    client.request("HEAD", "/big?5000")
    response = client.getresponse()
    assert (response.getheader("Content-Length"), response.read()) == ("5000", b"")
    client.request("HEAD", "/stream?3")
    response = client.getresponse()
    assert (response.getheader("Transfer-Encoding"), response.read()) == ("chunked", b"")
    for status in (204, 304):
        client.request("GET", f"/status?{status}")
        response = client.getresponse()
        assert (response.status, response.getheader("Content-Length")) == (status, None)
        assert response.read() == b""
    client.request("GET", "/status?500")  # still the same connection
    response = client.getresponse()
    assert (response.status, response.read()) == (500, b"")
    client.close()


def test_http_1_0(server):
    raw = server.connect()
    raw.sendall(b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"Connection: keep-alive" in receive_until(raw, b"GET|/echo||-|-|")
    raw.sendall(b"GET /stream?2 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    status, headers, body = parse(receive_all(raw))  # no chunks: its end is the connection's
    assert (status, headers["Connection"], body) == (200, "close", b"chunk 0;chunk 1;")
    assert "Transfer-Encoding" not in headers
    raw.close()


def test_a_turns_chunks_leave_in_one_piece(server):
    raw = server.connect()
    raw.sendall(b"GET /burst?100 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert raw.recv(65536).endswith(b"chunk 99;\r\n0\r\n\r\n")
    raw.close()


def test_chunks_arrive_as_they_are_made(server):
    raw = server.connect()
    raw.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    assert receive_until(raw, HELD).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not is_closed(raw, 0.05)
    raw.close()


def test_a_chunked_request_of_a_megabyte(server):
    client = server.client()
    pieces = [bytes([65 + number % 26]) * (number % 977 + 1) for number in range(2000)]
    client.request("POST", "/echo", body=iter(pieces), encode_chunked=True,
                   headers={"Transfer-Encoding": "chunked"})
    assert client.getresponse().read().partition(b"|-|")[2] == b"".join(pieces)
    client.close()


def test_an_unfinished_stream_does_not_look_finished(server):
    client = server.client()
    client.request("GET", "/torn")
    with pytest.raises(http.client.IncompleteRead):
        client.getresponse().read()
    client.close()
    raw = server.connect()
    raw.sendall(b"GET /torn HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):  # without chunks there is no other way to tell
        receive_all(raw)
    raw.close()


def test_a_header_value_cannot_make_headers(server):
    client = server.client()
    client.request("GET", "/inject")
    response = client.getresponse()
    assert response.getheader("X-Injected") is None
    assert response.getheader("X-Quoted").startswith("a")
    client.close()


# Refusals


def refusal(server, request):
    """Status, headers and message of a refusal, after which the connection must end."""
    before = server.stats()["refused"]
    raw = server.connect()
    raw.sendall(request)
    status, headers, body = parse(receive_all(raw))
    raw.close()
    assert headers["Connection"] == "close"
    assert headers["Content-Type"] == "application/json"
    assert int(headers["Content-Length"]) == len(body)
    error = json.loads(body)["error"]
    assert error["code"] == status
    assert server.stats()["refused"] == before + 1
    return status


@pytest.mark.parametrize("status, request_bytes", [
    (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"),
    (400, b"GET / HTTP/1.1\r\n\r\n"),
    (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    (400, POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (400, POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    (400, POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    (413, POST + b"Content-Length: 99999999999\r\n\r\n"),
    (413, POST + b"Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n"),
    (414, b"GET /" + b"a" * 40000),
    (417, POST + b"Content-Length: 1\r\nExpect: miracles\r\n\r\n"),
    (431, GET + b"X: " + b"a" * 40000),
    (501, b"FROB / HTTP/1.1\r\n" + HOST + b"\r\n"),
    (501, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    (505, b"GET / HTTP/2.0\r\n" + HOST + b"\r\n"),
    (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
])
def test_refusals(server, status, request_bytes):
    assert refusal(server, request_bytes) == status


def test_a_refusal_waits_for_the_replies_before_it(server):
    raw = server.connect()
    raw.sendall(b"GET /late?30 HTTP/1.1\r\nHost: a\r\n\r\n" + b"nonsense\r\n\r\n")
    reply = receive_all(raw)
    assert reply.index(b"late") < reply.index(b'"code":')
    raw.close()


def test_a_client_that_sends_20_mb_reads_why_not(server):
    client = server.client()
    client.request("POST", "/echo", body=b"x" * 20_000_000)  # all of it, before it reads
    response = client.getresponse()
    assert response.status == 413
    assert json.loads(response.read())["error"]["code"] == 413
    client.close()


def test_100_continue(server):
    raw = server.connect()
    head = POST + b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    raw.sendall(head)
    assert receive_until(raw, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    raw.sendall(b"abc")
    assert receive_until(raw, b"|abc").startswith(b"HTTP/1.1 200 OK\r\n")
    raw.sendall(head + b"def")  # it did not wait
    assert receive_until(raw, b"|def").startswith(b"HTTP/1.1 200 OK\r\n")
    raw.close()


def test_bodies_at_once_have_a_limit():
    with running(bodies_bytes_max=300_000) as server:
        body = b"x" * 200_000
        holder = server.connect()
        holder.sendall(b"POST /hold-quiet HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n" + body)
        server.wait_stat("exchanges_open", 1 + 1)
        raw = server.connect()
        raw.sendall(POST + b"Content-Length: 200000\r\n\r\n" + body)
        status, headers, _ = parse(receive_all(raw))
        assert (status, headers["Retry-After"]) == (503, "1")
        raw.close()
        holder.close()
        server.wait_stat("exchanges_open", 0 + 1)
        client = server.client()
        client.request("POST", "/echo", body=body)
        assert client.getresponse().status == 200
        client.close()


def test_connections_have_a_limit():
    with running(connections_max=3) as server:
        held = [server.connect() for _ in range(3)]
        for raw in held:
            raw.sendall(GET + b"\r\n")
            receive_until(raw, b"|-|")
        raw = server.connect()
        raw.sendall(GET + b"\r\n")
        status, headers, body = parse(receive_all(raw))
        assert (status, headers["Connection"]) == (503, "close")
        assert b"connections" in body
        raw.close()
        held.pop().close()
        time.sleep(0.05)
        assert server.get("/echo")[0] == 200
        for raw in held:
            raw.close()


# Clients that leave


def test_a_client_that_leaves_is_noticed_at_once(server):
    for target, leave in (("/hold", socket.socket.close), ("/hold-quiet", socket.socket.close),
                          ("/hold", reset), ("/late?5000", reset)):
        before = server.stats()
        raw = server.connect()
        raw.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        server.wait_stat("exchanges_open", before["exchanges_open"] + 1)
        leave(raw)
        assert server.wait_stat("gone", before["gone"] + 1) < 0.1
        after = server.stats()
        assert after["gone_calls"] == before["gone_calls"] + 1
        assert after["exchanges_open"] == before["exchanges_open"]


def test_leaving_before_or_after_is_nobodys_loss(server):
    before = server.stats()
    server.connect().close()
    raw = server.connect()
    raw.sendall(POST + b"Content-Length: 100\r\n\r\nhalf")
    raw.close()
    raw = server.connect()
    raw.sendall(GET + b"\r\n")
    receive_until(raw, b"|-|")
    raw.close()
    server.wait_stat("connections_open", 1)
    after = server.stats()
    assert after["gone"] == before["gone"]
    assert after["refused"] == before["refused"]


def test_a_client_that_sends_ahead_more_than_we_keep_is_noticed_too(server):
    before = server.stats()
    raw = server.connect()
    raw.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
    receive_until(raw, HELD)
    resident = server.resident_bytes()
    raw.sendall((GET + b"\r\n") * 100_000)
    assert server.resident_bytes() - resident < 1_000_000
    assert server.stats()["requests"] - before["requests"] == 1 + 1  # and the look at it
    raw.close()
    assert server.wait_stat("gone", before["gone"] + 1) < 0.1


def test_more_ahead_than_we_keep_ends_the_connection_after_the_reply(server):
    raw = server.connect()
    raw.sendall(b"GET /late?200 HTTP/1.1\r\nHost: a\r\n\r\n" + (GET + b"\r\n") * 10_000)
    status, headers, body = parse(receive_all(raw))
    assert (status, headers["Connection"], body) == (200, "close", b"late")
    raw.close()


# Clients that are slow


def test_a_reader_that_stops_is_cut_off_at_the_limit():
    with running(write_bytes_max=2_000_000) as server:
        resident = server.resident_bytes()
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.connect(("127.0.0.1", server.port))
        raw.sendall(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        server.wait_stat("slow_clients", 1)
        after = server.stats()
        assert (after["gone"], after["exchanges_open"]) == (1, 1)
        assert server.resident_bytes() - resident < 8_000_000
        raw.settimeout(WAIT_S)
        with pytest.raises(ConnectionResetError):
            receive_all(raw)
        raw.close()


def test_a_reader_that_takes_nothing_is_cut_off_in_time():
    with running(write_timeout=300) as server:
        raw = server.connect()
        raw.sendall(b"GET /big?20000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert 0.2 < server.wait_stat("slow_clients", 1) < 2
        raw.close()


def test_a_reader_that_takes_a_little_goes_on():
    with running(write_timeout=300, request_timeout=300, idle_timeout=5000) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        raw.connect(("127.0.0.1", server.port))
        raw.settimeout(WAIT_S)
        raw.sendall(b"GET /big?20000000 HTTP/1.1\r\nHost: a\r\n\r\n")
        received = 0
        for _ in range(10):
            time.sleep(0.1)
            received += len(raw.recv(200_000))
        while received < 20_000_000:
            received += len(raw.recv(1_000_000))
        assert server.stats()["slow_clients"] == 0
        raw.close()


def test_a_slow_request_is_refused_and_an_idle_connection_closed():
    with running(request_timeout=300, idle_timeout=900) as server:
        slow = server.connect()
        idle = server.connect()
        started = time.monotonic()
        for byte in b"GET /echo HTTP/1.1\r\nX: ":  # a byte now and then keeps nothing alive
            if time.monotonic() - started > 0.2:
                break
            slow.send(bytes([byte]))
            time.sleep(0.02)
        status, headers, _ = parse(receive_all(slow))
        assert (status, headers["Connection"]) == (408, "close")
        assert 0.3 <= time.monotonic() - started < 0.85
        assert not is_closed(idle, 0.05)
        assert is_closed(idle, 2)
        assert server.stats()["refused"] == 1
        slow.close()
        idle.close()


def test_an_exchange_is_not_idle():
    with running(request_timeout=200, idle_timeout=200) as server:
        raw = server.connect()
        raw.sendall(b"GET /late?700 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert receive_until(raw, b"late").startswith(b"HTTP/1.1 200 OK\r\n")
        raw.close()


def test_a_refused_client_cannot_stay():
    with running(request_timeout=400) as server:
        raw = server.connect()
        raw.sendall(b"nonsense\r\n\r\n")
        started = time.monotonic()
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() - started < 3:
                raw.send(b"x")
                time.sleep(0.02)
        raw.close()


# The end


def test_a_graceful_close():
    with running() as server:
        idle = server.connect()
        idle.sendall(GET + b"\r\n")
        receive_until(idle, b"|-|")
        half = server.connect()
        half.sendall(b"GET /echo HT")
        late = server.connect()
        late.sendall(b"GET /late?400 HTTP/1.1\r\nHost: a\r\n\r\n" + GET + b"\r\n")
        held = server.connect()
        held.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
        receive_until(held, HELD)
        server.wait_stat("exchanges_open", 2 + 1)
        started = time.monotonic()
        assert server.get("/close?1000") == (200, b"closing")
        assert is_closed(idle, 0.2)
        assert parse(receive_all(half))[0] == 503
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        status, headers, body = parse(receive_all(late))
        assert (status, headers["Connection"], body) == (200, "close", b"late")
        assert time.monotonic() - started < 0.9
        assert is_closed(held, 3)  # the grace is over
        assert time.monotonic() - started >= 1
        assert server.process.wait(timeout=WAIT_S) == 0
        for raw in (idle, half, late, held):
            raw.close()


def test_close_under_load():
    with running() as server:
        stop = threading.Event()
        counts = []

        def work():
            done = 0
            while not stop.is_set():
                try:
                    status, body = server.get("/stream?20")
                except (OSError, http.client.HTTPException):
                    break
                assert (status, body.count(b";")) in ((200, 20), (503, 0))
                done += status == 200
            counts.append(done)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        server.get("/close?2000")
        assert server.process.wait(timeout=WAIT_S) == 0
        stop.set()
        for thread in threads:
            thread.join()
        assert len(counts) == 8 and sum(counts) > 8


# Many


def test_a_storm_of_clients_leaves_nothing_behind():
    requests = [GET + b"\r\n", POST + b"Content-Length: 70000\r\n\r\n" + b"x" * 70000,
                POST + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
                b"GET /big?400000 HTTP/1.1\r\n" + HOST + b"\r\n",
                b"GET /stream?30 HTTP/1.1\r\n" + HOST + b"\r\n",
                b"GET /stream?30 HTTP/1.0\r\n\r\n", b"GET /burst?500 HTTP/1.1\r\n" + HOST + b"\r\n",
                b"GET /late?20 HTTP/1.1\r\n" + HOST + b"\r\n", b"nonsense\r\n\r\n",
                b"GET /torn HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /hold HTTP/1.1\r\n" + HOST + b"\r\n",
                b"HEAD /stream?9 HTTP/1.1\r\n" + HOST + b"\r\n",
                b"GET /flood HTTP/1.1\r\n" + HOST + b"\r\n"]

    def one_client(chance):
        raw = server.connect()
        raw.settimeout(0.02)
        script = b"".join(chance.choices(requests, k=chance.randint(1, 5)))
        while script and chance.random() > 0.03:
            piece = chance.choice((1, 7, 100, 5000, 100000))
            try:
                script = script[raw.send(script[:piece]):]
                if chance.random() < 0.3:
                    raw.recv(chance.choice((1, 1000, 100000)))
            except TimeoutError:
                pass
            except OSError:
                break  # it refused something of ours and went
        chance.choice((socket.socket.close, reset, lambda raw: raw.shutdown(socket.SHUT_WR)))(raw)
        raw.close()

    def work(seed):
        chance = random.Random(seed)
        for _ in range(60):
            with contextlib.suppress(OSError):
                one_client(chance)

    with running(write_bytes_max=300_000, write_timeout=500) as server:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        server.wait_stat("exchanges_open", 1)
        server.wait_stat("connections_open", 1)
        after = server.stats()
        assert after["requests"] > 300 and after["gone"] > 30 and after["refused"] > 10
        assert after["gone"] == after["gone_calls"]


def test_5000_streams_are_held_at_once():
    wanted = 5000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < wanted + 100:
        pytest.skip(f"only {hard} open files are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with running() as server:
        resident = server.resident_bytes()
        streams = []
        for _ in range(wanted):
            raw = server.connect()
            raw.sendall(b"GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
            streams.append(raw)
        for raw in streams:
            receive_until(raw, HELD)
        assert server.stats()["exchanges_open"] == wanted + 1
        each = (server.resident_bytes() - resident) / wanted
        print(f"{each:.0f} bytes for each held stream")
        assert each < 10_000
        assert server.get("/echo")[0] == 200
        for raw in streams:
            raw.close()
        assert server.wait_stat("gone", wanted) < 5
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
