/* One Generate call: a request into the engine, its tokens back out.
 *
 *   rpc thread      start: read, submit ............ gone: cancel
 *   engine thread               token, token, ..., finished -> status
 */
#include "base/assert.h"
#include "worker/service/metrics.h"
#include "worker/service/service_internal.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>

struct generate {
    struct spin_service *service;
    struct spin_rpc_call *call;
    uint64_t ticket; /* rpc thread: written in start, read in gone */
    bool logprobs;
    _Atomic uint64_t gone_ns; /* when the client left; 0: it did not. Publishes nothing else */
};

/* A Token message with what it points to, built on the engine's stack. */
struct packed_token {
    Spin__V1__Token token;
    Spin__V1__TokenLogprob top[SPIN_TOP_LOGPROBS_MAX];
    Spin__V1__TokenLogprob *top_list[SPIN_TOP_LOGPROBS_MAX];
    Spin__V1__Token *list[1];
};

static void fill_token(struct packed_token *out, const struct spin_sampled *sampled, bool logprobs)
{
    SPIN_ASSERT_LE(sampled->top_count, SPIN_TOP_LOGPROBS_MAX);
    spin__v1__token__init(&out->token);
    out->token.token = sampled->token;
    out->token.logprob = logprobs ? sampled->logprob : 0; /* 0 takes no bytes */
    for (uint32_t i = 0; i < sampled->top_count; i++) {
        spin__v1__token_logprob__init(&out->top[i]);
        out->top[i].token = sampled->top[i].token;
        out->top[i].logprob = sampled->top[i].logprob;
        out->top_list[i] = &out->top[i];
    }
    out->token.n_top = sampled->top_count;
    out->token.top = out->top_list;
    out->list[0] = &out->token;
}

static void on_token(void *context, const struct spin_sampled *sampled)
{
    struct generate *generate = context;
    struct packed_token packed;
    fill_token(&packed, sampled, generate->logprobs);
    Spin__V1__GenerateResponse response;
    spin__v1__generate_response__init(&response);
    response.tokens = packed.list;
    response.n_tokens = 1;
    spin_rpc_call_append(generate->call, &response.base);
}

static void on_prompt_token(void *context, const struct spin_sampled *sampled)
{
    struct generate *generate = context;
    struct packed_token packed;
    fill_token(&packed, sampled, true);
    Spin__V1__GenerateResponse response;
    spin__v1__generate_response__init(&response);
    response.prompt = packed.list;
    response.n_prompt = 1;
    spin_rpc_call_append(generate->call, &response.base);
}

static Spin__V1__FinishReason wire_reason(enum spin_finish_reason reason)
{
    switch (reason) {
    case SPIN_FINISH_STOP:
        return SPIN__V1__FINISH_REASON__FINISH_STOP;
    case SPIN_FINISH_LENGTH:
        return SPIN__V1__FINISH_REASON__FINISH_LENGTH;
    case SPIN_FINISH_CANCELLED:
        return SPIN__V1__FINISH_REASON__FINISH_CANCELLED;
    case SPIN_FINISH_DEADLINE:
        return SPIN__V1__FINISH_REASON__FINISH_DEADLINE;
    case SPIN_FINISH_ERROR:
        return SPIN__V1__FINISH_REASON__FINISH_ERROR;
    }
    return SPIN__V1__FINISH_REASON__FINISH_NONE;
}

/* How the call ends. Streams that a shutdown cut off may be resumed elsewhere: UNAVAILABLE. */
static spin_status end_status(const struct generate *generate, const struct spin_finish *finish,
                              struct spin_error *err)
{
    switch (finish->reason) {
    case SPIN_FINISH_STOP:
    case SPIN_FINISH_LENGTH:
        return SPIN_OK;
    case SPIN_FINISH_CANCELLED:
        return spin_service_is_draining(generate->service)
                   ? spin_fail(err, SPIN_ERR_SHUTDOWN, "the worker is shutting down")
                   : spin_fail(err, SPIN_ERR_CANCELLED, "cancelled");
    case SPIN_FINISH_DEADLINE:
        return spin_fail(err, SPIN_ERR_DEADLINE, "the deadline passed after %u tokens",
                         finish->usage.completion_tokens);
    case SPIN_FINISH_ERROR:
        return spin_fail(err, finish->status, "%s",
                         finish->text != NULL ? finish->text : spin_status_text(finish->status));
    }
    return spin_fail(err, SPIN_ERR_INTERNAL, "unknown finish reason");
}

