"""The process of http_server_tool and the raw sockets of its tests."""

import contextlib
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import time

WAIT_S = 10  # for what takes milliseconds on an idle machine


class Server:
    """http_server_tool with these limits (times in ms)."""

    def __init__(self, **limits):
        self.process = subprocess.Popen(
            [os.environ["SPIN_TOOL"], *(f"{name}={value}" for name, value in limits.items())],
            stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def connect(self):
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return raw

    def client(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)

    def get(self, target, **headers):
        """(status, body) over a connection of its own."""
        client = self.client()
        client.request("GET", target, headers=headers)
        response = client.getresponse()
        body = response.read()
        client.close()
        return response.status, body

    def stats(self):
        return json.loads(self.get("/stats")[1])

    def wait_stat(self, name, value):
        """Seconds until the counter has the value."""
        started = time.monotonic()
        while self.stats()[name] != value:
            assert time.monotonic() - started < WAIT_S, (name, value, self.stats())
            time.sleep(0.005)
        return time.monotonic() - started

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def stop(self):
        """Closes it by itself; whatever it held must be given back."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.get("/close?0")
        code = self.process.wait(timeout=WAIT_S)
        self.process.stdout.close()
        return code


@contextlib.contextmanager
def running(**limits):
    server = Server(**limits)
    try:
        yield server
        assert server.stop() == 0
    finally:
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()


class Replies:
    """Python's reader of replies over one file, for several of them: it closes the file after each."""

    def __init__(self, raw):
        self.file = raw.makefile("rb")

    def makefile(self, _mode):
        return self

    def close(self):
        pass

    def __getattr__(self, name):
        return getattr(self.file, name)

    def next(self):
        response = http.client.HTTPResponse(self)
        response.begin()
        return response


def receive_all(raw):
    """Everything until the server closes."""
    parts = []
    while part := raw.recv(65536):
        parts.append(part)
    return b"".join(parts)


def receive_until(raw, end):
    received = b""
    while not received.endswith(end):
        part = raw.recv(65536)
        assert part, received
        received += part
    return received


def is_closed(raw, within_s):
    """Whether the server closes within so long."""
    raw.settimeout(within_s)
    try:
        return raw.recv(65536) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def reset(raw):
    """Closes with a reset instead of a goodbye."""
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raw.close()


def parse(reply):
    """(status, headers, body) of a whole reply to the end of its connection."""
    head, _, body = reply.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    return int(lines[0].split()[1]), headers, body
