/* inference: gRPC spin.v1.Inference, the same requests as the HTTP API without JSON.
 *
 * Why        Calls arrive on the rpc thread and generations live on the loop's: this hands calls
 *            and their ends over, and deltas back into the calls' outboxes.
 * Ownership  Borrows the parts until destroy; the rpc server's method table borrows this.
 * Threading  create, destroy: the loop's thread. Handlers: the rpc thread, which only posts.
 * Errors     Clients: INVALID_ARGUMENT, OUT_OF_RANGE, UNAUTHENTICATED, NOT_FOUND (the model),
 *            RESOURCE_EXHAUSTED, UNAVAILABLE, DEADLINE_EXCEEDED. */
#pragma once

#include "proto/rpc_server.h"
#include "router/dispatcher.h"
#include "router/prompt.h"

SPIN_BEGIN_DECLS

struct spin_inference; /* private to inference.c */

struct spin_inference_parts { /* borrowed until destroy */
    struct spin_loop *loop;
    struct spin_dispatcher *dispatcher;
    const struct spin_tenants *tenants;
    struct spin_prompt_model prompt;
    const char *model_name;
    struct spin_metrics *metrics;
    /* Of all calls, from their arrival until they are read; over it RESOURCE_EXHAUSTED. 0: 256 MiB,
     * as HTTP has for bodies. */
    uint64_t requests_bytes_max;
};

#define SPIN_INFERENCE_METHODS 4u

SPIN_MUST_USE spin_status spin_inference_create(const struct spin_inference_parts *parts,
                                                struct spin_inference **out,
                                                struct spin_error *err);
void spin_inference_destroy(struct spin_inference *inference); /* no call open; NULL allowed */
/* Fills the rows of Generate, Tokenize, Detokenize and GetModel, context included. */
void spin_inference_methods(struct spin_inference *inference,
                            struct spin_rpc_method methods[SPIN_INFERENCE_METHODS]);

SPIN_END_DECLS
