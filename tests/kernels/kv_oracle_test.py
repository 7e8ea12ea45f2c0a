"""Index and Select, reference and fast, against NumPy in float64.

The oracle is written from the formulas in kernels/kv_index.h and kv_select.h (ShadowKV, arXiv
2410.21465; Quest, arXiv 2406.10774) and knows nothing of how the operations work. The set chosen
may differ from the oracle's only among scores within 1e-6 of the k-th best; where float64 sees
equal scores, the lower partition has to win."""

import os
import struct
import subprocess
from dataclasses import dataclass, field

import numpy as np
import pytest

TOOL = os.environ["SPIN_KV_TOOL"]
MEAN, BOUNDS = 1, 2
TOOL_BROKEN = 70  # exit status
TIE = 1e-6
ROUNDING = 1e-4  # of a logarithm: what F32 sums of a few hundred ordinary products may lose


@dataclass
class Case:
    name: str
    summary: int
    group: int
    head_dim: int
    tokens: list
    windows: list  # (sink_end, local_begin, k) of each sequence
    keys: list  # float32 [tokens, head_dim] of each row
    q: np.ndarray  # float32 [sequences, kv_heads, group, head_dim]
    kv_heads: int = 1
    page: int = 8
    partition: int = 8
    always_score: bool = False
    ordinary: bool = True  # scores near the k-th may be compared by their logarithms, too
    threads: int = 2
    scale: np.float32 = field(default=np.float32(0))

    def __post_init__(self):
        self.scale = self.scale or np.float32(1 / np.sqrt(self.head_dim))


