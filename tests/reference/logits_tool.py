"""logits_tool: drives the C program of the same name; see its top comment for the protocol."""

import dataclasses
import os
import struct
import subprocess

import numpy as np

@dataclasses.dataclass
class Answer:
    logits: np.ndarray  # float32 [rows, vocab]
    generated: list
    kv: np.ndarray | None  # uint16, bf16 bits [layers, kv_heads, tokens, 2, head_dim]


class LogitsTool:
    """One process, one model; `with` ends it and checks that it ended well."""

    def __init__(self, model, ops, threads=2, tokens_max=1024):
        program = os.environ["SPIN_LOGITS_TOOL"]
        self.process = subprocess.Popen([program, str(model), ops, str(threads), str(tokens_max)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.process.stdin.close()
        if kind is not None:
            self.process.kill()
        self.process.stdout.close()
        code = self.process.wait(timeout=60)
        assert kind is not None or code == 0, f"logits_tool: exit code {code}"

    def score(self, tokens, first_row=0, decode_from=None, generate=0, chunk=128,
              super_chunk=2048, kv=False):
        """Logits after each of tokens[first_row:] and after each generated token but the last."""
        decode_from = len(tokens) if decode_from is None else decode_from
        request = struct.pack("<7I", len(tokens), first_row, decode_from, generate, chunk,
                              super_chunk, int(kv))
        self.process.stdin.write(request + np.asarray(tokens, dtype="<i4").tobytes())
        self.process.stdin.flush()
        rows, vocab, generated, layers, kv_heads, head_dim, kv_tokens = self._read("<u4", 7)
        assert rows == len(tokens) - first_row + max(generate - 1, 0) and generated == generate
        logits = self._read("<f4", int(rows) * int(vocab)).reshape(rows, vocab)
        ids = self._read("<i4", generated).tolist()
        if not kv:
            return Answer(logits, ids, None)
        shape = tuple(int(n) for n in (layers, kv_heads, kv_tokens, 2, head_dim))
        return Answer(logits, ids, self._read("<u2", int(np.prod(shape))).reshape(shape))

    def _read(self, dtype, count):
        size = np.dtype(dtype).itemsize * int(count)
        data = self.process.stdout.read(size)
        assert len(data) == size, "logits_tool ended early; its message is on standard error"
        return np.frombuffer(data, dtype)
