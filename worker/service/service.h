/* service: gRPC spin.v1.Worker over one engine.
 *
 * Why        Translates between the wire and the engine, and nothing else: requests into
 *            spin_request, tokens into GenerateResponse, refusals into codes with a sentence.
 * Ownership  Borrows engine, model and the configuration's strings; owns its server and calls.
 * Threading  create, start, drain, stop, destroy: one control thread.
 * Units      Tokens, bytes, nanoseconds.
 * Errors     create: INVALID, IO (the listening address). Clients: INVALID_ARGUMENT, OUT_OF_RANGE,
 *            RESOURCE_EXHAUSTED, UNAVAILABLE (shutting down), UNIMPLEMENTED, DEADLINE_EXCEEDED. */
#pragma once

#include "proto/rpc_server.h"
#include "worker/engine/engine.h"

SPIN_BEGIN_DECLS

struct spin_service; /* private to service.c */

struct spin_service_config {
    const char *listen;     /* host:port */
    const char *model_name; /* what clients know it by */
    const struct spin_model *model;
    struct spin_engine *engine; /* stopped before the service is */
    const int32_t *end_tokens;  /* borrowed: of the model's tokenizer */
    uint32_t end_token_count;
};

#define SPIN_SERVICE_ADDRESS_BYTES 272u

SPIN_MUST_USE spin_status spin_service_create(const struct spin_service_config *config,
                                              struct spin_service **out, struct spin_error *err);
/* host:port that clients on this machine can dial: the bound port, 127.0.0.1 for a wildcard. */
const char *spin_service_address(const struct spin_service *service);
/* Calls of Generate that may be open at once; bytes that may wait in each for its reader. */
uint32_t spin_service_calls_max(const struct spin_service *service);
uint64_t spin_service_outbox_bytes(void);
/* Serves; health checks say so. */
SPIN_MUST_USE spin_status spin_service_start(struct spin_service *service, struct spin_error *err);
/* Health checks say NOT_SERVING, new requests are refused with UNAVAILABLE, streams go on. */
void spin_service_drain(struct spin_service *service);
/* Ends every call. The engine must have been stopped: it told every stream its end. */
void spin_service_stop(struct spin_service *service, uint64_t grace_ns);
void spin_service_destroy(
    struct spin_service *service); /* stopped or never started; NULL allowed */
void spin_service_get_stats(const struct spin_service *service, struct spin_rpc_server_stats *out);

SPIN_END_DECLS
