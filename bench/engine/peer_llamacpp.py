"""Our engine and llama.cpp on the same model file, in turns: usage:

    peer_llamacpp.py ENGINE_BENCH OPS_BENCH MODEL [--runs N] [--threads N]

Both sides do the same work with the same number of threads in the same run: prefill of 1,024 tokens,
greedy decoding of one sequence at contexts of 128 and 4,000, and of eight sequences in one batch.
Every round takes each measurement once from both, in an order that changes from round to round, so
that a slow minute of a shared machine hits both; what counts is the median of the rounds. The engine
runs in a process of its own and waits for its next line while llama.cpp, in this process, works.

The floor of a decoded token is the bytes it must read (the weights once a step, the keys and values of
every sequence) over the read bandwidth that ops_bench measures with the same threads.
"""

import argparse
import ctypes
import os
import statistics
import subprocess
import sys
import time

import llama_cpp

PREFILL_TOKENS = 1024
DECODE = [("decode1", 128, 96, 1), ("decode1_4k", 4000, 48, 1), ("decode8", 128, 96, 8)]
CONTEXT = 4096 + 128
PROMPT_STRIDE = 7919  # as engine_bench.c: token i is 100 + 7919 i mod (vocab - 200)
GOALS = {"prefill": 0.7, "decode1": 0.8, "decode1_4k": 0.8, "decode8": 1.0}
# SmolLM2-135M's: bytes of K and V of one position, all layers (30 x 3 heads x 64 x K and V x BF16).
KV_BYTES = 30 * 3 * 64 * 2 * 2


class Engine:
    """Ours: engine_bench, line by line."""

    def __init__(self, program, model, threads):
        self.process = subprocess.Popen([program, model, str(threads)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        print("ours: " + self.process.stdout.readline().strip())

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            sys.exit(f"engine_bench ended at: {line}")
        return float(answer)

    def prefill(self, tokens):
        return self.ask(f"prefill {tokens}")

    def decode(self, context, steps, sequences):
        return self.ask(f"decode {context} {steps} {sequences}")

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)


class Peer:
    """llama.cpp through its C API; the context's settings are its defaults but for sizes and threads."""

    def __init__(self, model, threads, sequences):
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)  # must live as long as the library
        llama_cpp.llama_log_set(self.quiet, ctypes.c_void_p(0))
        self.model = llama_cpp.llama_model_load_from_file(model.encode(),
                                                          llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = max(CONTEXT, sequences * 256)
        params.n_batch = PREFILL_TOKENS
        params.n_ubatch = 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.sampler = llama_cpp.llama_sampler_init_greedy()
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(PREFILL_TOKENS, 0, 1)
        print(f"peer: llama-cpp-python {llama_cpp.__version__}, threads={threads}, "
              f"{llama_cpp.llama_print_system_info().decode().strip()}")

    def clear(self):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def run(self, rows):
        """rows: (token, position, sequence, wants logits)."""
        self.batch.n_tokens = len(rows)
        for i, (token, position, sequence, logits) in enumerate(rows):
            self.batch.token[i] = token
            self.batch.pos[i] = position
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = sequence
            self.batch.logits[i] = logits
        if llama_cpp.llama_decode(self.context, self.batch) != 0:
            sys.exit("llama_decode failed")

    def sample(self, row):
        return llama_cpp.llama_sampler_sample(self.sampler, self.context, row)

    def prompt(self, sequence, tokens):
        """Prefills; returns the first token."""
        for begin in range(0, tokens, PREFILL_TOKENS):
            end = min(begin + PREFILL_TOKENS, tokens)
            self.run([(100 + (sequence + i) * PROMPT_STRIDE % (self.vocab - 200), i, sequence,
                       i == tokens - 1) for i in range(begin, end)])
        return self.sample(-1)

    def prefill(self, tokens):
        self.clear()
        started = time.perf_counter()
        self.prompt(0, tokens)
        return 1e3 * (time.perf_counter() - started)

    def decode(self, context, steps, sequences):
        self.clear()
        last = [self.prompt(s, context) for s in range(sequences)]
        times = []
        for step in range(steps):
            started = time.perf_counter()
            self.run([(last[s], context + step, s, True) for s in range(sequences)])
            last = [self.sample(s) for s in range(sequences)]
            times.append(1e3 * (time.perf_counter() - started))
        return sum(times) / len(times)


def floor_ms(model, context, steps, sequences, bandwidth_gbs):
    """Bytes that a step must read over the bandwidth: the model file once, K and V of every position."""
    read = os.path.getsize(model) + sequences * (context + steps / 2) * KV_BYTES
    return read / bandwidth_gbs / 1e6


def bandwidth(program, threads):
    said = subprocess.run([program, str(threads), "floor"], check=True, stdout=subprocess.PIPE,
                          text=True, timeout=300).stdout
    return float(said.rsplit("RESULT floor_gbs=", 1)[1])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("engine_bench")
    parser.add_argument("ops_bench")
    parser.add_argument("model")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()

    measures = [("prefill", lambda side: side.prefill(PREFILL_TOKENS))]
    for name, *shape in DECODE:
        measures.append((name, lambda side, shape=shape: side.decode(*shape)))
    ours = Engine(arguments.engine_bench, arguments.model, arguments.threads)
    peer = Peer(arguments.model, arguments.threads, sequences=8)
    floors = [bandwidth(arguments.ops_bench, arguments.threads)]
    taken = {name: ([], []) for name, _ in measures}
    for name, measure in measures:  # a round that does not count: caches, pages, clocks
        measure(ours), measure(peer)
    for turn in range(arguments.runs):
        for name, measure in measures:
            for side in ((0, 1) if turn % 2 == 0 else (1, 0)):
                taken[name][side].append(measure((ours, peer)[side]))
        floors.append(bandwidth(arguments.ops_bench, arguments.threads))
    ours.close()

    gbs = statistics.median(floors)
    print(f"read bandwidth: {gbs:.1f} GB/s ({min(floors):.1f} to {max(floors):.1f})")
    ratios = []
    for name, *shape in [("prefill",)] + DECODE:
        mine, theirs = (statistics.median(times) for times in taken[name])
        ratio = theirs / mine  # of speeds: ours over llama.cpp's
        spread = " ".join(f"[{min(t):.2f} .. {max(t):.2f}]" for t in taken[name])
        line = f"{name:11} ours {mine:9.2f} ms, llama.cpp {theirs:9.2f} ms {spread}, ratio {ratio:.2f}"
        if shape:
            floor = floor_ms(arguments.model, *shape, gbs)
            line += f", floor {floor:.2f} ms = {100 * floor / mine:.0f} % of it reached"
        else:
            line += f", {PREFILL_TOKENS / mine * 1e3:.0f} tok/s"
        print(line + f" (goal {GOALS[name]})")
        ratios.append(f"{name}_ratio={ratio:.2f}")
    print("RESULT " + " ".join(ratios))


if __name__ == "__main__":
    main()
