"""The demo model by reference operations against NumPy: the quick part (tests/quality: all)."""

import os

import pytest

from tests.reference import compare, numpy_model, text
from tests.reference.logits_tool import LogitsTool

MODEL = os.environ["SPIN_MODEL"]
LENGTHS = (1, 8, 33, 130)


@pytest.fixture(scope="module")
def model():
    return numpy_model.load(MODEL)


def test_logits(model):
    prompts = text.prompts(MODEL, LENGTHS)
    assert [len(prompt) for prompt in prompts] == list(LENGTHS)
    with LogitsTool(MODEL, "ref", tokens_max=256) as tool:
        for prompt in prompts:
            run = compare.follow(model, tool, prompt)
            assert run.logits.shape == (len(prompt), model.config.vocab)
            print(f"\n{len(prompt):4} tokens: relative L2 {run.error:.1e}, {run.cache.other_side} "
                  f"of {run.cache.count} K, V on the other side of a rounding", end=" ")
            assert run.error <= compare.REF_ERROR_MAX


def test_greedy(model):
    with LogitsTool(MODEL, "ref", tokens_max=256) as tool:
        greedy, error = compare.follow_greedy(model, tool, text.prompts(MODEL, (24,))[0], 16)
    print(f"\n{greedy}, relative L2 {error:.1e}", end=" ")
    assert greedy.steps == 16
    assert error <= compare.REF_ERROR_MAX


def test_fast_path(model):
    """A smoke test; 4,000 positions and the comparison with llama.cpp are in --all."""
    prompt = text.prompts(MODEL, (200,))[0]
    with LogitsTool(MODEL, "cpu", tokens_max=256) as tool:
        logits = tool.score(prompt).logits
    error = numpy_model.relative_l2(logits, model.logits(prompt))
    print(f"\nfast path, 200 tokens: relative L2 {error:.1e}", end=" ")
    assert error <= compare.FAST_ERROR_MAX_SHORT
