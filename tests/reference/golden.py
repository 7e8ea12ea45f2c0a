"""golden: tiny random models of every architecture, scaling and number format, written when needed.

Why        Each is a few hundred kilobytes, so none has to lie in the repository; a seed per model
           makes them the same everywhere. Together they take every branch of the readers and of the
           forward pass; the table below is the whole list.
Weights    Normal, scaled so that attention is neither flat nor one-hot and every layer matters.
           The gguf package quantises them, but for Q4_K and Q6_K, which it only reads: there,
           blocks are random bits with sane scales.
"""

import dataclasses
import json
import pathlib
import zlib

import numpy as np

VOCAB = 320
CONTEXT = 512
ORIGINAL_CONTEXT = 64  # sequences of 300 tokens go far beyond it


@dataclasses.dataclass(frozen=True)
class Golden:
    name: str
    arch: str
    form: str  # gguf, single or sharded (safetensors)
    dtype: str  # of the matrices
    scaling: str
    tied: bool
    q_heads: int
    kv_heads: int
    head_dim: int
    hidden: int = 96
    ffn: int = 160
    layers: int = 2
    embed_dtype: str | None = None  # of the embedding where it differs


GOLDENS = (
    Golden("llama-f32", "llama", "gguf", "F32", "none", False, 4, 4, 16, hidden=64),
    Golden("llama-f16-linear", "llama", "gguf", "F16", "linear", True, 6, 2, 32),
    Golden("llama-q8_0-yarn", "llama", "gguf", "Q8_0", "yarn", False, 8, 2, 16),
    Golden("llama-q4_0-factors", "llama", "gguf", "Q4_0", "factors", True, 5, 1, 64),
    Golden("llama-bf16-llama3", "llama", "single", "BF16", "llama3", True, 8, 2, 32),
    Golden("llama-f32-linear", "llama", "sharded", "F32", "linear", False, 3, 3, 32),
    Golden("llama-f16-yarn", "llama", "single", "F16", "yarn", False, 5, 1, 32),
    Golden("qwen2-bf16", "qwen2", "gguf", "BF16", "none", True, 6, 2, 16),
    Golden("qwen2-q4_1-yarn", "qwen2", "gguf", "Q4_1", "yarn", False, 4, 1, 64, hidden=256),
    Golden("qwen2-q8_0-linear", "qwen2", "gguf", "Q8_0", "linear", True, 5, 1, 32, 160,
           embed_dtype="F16"),
    Golden("qwen2-f16-yarn", "qwen2", "sharded", "F16", "yarn", False, 6, 2, 48, 288),
    Golden("qwen2-f32-llama3", "qwen2", "single", "F32", "llama3", True, 2, 2, 48),
    Golden("qwen3-q4_k", "qwen3", "gguf", "Q4_K", "none", True, 8, 2, 32, 256, 256,
           embed_dtype="Q6_K"),
    Golden("qwen3-q6_k-yarn", "qwen3", "gguf", "Q6_K", "yarn", False, 8, 8, 64, 256, 512),
    Golden("qwen3-q4_0-linear", "qwen3", "gguf", "Q4_0", "linear", True, 6, 2, 64),
    Golden("qwen3-bf16-yarn", "qwen3", "sharded", "BF16", "yarn", True, 6, 2, 32),
    Golden("qwen3-f32-llama3", "qwen3", "single", "F32", "llama3", False, 4, 1, 40),
    Golden("qwen3-f16", "qwen3", "single", "F16", "none", False, 3, 1, 64),
)


def write(golden, folder):
    """Writes the model below `folder` and returns the path to give to --model."""
    rng = np.random.default_rng(zlib.crc32(golden.name.encode()))
    folder = pathlib.Path(folder)
    if golden.form == "gguf":
        path = folder / f"{golden.name}.gguf"
        _write_gguf(golden, _tensors(golden, rng), path, rng)
        return path
    path = folder / golden.name
    path.mkdir()
    _write_hf(golden, _tensors(golden, rng), path)
    return path


