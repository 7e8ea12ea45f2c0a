/* step_times: how long an engine takes, measured, for any prompt and any batch.
 *
 * Why        A simulated worker decides as a real one does, because it runs the same scheduler;
 *            what it cannot know is time. That comes from a table that bench/sim/measure.c makes on
 *            the machine in question. The format and what is left out: docs/simulation.md.
 * Formula    T(p): a lone prompt of p tokens to its first token: linear between the rows "prompt";
 *            before the first of them constant, behind the last its line goes on.
 *            U(n) = T(n) - first: a chunk of n tokens at position 0, all layers.
 *            chunk(b, n) = U(n) + n / c (T(b + c) - T(b) - U(c)): n tokens at position b >= c,
 *            where c is chunk_tokens: each token costs what it costs at position 0, and its part of
 *            what a whole chunk costs more further back. A unit is one layer's share of its chunk.
 *            So the units of a prompt of whole chunks, and `first`, sum up to T.
 *            D(s, x): a decode step of s sequences with x tokens of context on average: linear in x
 *            between the rows "decode" of s sequences, then linear between the two nearest s.
 *            Outside of what was measured: below, the nearest; above, the last line goes on,
 *            falling never.
 * Ownership  Plain heap object, immutable once made.
 * Threading  Any thread may read.
 * Units      Tokens, nanoseconds.
 * Errors     parse: INVALID; the text names line, field and limit. read: those of
 *            spin_file_read. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_STEP_TIMES_BYTES_MAX (UINT64_C(1) << 20)
#define SPIN_STEP_TIMES_ROWS_MAX 4096u /* of each kind */
#define SPIN_STEP_NS_MAX UINT64_C(1000000000000)

/* The engine that was measured, as its scheduler and its KV manager were configured. */
struct spin_step_engine {
    char model[128];
    char machine[128];
    char algorithm[32]; /* of --sparse-attention */
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t chunk_tokens;
    uint32_t super_chunk_tokens;
    uint32_t max_model_len;
    uint32_t max_num_seqs;
    uint32_t max_num_batched_tokens;
    uint32_t max_waiting;
    uint32_t prefill_slots;
    uint32_t output_expected_tokens;
    uint32_t budget_tokens; /* of the algorithm; 0: its default */
    uint32_t min_context;
    uint32_t replay; /* 1: what was generated before a preemption is decoded again (D1) */
    uint32_t kv_blocks;
    uint32_t kv_slabs;
    uint32_t workers; /* measured side by side on that machine */
    uint32_t threads; /* of each */
};

struct spin_step_times; /* private to step_times.c */

/* Bytes from outside. */
SPIN_MUST_USE spin_status spin_step_times_parse(const char *text, uint64_t bytes,
                                                struct spin_step_times **out,
                                                struct spin_error *err);
SPIN_MUST_USE spin_status spin_step_times_read(const char *path, struct spin_step_times **out,
                                               struct spin_error *err);
void spin_step_times_destroy(struct spin_step_times *times); /* NULL is allowed */

const struct spin_step_engine *spin_step_times_engine(const struct spin_step_times *times);
/* One layer of tokens [begin, end): 1 at least; end - begin <= chunk_tokens. */
uint64_t spin_step_times_unit_ns(const struct spin_step_times *times, uint32_t begin, uint32_t end);
/* Logits and draw of a prompt's first token. */
uint64_t spin_step_times_first_ns(const struct spin_step_times *times);
/* sequences >= 1; context_tokens: of all of them together. */
uint64_t spin_step_times_decode_ns(const struct spin_step_times *times, uint32_t sequences,
                                   uint64_t context_tokens);
/* No decode step is shorter. */
uint64_t spin_step_times_least_decode_ns(const struct spin_step_times *times);
/* The longest prompt, and the most sequences and the longest context of them, that were measured:
 * what is beyond is a guess. */
uint32_t spin_step_times_prompt_max(const struct spin_step_times *times);
uint32_t spin_step_times_sequences_max(const struct spin_step_times *times);
uint32_t spin_step_times_context_max(const struct spin_step_times *times);

SPIN_END_DECLS
