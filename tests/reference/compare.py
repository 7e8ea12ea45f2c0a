"""compare: what a comparison of the C forward pass with the NumPy model consists of."""

import dataclasses

import numpy as np

from tests.reference import numpy_model

REF_ERROR_MAX = 1e-4  # relative L2 of logits, reference operations
FAST_ERROR_MAX = 3e-2  # fast operations, over thousands of positions
# The same over a few hundred: block formats multiply activations rounded to int8, and a handful of
# positions where that hurts weigh more. What a wrong operation does is ten times as much.
FAST_ERROR_MAX_SHORT = 6e-2
FAST_SLACK = 1e-4  # of K and V when plain formats are multiplied in float32
MARGIN_MIN = 1e-3  # two tokens whose logits are closer than this may swap


@dataclasses.dataclass
class Followed:
    """The NumPy model over the K and V that the tool stored, each checked (FollowedCache)."""
    answer: object  # logits_tool.Answer
    logits: np.ndarray  # of the NumPy model, the same rows
    cache: numpy_model.FollowedCache

    @property
    def error(self):
        return numpy_model.relative_l2(self.answer.logits, self.logits)


def follow(model, tool, tokens, first_row=0, slack=1e-5, **how):
    """slack: FollowedCache's; how: further arguments of LogitsTool.score."""
    answer = tool.score(tokens, first_row=first_row, kv=True, **how)
    fed = list(tokens) + answer.generated[:-1]
    cache = numpy_model.FollowedCache(answer.kv, slack)
    logits = model.logits(fed, first_row=first_row, cache=cache)
    config = model.config
    stored = 2 * config.layers * len(fed) * config.kv_heads * config.head_dim
    assert cache.count == stored, f"{cache.count} of {stored} stored values were checked"
    return Followed(answer, logits, cache)


@dataclasses.dataclass
class Greedy:
    steps: int
    swaps: int  # steps where the two chose otherwise, all of them under MARGIN_MIN
    margin_min: float  # the closest decision of all


def follow_greedy(model, tool, tokens, count):
    """Generates and judges every step by the NumPy model's logits on the same context.

    Following the tool's own continuation is as strict as generating apart up to the first swap, and
    goes on where generating apart would end."""
    run = follow(model, tool, tokens, first_row=len(tokens) - 1, generate=count)
    assert len(run.answer.generated) == len(run.logits) == count
    swaps, margins = 0, []
    for chosen, row in zip(run.answer.generated, run.logits):
        second, first = np.partition(row, -2)[-2:]
        margins.append(float(first - second))
        if chosen != int(np.argmax(row)):
            assert margins[-1] < MARGIN_MIN, f"chose {chosen} against a margin of {margins[-1]:.2e}"
            swaps += 1
    return Greedy(count, swaps, min(margins)), run.error