def _tensors(g, rng):
    """GGUF names -> float32 values."""
    normal = lambda *shape, scale=1.0: (rng.standard_normal(shape) * scale).astype(np.float32)
    matrix = lambda rows, cols, gain=1.0: normal(rows, cols, scale=gain / np.sqrt(cols))
    norm = lambda count: (1 + 0.2 * rng.standard_normal(count)).astype(np.float32)
    q_width, kv_width = g.q_heads * g.head_dim, g.kv_heads * g.head_dim
    tensors = {"token_embd.weight": normal(VOCAB, g.hidden)}
    for layer in range(g.layers):
        block = {
            "attn_norm.weight": norm(g.hidden), "ffn_norm.weight": norm(g.hidden),
            "attn_q.weight": matrix(q_width, g.hidden, 1.5),
            "attn_k.weight": matrix(kv_width, g.hidden, 1.5),
            "attn_v.weight": matrix(kv_width, g.hidden),
            "attn_output.weight": matrix(g.hidden, q_width, 2.0),
            "ffn_gate.weight": matrix(g.ffn, g.hidden, 1.5),
            "ffn_up.weight": matrix(g.ffn, g.hidden),
            "ffn_down.weight": matrix(g.hidden, g.ffn, 2.0)
        }
        if g.arch == "qwen2":
            block |= {"attn_q.bias": normal(q_width, scale=0.5),
                      "attn_k.bias": normal(kv_width, scale=0.5),
                      "attn_v.bias": normal(kv_width, scale=0.5)}
        if g.arch == "qwen3":
            block |= {"attn_q_norm.weight": norm(g.head_dim),
                      "attn_k_norm.weight": norm(g.head_dim)}
        tensors |= {f"blk.{layer}.{name}": values for name, values in block.items()}
    tensors["output_norm.weight"] = norm(g.hidden)
    if not g.tied:
        tensors["output.weight"] = matrix(VOCAB, g.hidden, 4.0)
    return tensors


# GGUF ---------------------------------------------------------------------------------------------


