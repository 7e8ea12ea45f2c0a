"""One layer of sparse attention against NumPy in float64, written from the papers' formulas.

ShadowKV: arXiv 2410.21465 with SPIN's changes (arXiv 2604.26837): chunk means choose among exact
pages, chunk 0 is kept. Quest: arXiv 2406.10774; its choice is per query head, ours is merged over a
kv head's group by the maximum of softmax.

What the pipeline chose has to be a best choice (scores may tie within 1e-6), and what it gives out
has to be attention over just that. Its pool is as small as the manager allows, and evicted slots are
NaN, so every step goes through Retrieve.
"""

import os
import struct
import subprocess

import numpy as np
import pytest

DENSE, QUEST, SHADOWKV = range(3)
TIE = 1e-6


def bf16(x):
    """Rounded to nearest even, as pages and summaries hold it."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def windows(algorithm, budget, n):
    """(tokens of a partition, taken anyway, candidates, how many of those) for n visible tokens."""
    if algorithm == DENSE:
        return 32, list(range((n + 31) // 32)), [], 0
    if algorithm == QUEST:
        newest = (n - 1) // 16
        return 16, [newest], list(range(newest)), (budget or 1024) // 16 - 1
    chunks = n // 8
    local = max(chunks - 4, 0)
    taken = ([0] if local > 0 else []) + list(range(local, (n + 7) // 8))
    return 8, taken, list(range(1, local)), (budget or max(256, -(-n // 64))) // 8


def scores(algorithm, q, k, candidates, size):
    """[candidates] of one kv head: q [group, dim], k [tokens, dim] as pages hold it."""
    parts = np.stack([k[c * size:(c + 1) * size] for c in candidates])
    if algorithm == SHADOWKV:
        logits = q @ bf16(parts.mean(axis=1)).T
    else:
        low, high = parts.min(axis=1), parts.max(axis=1)
        logits = np.maximum(q[:, None, :] * low, q[:, None, :] * high).sum(axis=2)
    return softmax(logits / np.sqrt(q.shape[1])).max(axis=0)


def check_choice(algorithm, budget, q, k, pages):
    """`pages` of 8 (dense: 32) tokens are a right choice for this row."""
    n = len(k)
    size, taken, candidates, count = windows(algorithm, budget, n)
    page = 32 if algorithm == DENSE else 8
    chosen = sorted({p * page // size for p in pages})
    wanted = [p for c in chosen for p in range(c * size // page, (c + 1) * size // page)
              if p * page < n]
    assert list(pages) == wanted, "whole partitions, ascending, none behind the newest token"
    assert set(taken) <= set(chosen)
    others = [c for c in chosen if c not in taken]
    assert len(others) == min(count, len(candidates)) and set(others) <= set(candidates)
    if not others or len(others) == len(candidates):
        return
    score = dict(zip(candidates, scores(algorithm, q, k, candidates, size)))
    worst_in = min(score[c] for c in others)
    best_out = max(score[c] for c in candidates if c not in others)
    assert worst_in >= best_out - TIE, (n, worst_in, best_out)


def attention(q, k, v, pages, page):
    at = np.concatenate([np.arange(p * page, min((p + 1) * page, len(k))) for p in pages])
    return softmax(q @ k[at].T / np.sqrt(q.shape[1])) @ v[at]


class Tool:
    def __enter__(self):
        self.process = subprocess.Popen([os.environ["SPIN_LAYER_TOOL"]], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        return self

    def __exit__(self, kind, error, trace):
        self.process.stdin.close()
        if kind is not None:
            self.process.kill()
        code = self.process.wait(timeout=60)
        assert kind is not None or code == 0, f"layer_tool: exit code {code}"

    def read(self, dtype, count):
        data = self.process.stdout.read(4 * count)
        assert len(data) == 4 * count, "layer_tool ended early; its message is on standard error"
        return np.frombuffer(data, dtype)

    def run(self, request, k, v, q):
        self.process.stdin.write(struct.pack("<8I", *request))
        for values in (k, v, q):
            self.process.stdin.write(np.ascontiguousarray(values, dtype="<f4").tobytes())
        self.process.stdin.flush()
        kv_heads = request[4]
        for row in range(len(q)):
            pages = [self.read("<u4", int(self.read("<u4", 1)[0])) for _ in range(kv_heads)]
            yield pages, self.read("<f4", q.shape[1])
        yield self.read("<u4", 2)


def make(rng, tokens, kv_heads, head_dim, steps, q_heads):
    """Keys that drift, so that partitions differ, and queries near some of them."""
    drift = np.cumsum(rng.normal(size=(tokens, kv_heads * head_dim)), axis=0) * 0.15
    k = drift + rng.normal(size=drift.shape)
    v = rng.normal(size=drift.shape)
    q = rng.normal(size=(steps, q_heads * head_dim)) * 2
    return k, v, q


CASES = [
    # algorithm, budget, q heads, kv heads, dim, prefilled, tokens
    (SHADOWKV, 64, 4, 4, 16, 1, 130),      # G = 1, from the first token on
    (SHADOWKV, 64, 9, 3, 64, 640, 690),    # G = 3
    (SHADOWKV, 0, 5, 1, 128, 600, 620),    # G = 5, the default budget
    (SHADOWKV, 4096, 8, 1, 32, 300, 320),  # G = 8, a budget larger than the context
    (SHADOWKV, 8, 6, 2, 16, 7, 60),
    (QUEST, 64, 4, 4, 16, 1, 130),
    (QUEST, 128, 9, 3, 64, 640, 690),
    (QUEST, 0, 5, 1, 128, 1020, 1060),     # over the default budget
    (QUEST, 4096, 8, 1, 32, 300, 320),
    (QUEST, 16, 6, 2, 16, 15, 60),         # nothing but the newest partition
    (DENSE, 0, 6, 2, 16, 31, 70),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: "-".join(map(str, c)))
@pytest.mark.parametrize("cpu", [0, 1], ids=["ref", "cpu"])
def test_layer(case, cpu):
    algorithm, budget, q_heads, kv_heads, head_dim, prefilled, tokens = case
    rng = np.random.default_rng([*case, cpu])
    k, v, q = make(rng, tokens, kv_heads, head_dim, tokens - prefilled, q_heads)
    request = (algorithm, cpu, budget, q_heads, kv_heads, head_dim, tokens, prefilled)
    stored_k = bf16(k).reshape(tokens, kv_heads, head_dim)
    stored_v = bf16(v).reshape(tokens, kv_heads, head_dim)
    queries = q.astype(np.float32).astype(np.float64).reshape(-1, kv_heads, q_heads // kv_heads,
                                                              head_dim)
    page = 32 if algorithm == DENSE else 8
    with Tool() as tool:
        answers = list(tool.run(request, k, v, q))
    retrieved, _ = answers.pop()
    assert len(answers) == tokens - prefilled
    assert retrieved > 0
    for step, (pages, out) in enumerate(answers):
        n = prefilled + step + 1
        wanted = []
        for head in range(kv_heads):
            key, value = stored_k[:n, head], stored_v[:n, head]
            check_choice(algorithm, budget, queries[step, head], key, pages[head])
            wanted.append(attention(queries[step, head], key, value, pages[head], page))
        wanted = np.concatenate([w.reshape(-1) for w in wanted])
        error = np.linalg.norm(out - wanted) / np.linalg.norm(wanted)
        assert error < 1e-5, (n, error)


def test_small_budgets_leave_pages_out_and_evict():
    """The checks above mean something: rows do choose, and slots do change hands."""
    rng = np.random.default_rng(7)
    k, v, q = make(rng, 700, 2, 16, 100, 6)
    with Tool() as tool:
        answers = list(tool.run((SHADOWKV, 1, 32, 6, 2, 16, 700, 600), k, v, q))
    retrieved, evicted = answers.pop()
    assert retrieved > 0 and evicted > 0
    assert all(len(pages) <= 1 + 4 + 5 for row, _ in answers for pages in row)
    assert len({tuple(row[0]) for row, _ in answers}) > 50
