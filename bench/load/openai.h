/* openai: the driver of OpenAI-compatible servers: HTTP, streamed completions.
 *
 * Why        What operators run today speaks this, whoever wrote it.
 * Ownership  The driver borrows loop and config's strings for its life.
 * Threading  The loop's thread.
 * Units      As driver.h.
 * Errors     create: INVALID (extra_body), those of net/http_client.h. What a server does becomes
 *            an outcome: 429 and 503 busy, other 4xx refused, other 5xx and errors in the stream
 *            server, an end in the middle broken, what is no SSE or JSON protocol. */
#pragma once

#include "bench/load/driver.h"
#include "net/http_client.h"

SPIN_BEGIN_DECLS

struct spin_load_openai_config {
    struct spin_loop *loop;
    const char *address; /* numbers: the one that answered */
    const char *host;    /* for the Host header */
    const char *base;    /* path before "/v1/", "" mostly */
    const char *api_key; /* NULL: none */
    const char *model;
    const char *extra_body; /* a JSON object whose members go into every request; NULL: none */
    bool chat;              /* /v1/chat/completions, one user message; else /v1/completions */
    bool ignore_eos;        /* ask for it, so that answers have the length of the plan */
    uint32_t connections_max;
};

SPIN_MUST_USE spin_status spin_load_openai_create(const struct spin_load_openai_config *config,
                                                  struct spin_load_driver **out,
                                                  struct spin_error *err);

SPIN_END_DECLS
