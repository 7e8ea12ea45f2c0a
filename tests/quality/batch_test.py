"""The fast path on the demo model, bit for bit, whatever the chunks and the threads.

Batches are the matter of the engine's own test; here every logit of a thousand positions counts."""

import os

import numpy as np

from tests.reference import text
from tests.reference.logits_tool import LogitsTool

MODEL = os.environ["SPIN_MODEL"]
TOKENS = 1000


def same_bits(a, b):
    return np.array_equal(a.logits.view("u4"), b.logits.view("u4")) and np.array_equal(a.kv, b.kv)


def test_chunks_and_threads():
    tokens = text.prompts(MODEL, (TOKENS,))[0]
    with LogitsTool(MODEL, "cpu", threads=2) as tool:
        expected = tool.score(tokens, kv=True)
    assert expected.logits.shape[0] == TOKENS
    assert np.unique(expected.logits[:, 0]).size > TOKENS // 2, "rows are alike"

    compared = 0
    for threads, ways in (
            (1, ({"chunk": 128}, {"chunk": 7})),
            (2, ({"chunk": 64}, {"chunk": TOKENS}, {"chunk": 128, "super_chunk": 256})),
            (3, ({"chunk": 128}, {"chunk": 100, "decode_from": 960}))):
        with LogitsTool(MODEL, "cpu", threads=threads) as tool:
            for way in ways:
                answer = tool.score(tokens, kv=True, **way)
                assert same_bits(answer, expected), (threads, way)
                compared += 1
                print(f"\n{threads} threads, {way}: {answer.logits.size} logits and "
                      f"{answer.kv.size} K, V equal bit for bit", end=" ", flush=True)
    assert compared == 7


def test_token_by_token():
    """Chunks of one token, and decode steps only: the first 200 positions of the same prompt."""
    tokens = text.prompts(MODEL, (TOKENS,))[0][:200]
    with LogitsTool(MODEL, "cpu", threads=2) as tool:
        expected = tool.score(tokens, kv=True)
        assert same_bits(tool.score(tokens, kv=True, chunk=1), expected)
        assert same_bits(tool.score(tokens, kv=True, decode_from=1), expected)
    print(f"\n200 tokens one by one, prefilled and decoded: {expected.logits.size} logits equal",
          end=" ")
