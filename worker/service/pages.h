/* pages: the worker's HTTP pages for operators: /metrics, /health, /config.
 *
 * Why        Scrapers, probes and people ask a worker how it is without gRPC and without a token;
 *            nothing here changes anything.
 * Ownership  Borrows what the configuration points to until destroy; owns its HTTP server.
 * Threading  The loop's thread.
 * Units      Bytes.
 * Errors     create: those of spin_http_server_create. Clients: 404, 405, 503 while draining or
 *            after the engine has failed. */
#pragma once

#include "net/http_server.h"
#include "worker/service/membership.h"

SPIN_BEGIN_DECLS

struct spin_pages; /* private to pages.c */

struct spin_pages_config {
    const char *listen;      /* host:port */
    const char *listen_flag; /* "--http-listen" */
    const char *model_name;  /* the label of every sample */
    const char *config_text; /* what /config shows */
    const struct spin_engine *engine;
    const struct spin_metrics *engine_metrics;
    const struct spin_service *service;
    struct spin_metrics *service_metrics; /* made from spin_service_metrics */
};

SPIN_MUST_USE spin_status spin_pages_create(struct spin_loop *loop,
                                            const struct spin_pages_config *config,
                                            struct spin_pages **out, struct spin_error *err);
/* host:port that clients on this machine can dial. */
const char *spin_pages_address(const struct spin_pages *pages);
/* Whose routers /metrics counts; NULL: none. */
void spin_pages_set_membership(struct spin_pages *pages, const struct spin_membership *membership);
/* `closed` is called once, from the loop. */
void spin_pages_close(struct spin_pages *pages, void (*closed)(void *context), void *context);
void spin_pages_destroy(struct spin_pages *pages); /* closed; NULL is allowed */

SPIN_END_DECLS
