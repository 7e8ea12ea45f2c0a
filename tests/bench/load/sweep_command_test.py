"""spin-bench sweep against a server that answers one request after another, 50 ms each: 20 a second and no more."""

import asyncio
import json
import os
import re
import subprocess
import threading

import pytest

BENCH = os.environ["SPIN_BENCH_PROGRAM"]
SERVICE_S = 0.05


class Server:
    """OpenAI's completions over HTTP/1.1, streamed; a lock is the queue."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self.ready = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()
        assert self.ready.wait(10)

    def run(self):
        asyncio.set_event_loop(self.loop)
        self.turn = asyncio.Lock()
        server = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self.ready.set()
        self.loop.run_forever()

    def stop(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    async def serve(self, reader, writer):
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
                await reader.readexactly(int(length.group(1)) if length else 0)
                await self.answer(head.split()[1], writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def answer(self, path, writer):
        if path == "/v1/models":
            self.whole(writer, 200, json.dumps({"object": "list", "data": [{"id": "slow", "object": "model"}]}))
        elif path == "/v1/completions":
            async with self.turn:
                await asyncio.sleep(SERVICE_S)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            for event in (self.event(" a"), self.event(" b", "length"), b"data: [DONE]\n\n"):
                writer.write(f"{len(event):x}\r\n".encode() + event + b"\r\n")
            writer.write(b"0\r\n\r\n")
        else:
            self.whole(writer, 404, "{}")
        await writer.drain()

    @staticmethod
    def whole(writer, code, body):
        writer.write(f"HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}"
                     .encode())

    @staticmethod
    def event(text, reason=None):
        choice = {"index": 0, "text": text, "finish_reason": reason}
        return f"data: {json.dumps({'object': 'text_completion', 'choices': [choice]})}\n\n".encode()


@pytest.fixture(name="server")
def start_server():
    server = Server()
    yield server
    server.stop()


def sweep(*options, code=0):
    ran = subprocess.run([BENCH, "sweep", "--progress=off", *options], capture_output=True, text=True, timeout=100,
                         check=False)
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran


def answer(text):
    result = re.search(r"^RESULT (.*)$", text, re.MULTILINE).group(1)
    return dict(word.split("=", 1) for word in result.split(" "))


def against(server):
    # A quarter of the requests may be late, so that a busy test machine does not decide.
    return ["--target", f"http://127.0.0.1:{server.port}", "--workload=fixed:8,2", "--arrival=constant",
            "--slo=ttft=250ms", "--duration=3s", "--attainment=0.75"]


def test_finds_what_the_server_can_do(server, tmp_path):
    ran = sweep(*against(server), "--rate=8", "--precision=0.5", "--json", tmp_path / "sweep.json", "--html",
                tmp_path / "sweep.html")
    found = answer(ran.stdout)
    # 16 leaves a fifth of the server idle, 32 is half as much again as it can do; 22.6 may go either way in 3 s.
    assert 16 <= float(found["max_rate"]) < 23
    assert 22 < float(found["fails_at"]) <= 32
    assert found["rates_tried"] == "4", ran.stdout
    assert "rate 8 req/s holds" in ran.stdout and "rate 32 req/s fails" in ran.stdout
    runs = json.loads((tmp_path / "sweep.json").read_text())["runs"]
    assert [round(run["setup"]["rate_per_s"], 1) for run in runs] == [8, 16, 32, 22.6]
    assert {run["setup"]["seed"] for run in runs} == {"1"}
    assert (tmp_path / "sweep.html").stat().st_size > 10000


def test_nothing_holds(server):
    ran = sweep(*against(server), "--rate=4", "--rate-min=2", "--slo=ttft=1ms", "--duration=1s", code=1)
    assert "the lowest rate that was allowed fails" in ran.stdout
    assert answer(ran.stdout)["max_rate"] == "0"


def test_the_highest_allowed_holds(server):
    ran = sweep(*against(server), "--rate=2", "--rate-max=4", "--duration=1s")
    assert "the limit lies above it" in ran.stdout
    assert answer(ran.stdout)["max_rate"] == "4"


@pytest.mark.parametrize("options, text", [
    ([], "--slo: a sweep needs one"),
    (["--slo=tpot=50ms"], "a sweep needs ttft or e2e"),
    (["--slo=ttft=1s", "--arrival=closed"], "has no rate to search for"),
    (["--slo=ttft=1s", "--rate-min=5", "--rate-max=4"], "--rate-min 5 is above --rate-max 4"),
    (["--slo=ttft=1s", "--precision=0"], "precision"),
    (["--slo=soon"], "slo"),
])
def test_wrong_options(options, text):
    assert text in sweep(*options, code=2).stderr


def test_nobody_there():
    assert sweep("--slo=ttft=1s", "--target=http://127.0.0.1:1", code=1).stderr.startswith("spin bench sweep: ")


def test_help_names_all_options():
    text = sweep("--help").stdout
    assert "--attainment" in text and "--workload" in text and "--rates-max" in text
