#include "tests/router/grpc/inference_door.h"

#include "tests/spin_test.h"

#define WAIT_NS (20 * SPIN_NS_PER_S) /* a hang fails instead */
#define KEY "sk-alice"

/* --- the dispatcher --- */

spin_status spin_dispatcher_submit(struct spin_dispatcher *dispatcher,
                                   const struct spin_generation_request *request,
                                   struct spin_generation **out, struct spin_error *err)
{
    if (dispatcher->submitted == dispatcher->refuse_at) {
        return spin_fail(err, dispatcher->refusal, "refused by the test");
    }
    SPIN_TRY(spin_generation_check(request, &dispatcher->limits, err));
    assert_in_range(dispatcher->submitted, 0, DOOR_GENERATIONS - 1);
    struct spin_generation *generation = &dispatcher->generations[dispatcher->submitted++];
    *generation =
        (struct spin_generation){.sink = request->sink,
                                 .sampling = *request->sampling,
                                 .prompt_count = request->prompt_count,
                                 .prompt_last = request->prompt[request->prompt_count - 1],
                                 .stop_count = request->stop.count,
                                 .deadline_ns = request->deadline_ns,
                                 .return_tokens = request->return_tokens,
                                 .open = true};
    (void)snprintf(generation->id, sizeof generation->id, "%s", request->id);
    *out = generation;
    return SPIN_OK;
}

void spin_dispatcher_cancel(struct spin_dispatcher *dispatcher, struct spin_generation *generation)
{
    assert_true(generation->open);
    generation->open = false;
    dispatcher->cancelled++;
}

struct spin_members *spin_dispatcher_members(struct spin_dispatcher *dispatcher)
{
    return dispatcher->members;
}

struct spin_generation_limits spin_dispatcher_limits(const struct spin_dispatcher *dispatcher)
{
    return dispatcher->limits;
}

void spin_door_end(struct spin_generation *generation, const struct spin_generation_end *end)
{
    assert_true(generation->open);
    generation->open = false;
    generation->sink.ended(generation->sink.context, end);
}

/* --- the fixture --- */

static void on_watch(void *context)
{
    struct door *door = context;
    door->gave_up = spin_loop_now_ns(door->loop) > door->give_up_ns;
    if (door->gave_up || door->condition(door)) {
        spin_loop_stop(door->loop);
    }
}

void spin_door_run_until(struct door *door, bool (*condition)(struct door *))
{
    door->condition = condition;
    door->give_up_ns = spin_now_ns(spin_clock_real()) + WAIT_NS;
    spin_timer_start(door->watch, SPIN_NS_PER_MS, true);
    spin_loop_run(door->loop);
    spin_timer_stop(door->watch);
    assert_false(door->gave_up);
}

static bool has_finished(struct door *door)
{
    spin_mutex_lock(&door->reply.mutex);
    const bool finished = door->reply.finished > 0;
    spin_mutex_unlock(&door->reply.mutex);
    return finished;
}

/* And the server's side of it is over too. */
static bool is_over(struct door *door)
{
    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(door->server, &stats);
    return has_finished(door) && stats.calls_open == 0;
}

bool spin_door_has_submitted(struct door *door)
{
    return door->dispatcher.submitted > 0 || has_finished(door);
}

