#include "base/assert.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "bench/load/stub_internal.h"
#include "proto/rpc_server.h"
#include "proto/spin/v1/inference.pb-c.h"

#include <stdlib.h>
#include <string.h>

#define CALLS_MAX 16384u
#define OUTBOX_BYTES (UINT64_C(64) << 10)
#define TEXT_BYTES_MAX 512u
#define GRACE_NS SPIN_NS_PER_S

struct stub_grpc {
    struct spin_load_stub *stub;
    struct spin_rpc_method methods[2];
    struct spin_rpc_server *server;
    bool is_started;
    struct spin_list open;            /* loop: every stream that is begun and not finished */
    struct spin_loop_message drained; /* comes after all that was posted before it */
    struct spin_mutex mutex;          /* the next one, and two in each stream */
    bool is_stopping;                 /* nothing is posted any more */
};

/* In the call's state, which is gone soon after the call is finished. The loop finishes a stream
 * unless a message about it is still on its way to the loop: then that one does. */
struct grpc_stream {
    struct stub_stream base;
    struct stub_grpc *grpc;
    struct spin_rpc_call *call;
    struct spin_link open_link;
    struct spin_loop_message started;
    struct spin_loop_message gone;
    bool is_gone;     /* under the mutex: `gone` is posted */
    bool is_finished; /* under the mutex */
};

static char *borrow_text(const char *text)
{
    char *borrowed;
    memcpy(&borrowed, &text, sizeof text); /* protobuf-c has no const; it only reads */
    return borrowed;
}

/* --- answers --- */

static void append(struct grpc_stream *stream, Spin__V1__Delta *delta)
{
    Spin__V1__InferenceResponse response;
    spin__v1__inference_response__init(&response);
    response.n_deltas = 1;
    response.deltas = &delta;
    spin_rpc_call_append(stream->call, &response.base);
}

static void send_tokens(struct stub_stream *base, uint32_t tokens)
{
    struct grpc_stream *stream = SPIN_CONTAINER_OF(base, struct grpc_stream, base);
    char text[TEXT_BYTES_MAX] = "";
    static const char word[] = " word";
    for (uint32_t i = 0; i < tokens && (i + 1) * sizeof word < sizeof text; i++) {
        memcpy(text + i * (sizeof word - 1), word, sizeof word);
    }
    Spin__V1__Delta delta;
    spin__v1__delta__init(&delta);
    delta.text = text;
    append(stream, &delta);
}

static void append_ending(struct grpc_stream *stream)
{
    Spin__V1__Usage usage;
    spin__v1__usage__init(&usage);
    usage.prompt_tokens = stream->base.prompt_tokens;
    usage.completion_tokens = stream->base.tokens;
    Spin__V1__Ending ending;
    spin__v1__ending__init(&ending);
    ending.reason = SPIN__V1__FINISH_REASON__FINISH_LENGTH;
    ending.usage = &usage;
    Spin__V1__Delta delta;
    spin__v1__delta__init(&delta);
    delta.ending = &ending;
    append(stream, &delta);
}

static spin_status status_of(enum spin_load_fault fault)
{
    switch (fault) {
    case SPIN_LOAD_FAULT_BUSY:
        return SPIN_ERR_EXHAUSTED;
    case SPIN_LOAD_FAULT_CUT:
    case SPIN_LOAD_FAULT_SHORT:
        return SPIN_ERR_PEER_LOST;
    case SPIN_LOAD_FAULT_GARBAGE:
        return SPIN_ERR_CORRUPT;
    case SPIN_LOAD_FAULT_REFUSE:
    case SPIN_LOAD_FAULT_ERROR:
        return SPIN_ERR_INTERNAL;
    case SPIN_LOAD_FAULT_NONE:
    case SPIN_LOAD_FAULT_STALL:
    case SPIN_LOAD_FAULT_EMPTY:
    case SPIN_LOAD_FAULTS:
        break;
    }
    return SPIN_OK;
}

