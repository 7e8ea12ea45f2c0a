#include "bench/load/grpc.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct grpc {
    struct spin_load_driver base;
    struct spin_client *client;
    char model[SPIN_LOAD_MODEL_BYTES]; /* "": the one that is served */
    bool chat;
    bool ignore_eos;
};

/* --- on the SDK's thread --- */

static bool on_delta(void *context, const struct spin_client_delta *delta)
{
    struct spin_load_call *call = context;
    const uint64_t now_ns = spin_now_ns(spin_clock_real());
    if (delta->text_bytes != 0) {
        spin_load_tokens(call, now_ns);
    } else {
        spin_load_heard(call, now_ns);
    }
    if (delta->ending != NULL) {
        spin_load_usage(call, delta->ending->prompt_tokens, delta->ending->completion_tokens);
    }
    return true;
}

/* A lost peer and a router that says "not now" are one code on the wire: gRPC's own sentence tells
 * which it was. */
static enum spin_bench_outcome outcome_of_loss(const struct spin_load_call *call, const char *text)
{
    static const char *const no_connection[] = {"failed to connect", "Connection refused",
                                                "DNS resolution", "handshake"};
    static const char *const lost[] = {"Socket closed", "Connection reset", "GOAWAY", "Broken pipe",
                                       "Connection aborted"};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(no_connection); i++) {
        if (strstr(text, no_connection[i]) != NULL) {
            return SPIN_BENCH_CONNECT;
        }
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(lost); i++) {
        if (strstr(text, lost[i]) != NULL) {
            return SPIN_BENCH_BROKEN;
        }
    }
    return call->record.messages == 0 ? SPIN_BENCH_BUSY : SPIN_BENCH_BROKEN;
}

static enum spin_bench_outcome outcome_of(const struct spin_load_call *call, spin_status status,
                                          const char *text)
{
    switch (status) {
    case SPIN_OK:
        return SPIN_BENCH_OK;
    case SPIN_ERR_EXHAUSTED:
    case SPIN_ERR_NO_MEMORY:
    case SPIN_ERR_AGAIN:
    case SPIN_ERR_SHUTDOWN:
        return SPIN_BENCH_BUSY;
    case SPIN_ERR_PEER_LOST:
        return outcome_of_loss(call, text);
    case SPIN_ERR_INVALID:
    case SPIN_ERR_LIMIT:
    case SPIN_ERR_NOT_FOUND:
    case SPIN_ERR_UNSUPPORTED:
    case SPIN_ERR_DENIED:
    case SPIN_ERR_PEER_MISMATCH:
        return SPIN_BENCH_REFUSED;
    case SPIN_ERR_DEADLINE:
        return SPIN_BENCH_TIMEOUT;
    case SPIN_ERR_CORRUPT:
        return SPIN_BENCH_PROTOCOL;
    case SPIN_ERR_CANCELLED:
        return SPIN_BENCH_BROKEN;
    case SPIN_ERR_IO:
    case SPIN_ERR_DEVICE_LOST:
    case SPIN_ERR_INTERNAL:
        return SPIN_BENCH_SERVER;
    }
    return SPIN_BENCH_SERVER;
}

static void on_finished(void *context, spin_status status, const char *text)
{
    struct spin_load_call *call = context;
    spin_load_end(call, outcome_of(call, status, text), text);
}

/* --- on the loop --- */

static spin_status submit(struct spin_load_driver *driver, struct spin_load_call *call,
                          struct spin_error *err)
{
    struct grpc *grpc = SPIN_CONTAINER_OF(driver, struct grpc, base);
    const struct spin_client_handlers handlers = {
        .context = call, .delta = on_delta, .finished = on_finished};
    const struct spin_client_message message = {.role = "user", .content = call->prompt};
    const struct spin_client_request request = {
        .model = grpc->model[0] == '\0' ? NULL : grpc->model,
        .text = grpc->chat ? NULL : call->prompt,
        .messages = grpc->chat ? &message : NULL,
        .message_count = grpc->chat ? 1 : 0,
        .max_tokens = call->record.asked_tokens,
        .seed = call->seed,
        .ignore_eos = grpc->ignore_eos,
    };
    struct spin_client_call *handle = NULL;
    const spin_status status = spin_client_submit(grpc->client, &request, &handlers, &handle, err);
    call->state = handle;
    return status;
}

static void cancel(struct spin_load_driver *driver, struct spin_load_call *call)
{
    (void)driver;
    spin_client_call_cancel(call->state);
}

static void forget(struct spin_load_driver *driver, struct spin_load_call *call)
{
    (void)driver;
    spin_client_call_release(call->state);
    call->state = NULL;
}

static void destroy(struct spin_load_driver *driver)
{
    struct grpc *grpc = SPIN_CONTAINER_OF(driver, struct grpc, base);
    spin_client_close(grpc->client);
    free(grpc);
}

static spin_status open_connection(struct grpc *grpc, const struct spin_load_grpc_config *config,
                                   char model_name[SPIN_LOAD_MODEL_BYTES], struct spin_error *err)
{
    struct spin_client_model model;
    const char *wanted = config->model == NULL ? "" : config->model;
    if (strlen(wanted) >= sizeof grpc->model) {
        return spin_fail(err, SPIN_ERR_INVALID, "--model: longer than %zu bytes",
                         sizeof grpc->model - 1);
    }
    (void)snprintf(grpc->model, sizeof grpc->model, "%s", wanted);
    SPIN_TRY(spin_client_connect(&config->client, &grpc->client, err));
    SPIN_TRY(spin_client_get_model(grpc->client, &model, err));
    (void)snprintf(model_name, SPIN_LOAD_MODEL_BYTES, "%s",
                   wanted[0] != '\0' ? wanted : model.name);
    return SPIN_OK;
}

spin_status spin_load_grpc_create(const struct spin_load_grpc_config *config,
                                  struct spin_load_driver **out,
                                  char model_name[SPIN_LOAD_MODEL_BYTES], struct spin_error *err)
{
    SPIN_ASSERT_EQ(config->client.retries_max, 0);
    struct grpc *grpc = calloc(1, sizeof *grpc);
    if (grpc == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a driver: %zu bytes", sizeof *grpc);
    }
    grpc->chat = config->chat;
    grpc->ignore_eos = config->ignore_eos;
    grpc->base = (struct spin_load_driver){.name = "grpc",
                                           .submit = submit,
                                           .cancel = cancel,
                                           .forget = forget,
                                           .destroy = destroy,
                                           .loop = config->loop};
    const spin_status status = open_connection(grpc, config, model_name, err);
    if (status != SPIN_OK) {
        destroy(&grpc->base);
        return status;
    }
    *out = &grpc->base;
    return SPIN_OK;
}
