"""The demo model by reference operations against NumPy: ten prompts, 64 greedy tokens."""

import os

import numpy as np
import pytest

from tests.reference import compare, numpy_model, text
from tests.reference.logits_tool import LogitsTool

MODEL = os.environ["SPIN_MODEL"]
LENGTHS = [int(length) for length in np.rint(np.geomspace(1, 1000, 10))]
GREEDY_TOKENS = 64


@pytest.fixture(scope="module")
def model():
    return numpy_model.load(MODEL)


def test_logits(model):
    """All rows of ten prompts. The second figure is for orientation: NumPy rounding as we do
    between operations, but choosing K and V by itself. It is zero, or 1e-3 where one value fell the
    other way (numpy_model.FollowedCache says why that is not an error)."""
    rows = 0
    with LogitsTool(MODEL, "ref", tokens_max=1024) as tool:
        for tokens in text.prompts(MODEL, LENGTHS):
            run = compare.follow(model, tool, tokens)
            alone = model.logits(tokens, storage=np.float32)
            alone_error = numpy_model.relative_l2(run.answer.logits, alone)
            rows += len(run.logits)
            print(f"\n{len(tokens):4} tokens: relative L2 {run.error:.1e}, not following "
                  f"{alone_error:.1e}; {run.cache.other_side} of {run.cache.count} K, V on the "
                  "other side of a rounding", end=" ", flush=True)
            assert run.error <= compare.REF_ERROR_MAX
    assert rows == sum(LENGTHS) and len(LENGTHS) == 10 and LENGTHS[0] == 1 and LENGTHS[-1] == 1000


def test_greedy(model):
    steps = swaps = 0
    with LogitsTool(MODEL, "ref", tokens_max=1024) as tool:
        for prompt in text.prompts(MODEL, (12, 60, 250)):
            greedy, error = compare.follow_greedy(model, tool, prompt, GREEDY_TOKENS)
            print(f"\n{len(prompt):4} tokens and {greedy}: relative L2 {error:.1e}", end=" ",
                  flush=True)
            assert error <= compare.REF_ERROR_MAX
            steps, swaps = steps + greedy.steps, swaps + greedy.swaps
    print(f"\n{steps} greedy steps, {swaps} swaps, all under {compare.MARGIN_MIN:g}", end=" ")
    assert steps == 3 * GREEDY_TOKENS
