/* pretokenize: cut text into the pieces inside which merges happen.
 *
 * Why        Each model family cuts differently, and one piece cut elsewhere gives other tokens.
 *            The expressions are facts about the models; only known ones run, so no file can bring
 *            a slow or hostile expression into the process.
 * Ownership  A pretokenizer owns its compiled stages; a matcher is for one thread at a time.
 * Threading  create and destroy on one thread; run from any number, each with its own matcher.
 * Units      Bytes of valid UTF-8.
 * Errors     NO_MEMORY; EXHAUSTED when the expression engine gives up (never seen; fuzzed). */
#pragma once

#include "base/status.h"
#include "model/format/gguf.h"

SPIN_BEGIN_DECLS

enum spin_split { /* every match is a piece, and so is every gap between matches */
                  SPIN_SPLIT_GPT2,
                  SPIN_SPLIT_LLAMA3,
                  SPIN_SPLIT_QWEN2,
                  SPIN_SPLIT_DIGIT,  /* each number character alone */
                  SPIN_SPLIT_DIGITS, /* runs of number characters */
                  SPIN_SPLIT_COUNT
};

#define SPIN_SPLIT_STAGES_MAX 4u

/* The split whose expression in published tokenizer.json files is exactly `pattern`; false:
 * unknown. */
bool spin_split_find(struct spin_string pattern, enum spin_split *out);

struct spin_pretokenizer; /* private to pretokenize.c */

SPIN_MUST_USE spin_status spin_pretokenizer_create(const enum spin_split *stages, uint32_t count,
                                                   struct spin_pretokenizer **out,
                                                   struct spin_error *err);
void spin_pretokenizer_destroy(struct spin_pretokenizer *pretokenizer); /* NULL is allowed */

struct spin_pretokenizer_matcher; /* private to pretokenize.c */

SPIN_MUST_USE spin_status spin_pretokenizer_matcher_create(
    const struct spin_pretokenizer *pretokenizer, struct spin_pretokenizer_matcher **out);
void spin_pretokenizer_matcher_destroy(
    struct spin_pretokenizer_matcher *matcher); /* NULL is allowed */

/* Called for each piece in order; never an empty one. A status other than OK ends the run. */
typedef spin_status (*spin_piece_fn)(void *context, struct spin_string piece);

SPIN_MUST_USE spin_status spin_pretokenizer_run(const struct spin_pretokenizer *pretokenizer,
                                                struct spin_pretokenizer_matcher *matcher,
                                                struct spin_string text, spin_piece_fn on_piece,
                                                void *context);

SPIN_END_DECLS