static void finish(struct grpc_stream *stream, spin_status status, const char *text)
{
    struct stub_grpc *grpc = stream->grpc;
    spin_mutex_lock(&grpc->mutex);
    const bool is_gone = stream->is_gone;
    stream->is_finished = !is_gone;
    spin_mutex_unlock(&grpc->mutex);
    if (!is_gone) {
        spin_list_remove(&grpc->open, &stream->open_link);
        spin_rpc_call_finish(stream->call, status, text);
    }
}

static void end_answer(struct stub_stream *base, enum spin_load_fault fault)
{
    struct grpc_stream *stream = SPIN_CONTAINER_OF(base, struct grpc_stream, base);
    const spin_status status = status_of(fault);
    if (status == SPIN_OK) {
        append_ending(stream);
    }
    finish(stream, status, "the stub was told to fail");
}

static const struct stub_carrier carrier = {.send = send_tokens, .end = end_answer};

/* --- on the loop --- */

static void on_started(struct spin_loop_message *message)
{
    struct grpc_stream *stream = SPIN_CONTAINER_OF(message, struct grpc_stream, started);
    struct spin_load_stub *stub = stream->grpc->stub;
    const enum spin_load_fault fault = spin_load_stub_next_fault(stub);
    stream->base.fault = fault;
    spin_list_push_back(&stream->grpc->open, &stream->open_link);
    if (fault == SPIN_LOAD_FAULT_REFUSE || fault == SPIN_LOAD_FAULT_BUSY) {
        end_answer(&stream->base, fault);
    } else {
        spin_load_stub_begin(stub, &stream->base);
    }
}

static void on_gone(struct spin_loop_message *message)
{
    struct grpc_stream *stream = SPIN_CONTAINER_OF(message, struct grpc_stream, gone);
    spin_load_stub_leave(&stream->base);
    spin_list_remove(&stream->grpc->open, &stream->open_link);
    spin_rpc_call_finish(stream->call, SPIN_ERR_CANCELLED, "the client left");
}

/* --- on the rpc thread --- */

static uint32_t count_words(const char *text)
{
    uint32_t words = *text == '\0' ? 0 : 1;
    for (; *text != '\0'; text++) {
        words += *text == ' ' ? 1 : 0;
    }
    return words;
}

static uint32_t prompt_tokens(const Spin__V1__Prompt *prompt)
{
    if (prompt == NULL) {
        return 0;
    }
    return count_words(prompt->n_messages != 0 ? prompt->messages[0]->content : prompt->text);
}

static void start_generate(void *context, struct spin_rpc_call *call,
                           const struct ProtobufCMessage *message)
{
    struct stub_grpc *grpc = context;
    const Spin__V1__InferenceRequest *request = (const Spin__V1__InferenceRequest *)message;
    struct grpc_stream *stream = spin_rpc_call_state(call);
    const uint32_t asked = request->sampling == NULL ? 0 : request->sampling->max_tokens;
    stream->grpc = grpc;
    stream->call = call;
    stream->started.run = on_started;
    stream->gone.run = on_gone;
    stream->base.carrier = &carrier;
    stream->base.prompt_tokens = prompt_tokens(request->prompt);
    stream->base.tokens_max = SPIN_MAX(asked, 1);
    spin_mutex_lock(&grpc->mutex);
    const bool is_stopping = grpc->is_stopping;
    if (!is_stopping) {
        spin_loop_post(grpc->stub->loop, &stream->started);
    }
    spin_mutex_unlock(&grpc->mutex);
    if (is_stopping) {
        spin_rpc_call_finish(call, SPIN_ERR_SHUTDOWN, "the stub stops");
    }
}

static void gone_generate(void *context, struct spin_rpc_call *call)
{
    struct stub_grpc *grpc = context;
    struct grpc_stream *stream = spin_rpc_call_state(call);
    spin_mutex_lock(&grpc->mutex);
    if (!grpc->is_stopping && !stream->is_finished) {
        stream->is_gone = true;
        spin_loop_post(grpc->stub->loop, &stream->gone);
    }
    spin_mutex_unlock(&grpc->mutex);
}

