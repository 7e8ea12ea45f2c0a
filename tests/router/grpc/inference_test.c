/* The gRPC door through real gRPC: what requests become, what deltas and ends become, and who frees
 * what when clients leave at any moment. */
#include "tests/router/grpc/inference_door.h"
#include "tests/spin_test.h"

static const struct spin_generation_end stopped = {.text = "",
                                                   .reason = SPIN__V1__FINISH_REASON__FINISH_STOP,
                                                   .stop_token = 9,
                                                   .prefill_ns = 77,
                                                   .recoveries = 2};

/* --- what requests become --- */

static void test_defaults(void **state)
{
    struct door *door = *state;
    struct request request;
    spin_door_generate(door, spin_door_fill(&request, "abc"));
    spin_door_run_until(door, spin_door_has_submitted);
    const struct spin_generation *generation = &door->dispatcher.generations[0];
    assert_int_equal(door->dispatcher.submitted, 1);
    assert_int_equal(generation->prompt_count, 3);
    assert_int_equal(generation->prompt_last, 'c');
    assert_int_equal(generation->sampling.max_tokens, DOOR_MODEL_LEN - 3);
    assert_true(generation->sampling.seed != 0);
    assert_true(generation->sampling.temperature == 0);
    assert_true(generation->deadline_ns == SPIN_NO_DEADLINE);
    assert_false(generation->return_tokens);
    assert_memory_equal(generation->id, "gen-", 4);
    spin_door_end(&door->dispatcher.generations[0], &stopped);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OK);
    assert_int_equal(door->reply.endings, 1);
    assert_int_equal(door->reply.stop_token, 9);
    assert_int_equal(door->reply.recoveries, 2);
    assert_string_equal(door->reply.id, generation->id);
    assert_true(spin_door_metric(door, SPIN_ROUTER_METRIC_RPC_CALLS) == 1);
}

static void test_several_answers(void **state)
{
    struct door *door = *state;
    struct request request;
    Spin__V1__InferenceRequest *message = spin_door_fill(&request, "abc");
    char id[] = "mine";
    char first[] = "###";
    char *stop[] = {first};
    message->n = 3;
    message->request_id = id;
    message->stop = stop;
    message->n_stop = 1;
    request.sampling.seed = 40;
    request.sampling.max_tokens = 5;
    request.sampling.logprobs = true;
    spin_door_generate(door, message);
    spin_door_run_until(door, spin_door_has_submitted);
    struct spin_generation *all = door->dispatcher.generations;
    assert_int_equal(door->dispatcher.submitted, 3);
    static const char *const ids[] = {"mine", "mine-1", "mine-2"};
    for (uint32_t i = 0; i < 3; i++) {
        assert_string_equal(all[i].id, ids[i]);
        assert_int_equal(all[i].sampling.seed, 40 + i);
        assert_int_equal(all[i].sampling.max_tokens, 5);
        assert_int_equal(all[i].stop_count, 1);
        assert_true(all[i].return_tokens); /* for the logprobs */
    }
    const struct spin_generation_delta delta = {.text = "ab", .text_bytes = 2};
    all[0].sink.delta(all[0].sink.context, &delta);
    all[2].sink.delta(all[2].sink.context, &delta);
    spin_door_end(&all[0], &stopped);
    spin_door_end(&all[2], &stopped);
    all[1].sink.delta(all[1].sink.context, &delta);
    spin_door_end(&all[1], &stopped);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OK);
    assert_int_equal(door->reply.indexes, 7);
    assert_int_equal(door->reply.endings, 3);
    assert_string_equal(door->reply.id, "mine");
    assert_int_equal(door->dispatcher.cancelled, 0);
}

