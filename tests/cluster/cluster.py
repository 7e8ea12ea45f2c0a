"""A cluster of real processes on this machine, and two clients for it, for tests.

    with cluster.running(tmp_path, workers=2) as c:
        answer = c.http("hello", max_tokens=8).wait()
        c.workers[0].kill()

Environment: SPIN_ROUTER, SPIN_WORKER, SPIN_STUB_WORKER (programs; only those that a test starts),
SPIN_DESCRIPTORS (FileDescriptorSet). Every process ends with the test, whatever happens: `running`
kills what is left, and the kernel does when this process dies first.
"""

import contextlib
import dataclasses
import http.client
import json
import math
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import threading
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MODEL = "random:tiny"
NAME = "served"  # what clients call it
# The programs take options from the environment, and ours would be some.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("SPIN_")}
READY_LIMIT_S = 20
ANSWER_LIMIT_S = 60
# Thousands of connections at once: children inherit it.
_, HARD_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (HARD_FILES, HARD_FILES))


def wait_until(condition, limit_s, what="", interval_s=0.005):
    """Waits for a true value; fails with `what` (a text, or a function that gives one) after limit_s."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() >= deadline:
            raise AssertionError(
                f"still not so after {limit_s} s: {what() if callable(what) else what}")
        time.sleep(interval_s)


def load_messages():
    files = descriptor_pb2.FileDescriptorSet.FromString(
        pathlib.Path(os.environ["SPIN_DESCRIPTORS"]).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"spin.v1.{name}"))
            for name in ("GenerateRequest", "GenerateResponse", "DescribeRequest",
                         "DescribeResponse", "InferenceRequest", "InferenceResponse",
                         "ClusterDescribeRequest", "ClusterDescribeResponse")}


MESSAGES = load_messages()
STOP, LENGTH = 1, 2  # FinishReason


# --- processes ---


class Process:
    """One program with a port file and a log; `address` is its gRPC address once it is ready."""

    def __init__(self, name, folder, command):
        self.name = name
        self.command = command
        self.port_file = folder / f"{name}.port"
        self.log_file = folder / f"{name}.log"
        self.process = None
        self.address = None
        self.http_address = None

    def start(self):
        """From the main thread only: a child ends with the thread that started it."""
        self.port_file.unlink(missing_ok=True)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self.command, "--port-file",
                 str(self.port_file)],
                env=CLEAN, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.port_file.exists() or self.process.poll() is not None,
                   READY_LIMIT_S, lambda: f"{self.name} is ready: {self.log()}")
        assert self.process.poll() is None, self.log()
        self.read_addresses(self.port_file.read_text().splitlines())
        return self

    def read_addresses(self, lines):
        """Lines are "ADDRESS" or "grpc ADDRESS", and "http ADDRESS"."""
        for line in lines:
            kind, _, address = line.strip().rpartition(" ")
            if kind == "http":
                self.http_address = address
            else:
                self.address = address

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, number):
        assert self.alive(), self.log()
        self.process.send_signal(number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait(10)

    def terminate(self, limit_s=30):
        """SIGTERM; returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(limit_s)

    def stop(self):
        """False: it had ended in a way that no test asked for. Streams recover from a crash, so
        nothing else might show it."""
        if self.process is None:
            return True
        code = self.process.poll()
        if code is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(10)
        return code in (None, 0, -signal.SIGKILL, -signal.SIGTERM)

    def resident_bytes(self):
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmRSS:\s+(\d+) kB", text, re.MULTILINE).group(1)) * 1024

    def threads(self):
        return len(list(pathlib.Path(f"/proc/{self.pid}/task").iterdir()))


class Member(Process):
    """A worker, real or stub: what it says about itself over gRPC."""

    def __init__(self, name, folder, command, credentials=None):
        super().__init__(name, folder, command)
        self.credentials = credentials
        self.channel = None

    def start(self):
        super().start()
        if self.channel is not None:
            self.channel.close()
        self.channel = open_channel(self.address, self.credentials)
        return self

    def restart(self):
        """On the same port, as a supervisor would."""
        assert not self.alive()
        self.command = with_option(self.command, "--listen", self.address)
        return self.start()

    def describe(self):
        return unary(self.channel, "/spin.v1.Worker/Describe", "Describe")

    def load(self):
        return self.describe().load

    def metrics(self):
        return read_metrics(self.http_address)

    def is_idle(self):
        load = self.load()
        return load.running == 0 and load.waiting == 0 and load.kv_tokens_used == 0

    def stop(self):
        if self.channel is not None:
            self.channel.close()
        return super().stop()