static void create_server(struct door *door, struct spin_error *err)
{
    const struct spin_chat_format *format = NULL;
    SPIN_EXPECT_OK(spin_tokenizer_open("random:tiny", &door->tokenizer, err), err);
    SPIN_EXPECT_OK(spin_chat_format_find(NULL, "chatml", &format, err), err);
    SPIN_EXPECT_OK(spin_tenants_create(KEY, NULL, &door->tenants, err), err);
    SPIN_EXPECT_OK(
        spin_metrics_create(spin_router_metrics, SPIN_ROUTER_METRIC_COUNT, &door->metrics, err),
        err);
    const struct spin_members_config members = {.vocab = 0};
    SPIN_EXPECT_OK(spin_members_create(&members, &door->dispatcher.members, err), err);
    const struct spin_inference_parts parts = {.loop = door->loop,
                                               .dispatcher = &door->dispatcher,
                                               .tenants = door->tenants,
                                               .prompt = {door->tokenizer, format},
                                               .model_name = "served",
                                               .metrics = door->metrics,
                                               .requests_bytes_max = DOOR_REQUESTS_BYTES_MAX};
    SPIN_EXPECT_OK(spin_inference_create(&parts, &door->inference, err), err);
    spin_inference_methods(door->inference, door->methods);
    const struct spin_rpc_server_config server = {.listen = "127.0.0.1:0",
                                                  .listen_flag = "--grpc-listen",
                                                  .methods = door->methods,
                                                  .method_count = SPIN_INFERENCE_METHODS};
    SPIN_EXPECT_OK(spin_rpc_server_create(&server, &door->server, err), err);
    SPIN_EXPECT_OK(spin_rpc_server_start(door->server, err), err);
}

int spin_door_set_up(void **state)
{
    struct door *door = calloc(1, sizeof *door);
    assert_non_null(door);
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_loop_create(&door->loop, &err), &err);
    assert_int_equal(spin_timer_create(door->loop, on_watch, door, &door->watch), SPIN_OK);
    door->dispatcher.refuse_at = UINT32_MAX;
    door->dispatcher.limits = (struct spin_generation_limits){512, DOOR_MODEL_LEN};
    create_server(door, &err);
    char target[32];
    (void)snprintf(target, sizeof target, "127.0.0.1:%u", spin_rpc_server_port(door->server));
    SPIN_EXPECT_OK(spin_rpc_thread_create(&door->thread, &err), &err);
    struct spin_rpc_client_config client = {.target = target, .bearer = KEY};
    SPIN_EXPECT_OK(spin_rpc_client_create(door->thread, &client, &door->client, &err), &err);
    client.bearer = "sk-mallory";
    SPIN_EXPECT_OK(spin_rpc_client_create(door->thread, &client, &door->stranger, &err), &err);
    spin_mutex_init(&door->reply.mutex);
    door->reply.text = malloc(DOOR_TEXT_BYTES_MAX);
    assert_non_null(door->reply.text);
    *state = door;
    return 0;
}

int spin_door_tear_down(void **state)
{
    struct door *door = *state;
    spin_rpc_client_destroy(door->client);
    spin_rpc_client_destroy(door->stranger);
    spin_rpc_thread_destroy(door->thread);
    spin_rpc_server_stop(door->server, WAIT_NS);
    spin_rpc_server_destroy(door->server);
    spin_inference_destroy(door->inference);
    spin_inference_destroy(NULL);
    spin_members_destroy(door->dispatcher.members);
    spin_metrics_destroy(door->metrics);
    spin_tenants_destroy(door->tenants);
    spin_tokenizer_close(door->tokenizer);
    spin_timer_destroy(door->watch);
    spin_loop_destroy(door->loop);
    spin_mutex_deinit(&door->reply.mutex);
    free(door->reply.text);
    free(door);
    return 0;
}

/* --- the client --- */

uint64_t spin_door_add(uint64_t sum, int32_t token)
{
    return sum * 3 + (uint32_t)token;
}

static uint64_t sum_of(Spin__V1__Token *const *tokens, size_t count, uint64_t sum)
{
    for (size_t i = 0; i < count; i++) {
        sum = spin_door_add(sum, tokens[i]->token);
        for (size_t k = 0; k < tokens[i]->n_top; k++) {
            sum = spin_door_add(sum, tokens[i]->top[k]->token);
        }
    }
    return sum;
}

