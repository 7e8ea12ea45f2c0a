"""A gRPC client that is not ours (grpcio) and the processes under test, for the tests of this folder.

Environment: SPIN_WORKER (program), SPIN_DESCRIPTORS (FileDescriptorSet), SPIN_MODEL.
"""

import contextlib
import http.client
import os
import pathlib
import signal
import subprocess
import sys
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

MODEL = os.environ["SPIN_MODEL"]
# The programs take options from the environment, and our SPIN_MODEL would be one.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("SPIN_")}
READY_LIMIT_S = 20


def load_messages():
    files = descriptor_pb2.FileDescriptorSet.FromString(
        pathlib.Path(os.environ["SPIN_DESCRIPTORS"]).read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    names = ["GenerateRequest", "GenerateResponse", "DescribeRequest", "DescribeResponse",
             "PrefillRequest", "PrefillEvent", "MemberMessage", "RouterMessage"]
    found = {name: pool.FindMessageTypeByName(f"spin.v1.{name}") for name in names}
    for name in ("HealthCheckRequest", "HealthCheckResponse"):
        found[name] = pool.FindMessageTypeByName(f"grpc.health.v1.{name}")
    return {name: message_factory.GetMessageClass(found[name]) for name in found}


MESSAGES = load_messages()
STOP, LENGTH, CANCELLED, DEADLINE = 1, 2, 3, 4  # FinishReason


class Worker:
    """A spin-worker of its own on free ports, killed at the end whatever happens."""

    def __init__(self, folder, *options, model=MODEL, token=None, credentials=None):
        self.port_file = folder / "port"
        self.log_file = folder / "log"
        # 64 MiB of KV hold 2,900 tokens of the demo model: enough here, and quick to clear.
        command = [os.environ["SPIN_WORKER"], "--model", model, "--listen", "127.0.0.1:0",
                   "--http-listen", "127.0.0.1:0", "--port-file", str(self.port_file),
                   "--max-model-len", "2048", "--kv-hbm-bytes", "256MiB", *options]
        started = time.monotonic()
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(command, env=CLEAN, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        wait_until(lambda: self.port_file.exists() or self.process.poll() is not None,
                   READY_LIMIT_S)
        self.ready_s = time.monotonic() - started
        assert self.process.poll() is None, self.log()
        self.address, *page = self.port_file.read_text().splitlines()
        self.http_address = page[0].removeprefix("http ") if page else None
        self.metadata = [("authorization", f"Bearer {token}")] if token else None
        # Loopback here, whatever proxy the environment names.
        direct = [("grpc.enable_http_proxy", 0)]
        self.channel = grpc.insecure_channel(self.address, direct) if credentials is None else \
            grpc.secure_channel(self.address, credentials, direct)

    def log(self):
        return self.log_file.read_text(errors="replace")

    def method(self, path, request, response, stream=False):
        make = self.channel.unary_stream if stream else self.channel.unary_unary
        return make(path, request_serializer=MESSAGES[request].SerializeToString,
                    response_deserializer=MESSAGES[response].FromString)

    def generate(self, request, timeout=30):
        return self.method("/spin.v1.Worker/Generate", "GenerateRequest", "GenerateResponse",
                           stream=True)(request, timeout=timeout, metadata=self.metadata)

    def describe(self):
        return self.method("/spin.v1.Worker/Describe", "DescribeRequest", "DescribeResponse")(
            MESSAGES["DescribeRequest"](), timeout=10, metadata=self.metadata)

    def health(self, service=""):
        return self.method("/grpc.health.v1.Health/Check", "HealthCheckRequest",
                           "HealthCheckResponse")(
            MESSAGES["HealthCheckRequest"](service=service), timeout=10).status

    def get(self, path):
        """(status, headers, text) of an HTTP page."""
        connection = http.client.HTTPConnection(self.http_address, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()
        finally:
            connection.close()

    def wait_idle(self, limit_s=5):
        """Seconds until the worker holds no sequence and no page; fails after limit_s."""
        started = time.monotonic()

        def idle():
            load = self.describe().load
            return load.running == 0 and load.waiting == 0 and load.kv_tokens_used == 0

        wait_until(idle, limit_s)
        return time.monotonic() - started

    def wait_running(self, count=1):
        wait_until(lambda: self.describe().load.running >= count, 10)

    def stop(self):
        self.channel.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait(10)


def wait_until(condition, limit_s, interval_s=0.002):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {limit_s} s"
        time.sleep(interval_s)


@contextlib.contextmanager
def running(folder, *options, **keywords):
    worker = Worker(folder, *options, **keywords)
    try:
        yield worker
    finally:
        worker.stop()


def request(prompt=(1, 2, 3), **sampling):
    """A small greedy request; ignore_eos, so that it goes on for as long as it was told to."""
    fields = {"max_tokens": 8, "ignore_eos": True, **sampling}
    return MESSAGES["GenerateRequest"](request_id="test", prompt_tokens=list(prompt),
                                       sampling=fields)


def collect(stream):
    """(token ids, last message) of a stream that ends well."""
    messages = list(stream)
    return [token.token for m in messages for token in m.tokens], messages[-1]


def run(*arguments):
    """Runs the worker to its end."""
    return subprocess.run([os.environ["SPIN_WORKER"], *arguments], text=True, timeout=60, env=CLEAN,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          check=False)


CLIENT = """
import os, sys
from tests.worker.service.spin_grpc import MESSAGES
import grpc
channel = grpc.insecure_channel(sys.argv[1], [("grpc.enable_http_proxy", 0)])
call = channel.unary_stream("/spin.v1.Worker/Generate",
                            request_serializer=MESSAGES["GenerateRequest"].SerializeToString,
                            response_deserializer=MESSAGES["GenerateResponse"].FromString)
for message in call(MESSAGES["GenerateRequest"](prompt_tokens=[1, 2, 3],
                    sampling={"max_tokens": 2000, "ignore_eos": True})):
    print("token", flush=True)
"""


@contextlib.contextmanager
def foreign_client(worker):
    """A process that streams for longer than any test takes, once its first token came."""
    with subprocess.Popen([sys.executable, "-c", CLIENT, worker.address],
                          stdout=subprocess.PIPE) as client:
        try:
            assert client.stdout.readline() == b"token\n"
            yield client
        finally:
            client.kill()
