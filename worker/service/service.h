/* service: gRPC spin.v1.Worker over one engine.
 *
 * Why        Translates between the wire and the engine, and nothing else: requests into
 *            spin_request, tokens into GenerateResponse, refusals into codes with a sentence.
 * Ownership  Borrows engine, model, metrics and the configuration's strings; owns its server and
 *            calls.
 * Threading  create, start, stop, destroy: one control thread. Everything else: any thread.
 * Units      Tokens, bytes, nanoseconds.
 * Errors     create: INVALID (an address), IO (the listening address), those of rpc_tls.h. Clients:
 *            INVALID_ARGUMENT, OUT_OF_RANGE, RESOURCE_EXHAUSTED, UNAVAILABLE (shutting down),
 *            UNIMPLEMENTED, FAILED_PRECONDITION (another algorithm), DEADLINE_EXCEEDED,
 *            UNAUTHENTICATED. */
#pragma once

#include "proto/rpc_server.h"
#include "proto/spin/v1/cluster.pb-c.h"
#include "worker/engine/engine.h"

SPIN_BEGIN_DECLS

struct spin_service; /* private to service.c */

struct spin_service_config {
    const char *listen; /* host:port */
    /* host:port where others reach it, and its name among them; port 0: the one it listens on.
     * NULL: the listening address. */
    const char *advertise;
    const char *bearer; /* calls of Worker must bear this token; NULL: none */
    struct spin_rpc_tls tls;
    const char *model_name; /* what clients know it by */
    const struct spin_model *model;
    struct spin_engine *engine; /* stopped before the service is */
    const int32_t *end_tokens;  /* borrowed: of the model's tokenizer */
    uint32_t end_token_count;
    struct spin_metrics *metrics; /* made from spin_service_metrics; NULL: nobody counts */
};

/* Who this worker is, in the words of Join and Describe; everything points into the service. */
struct spin_service_hello {
    Spin__V1__Hello hello;
    Spin__V1__Peer peer;
    Spin__V1__ModelIdentity model;
    Spin__V1__WorkerCapacity capacity;
};

/* Requests that a status tells about: the oldest that hold KV. */
#define SPIN_SERVICE_REQUESTS_MAX 32u

/* How busy it is, in the words of Join; everything points into this and into the service. */
struct spin_service_status {
    Spin__V1__MemberStatus status;
    Spin__V1__WorkerLoad load;
    Spin__V1__RequestKv requests[SPIN_SERVICE_REQUESTS_MAX];
    Spin__V1__RequestKv *request_list[SPIN_SERVICE_REQUESTS_MAX];
    struct spin_engine_request_kv kv[SPIN_SERVICE_REQUESTS_MAX]; /* whose ids they borrow */
};

SPIN_MUST_USE spin_status spin_service_create(const struct spin_service_config *config,
                                              struct spin_service **out, struct spin_error *err);
/* host:port that clients on this machine can dial: the bound port, 127.0.0.1 for a wildcard. */
const char *spin_service_address(const struct spin_service *service);
/* Calls of Generate that may be open at once; bytes that may wait in each for its reader. */
uint32_t spin_service_calls_max(const struct spin_service *service);
uint64_t spin_service_outbox_bytes(void);
/* Serves; health checks say so. */
SPIN_MUST_USE spin_status spin_service_start(struct spin_service *service, struct spin_error *err);
void spin_service_fill_hello(const struct spin_service *service, struct spin_service_hello *out);
void spin_service_fill_status(const struct spin_service *service, struct spin_service_status *out);
/* Health checks say NOT_SERVING, new requests are refused with UNAVAILABLE, streams go on. */
void spin_service_drain(struct spin_service *service);
bool spin_service_is_draining(const struct spin_service *service);
/* Ends every call. The engine must have been stopped: it told every stream its end. */
void spin_service_stop(struct spin_service *service, uint64_t grace_ns);
/* Stopped or never started; NULL is allowed. */
void spin_service_destroy(struct spin_service *service);
void spin_service_get_stats(const struct spin_service *service, struct spin_rpc_server_stats *out);

SPIN_END_DECLS