/* The request's pages are free by now. */
static void count_gone(struct generate *generate)
{
    struct spin_metrics *metrics = spin_service_get_identity(generate->service)->metrics;
    const uint64_t gone_ns = atomic_load_explicit(&generate->gone_ns, memory_order_relaxed);
    if (gone_ns != 0 && metrics != NULL) {
        const uint64_t spent_ns = spin_now_ns(spin_clock_real()) - gone_ns;
        spin_metrics_observe(metrics, SPIN_SERVICE_METRIC_CLIENT_GONE,
                             (double)spent_ns / (double)SPIN_NS_PER_S);
    }
}

static void on_finished(void *context, const struct spin_finish *finish)
{
    struct generate *generate = context;
    count_gone(generate);
    Spin__V1__Usage usage;
    spin__v1__usage__init(&usage);
    usage.prompt_tokens = finish->usage.prompt_tokens;
    usage.cached_tokens = finish->usage.cached_tokens;
    usage.completion_tokens = finish->usage.completion_tokens;
    usage.preemptions = finish->usage.preemptions;
    usage.queue_ns = finish->usage.queue_ns;
    usage.prefill_ns = finish->usage.prefill_ns;
    usage.decode_ns = finish->usage.decode_ns;

    struct spin_error err = {0};
    const spin_status status = end_status(generate, finish, &err);
    Spin__V1__Finish last;
    spin__v1__finish__init(&last);
    last.reason = wire_reason(finish->reason);
    last.stop_token = finish->stop_token;
    last.usage = &usage;
    if (finish->reason == SPIN_FINISH_ERROR) {
        last.error = err.text;
    }
    Spin__V1__GenerateResponse response;
    spin__v1__generate_response__init(&response);
    response.finish = &last;
    spin_rpc_call_append(generate->call, &response.base);
    spin_rpc_call_finish(generate->call, status, err.text);
}

static spin_status submit(struct generate *generate, const Spin__V1__GenerateRequest *message,
                          struct spin_error *err)
{
    const struct spin_service_identity *identity = spin_service_get_identity(generate->service);
    if (spin_service_is_draining(generate->service)) {
        return spin_fail(err, SPIN_ERR_SHUTDOWN, "the worker is shutting down");
    }
    struct spin_generate_request read;
    SPIN_TRY(spin_generate_request_read(message, &identity->limits, &read, err));
    generate->logprobs = read.request.logprobs;
    read.request.deadline_ns = spin_rpc_call_deadline_ns(generate->call);
    read.request.sink = (struct spin_sink){.context = generate,
                                           .prompt_token = on_prompt_token,
                                           .token = on_token,
                                           .finished = on_finished};
    return spin_engine_submit(identity->engine, &read.request, &generate->ticket, err);
}

uint32_t spin_generate_state_bytes(void)
{
    return sizeof(struct generate);
}

void spin_generate_start(void *context, struct spin_rpc_call *call,
                         const struct ProtobufCMessage *request)
{
    struct generate *generate = spin_rpc_call_state(call);
    generate->service = context;
    generate->call = call;
    struct spin_error err = {0};
    const spin_status status = submit(generate, (const Spin__V1__GenerateRequest *)request, &err);
    if (status != SPIN_OK) { /* the engine will not call back */
        spin_rpc_call_finish(call, status, err.text);
    }
}

void spin_generate_gone(void *context, struct spin_rpc_call *call)
{
    (void)context;
    struct generate *generate = spin_rpc_call_state(call);
    const struct spin_service_identity *identity = spin_service_get_identity(generate->service);
    atomic_store_explicit(&generate->gone_ns, spin_now_ns(spin_clock_real()), memory_order_relaxed);
    spin_engine_cancel(identity->engine, generate->ticket);
}
