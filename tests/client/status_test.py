"""spin status: what a router says about its cluster, for people and for programs."""

import json
import signal

from tests.client.cli import spin, started
from tests.cluster import cluster


def status(c, *arguments):
    done = spin("status", "--router", c.router.address, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def members(c):
    return json.loads(status(c, "--json"))["members"]


def test_members_come_work_and_go(tmp_path):
    with cluster.running(tmp_path, workers=0, stub=True) as one:
        assert "0 members" in status(one) and "no worker has joined yet" in status(one)
        assert members(one) == []
        for _ in range(2):
            one.add_worker("--tokens-per-s", "50")
        one.wait_workers(2)
        rows = members(one)
        assert {row["address"] for row in rows} == {w.address for w in one.workers}
        assert all(row["state"] == "ready" and row["kind"] == "worker" for row in rows)
        assert all(row["sequences_max"] > 0 and row["kv_tokens"] > 0 for row in rows)
        table = status(one).splitlines()
        assert "2 members, 2 ready" in table[0]
        first, second, third = (place for place, line in enumerate(table) if line.startswith("MEMBER"))
        assert table[first].split()[:3] == ["MEMBER", "ROLE", "STATE"]
        assert all(cluster.NAME in line and "ready" in line
                   for line in table[first + 1:first + 3])
        assert table[second].split()[:3] == ["MEMBER", "ALGORITHM", "HIT"]
        assert all("dense" in line for line in table[second + 1:second + 3])
        assert table[third].split() == ["MEMBER", "DEVICE"]
        assert all(line.endswith("stub") for line in table[third + 1:])
        assert len(table) == third + 3 and all(len(line) <= 100 for line in table)
        assert status(one, "--requests").splitlines()[-1] == "no request holds KV"

        stream = one.grpc("x", max_tokens=500).wait_first()
        cluster.wait_until(lambda: sum(row["running"] for row in members(one)) == 1, 10,
                           "the load is told", interval_s=0.05)
        stream.drop()
        one.workers[0].kill()
        cluster.wait_until(lambda: any(row["state"] == "lost" for row in members(one)), 10,
                           "the loss is told", interval_s=0.05)
        assert "2 members, 1 ready" in status(one)


def test_watch_goes_on_until_interrupted(tmp_path):
    with cluster.running(tmp_path, workers=1, stub=True) as one:
        with started("status", "--router", one.router.address, "--watch", "--json") as client:
            ages = [json.loads(client.stdout.readline())["members"][0]["age_ms"]
                    for _ in range(2)]
            client.send_signal(signal.SIGINT)
            assert client.wait(10) == 130
        assert all(0 <= age < 5000 for age in ages)
        with started("status", "--router", one.router.address, "--watch") as client:
            client.stdout.readline()
            one.router.kill()
            _, errors = client.communicate(timeout=30)
            assert client.returncode == 1
            assert f"the router at {one.router.address} is lost" in errors
