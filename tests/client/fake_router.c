#include "tests/client/fake_router.h"

#include "base/assert.h"
#include "base/clock.h"
#include "tests/spin_test.h"

#include <pthread.h>
#include <time.h>

#define OUTBOX_BYTES (256u << 10)
#define FLOOD_TEXT_BYTES (16u << 10)
#define FLOOD_MESSAGES 4096u /* 64 MiB: more than sockets and flow control hold */

static void append(struct spin_rpc_call *call, Spin__V1__Delta **deltas, size_t count)
{
    Spin__V1__InferenceResponse response;
    spin__v1__inference_response__init(&response);
    char id[] = "fake-1";
    response.request_id = id;
    response.deltas = deltas;
    response.n_deltas = count;
    spin_rpc_call_append(call, &response.base);
}

static void append_text(struct spin_rpc_call *call, uint32_t index, char *text)
{
    Spin__V1__Delta delta;
    spin__v1__delta__init(&delta);
    Spin__V1__Delta *list[] = {&delta};
    delta.index = index;
    delta.text = text;
    append(call, list, 1);
}

static void append_ending(struct spin_rpc_call *call, uint32_t index, Spin__V1__FinishReason reason)
{
    Spin__V1__Usage usage;
    spin__v1__usage__init(&usage);
    usage.prompt_tokens = 5;
    usage.completion_tokens = 2;
    usage.cached_tokens = 1;
    usage.queue_ns = 10;
    usage.prefill_ns = 20;
    usage.decode_ns = 30;
    Spin__V1__Ending ending;
    spin__v1__ending__init(&ending);
    ending.reason = reason;
    ending.usage = &usage;
    ending.recoveries = 3;
    ending.stop_token = reason == SPIN__V1__FINISH_REASON__FINISH_STOP ? 42 : -1;
    Spin__V1__Delta delta;
    spin__v1__delta__init(&delta);
    Spin__V1__Delta *list[] = {&delta};
    delta.index = index;
    delta.ending = &ending;
    append(call, list, 1);
}

static void append_rich(struct spin_rpc_call *call)
{
    Spin__V1__TokenLogprob top[2];
    Spin__V1__TokenLogprob *top_list[] = {&top[0], &top[1]};
    Spin__V1__Token tokens[2];
    Spin__V1__Token *token_list[] = {&tokens[0], &tokens[1]};
    Spin__V1__Token prompt[2];
    Spin__V1__Token *prompt_list[] = {&prompt[0], &prompt[1]};
    for (int32_t i = 0; i < 2; i++) {
        spin__v1__token_logprob__init(&top[i]);
        spin__v1__token__init(&tokens[i]);
        spin__v1__token__init(&prompt[i]);
        top[i].token = 100 + i;
        top[i].logprob = -1.5F - (float)i;
        tokens[i].token = 10 + i;
        tokens[i].logprob = -0.25F;
        prompt[i].token = 20 + i;
        prompt[i].logprob = i == 0 ? NAN : -3;
    }
    tokens[1].top = top_list;
    tokens[1].n_top = 2;
    char text[] = "ab";
    Spin__V1__Delta delta;
    spin__v1__delta__init(&delta);
    Spin__V1__Delta *list[] = {&delta};
    delta.index = 1;
    delta.text = text;
    delta.tokens = token_list;
    delta.n_tokens = 2;
    delta.prompt = prompt_list;
    delta.n_prompt = 2;
    append(call, list, 1);
}

/* Faster than a reader who has stopped, slow enough that one who reads keeps up. */
static void *run_flood(void *self)
{
    struct fake_router *fake = self;
    const struct timespec pause = {.tv_nsec = 100000};
    char *text = malloc(FLOOD_TEXT_BYTES + 1);
    SPIN_ASSERT(text != NULL);
    memset(text, 'x', FLOOD_TEXT_BYTES);
    text[FLOOD_TEXT_BYTES] = '\0';
    for (uint32_t i = 0; i < FLOOD_MESSAGES && __atomic_load_n(&fake->gone, __ATOMIC_SEQ_CST) == 0;
         i++) {
        append_text(fake->flooded, 0, text);
        (void)nanosleep(&pause, NULL);
    }
    free(text);
    spin_rpc_call_finish(fake->flooded, SPIN_OK, NULL);
    return NULL;
}

static void start_flood(struct fake_router *fake, struct spin_rpc_call *call)
{
    pthread_t thread;
    fake->flooded = call;
    SPIN_ASSERT_EQ(pthread_create(&thread, NULL, run_flood, fake), 0);
    SPIN_ASSERT_EQ(pthread_detach(thread), 0); /* the call's end is its last act */
}