def with_option(command, name, value):
    place = command.index(name)
    return [*command[: place + 1], value, *command[place + 2:]]


def open_channel(address, credentials=None):
    # Loopback here, whatever proxy the environment names. Channels of one target share connections
    # unless told otherwise, and a test may want to see one break.
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, credentials, options)


def unary(channel, path, name, limit_s=10):
    call = channel.unary_unary(path, request_serializer=MESSAGES[f"{name}Request"].SerializeToString,
                               response_deserializer=MESSAGES[f"{name}Response"].FromString)
    return call(MESSAGES[f"{name}Request"](), timeout=limit_s)


# --- clients ---


@dataclasses.dataclass
class Answer:
    """What one stream gave, over either door."""
    text: str = ""
    tokens: list = dataclasses.field(default_factory=list)  # ids (gRPC) or texts (HTTP, logprobs)
    logprobs: list = dataclasses.field(default_factory=list)
    tops: list = dataclasses.field(default_factory=list)  # the alternatives at every place
    finish: str = ""  # "stop", "length"
    completion_tokens: int = -1
    recoveries: int = 0  # gRPC only
    status: int = 0  # HTTP
    error: str = ""  # how it failed
    headers: dict = dataclasses.field(default_factory=dict)
    events: int = 0
    first_s: float = 0.0  # from the request to its first event
    ended_at: float = 0.0

    def content(self):
        """All that has to be equal in two answers to one request."""
        return (self.text, self.tokens, self.logprobs, self.tops, self.finish,
                self.completion_tokens)


class Stream(threading.Thread):
    """A request in a thread of its own. `wait` gives its Answer; `progress` counts its events."""

    def __init__(self):
        super().__init__(daemon=True)
        self.answer = Answer()
        self.started_at = time.monotonic()

    @property
    def progress(self):
        return self.answer.events

    def note_event(self):
        if self.answer.events == 0:
            self.answer.first_s = time.monotonic() - self.started_at
        self.answer.events += 1

    def wait_first(self, limit_s=ANSWER_LIMIT_S):
        wait_until(lambda: self.progress > 0 or not self.is_alive(), limit_s, "a first event",
                   interval_s=0.001)
        assert self.progress > 0, self.answer
        return self

    def wait(self, limit_s=ANSWER_LIMIT_S):
        self.join(limit_s)
        assert not self.is_alive(), f"no end after {limit_s} s: {self.answer}"
        return self.answer

    def run(self):
        try:
            self.read()
        except (grpc.RpcError, OSError, http.client.HTTPException, ValueError) as failure:
            if not self.answer.error:
                self.answer.error = describe_failure(failure)
        self.answer.ended_at = time.monotonic()

    def read(self):
        raise NotImplementedError


def describe_failure(failure):
    if isinstance(failure, grpc.RpcError):
        return f"{failure.code().name}: {failure.details()}"
    return f"{type(failure).__name__}: {failure}"


class HttpStream(Stream):
    """POST /v1/completions with stream: true."""

    def __init__(self, address, body, headers=()):
        super().__init__()
        host, port = address.rsplit(":", 1)
        self.connection = http.client.HTTPConnection(host, int(port), timeout=ANSWER_LIMIT_S)
        self.body = {"stream": True, "stream_options": {"include_usage": True}, **body}
        self.headers = {"Content-Type": "application/json", **dict(headers)}
        self.start()

    def read(self):
        try:
            self.ask()
        finally:
            self.connection.close()

    def ask(self):
        self.connection.request("POST", "/v1/completions", json.dumps(self.body), self.headers)
        response = self.connection.getresponse()
        self.answer.status = response.status
        self.answer.headers = {name.lower(): value for name, value in response.getheaders()}
        if response.status != 200:
            self.answer.error = response.read().decode(errors="replace")
            return
        for data in server_sent_events(response):
            if data == "[DONE]":
                return
            self.take(json.loads(data))
        raise ValueError("the stream ended without [DONE]")

    def take(self, event):
        if "error" in event:
            self.answer.error = json.dumps(event["error"])
            return
        if event.get("usage"):
            self.answer.completion_tokens = event["usage"]["completion_tokens"]
        for choice in event["choices"]:
            self.answer.text += choice["text"]
            self.answer.finish = choice["finish_reason"] or self.answer.finish
            if choice.get("logprobs"):
                self.answer.tokens += choice["logprobs"]["tokens"]
                self.answer.logprobs += choice["logprobs"]["token_logprobs"]
                self.answer.tops += choice["logprobs"]["top_logprobs"] or []
            self.note_event()

    def drop(self):
        """The client goes away without a word."""
        wait_until(lambda: self.connection.sock is not None, 5, "connected")
        self.connection.sock.shutdown(socket.SHUT_RDWR)  # the reading thread sees the end


