#!/usr/bin/python3
"""What rounding to BF16 costs a model, and nothing else: usage: rounded_model.py MODEL.gguf POSITIONS TEXT...

A forward pass in NumPy over the first POSITIONS tokens of the texts, four times: exact (float32, K and V
rounded, as pages hold them), with weights rounded to BF16, with the activations rounded where the CUDA
operations do it, and with both. Printed for the last three: how often the likeliest token is that of the
exact one, how far the logits are apart, and the largest lead that the exact choice had where another was
made. An implementation in BF16 cannot be expected to do better (bench/gpu/model/model_check).
"""

import math
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from tests.reference import numpy_model, text  # noqa: E402 (the path comes first)


def round_to_bf16(x):
    """To nearest, ties to even; of float32, on the bits."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    up = (bits >> 16 & 1) + np.uint32(0x7FFF)
    return (bits + up & np.uint32(0xFFFF0000)).view(np.float32)


class Pass:
    """One causal forward pass; `store` is what happens to activations that products read."""

    def __init__(self, model, weights, store):
        self.config, self.weights, self.store = model.config, weights, store

    def logits(self, tokens):
        frequencies, magnitude = self.config.rope.frequencies()
        angles = np.arange(len(tokens))[:, None] * frequencies
        self.cos = (np.cos(angles) * magnitude).astype(np.float32)[:, None]
        self.sin = (np.sin(angles) * magnitude).astype(np.float32)[:, None]
        self.later = np.triu(np.ones((len(tokens), len(tokens)), bool), 1)
        x = self.weights["token_embd"][tokens]
        for layer in range(self.config.layers):
            block = f"blk.{layer}."
            x = x + self.attention(self.norm(x, block + "attn_norm"), block)
            x = x + self.feed_forward(self.norm(x, block + "ffn_norm"), block)
        head = "output" if "output" in self.weights else "token_embd"
        return self.norm(x, "output_norm") @ self.weights[head].T

    def norm(self, x, weight):
        scale = np.sqrt(np.mean(x * x, -1, keepdims=True) + np.float32(self.config.rms_eps))
        return self.store(x / scale * self.weights[weight])

    def project(self, x, weight, heads):
        return self.store(x @ self.weights[weight].T).reshape(len(x), heads, -1)

    def rotate(self, x):
        half = self.config.rope.dim // 2
        first = np.arange(half) * 2 if self.config.rope.interleaved else np.arange(half)
        second = first + (1 if self.config.rope.interleaved else half)
        out = x.copy()
        out[..., first] = x[..., first] * self.cos - x[..., second] * self.sin
        out[..., second] = x[..., first] * self.sin + x[..., second] * self.cos
        return out

    def attention(self, x, block):
        config = self.config
        q = self.store(self.rotate(self.project(x, block + "attn_q", config.q_heads)))
        k = round_to_bf16(self.rotate(self.project(x, block + "attn_k", config.kv_heads)))
        v = round_to_bf16(self.project(x, block + "attn_v", config.kv_heads))
        out = np.empty_like(q)
        for head in range(config.q_heads):
            source = head // (config.q_heads // config.kv_heads)
            scores = q[:, head] @ k[:, source].T / np.float32(math.sqrt(config.head_dim))
            scores[self.later] = -np.inf
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, head] = self.store(shares) @ v[:, source] / shares.sum(-1, keepdims=True)
        return self.store(out).reshape(len(x), -1) @ self.weights[block + "attn_output"].T

    def feed_forward(self, x, block):
        gate = self.store(x @ self.weights[block + "ffn_gate"].T)
        up = self.store(x @ self.weights[block + "ffn_up"].T)
        return self.store(gate / (1 + np.exp(-gate)) * up) @ self.weights[block + "ffn_down"].T


def compare(name, logits, exact):
    likeliest, wanted = logits.argmax(-1), exact.argmax(-1)
    other = np.nonzero(likeliest != wanted)[0]
    leads = exact[other, wanted[other]] - exact[other, likeliest[other]]
    apart = np.linalg.norm(logits - exact) / np.linalg.norm(exact)
    print(f"RESULT rounded_model rounded={name} positions={len(exact)} top1={100 - 100 * len(other) / len(exact):.3f} "
          f"relative_l2={apart:.6f} largest_margin={leads.max(initial=0):.5f}", flush=True)


def main(arguments):
    if len(arguments) < 3:
        sys.stderr.write(__doc__)
        return 2
    model = numpy_model.load(arguments[0])
    tokenizer = text.demo_tokenizer(arguments[0])
    tokens = [token for path in arguments[2:] for token in tokenizer.encode(pathlib.Path(path).read_text()).ids]
    tokens = np.array(tokens[:int(arguments[1])])
    weights = {name: value.astype(np.float32) for name, value in model.tensors.items()}
    rounded = {name: round_to_bf16(value) if value.ndim == 2 else value for name, value in weights.items()}
    exact = Pass(model, weights, lambda x: x).logits(tokens)
    compare("weights", Pass(model, rounded, lambda x: x).logits(tokens), exact)
    compare("activations", Pass(model, weights, round_to_bf16).logits(tokens), exact)
    compare("both", Pass(model, rounded, round_to_bf16).logits(tokens), exact)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
