#include "client/spin_client.h"

#include "base/arena.h"
#include "base/assert.h"
#include "base/clock.h"
#include "client/spin_client_internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define CONNECT_TIMEOUT_NS (10 * SPIN_NS_PER_S)
#define RETRIES_MAX 3u
/* What a request needs besides its own bytes: a struct and a pointer for each message and bias. */
#define REQUEST_ARENA_BYTES (UINT64_C(256) << 20)
#define REQUEST_CHUNK_BYTES (UINT64_C(4) << 10)
#define MODEL_TIMEOUT_NS (10 * SPIN_NS_PER_S) /* a router knows the answer */

struct spin_client_config spin_client_config_default(void)
{
    return (struct spin_client_config){.target = "127.0.0.1:9000", .retries_max = RETRIES_MAX};
}

/* --- connect, close --- */

static spin_status connect_rpc(struct spin_client *client, const struct spin_client_config *config,
                               struct spin_error *err)
{
    const struct spin_rpc_client_config rpc = {
        .target = config->target,
        .bearer = config->api_key,
        .tls = {.cert_file = config->cert_file,
                .key_file = config->key_file,
                .ca_file = config->ca_file,
                .enabled = config->tls},
    };
    SPIN_TRY(spin_rpc_thread_create(&client->thread, err));
    SPIN_TRY(spin_rpc_client_create(client->thread, &rpc, &client->rpc, err));
    client->pauses_started =
        pthread_create(&client->pauses, NULL, spin_client_run_pauses, client) == 0;
    if (!client->pauses_started) {
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "client: cannot start its thread");
    }
    return SPIN_OK;
}

static spin_status wait_ready(struct spin_client *client, uint64_t timeout_ns,
                              struct spin_error *err)
{
    const uint64_t timeout = timeout_ns == 0 ? CONNECT_TIMEOUT_NS : timeout_ns;
    if (spin_rpc_client_wait_ready(client->rpc, spin_client_deadline_ns(timeout), NULL) !=
        SPIN_OK) {
        return spin_fail(err, SPIN_ERR_PEER_LOST, "no router answers at %.128s within %.1f s",
                         client->target, (double)timeout / (double)SPIN_NS_PER_S);
    }
    return SPIN_OK;
}

spin_status spin_client_connect(const struct spin_client_config *config, struct spin_client **out,
                                struct spin_error *err)
{
    struct spin_client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "client: %zu bytes", sizeof *client);
    }
    spin_mutex_init(&client->mutex);
    spin_cond_init(&client->changed);
    spin_list_init(&client->paused);
    (void)snprintf(client->target, sizeof client->target, "%s", config->target);
    client->retries_max = config->retries_max;
    if (getrandom(&client->rng.seed, sizeof client->rng.seed, GRND_NONBLOCK) < 0) {
        client->rng.seed = spin_now_ns(spin_clock_real()); /* it is only jitter */
    }
    /* The program's signals are not for the threads that start here. */
    sigset_t all;
    sigset_t before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    spin_status status = connect_rpc(client, config, err);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (status == SPIN_OK) {
        status = wait_ready(client, config->connect_timeout_ns, err);
    }
    if (status != SPIN_OK) {
        spin_client_close(client);
        return status;
    }
    *out = client;
    return SPIN_OK;
}

void spin_client_close(struct spin_client *client)
{
    if (client == NULL) {
        return;
    }
    spin_mutex_lock(&client->mutex);
    client->closing = true;
    spin_cond_broadcast(&client->changed);
    spin_mutex_unlock(&client->mutex);
    if (client->pauses_started) {
        (void)pthread_join(client->pauses, NULL);
    }
    spin_rpc_client_destroy(client->rpc);
    spin_rpc_thread_destroy(client->thread);
    SPIN_ASSERT_EQ(client->paused.count, 0);
    spin_client_scratch_deinit(&client->scratch);
    spin_cond_deinit(&client->changed);
    spin_mutex_deinit(&client->mutex);
    free(client);
}

/* --- generate --- */

struct generation {
    struct spin_client *client;
    struct spin_client_reader reader;
    spin_client_finished_fn finished; /* NULL: generate waits */
    struct spin_error refused;        /* what the router sent was not in order */
};

static bool on_answered(void *context, const struct ProtobufCMessage *message)
{
    struct generation *generation = context;
    bool wanted = false;
    const spin_status status = spin_client_read_deltas(
        &generation->reader, &generation->client->scratch,
        (const Spin__V1__InferenceResponse *)message, &wanted, &generation->refused);
    return status == SPIN_OK && wanted;
}

