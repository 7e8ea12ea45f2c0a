"""spin-bench and an independent client see the same moments; one that is told wrong moments does not agree.

Medians: means are for a quiet machine (bench/run bench-agreement)."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path("bench/load").resolve()))
import agreement

REQUESTS = 15
ATTEMPTS = 3  # a machine that was busy for a second is measured again


def test_agreement():
    apart = []
    for _ in range(ATTEMPTS):
        found = agreement.measure(os.environ["SPIN_BENCH"], os.environ["SPIN_STUB"], REQUESTS)
        apart = [row for row in agreement.differences(found, ["p50_ms"]) if not row[-1]]
        if not apart:
            return
    assert not apart


def test_a_difference_is_found():
    same = {"ttft": {"p50_ms": 200, "mean_ms": 200}, "itl": {"p50_ms": 20, "mean_ms": 20},
            "e2e": {"p50_ms": 980, "mean_ms": 980}}
    wrong = {**same, "itl": {"p50_ms": 21.1, "mean_ms": 20}}
    rows = list(agreement.differences({"httpx": same, "spin-bench-http": wrong, "spin-bench-grpc": same}))
    assert [(row[0], row[1], row[2]) for row in rows if not row[-1]] == [("itl", "p50_ms", "spin-bench-http")] * 2
