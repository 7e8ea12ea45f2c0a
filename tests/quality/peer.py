"""peer: llama.cpp, through llama-cpp-python, as the other implementation of the same model."""

import contextlib
import os

import numpy as np
import pytest


def require():
    """Skips the calling test, with the reason, where llama.cpp could not be built."""
    missing = os.environ.get("SPIN_PEER_MISSING", "")
    if missing:
        pytest.skip(missing)


class Peer:
    """f32_cache: K and V unrounded and plain attention; else llama.cpp's own defaults (F16)."""

    def __init__(self, path, context=1024, f32_cache=False):
        import llama_cpp

        cache = {"type_k": 0, "type_v": 0, "flash_attn": False} if f32_cache else {}
        threads = len(os.sched_getaffinity(0))
        self.llama = llama_cpp.Llama(str(path), n_ctx=context, n_batch=512, logits_all=True,
                                     n_threads=threads, n_threads_batch=threads, verbose=False,
                                     **cache)

    def logits(self, tokens):
        """float32 [tokens, vocab]."""
        assert len(tokens) <= self.llama.n_ctx()
        self.llama.reset()
        self.llama.eval(list(tokens))
        assert self.llama.n_tokens == len(tokens)
        return np.array(self.llama.scores[:len(tokens)])


@contextlib.contextmanager
def opened(path, **how):
    peer = Peer(path, **how)
    try:
        yield peer
    finally:
        peer.llama.close()