def _write_gguf(g, tensors, path, rng):
    import gguf

    writer = gguf.GGUFWriter(path, g.arch)
    uint, real = writer.add_uint32, writer.add_float32
    writer.add_string("general.name", g.name)
    writer.add_string("tokenizer.ggml.model", "no_vocab")  # llama.cpp's word for: token ids only
    for key, value in {
            "vocab_size": VOCAB, "context_length": CONTEXT, "embedding_length": g.hidden,
            "block_count": g.layers, "feed_forward_length": g.ffn,
            "attention.head_count": g.q_heads, "attention.head_count_kv": g.kv_heads,
            "attention.key_length": g.head_dim, "attention.value_length": g.head_dim,
            "rope.dimension_count": g.head_dim}.items():
        uint(f"{g.arch}.{key}", value)
    real(f"{g.arch}.attention.layer_norm_rms_epsilon", 1e-5)
    real(f"{g.arch}.rope.freq_base", 10000.0)
    if g.scaling in ("linear", "yarn"):
        writer.add_string(f"{g.arch}.rope.scaling.type", g.scaling)
        real(f"{g.arch}.rope.scaling.factor", 4.0)
        uint(f"{g.arch}.rope.scaling.original_context_length", ORIGINAL_CONTEXT)
    if g.scaling == "factors":  # how converted Llama 3.1 files carry their scaling
        tensors["rope_freqs.weight"] = np.geomspace(1, 8, g.head_dim // 2).astype(np.float32)
    for name, values in tensors.items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
            continue
        dtype = (g.embed_dtype or g.dtype) if name == "token_embd.weight" else g.dtype
        kind = gguf.GGMLQuantizationType[dtype]
        writer.add_tensor(name, _encode(values, kind, rng), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _encode(values, kind, rng):
    import gguf

    if kind.name == "F32":
        return values
    if kind.name in ("Q4_K", "Q6_K"):
        return _random_k_blocks(values, kind.name, rng)
    return gguf.quants.quantize(values, kind)


def _random_k_blocks(values, name, rng):
    """Random blocks whose values spread about as far as `values` do."""
    spread = float(values.std())
    rows, blocks = values.shape[0], values.shape[1] // 256
    bytes_of = lambda *shape: rng.integers(0, 256, shape, dtype=np.uint8)
    around = lambda scale: rng.uniform(0.5 * scale, 1.5 * scale, (rows, blocks, 1))
    half = lambda scale: around(scale).astype("<f2").view(np.uint8)
    if name == "Q4_K":  # d, dmin, scales[12], qs[128]; 6-bit scales of mean 31, nibbles of mean 7.5
        d, dmin = half(spread / (31 * 4.6)), half(spread * 7.5 / (31 * 4.6))
        parts = (d, dmin, bytes_of(rows, blocks, 12), bytes_of(rows, blocks, 128))
    else:  # ql[128], qh[64], int8 scales[16], d; int8 scales of spread 74, values of spread 18
        parts = (bytes_of(rows, blocks, 192), bytes_of(rows, blocks, 16), half(spread / (74 * 18)))
    return np.concatenate(parts, axis=-1).reshape(rows, -1)


# Hugging Face folders -----------------------------------------------------------------------------

_HF_NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj"
}


def _hf_name(name):
    whole = {"token_embd.weight": "model.embed_tokens.weight",
             "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}
    if name in whole:
        return whole[name]
    _, layer, tensor, suffix = name.split(".")
    return f"model.layers.{layer}.{_HF_NAMES[tensor]}.{suffix}"


def _write_hf(g, tensors, folder):
    config = {
        "model_type": g.arch,
        "architectures": [g.arch.capitalize() + "ForCausalLM"],
        "vocab_size": VOCAB, "hidden_size": g.hidden, "intermediate_size": g.ffn,
        "num_hidden_layers": g.layers, "num_attention_heads": g.q_heads,
        "num_key_value_heads": g.kv_heads, "head_dim": g.head_dim, "rms_norm_eps": 1e-5,
        "max_position_embeddings": CONTEXT, "rope_theta": 10000.0, "tie_word_embeddings": g.tied,
        "hidden_act": "silu", "rope_scaling": _hf_scaling(g), "torch_dtype": "float32"
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    renamed = {_hf_name(name): values for name, values in tensors.items()}
    if g.form == "single":
        _write_safetensors(renamed, g.dtype, folder / "model.safetensors")
        return
    names = sorted(renamed)
    shards = (names[:len(names) // 2], names[len(names) // 2:])
    weight_map = {}
    for index, shard in enumerate(shards, start=1):
        file = f"model-{index:05d}-of-{len(shards):05d}.safetensors"
        _write_safetensors({name: renamed[name] for name in shard}, g.dtype, folder / file)
        weight_map |= dict.fromkeys(shard, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _hf_scaling(g):
    if g.scaling == "none":
        return None
    # Qwen2's published files still say "type".
    scaling = {"type" if g.arch == "qwen2" else "rope_type": g.scaling, "factor": 4.0}
    if g.scaling != "linear":
        scaling["original_max_position_embeddings"] = ORIGINAL_CONTEXT
    if g.scaling == "llama3":
        scaling |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return scaling


def _write_safetensors(tensors, dtype, path):
    header, chunks, offset = {"__metadata__": {"format": "pt"}}, [], 0
    for name, values in tensors.items():
        if dtype == "BF16":  # truncation is as good a random weight as rounding
            raw = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
        else:
            raw = values.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape),
                        "data_offsets": [offset, offset + len(raw)]}
        chunks.append(raw)
        offset += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))
