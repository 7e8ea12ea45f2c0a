"""spin-bench against servers that lie, babble and never end: each request is counted as what it was, and soon."""

import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time

import pytest

BENCH = os.environ["SPIN_BENCH_PROGRAM"]
LIMIT_S = 30
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(text):
    return b"%x\r\n%s\r\n" % (len(text), text)


def token(text):
    return chunk(b'data: {"choices":[{"text":"%s"}]}\n\n' % text)


def whole(body, code=200):
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (code, len(body), body)


def usage(prompt, output):
    return chunk(b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\n' % (prompt, output))


END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Server:
    """Sends `once`, then `again` for ever (None: keeps still)."""

    def __init__(self, once, again=None):
        self.once, self.again = once, again
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            while True:
                head = self.read(connection)
                if b" /v1/models" in head:
                    connection.sendall(whole(b'{"data":[{"id":"</script><script>\\u001b[31m"}]}'))
                elif b" /metrics" in head:
                    connection.sendall(whole(b'a{x="</script>\xff"} 1\nb 1e308\nc NaN\n' + b"d" * 1000))
                else:
                    connection.sendall(self.once)
                    while self.again is not None:
                        connection.sendall(self.again)
        except (OSError, EOFError):
            connection.close()

    @staticmethod
    def read(connection):
        got = b""
        while b"\r\n\r\n" not in got:
            got += connection.recv(65536) or end()
        head, _, body = got.partition(b"\r\n\r\n")
        length = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        while len(body) < length:
            body += connection.recv(65536) or end()
        return head


def end():
    raise EOFError


def bench(folder, server, *options):
    report, page = folder / "a.json", folder / "a.html"
    ran = subprocess.run(
        [BENCH, "--target", server.url, "--workload=fixed:8,4", "--requests=4", "--concurrency=2", "--progress=off",
         f"--json={report}", f"--html={page}", *options],
        env={}, capture_output=True, timeout=LIMIT_S, check=False)
    assert ran.returncode in (0, 1), ran.stderr
    assert b"\x1b" not in ran.stdout
    assert page.read_text().count("</script>") == 3  # its own
    return ran.returncode, json.loads(report.read_text())["runs"][0]


CASES = {
    "head without end": ("protocol", b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 1000 + b"\r\n"),
    "line without end": ("protocol", STREAM, chunk(b"z" * 60000)),
    "only comments": ("timeout", STREAM, chunk(b": still here\n\n")),
    "tokens without end": ("timeout", STREAM, token(b"a") * 50),
    "never an answer": ("stalled", b"HTTP/1.1 100 Continue\r\n\r\n", None),
    "a chunk of no size": ("protocol", STREAM + token(b"a") + b"ZZ\r\n", None),
    "compressed": ("protocol", whole(b"\x1f\x8b\x08\x00\n\n\x00\xff"), None),
    "no UTF-8": ("protocol", STREAM + token(b"\xf0\x9f") + END, None),
    "too deep": ("protocol", STREAM + chunk(b"data: " + b"[" * 100000 + b"\n\n") + END, None),
    "markup and escapes": ("server", whole(b"\x1b[31m\xff</script><img src=x>", 500), None),
    "another protocol": ("protocol", b"SSH-2.0-OpenSSH_9.2\r\n", None),
}


# Only the limit that is meant is near.
LIMITS = {"stalled": ["--stall-timeout=300ms"], "timeout": ["--timeout=500ms"]}


@pytest.mark.parametrize("outcome, once, again", CASES.values(), ids=CASES.keys())
def test_every_request_is_counted(tmp_path, outcome, once, again):
    code, run = bench(tmp_path, Server(once, again), *LIMITS.get(outcome, []))
    assert code == 1
    assert run["outcomes"][outcome] == run["errors"][outcome]["count"] == 4, run["outcomes"]


def test_zero_characters_are_text(tmp_path):
    code, run = bench(tmp_path, Server(STREAM + token(b"a\\u0000") * 3 + END))
    assert code == 0
    assert run["counts"]["output_tokens"] == 12


def test_usage_of_zero_is_none(tmp_path):
    code, run = bench(tmp_path, Server(STREAM + token(b"a") * 3 + usage(0, 0) + END))
    assert code == 0
    assert run["counts"]["output_tokens"] == 12
    assert run["counts"]["usage"] == 0


def test_more_streams_than_files_are_refused():
    server = Server(STREAM + token(b"a") + END)
    ran = subprocess.run([BENCH, "--target", server.url, "--concurrency=500", "--requests=1"], env={}, text=True,
                         capture_output=True, timeout=LIMIT_S, check=False,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)))
    assert ran.returncode == 1
    assert "--concurrency 500: this process may open 136 streams" in ran.stderr


def test_who_waits_at_the_interrupt_is_counted(tmp_path):
    report = tmp_path / "a.json"
    server = Server(STREAM + token(b"a"))
    process = subprocess.Popen([BENCH, "--target", server.url, "--rate=100", "--arrival=constant", "--concurrency=2",
                                "--workload=fixed:8,4", "--duration=20s", "--progress=off", f"--json={report}"],
                               env={}, stdout=subprocess.DEVNULL)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    run = json.loads(report.read_text())["runs"][0]
    assert run["run"]["interrupted"]
    assert run["outcomes"]["cut"] == 2
    assert run["outcomes"]["unsent"] == pytest.approx(100 * run["run"]["length_s"] - 2, abs=30)


def test_a_report_without_a_folder_is_refused_before_the_run(tmp_path):
    ran = subprocess.run([BENCH, "--target=127.0.0.1:1", f"--json={tmp_path}/none/a.json"], env={}, text=True,
                         capture_output=True, timeout=LIMIT_S, check=False)
    assert ran.returncode == 2
    assert "no folder that can be written to" in ran.stderr
