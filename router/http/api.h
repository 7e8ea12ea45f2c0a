/* api: the OpenAI-style HTTP API, and the pages for operators.
 *
 * Why        Everything that HTTP clients know is here and in the other files of this folder; the
 *            rest of the router does not know that JSON exists.
 *
 *            POST /v1/chat/completions, /v1/completions   GET /v1/models[/NAME]
 *            POST /tokenize, /detokenize                  GET /health, /metrics, /config
 *
 * Ownership  Owns the HTTP server and its open requests. Borrows the parts until destroy.
 * Threading  The loop's thread only; bodies over 4 KiB are parsed and tokenised on a pool thread.
 * Units      Bytes, nanoseconds.
 * Errors     create: as spin_http_server_create. Clients: an error object, docs/http-api.md. */
#pragma once

#include "net/http_server.h"
#include "router/dispatcher.h"
#include "router/prompt.h"

SPIN_BEGIN_DECLS

struct spin_http_api; /* private to this folder */

struct spin_http_api_config {
    const char *model_name; /* served */
    uint64_t created_s;     /* for /v1/models: when the router started, seconds since 1970 */
    struct spin_http_server_config http; /* listen and limits; the rest is filled here */
    const char *config_text;             /* what /config shows; borrowed */
};

struct spin_http_api_parts { /* borrowed until destroy */
    struct spin_loop *loop;
    struct spin_dispatcher *dispatcher;
    const struct spin_tenants *tenants;
    struct spin_prompt_model prompt;
    struct spin_metrics *metrics;
};

SPIN_MUST_USE spin_status spin_http_api_create(const struct spin_http_api_config *config,
                                               const struct spin_http_api_parts *parts,
                                               struct spin_http_api **out, struct spin_error *err);
uint32_t spin_http_api_port(const struct spin_http_api *api);
/* /health answers 503 from now on; new generations are refused; streams go on. */
void spin_http_api_drain(struct spin_http_api *api);
/* After the dispatcher is drained: the last bytes may take grace_ns; then `closed`. */
void spin_http_api_close(struct spin_http_api *api, uint64_t grace_ns,
                         void (*closed)(void *context), void *context);
void spin_http_api_destroy(struct spin_http_api *api); /* closed or never run; NULL is allowed */

SPIN_END_DECLS