static void test_prompts(void **state)
{
    struct door *door = *state;
    struct request request;
    Spin__V1__InferenceRequest *message = spin_door_fill(&request, "");
    int32_t tokens[] = {7, 8};
    request.prompt.tokens = tokens;
    request.prompt.n_tokens = 2;
    spin_door_generate(door, message);
    spin_door_run_until(door, spin_door_has_submitted);
    assert_int_equal(door->dispatcher.generations[0].prompt_count, 2);
    assert_int_equal(door->dispatcher.generations[0].prompt_last, 8);
    spin_door_end(&door->dispatcher.generations[0], &stopped);
    spin_door_wait_over(door);

    char role[] = "user";
    char content[] = "Hi";
    Spin__V1__ChatMessage chat;
    spin__v1__chat_message__init(&chat);
    chat.role = role;
    chat.content = content;
    Spin__V1__ChatMessage *chats[] = {&chat};
    message = spin_door_fill(&request, "");
    request.prompt.messages = chats;
    request.prompt.n_messages = 1;
    spin_door_generate(door, message);
    spin_door_run_until(door, spin_door_has_submitted);
    /* <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n: three specials, the rest bytes. */
    assert_int_equal(door->dispatcher.generations[0].prompt_count, 3 + 5 + 2 + 1 + 10);
    spin_door_end(&door->dispatcher.generations[0], &stopped);
    spin_door_wait_over(door);
}

static void test_score_only(void **state)
{
    struct door *door = *state;
    struct request request;
    Spin__V1__InferenceRequest *message = spin_door_fill(&request, "abc");
    message->score_only = true;
    request.sampling.prompt_logprobs = true;
    spin_door_generate(door, message);
    spin_door_run_until(door, spin_door_has_submitted);
    struct spin_generation *generation = &door->dispatcher.generations[0];
    assert_int_equal(generation->sampling.max_tokens, 0);
    struct spin_generation_end end = stopped;
    end.reason = SPIN__V1__FINISH_REASON__FINISH_LENGTH;
    end.stop_token = -1;
    spin_door_end(generation, &end);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.reason, SPIN__V1__FINISH_REASON__FINISH_LENGTH);
    assert_int_equal(door->reply.stop_token, -1);
}

/* Over what is read on the loop: another thread does it. */
static void test_a_large_prompt(void **state)
{
    struct door *door = *state;
    struct request request;
    Spin__V1__InferenceRequest *message = spin_door_fill(&request, "");
    char *text = malloc((1u << 20) + 1);
    assert_non_null(text);
    memset(text, 'a', 1u << 20);
    text[1u << 20] = '\0';
    request.prompt.text = text;
    spin_door_generate(door, message);
    spin_door_run_until(door, spin_door_has_submitted);
    assert_int_equal(door->dispatcher.generations[0].prompt_count, 1u << 20);
    spin_door_end(&door->dispatcher.generations[0], &stopped);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OK);
    /* And one whose client leaves while it is read: nothing is submitted, nothing is lost. */
    for (uint32_t i = 0; i < 10; i++) {
        spin_door_generate(door, message);
        spin_rpc_client_call_cancel(door->reply.call);
        spin_door_wait_over(door);
        assert_int_equal(door->dispatcher.submitted, door->dispatcher.cancelled);
    }
    free(text);
}

/* What waits to be read has a limit, and what was read gives its place back. */
static void test_requests_have_a_limit_together(void **state)
{
    struct door *door = *state;
    struct request request;
    Spin__V1__InferenceRequest *message = spin_door_fill(&request, "");
    char other[] = "other";
    char *text = malloc(DOOR_REQUESTS_BYTES_MAX + 1);
    assert_non_null(text);
    memset(text, 'a', DOOR_REQUESTS_BYTES_MAX);
    text[DOOR_REQUESTS_BYTES_MAX] = '\0';
    request.prompt.text = text;
    message->model = other;
    spin_door_generate(door, message); /* the limit and a few bytes */
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_RESOURCE_EXHAUSTED);
    text[DOOR_REQUESTS_BYTES_MAX - 64] = '\0';
    for (uint32_t i = 0; i < 3; i++) {
        spin_door_generate(door, message);
        spin_door_wait_over(door);
        assert_int_equal(door->reply.code, SPIN_RPC_NOT_FOUND);
    }
    free(text);
}