static void play(struct fake_router *fake, struct spin_rpc_call *call)
{
    char first[] = "Hel";
    char second[] = "lo";
    char text[] = "the script says so";
    switch (fake->act) {
    case FAKE_ANSWER:
        append_text(call, 0, first);
        append_text(call, 0, second);
        append_ending(call, 0, SPIN__V1__FINISH_REASON__FINISH_STOP);
        spin_rpc_call_finish(call, SPIN_OK, NULL);
        break;
    case FAKE_REFUSE:
        spin_rpc_call_finish(call, fake->status, text);
        break;
    case FAKE_BREAK:
        append_text(call, 0, first);
        spin_rpc_call_finish(call, fake->status, text);
        break;
    case FAKE_HANG:
        break;
    case FAKE_BEGIN:
        append_text(call, 0, first);
        break;
    case FAKE_NO_ENDING:
        append_text(call, 0, first);
        spin_rpc_call_finish(call, SPIN_OK, NULL);
        break;
    case FAKE_WRONG:
        append_text(call, 7, first);
        spin_rpc_call_finish(call, SPIN_OK, NULL);
        break;
    case FAKE_RICH:
        append_rich(call);
        append_ending(call, 1, SPIN__V1__FINISH_REASON__FINISH_LENGTH);
        append_ending(call, 0, SPIN__V1__FINISH_REASON__FINISH_STOP);
        spin_rpc_call_finish(call, SPIN_OK, NULL);
        break;
    case FAKE_FLOOD:
        start_flood(fake, call);
        break;
    }
}

static void on_generate(void *context, struct spin_rpc_call *call,
                        const struct ProtobufCMessage *request)
{
    struct fake_router *fake = context;
    const uint32_t number = __atomic_fetch_add(&fake->calls, 1, __ATOMIC_SEQ_CST);
    if (fake->inspect != NULL) {
        fake->inspect(fake->context, (const Spin__V1__InferenceRequest *)request);
    }
    if (number < fake->refusals) {
        spin_rpc_call_finish(call, fake->status, "not now");
    } else {
        play(fake, call);
    }
}

static void on_gone(void *context, struct spin_rpc_call *call)
{
    struct fake_router *fake = context;
    (void)__atomic_fetch_add(&fake->gone, 1, __ATOMIC_SEQ_CST);
    if (call != fake->flooded) {
        spin_rpc_call_finish(call, SPIN_ERR_CANCELLED, NULL);
    }
}

static void on_get_model(void *context, struct spin_rpc_call *call,
                         const struct ProtobufCMessage *request)
{
    (void)context;
    (void)request;
    char name[] = "fake model";
    char format[] = "chatml";
    Spin__V1__ModelIdentity model;
    spin__v1__model_identity__init(&model);
    model.name = name;
    model.vocab = 300;
    model.max_model_len = 4096;
    Spin__V1__GetModelResponse response;
    spin__v1__get_model_response__init(&response);
    response.model = &model;
    response.chat_format = format;
    response.workers = 2;
    spin_rpc_call_append(call, &response.base);
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}

void spin_fake_router_start(struct fake_router *fake, const char *api_key)
{
    fake->methods[0] = (struct spin_rpc_method){.path = "/spin.v1.Inference/Generate",
                                                .request = &spin__v1__inference_request__descriptor,
                                                .request_bytes_max = SPIN_RPC_GENERATE_BYTES_MAX,
                                                .arena_bytes_max = UINT64_C(64) << 20,
                                                .outbox_bytes = OUTBOX_BYTES,
                                                .calls_max = 128,
                                                .context = fake,
                                                .bearer = api_key,
                                                .start = on_generate,
                                                .gone = on_gone};
    fake->methods[1] = (struct spin_rpc_method){.path = "/spin.v1.Inference/GetModel",
                                                .request = &spin__v1__get_model_request__descriptor,
                                                .request_bytes_max = 4096,
                                                .arena_bytes_max = 1 << 20,
                                                .outbox_bytes = 4096,
                                                .calls_max = 4,
                                                .context = fake,
                                                .start = on_get_model};
    const struct spin_rpc_server_config config = {.listen = "127.0.0.1:0",
                                                  .listen_flag = "--listen",
                                                  .methods = fake->methods,
                                                  .method_count = 2};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_rpc_server_create(&config, &fake->server, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_server_start(fake->server, &err), &err);
    (void)snprintf(fake->address, sizeof fake->address, "127.0.0.1:%u",
                   spin_rpc_server_port(fake->server));
}

void spin_fake_router_stop(struct fake_router *fake)
{
    spin_rpc_server_stop(fake->server, SPIN_NS_PER_S);
    spin_rpc_server_destroy(fake->server);
    fake->server = NULL;
}

uint32_t spin_fake_router_calls(const struct fake_router *fake)
{
    return __atomic_load_n(&fake->calls, __ATOMIC_SEQ_CST);
}

void spin_fake_router_wait_gone(struct fake_router *fake, uint32_t count)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    const uint64_t limit_ns = spin_now_ns(spin_clock_real()) + 10 * SPIN_NS_PER_S;
    while (__atomic_load_n(&fake->gone, __ATOMIC_SEQ_CST) < count) {
        assert_true(spin_now_ns(spin_clock_real()) < limit_ns);
        (void)nanosleep(&pause, NULL);
    }
}
