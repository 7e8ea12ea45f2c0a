/* sampler: one row of logits and a request's sampling fields become one token.
 *
 * Why        A pure function of (logits, fields, tokens so far, seed, how many tokens were drawn),
 *            so a sequence that resumes elsewhere draws what it would have drawn here (D1).
 * Formula    In this order: logit_bias is added; repetition_penalty divides positive and multiplies
 *            negative logits of tokens in prompt or output; presence_penalty and
 *            frequency_penalty * count are subtracted for tokens in the output; masked tokens go.
 *            Then temperature 0 takes the largest; else w = exp((l - max) / temperature), top_k
 *            keeps the k largest, top_p the fewest largest that hold that share of what is left,
 *            min_p what is at least that share of the largest; the token is where the running sum
 *            of w, in order of ids, passes u * total, u = spin_philox_uniform(seed, stream,
 *            generated_count). Wherever logits are equal the lower id goes first. Sums are in
 *            double.
 * Ownership  Borrows everything; scratch is the caller's.
 * Threading  Any thread; pure. O(vocab + tokens with penalties), no allocation.
 * Errors     CORRUPT: no logit left that is finite. */
#pragma once

#include "worker/engine/request.h"

SPIN_BEGIN_DECLS

struct spin_sampler_scratch; /* private to sampler.c */

struct spin_sampler_row {
    const float *logits; /* [vocab] */
    uint32_t vocab;
    const struct spin_sampling *sampling;
    const int32_t *tokens; /* prompt, then generated ones */
    uint32_t prompt_count;
    uint32_t generated_count; /* also the index of this draw */
    const int32_t *masked;    /* never drawn: the stop tokens until min_tokens are there */
    uint32_t masked_count;
};

SPIN_MUST_USE spin_status spin_sampler_scratch_create(uint32_t vocab,
                                                      struct spin_sampler_scratch **out,
                                                      struct spin_error *err);
void spin_sampler_scratch_destroy(struct spin_sampler_scratch *scratch); /* NULL is allowed */

/* All ids in the row's fields are in [0, vocab) (checked at submit; asserted). */
SPIN_MUST_USE spin_status spin_sampler_draw(const struct spin_sampler_row *row,
                                            struct spin_sampler_scratch *scratch,
                                            int32_t *out_token);

/* The u of a request's draw number `generated_count`. */
double spin_sampler_uniform(const struct spin_sampling *sampling, uint32_t generated_count);
/* Whether the row's logits are drawn from as they are, masked tokens aside. */
bool spin_sampler_is_plain(const struct spin_sampling *sampling);

/* ln sum exp(logits), the largest taken out first; NaN logits give NaN. */
double spin_sampler_log_sum(const float *logits, uint32_t vocab);
/* The `count` largest of the row with their log softmax, in order; ties: lower id first. Returns
 * how many there are: NaN logits are left out. count <= SPIN_TOP_LOGPROBS_MAX. */
uint32_t spin_sampler_top(const float *logits, uint32_t vocab, uint32_t count,
                          struct spin_top_logprob *out);

/* INVALID or LIMIT: the text names the field, its value and its range. */
SPIN_MUST_USE spin_status spin_sampling_check(const struct spin_sampling *sampling, uint32_t vocab,
                                              struct spin_error *err);

SPIN_END_DECLS