/* --- refusals --- */

struct refusal {
    void (*change)(struct door *door, struct request *request);
    enum spin_rpc_code code;
    const char *text;
};

static int32_t two_tokens[] = {1, 2};
static char other_model[] = "other";
static char long_id[] = "0123456789012345678901234567890123456789012345678901234567890123";
static char short_stop[] = "x";
static char *many_stops[SPIN_STOP_STRINGS_MAX + 1];

static void no_prompt(struct door *door, struct request *request)
{
    (void)door;
    request->message.prompt = NULL;
}

static void empty_prompt(struct door *door, struct request *request)
{
    (void)door;
    request->text[0] = '\0';
}

static void two_prompts(struct door *door, struct request *request)
{
    (void)door;
    request->prompt.tokens = two_tokens;
    request->prompt.n_tokens = 2;
}

static void many_answers(struct door *door, struct request *request)
{
    (void)door;
    request->message.n = SPIN_GENERATIONS_MAX + 1;
}

static void too_many_stops(struct door *door, struct request *request)
{
    (void)door;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(many_stops); i++) {
        many_stops[i] = short_stop;
    }
    request->message.stop = many_stops;
    request->message.n_stop = SPIN_ARRAY_COUNT(many_stops);
}

static void another_model(struct door *door, struct request *request)
{
    (void)door;
    request->message.model = other_model;
}

static void score_without_logprobs(struct door *door, struct request *request)
{
    (void)door;
    request->message.score_only = true;
}

static void too_long(struct door *door, struct request *request)
{
    (void)request;
    door->dispatcher.limits.max_model_len = 2;
}

static void no_room(struct door *door, struct request *request)
{
    (void)request;
    door->dispatcher.limits.max_model_len = 3;
}

static void no_worker(struct door *door, struct request *request)
{
    (void)request;
    door->dispatcher.limits = (struct spin_generation_limits){0};
}

static void negative_temperature(struct door *door, struct request *request)
{
    (void)door;
    request->sampling.temperature = -1;
}

static void bad_id(struct door *door, struct request *request)
{
    (void)door;
    request->message.request_id = long_id;
    request->message.n = 2;
}

static void full_queue(struct door *door, struct request *request)
{
    request->message.n = 3;
    door->dispatcher.refuse_at = 2;
    door->dispatcher.refusal = SPIN_ERR_EXHAUSTED;
}

