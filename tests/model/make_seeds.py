#!/usr/bin/env python3
"""Writes the seeds of the model fuzz targets: the smallest whole model of each architecture.

    .../python tests/model/make_seeds.py tests/fuzz/seeds

GGUF files are written by the gguf package, so they also show that our reader agrees with it. A
safetensors seed is u32 bytes of config.json, config.json, the shard (model_safetensors_fuzz.c)."""

import json
import pathlib
import struct
import sys

import gguf
import numpy as np

HIDDEN, FFN, Q, KV, HEAD, VOCAB = 32, 32, 32, 16, 8, 32

SHAPES = {
    "attn_norm.weight": (HIDDEN,),
    "attn_q.weight": (Q, HIDDEN),
    "attn_k.weight": (KV, HIDDEN),
    "attn_v.weight": (KV, HIDDEN),
    "attn_output.weight": (HIDDEN, Q),
    "ffn_norm.weight": (HIDDEN,),
    "ffn_gate.weight": (FFN, HIDDEN),
    "ffn_up.weight": (FFN, HIDDEN),
    "ffn_down.weight": (HIDDEN, FFN),
}
BIASES = {"attn_q.bias": (Q,), "attn_k.bias": (KV,), "attn_v.bias": (KV,)}
NORMS = {"attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,)}
HF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def layer_shapes(arch):
    return {**SHAPES, **(BIASES if arch == "qwen2" else {}), **(NORMS if arch == "qwen3" else {})}


def gguf_seed(path, arch, dtype):
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name("seed")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_token_list(["a", "b"])
    writer.add_token_types([1, 3])
    if arch == "qwen2":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(32)

    def add(name, shape):
        values = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quantize(values, dtype), raw_dtype=dtype)

    add("token_embd.weight", (VOCAB, HIDDEN))
    add("output_norm.weight", (HIDDEN,))
    if arch == "llama":
        writer.add_tensor("rope_freqs.weight", np.ones(HEAD // 2, np.float32))
    if arch == "qwen3":
        add("output.weight", (VOCAB, HIDDEN))
    for name, shape in layer_shapes(arch).items():
        add(f"blk.0.{name}", shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def safetensors_seed(path, arch, scaling):
    config = {
        "model_type": arch, "num_hidden_layers": 1, "hidden_size": HIDDEN, "head_dim": HEAD,
        "intermediate_size": FFN, "num_attention_heads": 4, "num_key_value_heads": 2,
        "vocab_size": VOCAB, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "rope_scaling": scaling, "tie_word_embeddings": True,
    }
    tensors = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for name, shape in layer_shapes(arch).items():
        stem, suffix = name.rsplit(".", 1)
        tensors[f"model.layers.0.{HF_NAMES[stem]}.{suffix}"] = shape
    header, data = {"__metadata__": {"format": "pt"}}, b""
    rng = np.random.default_rng(2)
    for name, shape in tensors.items():
        kind = {"llama": "BF16", "qwen2": "F16", "qwen3": "F32"}[arch]
        values = rng.standard_normal(shape).astype(np.float32)
        raw = {"BF16": (values.view(np.uint32) >> 16).astype(np.uint16),
               "F16": values.astype(np.float16), "F32": values}[kind].tobytes()
        header[name] = {"dtype": kind, "shape": list(shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head, conf = json.dumps(header).encode(), json.dumps(config).encode()
    path.write_bytes(struct.pack("<I", len(conf)) + conf + struct.pack("<Q", len(head)) + head + data)


def main():
    root = pathlib.Path(sys.argv[1])
    kinds = gguf.GGMLQuantizationType
    for folder in ("model_gguf_fuzz", "model_safetensors_fuzz"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for arch, dtype in (("llama", kinds.Q4_1), ("qwen2", kinds.Q8_0), ("qwen3", kinds.BF16)):
        gguf_seed(root / "model_gguf_fuzz" / f"{arch}.gguf", arch, dtype)
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 32}
    for arch, scaling in (("llama", llama3), ("qwen2", {"type": "yarn", "factor": 4.0}),
                          ("qwen3", None)):
        safetensors_seed(root / "model_safetensors_fuzz" / arch, arch, scaling)


if __name__ == "__main__":
    main()
