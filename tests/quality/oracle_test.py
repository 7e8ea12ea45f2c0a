"""The NumPy model itself against llama.cpp, which neither reads nor computes with anything of ours.

Both get float32 weights and an F32 cache, so the only difference left is float32 arithmetic on one
side: every architecture, bias, norm, tie and scaling that GGUF can express is either right or far
off."""

import dataclasses
import os

import numpy as np
import pytest

from tests.quality import peer
from tests.reference import golden, numpy_model, text

MODEL = os.environ["SPIN_MODEL"]
ERROR_MAX = 1e-5

# HF's llama3 scaling has no name in GGUF; there, files carry its outcome ("factors").
SPECS = [spec for spec in golden.GOLDENS if spec.scaling != "llama3"]


@pytest.fixture(autouse=True)
def peer_is_there():
    peer.require()


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_tiny_models(spec, tmp_path):
    spec = dataclasses.replace(spec, form="gguf", dtype="F32", embed_dtype=None)
    path = golden.write(spec, tmp_path)
    tokens = np.random.default_rng(22).integers(0, golden.VOCAB, 300).tolist()
    ours = numpy_model.load(path).logits(tokens, cache=numpy_model.ExactCache())
    with peer.opened(path, context=golden.CONTEXT, f32_cache=True) as other:
        error = numpy_model.relative_l2(other.logits(tokens), ours)
    print(f"\n{spec.name:20} 300 rows: relative L2 {error:.1e}", end=" ")
    assert error <= ERROR_MAX


def test_llama3_scaling():
    """The one scaling llama.cpp cannot confirm by name: its three zones, and that they join."""
    plain = numpy_model.Rope(dim=128, base=500000.0, interleaved=False)  # Llama 3.1's own figures
    scaled = dataclasses.replace(plain, scaling="llama3", factor=8.0, original_context=8192)
    frequencies, magnitude = plain.frequencies()
    ratio = frequencies / scaled.frequencies()[0]
    turns = 8192 * frequencies / (2 * np.pi)
    assert magnitude == 1 and np.all(np.diff(ratio) >= 0)
    assert np.all(ratio[turns > 4] == 1) and np.allclose(ratio[turns < 1], 8)
    between = (turns > 1) & (turns < 4)
    assert between.sum() == 6 and np.all((ratio[between] > 1) & (ratio[between] < 8))


def test_demo_model(tmp_path):
    """The real weights, written out as float32."""
    model = numpy_model.load(MODEL)
    path = tmp_path / "demo-f32.gguf"
    write_f32(model, path)
    errors = []
    with peer.opened(path, f32_cache=True) as other:
        for tokens in text.prompts(MODEL, (1, 30, 300)):
            ours = model.logits(tokens, cache=numpy_model.ExactCache())
            errors.append(numpy_model.relative_l2(other.logits(tokens), ours))
    print("\ndemo model in F32, 1, 30, 300 tokens: relative L2 " +
          ", ".join(f"{error:.1e}" for error in errors), end=" ")
    assert len(errors) == 3
    assert max(errors) <= ERROR_MAX


def write_f32(model, path):
    import gguf

    config = model.config
    assert config.arch == "llama" and config.rope.scaling == "none"
    writer = gguf.GGUFWriter(path, config.arch)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab)
    writer.add_context_length(1024)
    writer.add_embedding_length(config.hidden)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.ffn)
    writer.add_head_count(config.q_heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_freq_base(config.rope.base)
    writer.add_rope_dimension_count(config.rope.dim)
    for name, values in model.tensors.items():
        name = name if name.endswith(".bias") else f"{name}.weight"
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
