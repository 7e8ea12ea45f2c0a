/* answer: what came back from a worker for one prompt, and how it is shown.
 *
 * Why        Printing as it comes, collecting for --json and the timings at the end look at the
 *            same tokens; the call's callbacks only hand them over.
 * Ownership  Owns what it collects; borrows the options, the text stream and the output streams.
 * Threading  add_response: the client's thread. The rest: after the call is over.
 * Units      Nanoseconds; tokens.
 * Errors     add_response: INVALID (a foreign token), IO (standard output is gone). */
#pragma once

#include "client/options.h"
#include "client/text_stream.h"
#include "proto/spin/v1/worker.pb-c.h"

SPIN_BEGIN_DECLS

struct spin_answer; /* private to answer.c */

struct spin_answer_config {
    const struct spin_generate_options *options;
    const struct spin_tokenizer *tokenizer;
    FILE *text_out;  /* standard output */
    FILE *stats_out; /* standard error */
    uint64_t prompt_tokens;
    uint64_t started_ns;
};

SPIN_MUST_USE spin_status spin_answer_create(const struct spin_answer_config *config,
                                             struct spin_answer **out, struct spin_error *err);
void spin_answer_destroy(struct spin_answer *answer); /* NULL is allowed */
SPIN_MUST_USE spin_status spin_answer_add_response(struct spin_answer *answer,
                                                   const Spin__V1__GenerateResponse *response,
                                                   uint64_t now_ns, struct spin_error *err);
/* The stop string came: the worker need not go on. */
bool spin_answer_stopped(const struct spin_answer *answer);
/* The rest of the text, the log probabilities, the timings. False: standard output is gone. */
bool spin_answer_finish(struct spin_answer *answer, uint64_t now_ns);

SPIN_END_DECLS
