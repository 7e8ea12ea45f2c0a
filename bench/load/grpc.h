/* grpc: the driver of our own API: spin.v1.Inference/Generate through the SDK.
 *
 * Why        What a program that links our client sees, with nothing retried: what is refused is
 *            the benchmark's business.
 * Ownership  The driver owns its connection and copies what it needs of config.
 * Threading  create, destroy: one thread, which waits for the connection. Tokens are noted on the
 *            SDK's thread.
 * Units      As driver.h.
 * Errors     create: those of spin_client_connect and get_model. What the cluster does becomes an
 *            outcome by its status: EXHAUSTED and an UNAVAILABLE from a router busy, a field or a
 *            key refused, INTERNAL server, a lost connection connect or broken. */
#pragma once

#include "bench/load/driver.h"
#include "client/spin_client.h"

SPIN_BEGIN_DECLS

struct spin_load_grpc_config {
    struct spin_loop *loop;
    struct spin_client_config client; /* retries_max 0 */
    const char *model;                /* NULL: the one that is served */
    bool chat;                        /* one user message; else the text is continued */
    bool ignore_eos;
};

/* `model_name` gets the name of what is served, of SPIN_LOAD_MODEL_BYTES. */
#define SPIN_LOAD_MODEL_BYTES 128u
SPIN_MUST_USE spin_status spin_load_grpc_create(const struct spin_load_grpc_config *config,
                                                struct spin_load_driver **out,
                                                char model_name[SPIN_LOAD_MODEL_BYTES],
                                                struct spin_error *err);

SPIN_END_DECLS