static void get_model(void *context, struct spin_rpc_call *call,
                      const struct ProtobufCMessage *request)
{
    (void)context;
    (void)request;
    Spin__V1__ModelIdentity model;
    spin__v1__model_identity__init(&model);
    model.name = borrow_text("stub");
    model.vocab = 256;
    model.max_model_len = 1u << 24;
    Spin__V1__GetModelResponse response;
    spin__v1__get_model_response__init(&response);
    response.model = &model;
    response.workers = 1;
    spin_rpc_call_append(call, &response.base);
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}

/* --- life --- */

static void fill_methods(struct stub_grpc *grpc)
{
    grpc->methods[0] = (struct spin_rpc_method){.path = "/spin.v1.Inference/Generate",
                                                .request = &spin__v1__inference_request__descriptor,
                                                .request_bytes_max = SPIN_RPC_GENERATE_BYTES_MAX,
                                                .arena_bytes_max = 4 * SPIN_RPC_GENERATE_BYTES_MAX,
                                                .outbox_bytes = OUTBOX_BYTES,
                                                .calls_max = CALLS_MAX,
                                                .state_bytes = sizeof(struct grpc_stream),
                                                .context = grpc,
                                                .start = start_generate,
                                                .gone = gone_generate};
    grpc->methods[1] = (struct spin_rpc_method){.path = "/spin.v1.Inference/GetModel",
                                                .request = &spin__v1__get_model_request__descriptor,
                                                .request_bytes_max = 4096,
                                                .arena_bytes_max = UINT64_C(64) << 10,
                                                .outbox_bytes = OUTBOX_BYTES,
                                                .calls_max = 64,
                                                .context = grpc,
                                                .start = get_model};
}

spin_status spin_load_stub_open_grpc(struct spin_load_stub *stub, struct spin_error *err)
{
    struct stub_grpc *grpc = calloc(1, sizeof *grpc);
    if (grpc == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a server: %zu bytes", sizeof *grpc);
    }
    stub->grpc = grpc;
    grpc->stub = stub;
    spin_mutex_init(&grpc->mutex);
    spin_list_init(&grpc->open);
    fill_methods(grpc);
    const struct spin_rpc_server_config config = {.listen = stub->config.grpc_listen,
                                                  .listen_flag = "--grpc",
                                                  .methods = grpc->methods,
                                                  .method_count = SPIN_ARRAY_COUNT(grpc->methods),
                                                  .context = grpc};
    SPIN_TRY(spin_rpc_server_create(&config, &grpc->server, err));
    SPIN_TRY(spin_rpc_server_start(grpc->server, err));
    grpc->is_started = true;
    spin_rpc_server_set_serving(grpc->server, true);
    return SPIN_OK;
}

uint32_t spin_load_stub_port_grpc(const struct stub_grpc *grpc)
{
    return spin_rpc_server_port(grpc->server);
}

static void on_drained(struct spin_loop_message *message)
{
    spin_loop_stop(SPIN_CONTAINER_OF(message, struct stub_grpc, drained)->stub->loop);
}

/* After this no message is on its way and none will be. */
static void stop_posting(struct stub_grpc *grpc)
{
    spin_mutex_lock(&grpc->mutex);
    grpc->is_stopping = true;
    spin_mutex_unlock(&grpc->mutex);
    grpc->drained.run = on_drained;
    spin_loop_post(grpc->stub->loop, &grpc->drained);
    spin_loop_run(grpc->stub->loop);
}

static void finish_open(struct stub_grpc *grpc)
{
    struct spin_link *link = spin_list_first(&grpc->open);
    for (; link != NULL; link = spin_list_first(&grpc->open)) {
        struct grpc_stream *stream = SPIN_CONTAINER_OF(link, struct grpc_stream, open_link);
        spin_load_stub_leave(&stream->base);
        finish(stream, SPIN_ERR_SHUTDOWN, "the stub stops");
    }
}

void spin_load_stub_close_grpc(struct stub_grpc *grpc)
{
    if (grpc == NULL) {
        return;
    }
    if (grpc->is_started) {
        stop_posting(grpc);
        finish_open(grpc);
        spin_rpc_server_stop(grpc->server, GRACE_NS);
    }
    spin_rpc_server_destroy(grpc->server);
    spin_mutex_deinit(&grpc->mutex);
    free(grpc);
}
