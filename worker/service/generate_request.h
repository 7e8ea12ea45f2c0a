/* generate_request: a GenerateRequest from the wire as the engine's request, or why not.
 *
 * Why        Everything that a client can get wrong is found here, field by field, before the
 *            engine hears of it; the engine's own refusals are about room and length.
 * Ownership  The result borrows the message and `out`'s own arrays: valid while both are.
 * Threading  Any thread; pure.
 * Units      Tokens.
 * Errors     INVALID: the text names the field, its value and the limit. UNSUPPORTED: a field that
 *            asks for what this worker does not do, by name. PEER_MISMATCH: another algorithm, or
 *            the same with other numbers; the text says both. */
#pragma once

#include "proto/spin/v1/worker.pb-c.h"
#include "worker/engine/request.h"
#include "worker/sparse/sparse.h"

SPIN_BEGIN_DECLS

/* What the request is checked against. */
struct spin_generate_limits {
    uint32_t vocab;
    const int32_t *end_tokens; /* the model's: they stop a sequence unless ignore_eos */
    uint32_t end_token_count;
    struct spin_sparse_options sparse; /* in force; a request may name no other */
};

struct spin_generate_request {
    struct spin_request request; /* deadline and sink are the caller's to fill */
    struct spin_logit_bias logit_bias[SPIN_LOGIT_BIAS_MAX];
    int32_t stop_tokens[SPIN_STOP_TOKENS_MAX];
};

SPIN_MUST_USE spin_status spin_generate_request_read(const Spin__V1__GenerateRequest *message,
                                                     const struct spin_generate_limits *limits,
                                                     struct spin_generate_request *out,
                                                     struct spin_error *err);

SPIN_END_DECLS
