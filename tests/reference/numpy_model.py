"""numpy_model: the models llama, qwen2 and qwen3 in plain NumPy, the oracle of the C forward pass.

Why        Written from the published formulas alone, over another reader (the `gguf` package) or
           the two-page safetensors format, so that agreement with our C code means something.
Numbers    All arithmetic is float64. What happens to K (after RoPE) and V between being made and
           being read is a cache's business, because a KV page holds bf16:
             Bf16Cache      rounds to nearest even: the contract of our pages.
             FollowedCache  takes the bits that an implementation stored, after checking that each
                            is a correct rounding of ours; why that is needed stands there.
             ExactCache     keeps them, for implementations with an F32 cache.
           storage=np.float32 rounds what one operation hands to the next, as the reference
           operations do (kernels/ops.h); sums inside an operation stay float64.
Layout     Activations [tokens, features]; a weight is [outputs, inputs], y = x W^T.
"""

import dataclasses
import json
import math
import pathlib

import numpy as np


@dataclasses.dataclass
class Rope:
    dim: int
    base: float
    interleaved: bool  # pairs (2i, 2i+1): GGUF's llama; else (i, i + dim/2)
    scaling: str = "none"  # none, linear, llama3, yarn
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None  # yarn; None: 0.1 ln(factor) + 1
    divisors: np.ndarray | None = None  # of the frequencies: GGUF's rope_freqs.weight

    def frequencies(self):
        """The dim/2 scaled frequencies, and the magnitude that cos and sin are multiplied with."""
        plain = self.base ** (-np.arange(0, self.dim, 2, dtype=np.float64) / self.dim)
        if self.divisors is not None:
            plain = plain / self.divisors
        if self.scaling == "none":
            return plain, 1.0
        if self.scaling == "linear":
            return plain / self.factor, 1.0
        if self.scaling == "llama3":
            return self._llama3(plain), 1.0
        if self.scaling == "yarn":
            return self._yarn(plain)
        raise ValueError(f"rope scaling {self.scaling!r}")

    def _llama3(self, plain):
        # Short wavelengths stay, long ones are stretched by `factor`, those between are blended.
        turns = self.original_context * plain / (2 * math.pi)  # within the original context
        low, high = self.low_freq_factor, self.high_freq_factor
        blend = np.clip((turns - low) / (high - low), 0, 1)
        return (1 - blend) * plain / self.factor + blend * plain

    def _yarn(self, plain):
        # A dimension that turns r times within the original context; the ramp runs between the
        # dimensions of beta_fast and beta_slow turns (Peng et al., arXiv 2309.00071, section 3.2).
        def dimension_of(turns):
            wavelength = self.original_context / turns
            return self.dim * math.log(wavelength / (2 * math.pi)) / (2 * math.log(self.base))

        low = max(math.floor(dimension_of(self.beta_fast)), 0)
        high = min(math.ceil(dimension_of(self.beta_slow)), self.dim - 1)
        width = max(high - low, 0.001)
        ramp = np.clip((np.arange(self.dim // 2) - low) / width, 0, 1)
        magnitude = self.attention_factor
        if magnitude is None:
            magnitude = 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0
        return plain / self.factor * ramp + plain * (1 - ramp), magnitude


@dataclasses.dataclass
class Config:
    arch: str
    layers: int
    hidden: int
    ffn: int
    q_heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rms_eps: float
    rope: Rope


class ExactCache:

    def store(self, layer, k, v):
        """k, v: [tokens, kv_heads, head_dim] -> what attention reads."""
        return k, v


class Bf16Cache:

    def store(self, layer, k, v):
        return round_to_bf16(k), round_to_bf16(v)


class FollowedCache:
    """The K and V that another implementation stored, checked value by value, then used.

    Rounding to bf16 is a step: where our value lies within float32 noise of the middle between two
    bf16 numbers, the other side may rightly have taken the other one. That moves K by up to 2^-8 of
    itself, hence all later activations, hence other values across other steps: on the demo model
    the logits end up 1e-3 apart although every operation agrees to 1e-7. So both sides have to look
    at the same stored bits, and that those are right is checked where they were made: each must be
    within half a bf16 unit of our value, plus `slack` of its row's root mean square."""

    def __init__(self, bits, slack):
        """bits: uint16 [layers, kv_heads, tokens, 2, head_dim], K then V."""
        self.values = bf16_values(bits).transpose(0, 3, 2, 1, 4)  # [layers, 2, tokens, heads, dim]
        self.slack = slack
        self.count = 0
        self.other_side = 0  # stored values that are not our own rounding
        self.worst = 0.0  # largest excess over half a unit, in units of the row's root mean square

    def store(self, layer, k, v):
        return self._follow(k, self.values[layer, 0]), self._follow(v, self.values[layer, 1])

    def _follow(self, ours, stored):
        assert ours.shape == stored.shape, (ours.shape, stored.shape)
        rms = np.sqrt(np.mean(ours * ours, axis=-1, keepdims=True))
        half_unit = np.ldexp(1.0, np.frexp(ours)[1] - 9)
        excess = float(np.max((np.abs(stored - ours) - half_unit) / rms))
        assert excess <= self.slack, f"K or V is off by {excess:.1e} of its row, over rounding"
        self.worst = max(self.worst, excess)
        self.count += ours.size
        self.other_side += int(np.count_nonzero(stored != round_to_bf16(ours)))
        return stored


@dataclasses.dataclass
class Model:
    """tensors: GGUF's names without ".weight" ("blk.0.attn_q", "blk.0.attn_q.bias") -> float64."""
    config: Config
    tensors: dict

    def logits(self, tokens, first_row=0, cache=None, storage=np.float64):
        """Logits after each of tokens[first_row:], float64 [rows, vocab]."""
        forward = _Pass(self, len(tokens), cache or Bf16Cache(), storage)
        return forward.run(np.asarray(tokens, dtype=np.int64), first_row)


class _Pass:
    """One causal forward pass over one sequence from position 0."""

    def __init__(self, model, count, cache, storage):
        self.config, self.tensors, self.cache = model.config, model.tensors, cache
        exact = storage == np.float64
        self.store = (lambda x: x) if exact else (lambda x: x.astype(storage).astype(np.float64))
        frequencies, magnitude = self.config.rope.frequencies()
        angles = np.arange(count, dtype=np.float64)[:, None] * frequencies
        self.cos = self.store(np.cos(angles) * magnitude)
        self.sin = self.store(np.sin(angles) * magnitude)

    def run(self, tokens, first_row):
        x = self.tensors["token_embd"][tokens]
        for layer in range(self.config.layers):
            block = {name: self.tensors.get(f"blk.{layer}.{name}") for name in _LAYER_NAMES}
            x = self.store(x + self.attention(layer, self.norm(x, block["attn_norm"]), block))
            x = self.store(x + self.feed_forward(self.norm(x, block["ffn_norm"]), block))
        x = self.norm(x[first_row:], self.tensors["output_norm"])
        return self.store(x @ self.tensors.get("output", self.tensors["token_embd"]).T)

    def norm(self, x, weight):
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        return self.store(x / np.sqrt(mean_square + self.config.rms_eps) * weight)

    def project(self, x, weight, bias, heads):
        y = x @ weight.T
        if bias is not None:
            y = y + bias
        return self.store(y).reshape(len(x), heads, self.config.head_dim)

    def rotate(self, x):
        dim, half = self.config.rope.dim, self.config.rope.dim // 2
        first = np.arange(half) * 2 if self.config.rope.interleaved else np.arange(half)
        second = first + (1 if self.config.rope.interleaved else half)
        cos, sin = self.cos[:, None, :], self.sin[:, None, :]
        assert dim <= self.config.head_dim
        out = x.copy()
        out[..., first] = x[..., first] * cos - x[..., second] * sin
        out[..., second] = x[..., first] * sin + x[..., second] * cos
        return self.store(out)

    def attention(self, layer, x, block):
        c = self.config
        q = self.project(x, block["attn_q"], block["attn_q.bias"], c.q_heads)
        k = self.project(x, block["attn_k"], block["attn_k.bias"], c.kv_heads)
        v = self.project(x, block["attn_v"], block["attn_v.bias"], c.kv_heads)
        if block["attn_q_norm"] is not None:
            q, k = self.norm(q, block["attn_q_norm"]), self.norm(k, block["attn_k_norm"])
        q, k = self.rotate(q), self.rotate(k)
        k, v = self.cache.store(layer, k, v)
        out = np.empty_like(q)
        later = np.triu(np.ones((len(x), len(x)), dtype=bool), 1)
        for head in range(c.q_heads):
            source = head // (c.q_heads // c.kv_heads)
            scores = q[:, head] @ k[:, source].T / math.sqrt(c.head_dim)
            scores[later] = -np.inf
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[:, head] = weights @ v[:, source] / weights.sum(axis=-1, keepdims=True)
        return self.store(out).reshape(len(x), -1) @ block["attn_output"].T

    def feed_forward(self, x, block):
        gate, up = self.store(x @ block["ffn_gate"].T), self.store(x @ block["ffn_up"].T)
        return self.store(gate / (1 + np.exp(-gate)) * up) @ block["ffn_down"].T


_LAYER_NAMES = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "attn_q.bias",
                "attn_k.bias", "attn_v.bias", "attn_q_norm", "attn_k_norm", "ffn_norm", "ffn_gate",
                "ffn_up", "ffn_down")


def round_to_bf16(x):
    """Nearest value with 8 significant bits, ties to even. Straight from float64: one rounding."""
    fraction, exponent = np.frexp(x)
    return np.ldexp(np.rint(np.ldexp(fraction, 8)), exponent - 8)


def bf16_values(bits):
    """A bf16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def relative_l2(value, reference):
    assert value.shape == reference.shape, (value.shape, reference.shape)
    assert np.all(np.isfinite(reference))
    if not np.all(np.isfinite(value)):
        return math.inf
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


def load(path):
    path = pathlib.Path(path)
    return _load_folder(path) if path.is_dir() else _load_gguf(path)


# GGUF ---------------------------------------------------------------------------------------------


def _load_gguf(path):
    import gguf  # here: safetensors models need no package

    reader = gguf.GGUFReader(path)
    arch = reader.fields["general.architecture"].contents()

    def key(name, default=None):
        field = reader.fields.get(f"{arch}.{name}")
        return default if field is None else field.contents()

    tensors = {}
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(int(n) for n in reversed(tensor.shape))
        tensors[tensor.name.removesuffix(".weight")] = values.astype(np.float64).reshape(shape)
    q_heads = key("attention.head_count")
    head_dim = key("attention.key_length", key("embedding_length") // q_heads)
    rope = Rope(
        dim=key("rope.dimension_count", head_dim),
        base=key("rope.freq_base", 10000.0),
        interleaved=arch == "llama",
        scaling=key("rope.scaling.type", "none"),
        factor=key("rope.scaling.factor", 1.0),
        original_context=key("rope.scaling.original_context_length", key("context_length")),
        beta_fast=key("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=key("rope.scaling.yarn_beta_slow", 1.0),
        divisors=tensors.pop("rope_freqs", None))
    config = Config(
        arch=arch,
        layers=key("block_count"),
        hidden=key("embedding_length"),
        ffn=key("feed_forward_length"),
        q_heads=q_heads,
        kv_heads=key("attention.head_count_kv", q_heads),
        head_dim=head_dim,
        vocab=len(tensors["token_embd"]),
        rms_eps=key("attention.layer_norm_rms_epsilon"),
        rope=rope)
    return Model(config, tensors)


# Hugging Face folders -----------------------------------------------------------------------------

_HF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down"
}


def _our_name(hf_name):
    name = hf_name.removesuffix(".weight").removeprefix("model.")
    whole = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    if name in whole:
        return whole[name]
    _, layer, rest = name.split(".", 2)
    suffix = ".bias" if rest.endswith(".bias") else ""
    return f"blk.{layer}.{_HF_NAMES[rest.removesuffix('.bias')]}{suffix}"


def read_safetensors(path):
    """u64 header length, JSON {name: {dtype, shape, data_offsets}}, then the bytes."""
    data = pathlib.Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        raw = data[start + begin:start + end]
        if entry["dtype"] == "BF16":
            values = bf16_values(np.frombuffer(raw, "<u2"))
        else:
            values = np.frombuffer(raw, {"F32": "<f4", "F16": "<f2"}[entry["dtype"]])
        tensors[name] = values.astype(np.float64).reshape(entry["shape"])
    return tensors


def _load_folder(folder):
    hf = json.loads((folder / "config.json").read_text())
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update({_our_name(name): values for name, values in read_safetensors(path).items()})
    head_dim = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    scaling = hf.get("rope_scaling") or {}
    rope = Rope(
        dim=head_dim,
        base=hf.get("rope_theta", 10000.0),
        interleaved=False,
        scaling=scaling.get("rope_type", scaling.get("type", "none")).replace("default", "none"),
        factor=scaling.get("factor", 1.0),
        original_context=scaling.get("original_max_position_embeddings",
                                     hf["max_position_embeddings"]),
        low_freq_factor=scaling.get("low_freq_factor", 1.0),
        high_freq_factor=scaling.get("high_freq_factor", 4.0),
        beta_fast=scaling.get("beta_fast", 32.0),
        beta_slow=scaling.get("beta_slow", 1.0),
        attention_factor=scaling.get("attention_factor"))
    config = Config(
        arch=hf["model_type"],
        layers=hf["num_hidden_layers"],
        hidden=hf["hidden_size"],
        ffn=hf["intermediate_size"],
        q_heads=hf["num_attention_heads"],
        kv_heads=hf.get("num_key_value_heads", hf["num_attention_heads"]),
        head_dim=head_dim,
        vocab=hf["vocab_size"],
        rms_eps=hf["rms_norm_eps"],
        rope=rope)
    if hf.get("tie_word_embeddings", False):
        tensors.pop("output", None)  # some exporters store the tied head a second time
    return Model(config, tensors)