def bf16(values):
    """The nearest BF16's bits; ties to even."""
    bits = np.asarray(values, dtype="<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def from_bf16(bits):
    return (bits.astype("<u4") << 16).view("<f4").astype(np.float64)


def run_tool(cases, fast):
    """Per case: [summaries of each row], [pages of each row]."""
    data = bytearray()
    for case in cases:
        data += struct.pack("<10If", fast, case.threads, case.summary, case.kv_heads, case.group, case.head_dim,
                            case.page, case.partition, case.always_score, len(case.tokens), case.scale)
        for tokens, window in zip(case.tokens, case.windows):
            data += struct.pack("<4I", tokens, *window)
        for keys in case.keys:
            data += bf16(keys).tobytes()
        data += case.q.astype("<f4").tobytes()
    return parse(cases, run_process(bytes(data)))


def run_process(data):
    """A tool that does not run has computed nothing wrong: that ends the run, and no test fails."""
    try:
        result = subprocess.run([TOOL], input=data, capture_output=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.exit(f"kv_tool: {error}", returncode=TOOL_BROKEN)
    if result.returncode != 0:
        pytest.exit(f"kv_tool: status {result.returncode}: {result.stderr.decode()}", returncode=TOOL_BROKEN)
    return result.stdout


def parse(cases, data):
    results = []
    at = 0
    for case in cases:
        width = case.head_dim * case.summary
        rows = [s for s in range(len(case.tokens)) for _ in range(case.kv_heads)]
        summaries = []
        for s in rows:
            sealed = case.tokens[s] // case.partition
            summaries.append(np.frombuffer(data, "<u2", sealed * width, at).reshape(sealed, width))
            at += sealed * width * 2
        lists = []
        for _ in rows:
            (count,) = struct.unpack_from("<I", data, at)
            lists.append(np.frombuffer(data, "<u2", count, at + 4).tolist())
            at += 4 + count * 2
        results.append((summaries, lists))
    assert at == len(data)
    return results


def check_index(case, keys, summaries):
    sealed = len(keys) // case.partition
    parts = from_bf16(bf16(keys))[: sealed * case.partition].reshape(sealed, case.partition, case.head_dim)
    got = from_bf16(summaries)
    if case.summary == BOUNDS:
        assert np.array_equal(got[:, : case.head_dim], parts.min(axis=1))
        assert np.array_equal(got[:, case.head_dim :], parts.max(axis=1))
        return
    mean = parts.mean(axis=1)
    ulp = np.exp2(np.floor(np.log2(np.maximum(np.abs(mean), 1e-38))) - 7)
    # Where keys cancel, an F32 sum is off by an ulp of the largest key at most.
    cancelled = np.abs(parts).max(axis=1, initial=0) * case.partition * 2.0**-24
    assert np.all(np.abs(got - mean) <= ulp + cancelled)


def scores(case, summaries, q):
    """max over the group of softmax(l); `summaries` are the candidates', q is [group, head_dim]."""
    summaries = from_bf16(summaries)
    q = q.astype(np.float64)
    if case.summary == MEAN:
        logits = q @ summaries.T
    else:
        low, high = summaries[:, : case.head_dim], summaries[:, case.head_dim :]
        logits = np.maximum(q[:, None] * low[None], q[:, None] * high[None]).sum(axis=2)
    logits = logits * np.float64(case.scale)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).max(axis=0)


def check_choice(case, score, chosen, k):
    """`chosen` are candidates."""
    assert len(chosen) == k
    order = sorted(range(len(score)), key=lambda c: (-score[c], c))
    for c in set(order[:k]) ^ set(chosen):
        last = score[order[k - 1]]
        assert abs(score[c] - last) <= TIE, (case.name, c, score[c], last)
        if case.ordinary:
            assert abs(np.log(score[c]) - np.log(last)) <= ROUNDING, (case.name, c, score[c], last)


def check_list(case, sequence, row, summaries, pages):
    tokens = case.tokens[sequence]
    sink_end, local_begin, k = case.windows[sequence]
    per = case.partition // case.page
    end = -(-tokens // case.partition)
    page_end = -(-tokens // case.page)
    partitions = sorted({page // per for page in pages})
    # Whole partitions, as far as there are pages.
    assert pages == [page for p in partitions for page in range(p * per, min((p + 1) * per, page_end))]
    taken = list(range(sink_end)) + list(range(local_begin, end))
    assert set(taken) <= set(partitions)
    chosen = [p - sink_end for p in partitions if p not in taken]
    candidates = local_begin - sink_end
    k = min(k, candidates)
    if candidates > 0 and k > 0:
        q = case.q[sequence, row % case.kv_heads]
        check_choice(case, scores(case, summaries[sink_end:local_begin], q), chosen, k)
    else:
        assert chosen == []
    assert pages[-1] == page_end - 1


def check(cases):
    for fast in (0, 1):
        for case, (summaries, lists) in zip(cases, run_tool(cases, fast)):
            for row, pages in enumerate(lists):
                sequence = row // case.kv_heads
                check_index(case, case.keys[row], summaries[row])
                check_list(case, sequence, row, summaries[row], pages)


def shadowkv(tokens, budget):
    """Chunk 0, the last four whole chunks and what follows, budget / 8 of the others."""
    local = max(tokens // 8 - 4, 0)
    return (min(1, local), local, budget // 8)


def quest(tokens, budget):
    """The begun partition and budget / 16 - 1 of the others."""
    return (0, (tokens - 1) // 16, budget // 16 - 1)


def make(name, summary, group, head_dim, tokens, budget, rng, kv_heads=1, **more):
    partition = 8 if summary == MEAN else 16
    window = shadowkv if summary == MEAN else quest
    keys = [rng.standard_normal((n, head_dim), dtype=np.float32) for n in tokens for _ in range(kv_heads)]
    q = rng.standard_normal((len(tokens), kv_heads, group, head_dim), dtype=np.float32) * 2
    return Case(name, summary, group, head_dim, tokens, [window(n, budget) for n in tokens], keys, q, kv_heads,
                partition=partition, **more)


SHAPES = [(summary, group, head_dim) for summary in (MEAN, BOUNDS) for group in (1, 3, 5, 8) for head_dim in (64, 128)]


@pytest.mark.parametrize("summary,group,head_dim", SHAPES)
def test_random(summary, group, head_dim):
    rng = np.random.default_rng([summary, group, head_dim])
    tokens = [1, 7, 8, 9, 16, 17, 41, 48, 49, 127, 128, 129, 512, 1000, 1024, 1025]
    check([
        make("small budget", summary, group, head_dim, tokens, 64, rng, kv_heads=2),
        make("half", summary, group, head_dim, [1024, 1031], 512, rng),
        make("budget over context", summary, group, head_dim, tokens, 4096, rng),
        make("budget over context, scored", summary, group, head_dim, tokens, 4096, rng, always_score=True),
        make("several segments", summary, group, head_dim, [9000 if summary == MEAN else 17000], 256, rng),
    ])


@pytest.mark.parametrize("summary,group,head_dim", SHAPES)
def test_scores_of_all_sizes(summary, group, head_dim):
    """Sharp and flat distributions, heads of very different norms, scores like minus infinity."""
    rng = np.random.default_rng([9, summary, group, head_dim])
    cases = []
    for size in (1e-6, 0.1, 10):
        case = make(f"queries times {size}", summary, group, head_dim, [1024, 77], 128, rng, ordinary=size < 1)
        case.q *= np.float32(size)
        cases.append(case)
    norms = make("norms", summary, group, head_dim, [1024, 333], 128, rng)
    norms.q *= np.float32(2) ** -np.arange(group, dtype=np.float32)[:, None]
    cases.append(norms)
    huge = make("huge", summary, group, head_dim, [1024, 200], 64, rng, ordinary=False)
    huge.q *= np.float32(1e15)
    low = make("like minus infinity", summary, group, head_dim, [1024], 128, rng, ordinary=False)
    low.q = np.abs(low.q)
    low.keys[0][:512] = -1e30
    check(cases + [huge, low])


@pytest.mark.parametrize("summary,group,head_dim", SHAPES)
def test_equal_scores(summary, group, head_dim):
    """All keys alike: the lowest partitions. Pairs of partitions alike: the lower of a pair first."""
    rng = np.random.default_rng([5, summary, group, head_dim])
    same = make("same", summary, group, head_dim, [1024], 256, rng)
    same.keys[0][:] = same.keys[0][0]
    pairs = make("pairs", summary, group, head_dim, [1040], 256, rng)
    half = pairs.keys[0][:512]
    pairs.keys[0][:1024] = np.concatenate([half, half])
    for fast in (0, 1):
        (_, (alike,)), (_, (twins,)) = run_tool([same, pairs], fast)
        for case, pages in ((same, alike), (pairs, twins)):
            partitions = sorted({page * 8 // case.partition for page in pages})
            sink_end, local_begin, k = case.windows[0]
            chosen = [p for p in partitions if sink_end <= p < local_begin]
            assert len(chosen) == k
            if case is same:
                assert chosen == list(range(sink_end, sink_end + k))
            twin = 512 // case.partition
            for p in chosen if case is pairs else []:
                assert p < twin or p - twin in chosen or p - twin < sink_end
    check([same, pairs])


@pytest.mark.parametrize("summary,group,head_dim", SHAPES)
def test_logits_below_the_range_of_f32(summary, group, head_dim):
    """To the first query head of the group, all of the first 512 candidates are minus infinity in F32."""
    rng = np.random.default_rng([6, summary, group, head_dim])
    partition = 8 if summary == MEAN else 16
    case = make("segment", summary, group, head_dim, [1024 * partition + 5], 64, rng, ordinary=False)
    case.windows = [(0, 1024, 300)]
    case.keys[0][: 512 * partition] = -1e30
    case.q = np.abs(case.q)
    case.q[:, :, 0] *= np.float32(1e10)
    check([case])


def test_index_of_pages_of_32():
    rng = np.random.default_rng(32)
    for summary in (MEAN, BOUNDS):
        case = make("pages of 32", summary, 3, 64, [1, 31, 32, 33, 1000], 512, rng)
        case.page = case.partition = 32
        case.windows = [(0, (n - 1) // 32, 3) for n in case.tokens]
        check([case])
