#include "bench/load/fetch.h"

#include "base/clock.h"
#include "net/http_client.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD_BYTES_MAX (UINT64_C(64) << 10)

struct addresses {
    struct spin_loop *loop;
    bool is_done;
    spin_status status;
    uint32_t count;
    char texts[SPIN_LOOP_ADDRESSES_MAX][SPIN_LOAD_NUMERIC_BYTES];
};

struct exchange {
    struct spin_loop *loop;
    const struct spin_load_fetch *fetch;
    struct spin_http_call *call;
    struct spin_load_fetched *out;
    struct spin_error failure;
    bool is_late;
    bool is_large;
};

static void on_resolved(void *context, spin_status status, const char *const *texts, uint32_t count)
{
    struct addresses *addresses = context;
    addresses->is_done = true;
    addresses->status = status;
    addresses->count = count;
    for (uint32_t i = 0; i < count; i++) {
        (void)snprintf(addresses->texts[i], sizeof addresses->texts[i], "%s", texts[i]);
    }
    spin_loop_stop(addresses->loop);
}

static spin_status resolve(struct spin_loop *loop, const char *target, struct addresses *out,
                           struct spin_error *err)
{
    *out = (struct addresses){.loop = loop};
    SPIN_TRY(spin_loop_resolve(loop, target, on_resolved, out, err));
    while (!out->is_done) {
        spin_loop_run(loop); /* Ctrl-C stops it, too */
    }
    if (out->status != SPIN_OK || out->count == 0) {
        return spin_fail(err, SPIN_ERR_NOT_FOUND, "%.128s: no such host", target);
    }
    return SPIN_OK;
}

static void on_body(void *context, uint64_t at_ns, const char *bytes, uint64_t count)
{
    struct exchange *exchange = context;
    struct spin_load_fetched *out = exchange->out;
    (void)at_ns;
    if (exchange->is_large || count > exchange->fetch->bytes_max - out->bytes) {
        exchange->is_large = true;
        spin_http_call_cancel(exchange->call);
        return;
    }
    memcpy(out->body + out->bytes, bytes, count);
    out->bytes += count;
    out->body[out->bytes] = '\0';
}

static void on_finished(void *context, const struct spin_http_outcome *outcome)
{
    struct exchange *exchange = context;
    exchange->call = NULL;
    exchange->out->code = outcome->code;
    if (exchange->is_large) {
        (void)spin_fail(&exchange->failure, SPIN_ERR_LIMIT, "%.100s%.60s: over %llu bytes",
                        exchange->fetch->target, exchange->fetch->path,
                        (unsigned long long)exchange->fetch->bytes_max);
    } else if (outcome->status != SPIN_OK) {
        (void)spin_fail(&exchange->failure, SPIN_ERR_PEER_LOST, "%.100s: %.120s",
                        exchange->fetch->target,
                        exchange->is_late ? "no answer in time" : outcome->text);
    }
    spin_loop_stop(exchange->loop);
}

static void on_late(void *context)
{
    struct exchange *exchange = context;
    if (exchange->call != NULL && !exchange->is_late) {
        exchange->is_late = true;
        if (!exchange->is_large) {
            spin_http_call_cancel(exchange->call);
        }
    }
}

static spin_status talk(struct exchange *exchange, struct spin_http_client *client,
                        struct spin_timer *timer, struct spin_error *err)
{
    const struct spin_http_call_request request = {.method = "GET",
                                                   .path = exchange->fetch->path,
                                                   .fields = exchange->fetch->fields,
                                                   .context = exchange,
                                                   .body_received = on_body,
                                                   .finished = on_finished};
    SPIN_TRY(spin_http_client_submit(client, &request, &exchange->call, err));
    spin_timer_start(timer, exchange->fetch->timeout_ns, false);
    while (exchange->call != NULL) {
        spin_loop_run(exchange->loop);
    }
    spin_timer_stop(timer);
    if (exchange->failure.status != SPIN_OK) {
        return spin_fail(err, exchange->failure.status, "%s", exchange->failure.text);
    }
    return SPIN_OK;
}

/* One address; out->body has room. */
static spin_status try_address(struct spin_loop *loop, const struct spin_load_fetch *fetch,
                               struct spin_load_fetched *out, struct spin_error *err)
{
    struct exchange exchange = {.loop = loop, .fetch = fetch, .out = out};
    const struct spin_http_client_config config = {.address = out->address,
                                                   .host = fetch->target,
                                                   .connections_max = 1,
                                                   .head_bytes_max = HEAD_BYTES_MAX};
    struct spin_http_client *client = NULL;
    struct spin_timer *timer = NULL;
    SPIN_TRY(spin_http_client_create(loop, &config, &client, err));
    spin_status status = spin_timer_create(loop, on_late, &exchange, &timer);
    if (status == SPIN_OK) {
        out->bytes = 0;
        status = talk(&exchange, client, timer, err);
    }
    spin_timer_destroy(timer);
    spin_http_client_destroy(client);
    return status;
}

spin_status spin_load_fetch(struct spin_loop *loop, const struct spin_load_fetch *fetch,
                            struct spin_load_fetched *out, struct spin_error *err)
{
    struct addresses addresses;
    SPIN_TRY(resolve(loop, fetch->target, &addresses, err));
    struct spin_load_fetched fetched = {.body = calloc(1, fetch->bytes_max + 1)};
    if (fetched.body == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%llu bytes",
                         (unsigned long long)fetch->bytes_max);
    }
    spin_status status = SPIN_ERR_NOT_FOUND;
    for (uint32_t i = 0; i < addresses.count && status != SPIN_OK; i++) {
        (void)snprintf(fetched.address, sizeof fetched.address, "%s", addresses.texts[i]);
        status = try_address(loop, fetch, &fetched, err);
    }
    if (status != SPIN_OK) {
        free(fetched.body);
        return status;
    }
    *out = fetched;
    return SPIN_OK;
}