static void test_refusals(void **state)
{
    struct door *door = *state;
    static const struct refusal refusals[] = {
        {no_prompt, SPIN_RPC_INVALID_ARGUMENT, "prompt: 0 of text, tokens and messages"},
        {empty_prompt, SPIN_RPC_INVALID_ARGUMENT, "prompt: 0 of"},
        {two_prompts, SPIN_RPC_INVALID_ARGUMENT, "prompt: 2 of"},
        {many_answers, SPIN_RPC_INVALID_ARGUMENT, "n: 129, must be in 1..128"},
        {too_many_stops, SPIN_RPC_INVALID_ARGUMENT, "stop: 17 strings, at most 16"},
        {another_model, SPIN_RPC_NOT_FOUND, "\"other\""},
        {score_without_logprobs, SPIN_RPC_INVALID_ARGUMENT, "score_only"},
        {negative_temperature, SPIN_RPC_INVALID_ARGUMENT, "temperature: -1"},
        {bad_id, SPIN_RPC_INVALID_ARGUMENT, "request_id: 64 bytes"},
        {too_long, SPIN_RPC_OUT_OF_RANGE, "prompt: 3 tokens"},
        {no_room, SPIN_RPC_OUT_OF_RANGE, "no room for an answer"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(refusals); i++) {
        struct request request;
        (void)spin_door_fill(&request, "abc");
        door->dispatcher.limits.max_model_len = DOOR_MODEL_LEN;
        refusals[i].change(door, &request);
        spin_door_generate(door, &request.message);
        spin_door_wait_over(door);
        assert_int_equal(door->reply.code, refusals[i].code);
        if (strstr(door->reply.error, refusals[i].text) == NULL) {
            fail_msg("case %u: \"%s\"", i, door->reply.error);
        }
        assert_int_equal(door->dispatcher.submitted, 0);
        assert_true(spin_door_metric(door, SPIN_ROUTER_METRIC_REFUSED_INVALID) == i + 1);
    }
}

static void test_what_is_not_the_clients_mistake(void **state)
{
    struct door *door = *state;
    struct request request;
    (void)spin_door_fill(&request, "abc");
    full_queue(door, &request);
    spin_door_generate(door, &request.message);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_RESOURCE_EXHAUSTED);
    assert_int_equal(door->dispatcher.submitted, 2); /* both were taken back */
    assert_int_equal(door->dispatcher.cancelled, 2);
    no_worker(door, &request);
    spin_door_generate(door, &request.message);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_UNAVAILABLE);
    assert_true(spin_door_metric(door, SPIN_ROUTER_METRIC_REFUSED_NO_WORKER) == 1);
    assert_true(spin_door_metric(door, SPIN_ROUTER_METRIC_REFUSED_INVALID) == 0);

    const struct asking stranger = {"Generate", &request.message.base,
                                    &spin__v1__inference_response__descriptor,
                                    spin_door_on_response, door->stranger};
    spin_door_ask(door, &stranger);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_UNAUTHENTICATED);
    assert_true(spin_door_metric(door, SPIN_ROUTER_METRIC_REFUSED_KEY) == 1);
}

/* --- deltas --- */

/* More of everything than one message holds, with a NUL inside and characters at every cut. */
static void test_a_large_delta(void **state)
{
    struct door *door = *state;
    enum { EUROS = 5000, TOKENS = 200, PROMPT = 150, TOP = SPIN_TOP_LOGPROBS_LIMIT };
    static char text[1 + EUROS * 3 + 1]; /* zeros at both ends */
    static char wanted[3 + EUROS * 3 + 3 + 1];
    size_t bytes = (size_t)snprintf(wanted, sizeof wanted, "\xef\xbf\xbd");
    for (uint32_t i = 0; i < EUROS; i++) {
        bytes += (size_t)snprintf(wanted + bytes, sizeof wanted - bytes, "\xe2\x82\xac");
    }
    memcpy(text + 1, wanted + 3, bytes - 3);
    bytes += (size_t)snprintf(wanted + bytes, sizeof wanted - bytes, "\xef\xbf\xbd");
    static struct spin_generation_alternative top[TOP];
    static struct spin_generation_token tokens[PROMPT + TOKENS];
    uint64_t sum = 0;
    for (int32_t i = 0; i < TOP; i++) {
        top[i] = (struct spin_generation_alternative){1000 + i, -1};
    }
    for (int32_t i = 0; i < PROMPT + TOKENS; i++) {
        tokens[i] = (struct spin_generation_token){i, -0.5F, top, TOP};
        sum = spin_door_add(sum, i);
        for (int32_t k = 0; k < TOP; k++) {
            sum = spin_door_add(sum, 1000 + k);
        }
    }
    struct request request;
    (void)spin_door_fill(&request, "abc");
    request.sampling.logprobs = true;
    spin_door_generate(door, &request.message);
    spin_door_run_until(door, spin_door_has_submitted);
    struct spin_generation *generation = &door->dispatcher.generations[0];
    const struct spin_generation_delta delta = {.text = text,
                                                .text_bytes = sizeof text,
                                                .tokens = tokens + PROMPT,
                                                .token_count = TOKENS,
                                                .prompt = tokens,
                                                .prompt_count = PROMPT};
    generation->sink.delta(generation->sink.context, &delta);
    spin_door_end(generation, &stopped);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OK);
    assert_int_equal(door->reply.text_bytes, bytes);
    assert_memory_equal(door->reply.text, wanted, bytes);
    assert_int_equal(door->reply.tokens, TOKENS);
    assert_int_equal(door->reply.prompt, PROMPT);
    assert_true(door->reply.sum == sum);
}