def server_sent_events(response):
    """The data of every event; comments and empty lines are left out."""
    for line in response:
        if line.startswith(b"data: "):
            yield line[6:].decode().rstrip("\r\n")


class GrpcStream(Stream):
    """spin.v1.Inference/Generate."""

    def __init__(self, channel, request, metadata=()):
        super().__init__()
        method = channel.unary_stream(
            "/spin.v1.Inference/Generate",
            request_serializer=MESSAGES["InferenceRequest"].SerializeToString,
            response_deserializer=MESSAGES["InferenceResponse"].FromString)
        self.call = method(request, timeout=ANSWER_LIMIT_S, metadata=metadata)
        self.start()

    def read(self):
        for message in self.call:
            for delta in message.deltas:
                self.take(delta)

    def take(self, delta):
        self.answer.text += delta.text
        self.answer.tokens += [token.token for token in delta.tokens]
        self.answer.logprobs += [None if math.isnan(token.logprob) else token.logprob
                                 for token in delta.tokens]
        self.answer.tops += [[(top.token, top.logprob) for top in token.top]
                             for token in delta.tokens]
        if delta.HasField("ending"):
            self.answer.finish = {STOP: "stop", LENGTH: "length"}.get(delta.ending.reason, "?")
            self.answer.completion_tokens = delta.ending.usage.completion_tokens
            self.answer.recoveries = delta.ending.recoveries
        self.note_event()

    def drop(self):
        self.call.cancel()


class HeldStreams:
    """Thousands of streaming requests from one thread: sent, not read until `read_all`."""

    def __init__(self, address, count, body):
        host, port = address.rsplit(":", 1)
        text = json.dumps({"stream": True, **body})
        request = (f"POST /v1/completions HTTP/1.1\r\nHost: {address}\r\n"
                   f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}")
        self.sockets = []
        for _ in range(count):
            one = socket.create_connection((host, int(port)), 30)
            one.sendall(request.encode())
            self.sockets.append(one)

    def read_all(self, limit_s):
        """How many ended well, i.e. with [DONE]."""
        deadline = time.monotonic() + limit_s
        return sum(read_to_done(one, deadline) for one in self.sockets)

    def close(self):
        for one in self.sockets:
            one.close()


def read_to_done(one, deadline):
    text = b""
    while b"data: [DONE]" not in text:
        one.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            more = one.recv(1 << 16)
        except OSError:
            return False
        if not more:
            return False
        text += more
    return True


# --- the cluster ---


class Router(Process):
    def __init__(self, folder, *options, model=MODEL):
        command = [os.environ["SPIN_ROUTER"], "--model", model, "--listen", "127.0.0.1:0",
                   "--grpc-listen", "127.0.0.1:0", "--served-model-name", NAME, *options]
        super().__init__("router", folder, command)

    def restart(self):
        """On the same ports, where its workers dial."""
        assert not self.alive()
        self.command = with_option(self.command, "--listen", self.http_address)
        self.command = with_option(self.command, "--grpc-listen", self.address)
        return self.start()

    def get(self, path, headers=()):
        """(status, text) of a GET."""
        return http_request(self.http_address, "GET", path, headers=headers)

    def complete(self, prompt, headers=(), **fields):
        """(status, reply) of a completion that is not streamed."""
        body = {"model": NAME, "prompt": prompt, "ignore_eos": True, **fields}
        status, text = http_request(self.http_address, "POST", "/v1/completions", json.dumps(body),
                                    [("Content-Type", "application/json"), *headers])
        return status, json.loads(text)

    def metrics(self):
        return read_metrics(self.http_address)


def http_request(address, method, path, body=None, headers=()):
    connection = http.client.HTTPConnection(address, timeout=ANSWER_LIMIT_S)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


