"""Every tiny model, by reference and by fast operations, against the NumPy model.

Lengths lie on both sides of the borders of tiles (8), blocks and splits (128) and far beyond the
original context of the scaled models (64). All rows are compared. Chunks, super-chunks and the
part that is fed by decode steps change with the length, so that each way is measured."""

import numpy as np
import pytest

from tests.reference import compare, golden, numpy_model
from tests.reference.logits_tool import LogitsTool

WAYS = (  # tokens, how they are fed
    (1, {}),
    (7, {"chunk": 3}),
    (8, {"decode_from": 1}),
    (9, {"chunk": 8}),
    (127, {"chunk": 64}),
    (128, {"super_chunk": 128, "chunk": 32}),
    (129, {"decode_from": 120}),
    (300, {"super_chunk": 256, "chunk": 100, "decode_from": 297}),
)
PLAIN = ("F32", "F16", "BF16")
ROWS = sum(tokens for tokens, _ in WAYS)


def sequences():
    """The same for every model; each has its own start."""
    rng = np.random.default_rng(20)
    return [(rng.integers(0, golden.VOCAB, tokens).tolist(), how) for tokens, how in WAYS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("golden")


@pytest.mark.parametrize("spec", golden.GOLDENS, ids=lambda spec: spec.name)
def test_agrees_with_numpy(spec, folder):
    path = golden.write(spec, folder)
    model = numpy_model.load(path)
    assert (model.config.arch, "output" not in model.tensors) == (spec.arch, spec.tied)

    errors, rows, other_side = [], 0, 0
    with LogitsTool(path, "ref", tokens_max=golden.CONTEXT) as tool:
        for tokens, how in sequences():
            run = compare.follow(model, tool, tokens, **how)
            errors.append(run.error)
            rows += len(run.logits)
            other_side += run.cache.other_side
    assert rows == ROWS

    fast_errors, fast_rows = [], 0
    with LogitsTool(path, "cpu", tokens_max=golden.CONTEXT) as tool:
        for tokens, how in sequences():
            fast_errors.append(fast_error(spec, model, tool, tokens, how))
            fast_rows += len(tokens)
    assert fast_rows == ROWS

    print(f"\n{spec.name:20} {ROWS} rows: ref {max(errors):.1e} (K, V on the other side of a "
          f"rounding: {other_side}), cpu {max(fast_errors):.1e}", end=" ")
    assert max(errors) <= compare.REF_ERROR_MAX
    exact = spec.dtype in PLAIN
    assert max(fast_errors) <= (compare.REF_ERROR_MAX if exact else compare.FAST_ERROR_MAX_SHORT)


def fast_error(spec, model, tool, tokens, how):
    """Plain formats are multiplied in float32, so following K and V tells them from NumPy's as
    sharply as the reference's; block formats multiply rounded activations."""
    if spec.dtype in PLAIN:
        return compare.follow(model, tool, tokens, slack=compare.FAST_SLACK, **how).error
    return numpy_model.relative_l2(tool.score(tokens, **how).logits, model.logits(tokens))


def test_the_table_takes_every_branch():
    """A model dropped from the table would otherwise take its branch along in silence."""
    specs = golden.GOLDENS
    assert {(s.arch, s.tied) for s in specs} == {(a, t) for a in ("llama", "qwen2", "qwen3")
                                                 for t in (False, True)}
    for arch in ("llama", "qwen2", "qwen3"):
        scalings = {s.scaling for s in specs if s.arch == arch}
        assert scalings >= {"none", "linear", "llama3", "yarn"}, arch
        assert {s.form for s in specs if s.arch == arch} == {"gguf", "single", "sharded"}, arch
    dtypes = {s.dtype for s in specs if s.form == "gguf"}
    assert dtypes == {"F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K"}
    assert {s.dtype for s in specs if s.form != "gguf"} == {"F32", "F16", "BF16"}
    assert {s.q_heads // s.kv_heads for s in specs} >= {1, 3, 4, 5}


def test_the_fast_path_does_not_depend_on_chunks_or_threads(folder):
    """Bit for bit, on a block format and a plain one; the demo model has its turn in --all."""
    tokens = np.random.default_rng(21).integers(0, golden.VOCAB, 300).tolist()
    compared = 0
    for name in ("qwen3-q4_k", "llama-f32"):
        path = folder / f"{name}.gguf"
        if not path.exists():  # run alone
            golden.write(next(spec for spec in golden.GOLDENS if spec.name == name), folder)
        expected = None
        for threads in (1, 2, 3):
            with LogitsTool(path, "cpu", threads=threads, tokens_max=golden.CONTEXT) as tool:
                for chunk, decode_from in ((128, 300), (1, 300), (7, 300), (300, 300), (64, 250)):
                    answer = tool.score(tokens, chunk=chunk, decode_from=decode_from, kv=True)
                    expected = expected or answer
                    same = np.array_equal(answer.logits.view("u4"), expected.logits.view("u4"))
                    assert same, (name, threads, chunk)
                    assert np.array_equal(answer.kv, expected.kv), (name, threads, chunk)
                    compared += 1
    assert compared == 30