static void add_delta(struct reply *reply, const Spin__V1__Delta *delta)
{
    reply->indexes |= 1u << delta->index;
    const uint64_t bytes = strlen(delta->text);
    if (delta->index == 0) {
        assert_in_range(reply->text_bytes + bytes, 0, DOOR_TEXT_BYTES_MAX);
        memcpy(reply->text + reply->text_bytes, delta->text, bytes);
        reply->text_bytes += bytes;
    }
    reply->tokens += (uint32_t)delta->n_tokens;
    reply->prompt += (uint32_t)delta->n_prompt;
    reply->sum = sum_of(delta->prompt, delta->n_prompt, reply->sum);
    reply->sum = sum_of(delta->tokens, delta->n_tokens, reply->sum);
    if (delta->ending != NULL) {
        reply->endings++;
        reply->reason = delta->ending->reason;
        reply->stop_token = delta->ending->stop_token;
        reply->recoveries = delta->ending->recoveries;
        assert_int_equal(delta->ending->usage->prefill_ns, 77);
    }
}

void spin_door_on_response(void *context, const struct ProtobufCMessage *message)
{
    struct reply *reply = &((struct door *)context)->reply;
    const Spin__V1__InferenceResponse *response = (const Spin__V1__InferenceResponse *)message;
    spin_mutex_lock(&reply->mutex);
    if (response->request_id[0] != '\0') {
        reply->ids++;
        (void)snprintf(reply->id, sizeof reply->id, "%s", response->request_id);
    }
    for (size_t i = 0; i < response->n_deltas; i++) {
        add_delta(reply, response->deltas[i]);
    }
    spin_mutex_unlock(&reply->mutex);
}

static void on_finished(void *context, const struct spin_rpc_outcome *outcome)
{
    struct reply *reply = &((struct door *)context)->reply;
    spin_mutex_lock(&reply->mutex);
    reply->finished++;
    reply->code = outcome->code;
    (void)snprintf(reply->error, sizeof reply->error, "%s", outcome->text);
    spin_mutex_unlock(&reply->mutex);
}

void spin_door_ask(struct door *door, const struct asking *asking)
{
    struct reply *reply = &door->reply;
    spin_mutex_lock(&reply->mutex);
    reply->text_bytes = 0;
    reply->indexes = 0;
    reply->ids = 0;
    reply->tokens = 0;
    reply->prompt = 0;
    reply->sum = 0;
    reply->endings = 0;
    reply->finished = 0;
    spin_mutex_unlock(&reply->mutex);
    door->dispatcher.submitted = 0;
    door->dispatcher.cancelled = 0;
    char path[64];
    (void)snprintf(path, sizeof path, "/spin.v1.Inference/%s", asking->method);
    const struct spin_rpc_request request = {.path = path,
                                             .message = asking->message,
                                             .response = asking->response,
                                             .response_bytes_max = 4u << 20,
                                             .arena_bytes_max = 256u << 20,
                                             .deadline_ns = SPIN_NO_DEADLINE,
                                             .context = door,
                                             .message_received = asking->answered,
                                             .finished = on_finished};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_rpc_client_submit(asking->client, &request, &reply->call, &err), &err);
}

void spin_door_generate(struct door *door, const Spin__V1__InferenceRequest *message)
{
    const struct asking asking = {"Generate", &message->base,
                                  &spin__v1__inference_response__descriptor, spin_door_on_response,
                                  door->client};
    spin_door_ask(door, &asking);
}

void spin_door_wait_over(struct door *door)
{
    spin_door_run_until(door, is_over);
    spin_rpc_client_call_release(door->reply.call);
    assert_int_equal(door->reply.finished, 1);
}

Spin__V1__InferenceRequest *spin_door_fill(struct request *request, const char *text)
{
    spin__v1__inference_request__init(&request->message);
    spin__v1__prompt__init(&request->prompt);
    spin__v1__sampling__init(&request->sampling);
    (void)snprintf(request->text, sizeof request->text, "%s", text);
    request->prompt.text = request->text;
    request->message.prompt = &request->prompt;
    request->message.sampling = &request->sampling;
    return &request->message;
}

double spin_door_metric(const struct door *door, enum spin_router_metric metric)
{
    return spin_metrics_read(door->metrics, metric);
}
