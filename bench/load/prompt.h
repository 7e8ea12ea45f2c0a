/* prompt: plans into text of real words, a token each.
 *
 * Why        Random token ids would spare the server its tokenizer and random letters would triple
 *            its work. These are 512 of the most frequent English words, each of them one token
 *            with the space before it in the vocabularies of today's models, so a prompt has the
 *            tokens that were planned without anybody's tokenizer at hand; what the server counts
 *            stands in the result beside it.
 * Ownership  The caller's buffer.
 * Threading  Any thread; a function of its arguments.
 * Units      Tokens, bytes. Only letters and spaces: nothing to escape in JSON.
 * Errors     None. */
#pragma once

#include "bench/load/workload.h"

SPIN_BEGIN_DECLS

#define SPIN_BENCH_WORDS 512u
#define SPIN_BENCH_WORD_BYTES 12u /* the longest, with its space */

/* Room for the text of a plan: no NUL is written. */
uint64_t spin_bench_prompt_bytes_max(const struct spin_bench_plan *plan);
/* Writes the words, a space between two, and returns how many bytes. */
uint64_t spin_bench_prompt_write(const struct spin_bench_plan *plan, char *out);
const char *spin_bench_word(uint32_t index); /* below SPIN_BENCH_WORDS */

SPIN_END_DECLS