class Metrics:
    """A page of Prometheus text: m["name"] sums over all labels, m.get("name", code="429") over some."""

    SAMPLE = re.compile(r'^([\w:]+)(?:\{(.*)\})? (\S+)$')
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.samples = []
        for line in text.splitlines():
            if line and line[0] != "#":
                name, labels, value = self.SAMPLE.match(line).groups()
                self.samples.append((name, dict(self.LABEL.findall(labels or "")), float(value)))

    def get(self, name, **labels):
        found = [value for other, its, value in self.samples
                 if other == name and labels.items() <= its.items()]
        assert found, f"no metric {name} {labels}"
        return sum(found)

    def __getitem__(self, name):
        return self.get(name)


def read_metrics(address):
    status, text = http_request(address, "GET", "/metrics")
    assert status == 200, text
    return Metrics(text)


class Cluster:
    """A router and its workers. `stub`: workers that run no model (bench/router/stub_worker.c)."""

    def __init__(self, folder, model=MODEL, stub=False, router_options=()):
        self.folder = folder
        self.model = model
        self.stub = stub
        self.router = Router(folder, *router_options, model=model)
        self.workers = []
        self.channel = None

    def start_router(self):
        self.router.start()
        self.channel = open_channel(self.router.address)

    def add_worker(self, *options, credentials=None, other_routers=()):
        if self.stub:
            command = [os.environ["SPIN_STUB_WORKER"], "--model", NAME]
        else:
            command = [os.environ["SPIN_WORKER"], "--model", self.model, "--served-model-name",
                       NAME, "--http-listen", "127.0.0.1:0"]
        routers = ",".join(one.address for one in [self.router, *other_routers])
        command += ["--listen", "127.0.0.1:0", "--router", routers, *options]
        worker = Member(f"worker{len(self.workers)}", self.folder, command, credentials)
        self.workers.append(worker)
        return worker.start()

    def wait_workers(self, count, limit_s=READY_LIMIT_S):
        """Until the router would send requests to `count` workers."""
        wait_until(lambda: self.router.metrics()["spin_router_workers"] == count, limit_s,
                   lambda: f"{count} workers\n{self.logs()}", interval_s=0.02)

    def metric(self, name, **labels):
        return self.router.metrics().get(name, **labels)

    def http(self, prompt, headers=(), **fields):
        """A streaming completion over HTTP; ignore_eos, so that it is as long as it was told."""
        body = {"model": NAME, "prompt": prompt, "ignore_eos": True, "temperature": 0, **fields}
        return HttpStream(self.router.http_address, body, headers)

    def grpc(self, prompt, metadata=(), **sampling):
        """The same over gRPC; sampling fields as in spin.v1.Sampling, token ids come back."""
        source = {"text": prompt} if isinstance(prompt, str) else {"tokens": list(prompt)}
        request = MESSAGES["InferenceRequest"](
            prompt=source, sampling={"ignore_eos": True, **sampling}, return_tokens=True)
        return GrpcStream(self.channel, request, metadata)

    def held(self, count, prompt, **fields):
        return HeldStreams(self.router.http_address, count,
                           {"model": NAME, "prompt": prompt, "ignore_eos": True, **fields})

    def wait_idle(self, limit_s=10):
        """Seconds until no worker holds a sequence or a page, and the router no generation."""
        started = time.monotonic()
        wait_until(lambda: all(w.is_idle() for w in self.workers if w.alive()), limit_s,
                   "workers are idle")
        spent = time.monotonic() - started
        wait_until(lambda: self.metric("spin_router_generations_running") == 0, limit_s,
                   "the router is idle")
        return spent

    def logs(self):
        return "\n".join(f"== {one.name}\n{one.log()}" for one in [self.router, *self.workers])

    def stop(self):
        if self.channel is not None:
            self.channel.close()
        crashed = [one for one in [*self.workers, self.router] if not one.stop()]
        assert not crashed, "\n".join(
            f"{one.name} ended with {one.process.returncode}:\n{one.log()}" for one in crashed)


@contextlib.contextmanager
def running(folder, workers=2, model=MODEL, stub=False, router_options=(), worker_options=()):
    """A cluster that is ready; a process that crashes in it fails the test."""
    one = Cluster(folder, model=model, stub=stub, router_options=router_options)
    try:
        one.start_router()
        for _ in range(workers):
            one.add_worker(*worker_options)
        one.wait_workers(workers)
        yield one
    finally:
        one.stop()
