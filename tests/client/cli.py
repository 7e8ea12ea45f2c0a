"""The `spin` command against real processes, for the tests of this folder.

Environment: SPIN_CLIENT, SPIN_ROUTER, SPIN_WORKER, SPIN_STUB_WORKER (programs), SPIN_DESCRIPTORS.
"""

import contextlib
import json
import os
import socket
import subprocess

from tests.cluster import cluster

CLIENT = os.environ["SPIN_CLIENT"]
LIMIT_S = 60


def spin(*arguments, given=None, env=None):
    """Runs it to its end; `given` is its standard input."""
    source = {"stdin": subprocess.DEVNULL} if given is None else {"input": given}
    return subprocess.run([CLIENT, *arguments], text=True, timeout=LIMIT_S, check=False,
                          env={**cluster.CLEAN, **(env or {})}, errors="replace",
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, **source)


@contextlib.contextmanager
def started(*arguments):
    """One that runs beside the test, and is killed with it."""
    with subprocess.Popen([CLIENT, *arguments], env=cluster.CLEAN, stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        try:
            yield client
        finally:
            client.kill()


def generate(c, *arguments, given=None):
    return spin("generate", "--router", c.router.address, *arguments, given=given)


def answer(c, *arguments, given=None):
    done = generate(c, "--json", *arguments, given=given)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def nobody():
    """An address where connections are refused."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening
        yield f"127.0.0.1:{taken.getsockname()[1]}"
