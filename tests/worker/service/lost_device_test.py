"""A worker whose device is lost: clients and routers are told, and the process ends by itself.

Environment: that of spin_grpc.py; SPIN_WORKER is lost_worker.c.
"""

import time

import grpc
import pytest

from tests.worker.service import spin_grpc
from tests.worker.service.spin_grpc import request, running, wait_until

END_LIMIT_S = 20
LAYERS = 2  # of random:tiny: as many operations of attention in a decode step


@pytest.fixture
def lost_after(monkeypatch):
    """Sets how many operations of attention go well."""
    return lambda count: monkeypatch.setitem(spin_grpc.CLEAN, "LOST_AFTER", str(count))


def test_streams_are_told_and_the_process_exits(tmp_path, lost_after):
    lost_after(50 * LAYERS)
    with running(tmp_path, model="random:tiny") as worker:
        one = worker.generate(request(max_tokens=1000))
        two = worker.generate(request(prompt=(4, 5), max_tokens=1000))
        streams = {"one": (one, []), "two": (two, [])}
        for stream, messages in streams.values():
            with pytest.raises(grpc.RpcError) as failure:
                for message in stream:
                    messages.append(message)
            # A router resumes it elsewhere; somebody who asks a worker himself reads why.
            assert failure.value.code() == grpc.StatusCode.INTERNAL
            assert "device" in failure.value.details()
        tokens = [sum(len(m.tokens) for m in messages) for _, messages in streams.values()]
        assert 10 < sum(tokens) < 120, tokens  # it was in the middle of both
        assert all(messages[-1].finish.error for _, messages in streams.values())
        wait_until(lambda: worker.process.poll() is not None, END_LIMIT_S)
        assert worker.process.returncode == 1
        assert not worker.port_file.exists()
        assert "shutting down: the device is lost" in worker.log()


def test_nobody_is_served_after_that(tmp_path, lost_after):
    lost_after(0)  # the first prompt fails
    with running(tmp_path, model="random:tiny") as worker:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError):
            list(worker.generate(request()))
        with pytest.raises(grpc.RpcError):  # by the engine, by the service, or by its absence
            list(worker.generate(request()))
        wait_until(lambda: worker.process.poll() is not None, END_LIMIT_S)
        assert worker.process.returncode == 1
        print(f"gone {time.monotonic() - began:.1f} s after the device")
