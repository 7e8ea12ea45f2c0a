"""A client that is stopped, neither reads nor answers pings, and is not waited for for ever."""

import signal

from tests.worker.service.spin_grpc import foreign_client, running

GIVEN_UP_LIMIT_S = 20  # proto/rpc_server.c: 10 s of silence, 5 s for the ping


def test_stopped_client_is_given_up(tmp_path):
    # One thread: others share the machine with this test while it waits.
    with running(tmp_path, "--threads", "1") as worker:
        with foreign_client(worker) as client:
            client.send_signal(signal.SIGSTOP)
            spent = worker.wait_idle(limit_s=GIVEN_UP_LIMIT_S)
    print(f"client stopped: idle after {spent:.1f} s")
