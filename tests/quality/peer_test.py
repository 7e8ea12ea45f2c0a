"""The fast path over 4,000 positions of real text: how far from the reference, and is llama.cpp
nearer?

The reference is the NumPy model; both implementations read the same file and the same tokens, in
four sequences from position 0. llama.cpp runs as its users run it (F16 cache)."""

import dataclasses
import os

import numpy as np

from tests.quality import peer
from tests.reference import compare, numpy_model, text
from tests.reference.logits_tool import LogitsTool

MODEL = os.environ["SPIN_MODEL"]
PASSAGES = ("GPL-3", "GFDL-1.3", "python:objects", "python:typesseq")
POSITIONS = 1000  # of each
AGREEMENT_SLACK = 0.005
PERPLEXITY_SLACK = 0.005


@dataclasses.dataclass
class Tally:
    """Sums over positions, so that passages add up to the figures of the whole."""
    positions: int = 0
    difference: float = 0.0  # sum of squares, to the reference
    size: float = 0.0  # sum of squares of the reference
    agreed: int = 0  # positions with the reference's most likely token
    surprise: float = 0.0  # sum of -log p(next token)

    def add(self, logits, reference, following):
        logits = np.asarray(logits, dtype=np.float64)
        assert logits.shape == reference.shape and np.all(np.isfinite(logits))
        self.positions += len(logits)
        self.difference += float(np.sum((logits - reference) ** 2))
        self.size += float(np.sum(reference ** 2))
        self.agreed += int(np.sum(np.argmax(logits, axis=1) == np.argmax(reference, axis=1)))
        top = logits.max(axis=1)
        total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        self.surprise += float(np.sum(total - logits[np.arange(len(logits)), following]))

    @property
    def error(self):
        return (self.difference / self.size) ** 0.5

    @property
    def agreement(self):
        return self.agreed / self.positions

    @property
    def perplexity(self):
        return float(np.exp(self.surprise / self.positions))


def test_quality_of_the_fast_path():
    peer.require()
    passages = text.passages()
    tokenizer = text.demo_tokenizer(MODEL)
    model = numpy_model.load(MODEL)
    names = ("reference", "spin cpu", "llama.cpp")
    rows = {}
    whole = {name: Tally() for name in names}
    with LogitsTool(MODEL, "cpu", threads=len(os.sched_getaffinity(0))) as tool, \
            peer.opened(MODEL) as other:
        for passage in PASSAGES:
            tokens = tokenizer.encode(passages[passage]).ids[:POSITIONS + 1]
            fed, following = tokens[:-1], np.array(tokens[1:])
            reference = model.logits(fed)
            answers = {"reference": reference, "spin cpu": tool.score(fed).logits,
                       "llama.cpp": other.logits(fed)}
            for name in names:
                rows[passage, name] = Tally()
                rows[passage, name].add(answers[name], reference, following)
                whole[name].add(answers[name], reference, following)
    print_table(rows | {("all", name): tally for name, tally in whole.items()},
                text.digest(passages))

    reference, ours, theirs = (whole[name] for name in names)
    assert ours.positions == theirs.positions == reference.positions == 4000
    assert ours.error <= compare.FAST_ERROR_MAX
    assert ours.agreement >= theirs.agreement - AGREEMENT_SLACK
    assert ours.perplexity <= theirs.perplexity * (1 + PERPLEXITY_SLACK)


def print_table(rows, digest):
    print(f"\n\ntexts {digest}, model {os.path.basename(MODEL)}\n")
    print("| passage | implementation | positions | relative L2 | top-1 | perplexity | ratio |")
    print("|---|---|---|---|---|---|---|")
    for (passage, name), tally in rows.items():
        ratio = tally.perplexity / rows[passage, "reference"].perplexity
        print(f"| {passage} | {name} | {tally.positions} | {tally.error:.4f} | "
              f"{tally.agreement:.2%} | {tally.perplexity:.4f} | {ratio:.5f} |")
