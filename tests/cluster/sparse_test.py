"""A cluster whose workers attend to what shadowkv selects, with fewer slots than they would like.

What comes out must be what comes out with room for everything, whether a worker is killed or not; and
the counters must say that pages were really fetched, and that no step took the dense way out.
"""

import json
import os
import random
import subprocess

import pytest

from tests.cluster import cluster

MODEL_LEN = 1280
TOKENS = 100
HITS = 2  # kills that have to hit streams under way
ROUNDS_MAX = 10
SEED = 20261124
VOCABULARY = 512  # random:tiny's
BUDGET_TOKENS = 64
PROMPT_TOKENS = [700, 60, 500, 1000, 333, 620]
MIN_CONTEXT = min(PROMPT_TOKENS) + 1  # the first step of the shortest is just long enough
SPARSE = ["--sparse-attention", "shadowkv", "--sparse-budget", str(BUDGET_TOKENS),
          "--sparse-min-context", str(MIN_CONTEXT), "--max-model-len", str(MODEL_LEN)]
# `ref` operations are slow on purpose: streams last long enough to be hit.
WORKER_OPTIONS = [*SPARSE, "--threads", "1", "--ops", "ref"]
# A token of the tiny model takes 256 bytes: the six below would like 0.9 MiB, half of it on each worker.
HBM_BYTES = 224 << 10


def requests():
    """Prompts of random tokens, greedy and drawn in turns."""
    rng = random.Random(SEED)
    return [{"prompt": [rng.randrange(10, VOCABULARY) for _ in range(count)],
             "temperature": float(place % 2), "seed": 100 + place, "logprobs": True}
            for place, count in enumerate(PROMPT_TOKENS)]


REQUESTS = requests()


def ask_all(c):
    return [c.grpc(max_tokens=TOKENS, **fields) for fields in REQUESTS]


def finish(streams):
    answers = [stream.wait() for stream in streams]
    for answer in answers:
        assert not answer.error, answer.error
        assert len(answer.tokens) == TOKENS
    return answers


def assert_same(answers, undisturbed):
    for count, answer, expected in zip(PROMPT_TOKENS, answers, undisturbed):
        assert answer.content() == expected.content(), f"the prompt of {count} tokens"


def total(c, name):
    return sum(worker.metrics()[name] for worker in c.workers)


def status(c, *arguments):
    done = subprocess.run([os.environ["SPIN_CLIENT"], "status", "--router", c.router.address,
                           *arguments], env=cluster.CLEAN, stdin=subprocess.DEVNULL, text=True,
                          timeout=30, check=True, stdout=subprocess.PIPE)
    return done.stdout


def wait_until_nobody_is_told_of(c):
    """What a router says of requests is as old as their worker's last status."""
    cluster.wait_until(lambda: status(c, "--requests").splitlines()[-1] == "no request holds KV", 5,
                       "the router has heard of it", interval_s=0.1)


@pytest.fixture(scope="module", name="c")
def two_workers(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("cluster"), workers=2,
                         router_options=["--worker-timeout", "1s"],
                         worker_options=[*WORKER_OPTIONS, "--kv-hbm-bytes", str(HBM_BYTES)]) as one:
        yield one


@pytest.fixture(scope="module", name="undisturbed")
def answers_with_room_for_everything(tmp_path_factory):
    with cluster.running(tmp_path_factory.mktemp("roomy"), workers=1,
                         worker_options=[*WORKER_OPTIONS, "--threads", "2"]) as roomy:
        answers = finish(ask_all(roomy))
        assert total(roomy, "spin_sparse_steps_total") >= len(REQUESTS) * (TOKENS - 1)
        assert total(roomy, "spin_kv_evictions_total") == 0
        return answers


def test_sparse_is_not_dense(tmp_path, undisturbed):
    """Else all that follows would compare dense with dense."""
    with cluster.running(tmp_path, workers=1,
                         worker_options=["--max-model-len", str(MODEL_LEN), "--ops", "ref"]) as dense:
        answer = dense.grpc(max_tokens=TOKENS, **REQUESTS[0]).wait()
    assert answer.completion_tokens == TOKENS
    assert answer.logprobs != undisturbed[0].logprobs