/* --- ends --- */

static void test_one_answer_fails(void **state)
{
    struct door *door = *state;
    struct request request;
    spin_door_fill(&request, "abc")->n = 4;
    spin_door_generate(door, &request.message);
    spin_door_run_until(door, spin_door_has_submitted);
    struct spin_generation *all = door->dispatcher.generations;
    spin_door_end(&all[1], &stopped);
    spin_door_end(&all[2], &(struct spin_generation_end){.status = SPIN_ERR_PEER_LOST,
                                                         .text = "too many workers died"});
    assert_int_equal(door->dispatcher.cancelled, 2);
    assert_true(!all[0].open && !all[3].open);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_UNAVAILABLE);
    assert_string_equal(door->reply.error, "too many workers died");
}

static bool has_cancelled_both(struct door *door)
{
    return door->dispatcher.cancelled == 2;
}

static void test_the_client_leaves(void **state)
{
    struct door *door = *state;
    struct request request;
    spin_door_fill(&request, "abc")->n = 3;
    spin_door_generate(door, &request.message);
    spin_door_run_until(door, spin_door_has_submitted);
    spin_door_end(&door->dispatcher.generations[1], &stopped);
    spin_rpc_client_call_cancel(door->reply.call);
    spin_door_run_until(door, has_cancelled_both);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_CANCELLED);
}

/* The end and the client's leaving at the same moment, in either order: the sanitizers look on. */
static void test_the_client_leaves_at_the_end(void **state)
{
    struct door *door = *state;
    struct request request;
    spin_door_fill(&request, "abc");
    for (uint32_t i = 0; i < 200; i++) {
        spin_door_generate(door, &request.message);
        spin_door_run_until(door, spin_door_has_submitted);
        spin_rpc_client_call_cancel(door->reply.call);
        if (door->dispatcher.generations[0].open) {
            spin_door_end(&door->dispatcher.generations[0], &stopped);
        }
        spin_door_wait_over(door);
    }
}

/* --- the other methods --- */

static void on_tokens(void *context, const struct ProtobufCMessage *message)
{
    struct reply *reply = &((struct door *)context)->reply;
    const Spin__V1__TokenizeResponse *response = (const Spin__V1__TokenizeResponse *)message;
    spin_mutex_lock(&reply->mutex);
    reply->tokens = (uint32_t)response->n_tokens;
    for (size_t i = 0; i < response->n_tokens; i++) {
        reply->sum += (uint32_t)response->tokens[i];
    }
    reply->model_len = response->max_model_len;
    spin_mutex_unlock(&reply->mutex);
}

static void on_text(void *context, const struct ProtobufCMessage *message)
{
    struct reply *reply = &((struct door *)context)->reply;
    const Spin__V1__DetokenizeResponse *response = (const Spin__V1__DetokenizeResponse *)message;
    spin_mutex_lock(&reply->mutex);
    reply->text_bytes = strlen(response->text);
    assert_in_range(reply->text_bytes, 0, DOOR_TEXT_BYTES_MAX);
    memcpy(reply->text, response->text, reply->text_bytes);
    spin_mutex_unlock(&reply->mutex);
}

static void on_model(void *context, const struct ProtobufCMessage *message)
{
    struct reply *reply = &((struct door *)context)->reply;
    const Spin__V1__GetModelResponse *response = (const Spin__V1__GetModelResponse *)message;
    spin_mutex_lock(&reply->mutex);
    reply->model_len = response->model->max_model_len;
    reply->tokens = response->model->vocab;
    (void)snprintf(reply->id, sizeof reply->id, "%s %s", response->model->name,
                   response->chat_format);
    spin_mutex_unlock(&reply->mutex);
}