/* What the call's end means: a stream without all its endings has not ended well. */
static void judge(const struct generation *generation, struct spin_error *outcome)
{
    if (generation->refused.status != SPIN_OK) {
        *outcome = generation->refused;
    } else if (outcome->status == SPIN_OK && generation->reader.ended != generation->reader.n) {
        (void)spin_fail(outcome, SPIN_ERR_INTERNAL, "the router ended %u of %u answers",
                        generation->reader.ended, generation->reader.n);
    }
}

static void on_finished(void *context, spin_status status, const char *text)
{
    struct generation *generation = context;
    struct spin_error outcome = {0};
    (void)spin_fail(&outcome, status, "%s", text);
    judge(generation, &outcome);
    generation->finished(generation->reader.context, outcome.status, outcome.text);
    free(generation);
}

static struct generation generation_of(struct spin_client *client,
                                       const struct spin_client_request *request,
                                       spin_client_delta_fn on_delta, void *context)
{
    return (struct generation){.client = client,
                               .reader = {.on_delta = on_delta,
                                          .context = context,
                                          .logprobs = request->logprobs,
                                          .n = SPIN_MAX(request->n, 1)}};
}

static struct spin_client_exchange exchange_of(struct generation *generation,
                                               const Spin__V1__InferenceRequest *message,
                                               uint64_t duration_ns)
{
    return (struct spin_client_exchange){.path = "/spin.v1.Inference/Generate",
                                         .message = &message->base,
                                         .response = &spin__v1__inference_response__descriptor,
                                         .deadline_ns = spin_client_deadline_ns(duration_ns),
                                         .context = generation,
                                         .answered = on_answered,
                                         .finished = on_finished};
}

spin_status spin_client_submit(struct spin_client *client,
                               const struct spin_client_request *request,
                               const struct spin_client_handlers *handlers,
                               struct spin_client_call **out, struct spin_error *err)
{
    struct spin_arena *arena = NULL;
    SPIN_TRY(spin_arena_create(REQUEST_CHUNK_BYTES, REQUEST_ARENA_BYTES, &arena, err));
    Spin__V1__InferenceRequest message;
    struct generation *generation = malloc(sizeof *generation);
    spin_status status;
    if (generation == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "request: %zu bytes", sizeof *generation);
        goto done;
    }
    *generation = generation_of(client, request, handlers->delta, handlers->context);
    generation->finished = handlers->finished;
    SPIN_TRY_GOTO(status, spin_client_request_fill(request, arena, &message, err), done);
    const struct spin_client_exchange exchange =
        exchange_of(generation, &message, request->deadline_ns);
    status = spin_client_call_start(client, &exchange, out, err);
done:
    if (status != SPIN_OK) {
        free(generation);
    }
    spin_arena_destroy(arena);
    return status;
}

spin_status spin_client_generate(struct spin_client *client,
                                 const struct spin_client_request *request,
                                 spin_client_delta_fn on_delta, void *context,
                                 struct spin_error *err)
{
    struct spin_arena *arena = NULL;
    SPIN_TRY(spin_arena_create(REQUEST_CHUNK_BYTES, REQUEST_ARENA_BYTES, &arena, err));
    Spin__V1__InferenceRequest message;
    struct generation generation = generation_of(client, request, on_delta, context);
    struct spin_error outcome = {0};
    if (spin_client_request_fill(request, arena, &message, &outcome) == SPIN_OK) {
        const struct spin_client_exchange exchange =
            exchange_of(&generation, &message, request->deadline_ns);
        outcome.status = spin_client_call_run(client, &exchange, &outcome);
        judge(&generation, &outcome);
    }
    spin_arena_destroy(arena);
    if (err != NULL) {
        *err = outcome;
    }
    return outcome.status;
}

/* --- the model --- */

static bool on_model(void *context, const struct ProtobufCMessage *base)
{
    struct spin_client_model *model = context;
    const Spin__V1__GetModelResponse *message = (const Spin__V1__GetModelResponse *)base;
    (void)snprintf(model->chat_format, sizeof model->chat_format, "%s", message->chat_format);
    model->workers = message->workers;
    if (message->model != NULL) {
        (void)snprintf(model->name, sizeof model->name, "%s", message->model->name);
        model->vocab = message->model->vocab;
        model->max_model_len = message->model->max_model_len;
    }
    return true;
}

spin_status spin_client_get_model(struct spin_client *client, struct spin_client_model *out,
                                  struct spin_error *err)
{
    Spin__V1__GetModelRequest message;
    spin__v1__get_model_request__init(&message);
    struct spin_client_model model = {.vocab = 0};
    const struct spin_client_exchange exchange = {
        .path = "/spin.v1.Inference/GetModel",
        .message = &message.base,
        .response = &spin__v1__get_model_response__descriptor,
        .deadline_ns = spin_client_deadline_ns(MODEL_TIMEOUT_NS),
        .context = &model,
        .answered = on_model};
    SPIN_TRY(spin_client_call_run(client, &exchange, err));
    *out = model;
    return SPIN_OK;
}