def test_few_slots_change_nothing(c, undisturbed):
    assert_same(finish(ask_all(c)), undisturbed)
    retrieved = total(c, "spin_kv_pages_retrieved_total")
    evicted = total(c, "spin_kv_evictions_total")
    print(f"{retrieved:.0f} pages retrieved, {evicted:.0f} evicted, "
          f"{total(c, 'spin_suspensions_total'):.0f} suspensions")
    assert retrieved > 0 and evicted > 0
    assert total(c, "spin_sparse_steps_total") >= len(REQUESTS) * (TOKENS - 1)
    assert total(c, "spin_dense_fallbacks_total") == 0
    for worker in c.workers:
        assert worker.metrics()["spin_kv_pool_bytes"] <= HBM_BYTES


def test_status_tells_about_tiers_and_requests(c):
    wait_until_nobody_is_told_of(c)  # of an earlier test
    # Longer than we look, as far as there is room.
    streams = [c.grpc(max_tokens=MODEL_LEN - len(fields["prompt"]), **fields)
               for fields in REQUESTS]
    seen = {}

    def look():
        for member in json.loads(status(c, "--json"))["members"]:
            assert (member["algorithm"], member["budget_tokens"]) == ("shadowkv", BUDGET_TOKENS)
            assert member["min_context"] == MIN_CONTEXT and member["dense_fallbacks"] == 0
            assert 0 <= member["kv_hbm_bytes_used"] <= member["kv_hbm_bytes"] == HBM_BYTES
            assert 0 <= member["kv_host_bytes_used"] <= member["kv_host_bytes"]
            for request in member["requests"]:
                if request["hit_ratio"] is not None:  # it has made a step
                    seen.setdefault(request["kv"], request)
        return "buffered" in seen

    cluster.wait_until(look, 20, lambda: f"a buffered request: {seen}", interval_s=0.02)
    buffered = seen["buffered"]
    assert buffered["tokens"] > 0 and buffered["slots"] > 0
    assert 0 < buffered["mandatory_pages"] <= buffered["budget_pages"]
    assert 0 <= buffered["hit_ratio"] <= 1
    table = status(c, "--requests").splitlines()
    heads = [line.split() for line in table if line.startswith("MEMBER")]
    assert [head[1] for head in heads] == ["ROLE", "ALGORITHM", "DEVICE", "KV"]
    rows = [line.split() for line in table[table.index(next(
        line for line in table if "MANDATORY" in line)) + 1:]]
    assert rows and all(len(row) == len(heads[3]) for row in rows)
    assert {row[0] for row in rows} <= {worker.address for worker in c.workers}
    assert {row[1] for row in rows} <= {"resident", "buffered", "suspended"}
    for stream in streams:
        stream.drop()
    c.wait_idle()


def test_killed_workers(c, undisturbed):
    """A sequence that goes on elsewhere decodes its tokens again as they were decoded: sparsely."""
    rng = random.Random(SEED)
    hits = 0
    for number in range(ROUNDS_MAX):
        before = c.metric("spin_router_recoveries_total")
        streams = ask_all(c)
        events = rng.randrange(TOKENS // 10, TOKENS // 2)
        cluster.wait_until(lambda: any(events <= one.progress < TOKENS - 20 for one in streams),
                           cluster.ANSWER_LIMIT_S, "a stream under way", interval_s=0.001)
        victim = max(c.workers, key=lambda worker: worker.load().running)
        victim.kill()
        assert_same(finish(streams), undisturbed)
        moved = c.metric("spin_router_recoveries_total") - before
        print(f"round {number}: killed {victim.name}, {moved:.0f} streams moved")
        hits += moved > 0
        victim.restart()
        c.wait_workers(2)
        if hits == HITS:
            break
    assert hits == HITS
    assert total(c, "spin_dense_fallbacks_total") == 0


def test_nothing_is_left(c):
    c.wait_idle()
    for worker in c.workers:
        metrics = worker.metrics()
        assert metrics["spin_kv_used_bytes"] == metrics["spin_kv_host_used_bytes"] == 0
    wait_until_nobody_is_told_of(c)