static void test_tokenize(void **state)
{
    struct door *door = *state;
    struct request parts;
    (void)spin_door_fill(&parts, "abc");
    Spin__V1__TokenizeRequest message;
    spin__v1__tokenize_request__init(&message);
    message.prompt = &parts.prompt;
    const struct asking asking = {"Tokenize", &message.base,
                                  &spin__v1__tokenize_response__descriptor, on_tokens,
                                  door->client};
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OK);
    assert_int_equal(door->reply.tokens, 3);
    assert_int_equal(door->reply.sum, 'a' + 'b' + 'c');
    assert_int_equal(door->reply.model_len, DOOR_MODEL_LEN);

    char *text = malloc((1u << 18) + 2);
    assert_non_null(text);
    memset(text, 'a', (1u << 18) + 1);
    text[(1u << 18) + 1] = '\0';
    parts.prompt.text = text;
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OUT_OF_RANGE);
    assert_non_null(strstr(door->reply.error, "over 262144 tokens"));
    text[1u << 18] = '\0';
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OK);
    assert_int_equal(door->reply.tokens, 1u << 18);
    free(text);

    (void)spin_door_fill(&parts, "");
    two_prompts(door, &parts);
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_INVALID_ARGUMENT);
}

static void test_detokenize(void **state)
{
    struct door *door = *state;
    int32_t tokens[] = {'a', 0xC3, 0xA9, 0, 257, 0xFF, 'b', 0xE2};
    Spin__V1__DetokenizeRequest message;
    spin__v1__detokenize_request__init(&message);
    message.tokens = tokens;
    message.n_tokens = SPIN_ARRAY_COUNT(tokens);
    const struct asking asking = {"Detokenize", &message.base,
                                  &spin__v1__detokenize_response__descriptor, on_text,
                                  door->client};
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OK);
    static const char wanted[] = "a\xc3\xa9\xef\xbf\xbd<|im_start|>\xef\xbf\xbd"
                                 "b\xef\xbf\xbd";
    assert_int_equal(door->reply.text_bytes, sizeof wanted - 1);
    assert_memory_equal(door->reply.text, wanted, sizeof wanted - 1);

    tokens[1] = -1;
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_INVALID_ARGUMENT);
    assert_non_null(strstr(door->reply.error, "tokens[1]: -1"));

    static int32_t many[200000]; /* 12 bytes of text each: over what one answer holds */
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(many); i++) {
        many[i] = 257;
    }
    message.tokens = many;
    message.n_tokens = SPIN_ARRAY_COUNT(many);
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OUT_OF_RANGE);
    assert_non_null(strstr(door->reply.error, "text is over"));
}

static void test_get_model(void **state)
{
    struct door *door = *state;
    Spin__V1__GetModelRequest message;
    spin__v1__get_model_request__init(&message);
    struct asking asking = {"GetModel", &message.base, &spin__v1__get_model_response__descriptor,
                            on_model, door->client};
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_OK);
    assert_string_equal(door->reply.id, "served chatml");
    assert_int_equal(door->reply.tokens, 512);
    assert_int_equal(door->reply.model_len, DOOR_MODEL_LEN);
    message.model = other_model;
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_NOT_FOUND);
    asking.client = door->stranger;
    spin_door_ask(door, &asking);
    spin_door_wait_over(door);
    assert_int_equal(door->reply.code, SPIN_RPC_UNAUTHENTICATED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, spin_door_set_up, spin_door_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_defaults),          TEST(test_several_answers),
        TEST(test_prompts),           TEST(test_score_only),
        TEST(test_a_large_prompt),    TEST(test_requests_have_a_limit_together),
        TEST(test_refusals),          TEST(test_what_is_not_the_clients_mistake),
        TEST(test_a_large_delta),     TEST(test_one_answer_fails),
        TEST(test_the_client_leaves), TEST(test_the_client_leaves_at_the_end),
        TEST(test_tokenize),          TEST(test_detokenize),
        TEST(test_get_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
