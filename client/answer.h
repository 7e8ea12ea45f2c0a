/* answer: what came back for one prompt, and how it is shown.
 *
 * Why        Printing as it comes, collecting for --json and the timings at the end look at the
 *            same deltas; the call's callbacks only hand them over.
 * Ownership  Owns what it collects; borrows the options and the output streams.
 * Threading  add: the client's thread. The rest: after the call is over.
 * Units      Nanoseconds; tokens.
 * Errors     add: IO (standard output is gone), NO_MEMORY. */
#pragma once

#include "client/options.h"
#include "client/spin_client.h"

#include <stdio.h>

SPIN_BEGIN_DECLS

struct spin_answer; /* private to answer.c */

struct spin_answer_config {
    bool prints;   /* as it comes; else a JSON object at the end */
    bool keeps;    /* the text, for spin_answer_text; always so for JSON */
    bool logprobs; /* are wanted at the end */
    bool stats;
    FILE *text_out;  /* standard output */
    FILE *stats_out; /* standard error */
    uint64_t started_ns;
};

SPIN_MUST_USE spin_status spin_answer_create(const struct spin_answer_config *config,
                                             struct spin_answer **out, struct spin_error *err);
void spin_answer_destroy(struct spin_answer *answer); /* NULL is allowed */
SPIN_MUST_USE spin_status spin_answer_add(struct spin_answer *answer,
                                          const struct spin_client_delta *delta, uint64_t now_ns,
                                          struct spin_error *err);
/* Whether anything came. */
bool spin_answer_begun(const struct spin_answer *answer);
/* NUL-terminated. Valid until destroy. */
const char *spin_answer_text(struct spin_answer *answer);
/* The rest: a line end or the JSON, the log probabilities, the timings. `outcome` is the call's.
 * False: standard output is gone. */
bool spin_answer_finish(struct spin_answer *answer, spin_status outcome, uint64_t now_ns);

SPIN_END_DECLS
