/* Every field of the API, one row each: both ends of its range, the first value beyond them, a
 * wrong type; and every refusal by the name, type and code that a client sees. The JSON is written
 * here as clients write it. */
#include "router/http/openai_request.h"

#include "tests/spin_test.h"

#define CHAT SPIN_OPENAI_CHAT
#define TEXT SPIN_OPENAI_COMPLETIONS
#define BODY_BYTES 65536u

static const char chat_start[] = "{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]";
static const char text_start[] = "{\"prompt\":\"hi\"";

/* A whole good body and one more member: "\"n\": 3". */
static char *make_body(enum spin_openai_endpoint endpoint, const char *member)
{
    static char body[BODY_BYTES];
    (void)snprintf(body, sizeof body, "%s%s%s}", endpoint == CHAT ? chat_start : text_start,
                   member[0] == '\0' ? "" : ",", member);
    return body;
}

static struct spin_openai_request *read_body(enum spin_openai_endpoint endpoint, const char *body,
                                             struct spin_openai_error *error)
{
    /* A copy that ends where the body does, so that a read beyond it is seen by the sanitizer. */
    const size_t bytes = strlen(body);
    char *exact = malloc(bytes == 0 ? 1 : bytes);
    assert_non_null(exact);
    /* NOLINTNEXTLINE(bugprone-not-null-terminated-result): as from a socket */
    memcpy(exact, body, bytes);
    struct spin_openai_request *request = NULL;
    const spin_status status = spin_openai_request_create(endpoint, exact, bytes, &request, error);
    free(exact); /* what was read must not point into it */
    assert_int_equal(status == SPIN_OK, request != NULL);
    return request;
}

static struct spin_openai_request *must_read(enum spin_openai_endpoint endpoint, const char *body)
{
    struct spin_openai_error error = {0};
    struct spin_openai_request *request = read_body(endpoint, body, &error);
    if (request == NULL) {
        fail_msg("%.200s: %s", body, error.message);
    }
    return request;
}

static struct spin_openai_request *with(enum spin_openai_endpoint endpoint, const char *member)
{
    return must_read(endpoint, make_body(endpoint, member));
}

static void refused(enum spin_openai_endpoint endpoint, const char *body, const char *param,
                    const char *code)
{
    struct spin_openai_error error = {0};
    struct spin_openai_request *request = read_body(endpoint, body, &error);
    if (request != NULL) {
        fail_msg("accepted: %.200s", body);
    }
    if (error.http_status != 400 || strcmp(error.type, "invalid_request_error") != 0 ||
        strcmp(error.param, param) != 0 || strcmp(error.code, code) != 0) {
        fail_msg("%.200s: %d %s %s %s: %s", body, error.http_status, error.type, error.param,
                 error.code, error.message);
    }
    assert_true(param[0] == '\0' || strstr(error.message, param) != NULL);
}

/* --- numbers --- */

#define VALUE "invalid_value"

struct number_row {
    const char *name;
    enum spin_openai_endpoint endpoint;
    const char *good[3]; /* values as JSON; NULL: fewer */
    const char *bad[4];
};

static const struct number_row numbers[] = {
    {"max_tokens", TEXT, {"1", "2147483647"}, {"-1", "2147483648", "1.5", "\"5\""}},
    {"max_tokens", CHAT, {"1", "2147483647"}, {"-1", "0", "true", "[]"}},
    {"max_completion_tokens", CHAT, {"1", "2147483647"}, {"-1", "0", "1e3", "{}"}},
    {"min_tokens", CHAT, {"0", "2147483647"}, {"-1", "2147483648", "0.5"}},
    {"temperature", CHAT, {"0", "100", "0.7"}, {"-0.01", "100.01", "\"1\"", "true"}},
    {"top_p", CHAT, {"1", "0.001", "1e-300"}, {"0", "-0.1", "1.001", "\"x\""}},
    {"top_k", TEXT, {"-1", "0", "2147483647"}, {"-2", "2147483648", "3.0"}},
    {"min_p", TEXT, {"0", "1", "0.5"}, {"-0.1", "1.1", "[0.5]"}},
    {"n", CHAT, {"1", "128"}, {"0", "129", "1.0", "-1"}},
    {"seed", TEXT, {"-9223372036854775808", "0", "9223372036854775807"}, {"0.5", "\"1\"", "true"}},
    {"logprobs", TEXT, {"0", "20"}, {"-1", "21", "true", "1.0"}},
    {"presence_penalty", CHAT, {"-2", "2", "0.5"}, {"-2.01", "2.01", "\"0\""}},
    {"frequency_penalty", TEXT, {"-2", "2", "0"}, {"-2.01", "2.01", "false"}},
    {"repetition_penalty", CHAT, {"10", "0.1", "1"}, {"0", "-1", "10.1", "\"1\""}},
};

static void test_numbers(void **state)
{
    (void)state;
    char member[128];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(numbers); i++) {
        const struct number_row *row = &numbers[i];
        for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(row->good) && row->good[k] != NULL; k++) {
            (void)snprintf(member, sizeof member, "\"%s\":%s", row->name, row->good[k]);
            spin_openai_request_destroy(with(row->endpoint, member));
        }
        for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(row->bad) && row->bad[k] != NULL; k++) {
            (void)snprintf(member, sizeof member, "\"%s\":%s", row->name, row->bad[k]);
            refused(row->endpoint, make_body(row->endpoint, member), row->name, VALUE);
        }
    }
}

static void test_numbers_arrive(void **state)
{
    (void)state;
    struct spin_openai_request *request =
        with(CHAT, "\"max_tokens\":7,\"min_tokens\":3,\"temperature\":0.5,\"top_p\":0.25,"
                   "\"top_k\":40,\"min_p\":0.125,\"n\":2,\"seed\":-1,\"logprobs\":true,"
                   "\"top_logprobs\":4,\"presence_penalty\":-2,\"frequency_penalty\":1.5,"
                   "\"repetition_penalty\":1.25,\"ignore_eos\":true,\"stream\":true,"
                   "\"stream_options\":{\"include_usage\":true},\"model\":\"m\"");
    assert_true(request->max_tokens_given);
    assert_int_equal(request->max_tokens, 7);
    assert_int_equal(request->sampling.min_tokens, 3);
    assert_true(request->sampling.temperature == 0.5F);
    assert_true(request->sampling.top_p == 0.25F);
    assert_int_equal(request->sampling.top_k, 40);
    assert_true(request->sampling.min_p == 0.125F);
    assert_int_equal(request->n, 2);
    assert_true(request->seed_given);
    assert_true(request->seed == UINT64_MAX);
    assert_true(request->logprobs && request->sampling.logprobs);
    assert_int_equal(request->sampling.top_logprobs, 4);
    assert_true(request->sampling.presence_penalty == -2);
    assert_true(request->sampling.frequency_penalty == 1.5F);
    assert_true(request->sampling.repetition_penalty == 1.25F);
    assert_true(request->sampling.ignore_eos);
    assert_true(request->stream && request->include_usage);
    assert_false(request->continuous_usage);
    assert_string_equal(request->model, "m");
    spin_openai_request_destroy(request);
}

static void test_defaults(void **state)
{
    (void)state;
    struct spin_openai_request *request = with(TEXT, "");
    assert_true(request->sampling.temperature == 1);
    assert_true(request->sampling.top_p == 1);
    assert_true(request->sampling.repetition_penalty == 1);
    assert_int_equal(request->sampling.top_k, 0);
    assert_int_equal(request->n, 1);
    assert_null(request->model);
    assert_false(request->max_tokens_given || request->seed_given || request->logprobs);
    assert_false(request->echo || request->stream || request->sampling.prompt_logprobs);
    spin_openai_request_destroy(request);
    /* The smallest that a float holds, and not 0, which would mean off. */
    request = with(TEXT, "\"top_p\":1e-300,\"top_k\":-1");
    assert_true(request->sampling.top_p > 0);
    assert_int_equal(request->sampling.top_k, 0);
    spin_openai_request_destroy(request);
}

/* --- prompts --- */

static void test_prompts(void **state)
{
    (void)state;
    struct spin_openai_request *request = must_read(TEXT, "{\"prompt\":\"a\\u00e9\"}");
    assert_int_equal(request->prompt_count, 1);
    assert_int_equal(request->prompts[0].text_bytes, 3);
    assert_memory_equal(request->prompts[0].text, "a\xc3\xa9", 4);
    spin_openai_request_destroy(request);

    request = must_read(TEXT, "{\"prompt\":[\"a\",\"bc\"]}");
    assert_int_equal(request->prompt_count, 2);
    assert_string_equal(request->prompts[1].text, "bc");
    spin_openai_request_destroy(request);

    request = must_read(TEXT, "{\"prompt\":[5,2147483647,0]}");
    assert_int_equal(request->prompt_count, 1);
    assert_int_equal(request->prompts[0].token_count, 3);
    assert_null(request->prompts[0].text);
    assert_int_equal(request->prompts[0].tokens[1], INT32_MAX);
    spin_openai_request_destroy(request);

    request = must_read(TEXT, "{\"prompt\":[[1,2],[3]]}");
    assert_int_equal(request->prompt_count, 2);
    assert_int_equal(request->prompts[0].tokens[1], 2);
    assert_int_equal(request->prompts[1].token_count, 1);
    spin_openai_request_destroy(request);
}

static void test_bad_prompts(void **state)
{
    (void)state;
    refused(TEXT, "{\"prompt\":5}", "prompt", VALUE);
    refused(TEXT, "{\"prompt\":{}}", "prompt", VALUE);
    refused(TEXT, "{\"prompt\":[1,-1]}", "prompt", VALUE);
    refused(TEXT, "{\"prompt\":[1,2147483648]}", "prompt", VALUE);
    refused(TEXT, "{\"prompt\":[1,\"a\"]}", "prompt", VALUE);
    refused(TEXT, "{\"prompt\":[\"a\",5]}", "prompt[1]", VALUE);
    refused(TEXT, "{\"prompt\":[[1],[[2]]]}", "prompt[1]", VALUE);
    refused(TEXT, "{}", "prompt", "missing_required_parameter");
    refused(TEXT, "{\"prompt\":null}", "prompt", "missing_required_parameter");
    refused(CHAT, "{}", "messages", "missing_required_parameter");
    refused(CHAT, "{\"messages\":[]}", "messages", VALUE);
    refused(CHAT, "{\"messages\":\"hi\"}", "messages", VALUE);
    refused(CHAT, "{\"prompt\":\"hi\"}", "prompt", "unknown_parameter");
}

/* `item` so many times, with commas. */
static char *repeat(const char *start, const char *item, uint32_t count, const char *end)
{
    const size_t capacity = strlen(start) + (strlen(item) + 1) * count + strlen(end) + 1;
    char *body = malloc(capacity);
    assert_non_null(body);
    size_t at = (size_t)snprintf(body, capacity, "%s", start);
    for (uint32_t i = 0; i < count; i++) {
        at += (size_t)snprintf(body + at, capacity - at, "%s%s", i == 0 ? "" : ",", item);
    }
    (void)snprintf(body + at, capacity - at, "%s", end);
    return body;
}

static void test_counts(void **state)
{
    (void)state;
    char *body = repeat("{\"prompt\":[", "\"a\"", SPIN_GENERATIONS_MAX, "]}");
    spin_openai_request_destroy(must_read(TEXT, body));
    free(body);
    body = repeat("{\"prompt\":[", "\"a\"", SPIN_GENERATIONS_MAX + 1, "]}");
    refused(TEXT, body, "prompt", VALUE);
    free(body);
    body = repeat("{\"n\":2,\"prompt\":[", "\"a\"", SPIN_GENERATIONS_MAX / 2 + 1, "]}");
    refused(TEXT, body, "n", VALUE);
    free(body);
    /* Brackets by the thousand are refused before anything is made of them. */
    body = repeat("{\"prompt\":[", "[]", SPIN_OPENAI_CONTAINERS_MAX, "]}");
    refused(TEXT, body, "", VALUE);
    free(body);
    body = repeat("{\"prompt\":[", "1", SPIN_OPENAI_VALUES_MAX + 2, "]}");
    refused(TEXT, body, "", VALUE);
    free(body);
    body = repeat("{\"prompt\":\"", "[", SPIN_OPENAI_CONTAINERS_MAX + 1, "\"}"); /* only a text */
    spin_openai_request_destroy(must_read(TEXT, body));
    free(body);
}

/* --- messages --- */

static void test_messages(void **state)
{
    (void)state;
    struct spin_openai_request *request = must_read(
        CHAT, "{\"messages\":["
              "{\"role\":\"developer\",\"content\":\"be\",\"name\":\"boss\"},"
              "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},"
              "{\"type\":\"text\",\"text\":\"\\u20ac\"}]},"
              "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[],\"refusal\":null},"
              "{\"role\":\"tool\",\"tool_call_id\":\"x\",\"content\":[]},"
              "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"one\"}]}]}");
    assert_int_equal(request->message_count, 5);
    assert_string_equal(request->messages[0].role, "system");
    assert_string_equal(request->messages[0].content, "be");
    assert_int_equal(request->messages[1].content_bytes, 4);
    assert_string_equal(request->messages[1].content, "a\xe2\x82\xac");
    assert_string_equal(request->messages[2].role, "assistant");
    assert_int_equal(request->messages[2].content_bytes, 0);
    assert_string_equal(request->messages[3].role, "tool");
    assert_int_equal(request->messages[3].content_bytes, 0);
    assert_string_equal(request->messages[4].content, "one");
    spin_openai_request_destroy(request);
}

static void test_bad_messages(void **state)
{
    (void)state;
    static const struct {
        const char *message;
        const char *param;
        const char *code;
    } rows[] = {
        {"5", "messages[0]", VALUE},
        {"{\"content\":\"x\"}", "messages[0].role", "missing_required_parameter"},
        {"{\"role\":\"owner\",\"content\":\"x\"}", "messages[0].role", VALUE},
        {"{\"role\":5,\"content\":\"x\"}", "messages[0].role", VALUE},
        {"{\"role\":\"user\"}", "messages[0].content", "missing_required_parameter"},
        {"{\"role\":\"user\",\"content\":null}", "messages[0].content",
         "missing_required_parameter"},
        {"{\"role\":\"user\",\"content\":5}", "messages[0].content", VALUE},
        {"{\"role\":\"user\",\"content\":[\"x\"]}", "messages[0].content", VALUE},
        {"{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}", "messages[0].content", VALUE},
        {"{\"role\":\"user\",\"content\":[{\"type\":\"image_url\",\"image_url\":{}}]}",
         "messages[0].content", "unsupported_parameter"},
        {"{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}", "messages[0].content",
         "unsupported_parameter"},
        {"{\"role\":\"user\",\"content\":\"x\",\"name\":5}", "messages[0].name", VALUE},
        {"{\"role\":\"user\",\"content\":\"x\",\"tool_calls\":[{}]}", "messages[0].tool_calls",
         "unsupported_parameter"},
        {"{\"role\":\"user\",\"content\":\"x\",\"mood\":1}", "messages[0].mood",
         "unknown_parameter"},
    };
    char body[512];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        (void)snprintf(body, sizeof body, "{\"messages\":[%s]}", rows[i].message);
        refused(CHAT, body, rows[i].param, rows[i].code);
    }
}

/* --- lists and objects --- */

static void test_stop(void **state)
{
    (void)state;
    struct spin_openai_request *request = with(CHAT, "\"stop\":\"\\n\"");
    assert_int_equal(request->stop.count, 1);
    assert_string_equal(request->stop.texts[0], "\n");
    spin_openai_request_destroy(request);
    request = with(TEXT, "\"stop\":[\"a\",\"b\"],\"stop_token_ids\":[7,9]");
    assert_int_equal(request->stop.count, 2);
    assert_string_equal(request->stop.texts[1], "b");
    assert_int_equal(request->sampling.n_stop_token_ids, 2);
    assert_int_equal(request->sampling.stop_token_ids[1], 9);
    spin_openai_request_destroy(request);
    request = with(TEXT, "\"stop\":[],\"stop_token_ids\":[]");
    assert_int_equal(request->stop.count, 0);
    assert_int_equal(request->sampling.n_stop_token_ids, 0);
    spin_openai_request_destroy(request);

    char member[600];
    (void)snprintf(member, sizeof member, "\"stop\":\"%0256d\"", 1);
    spin_openai_request_destroy(with(CHAT, member));
    (void)snprintf(member, sizeof member, "\"stop\":\"%0257d\"", 1);
    refused(CHAT, make_body(CHAT, member), "stop", VALUE);
    refused(CHAT, make_body(CHAT, "\"stop\":\"\""), "stop", VALUE);
    refused(CHAT, make_body(CHAT, "\"stop\":[\"a\",5]"), "stop", VALUE);
    refused(CHAT, make_body(CHAT, "\"stop\":{}"), "stop", VALUE);
    char *body = repeat("{\"prompt\":\"x\",\"stop\":[", "\"a\"", SPIN_STOP_STRINGS_MAX + 1, "]}");
    refused(TEXT, body, "stop", VALUE);
    free(body);
    refused(CHAT, make_body(CHAT, "\"stop_token_ids\":5"), "stop_token_ids", VALUE);
    refused(CHAT, make_body(CHAT, "\"stop_token_ids\":[-1]"), "stop_token_ids", VALUE);
    body = repeat("{\"prompt\":\"x\",\"stop_token_ids\":[", "1", SPIN_STOP_TOKEN_IDS_MAX + 1, "]}");
    refused(TEXT, body, "stop_token_ids", VALUE);
    free(body);
}

static void test_logit_bias(void **state)
{
    (void)state;
    struct spin_openai_request *request = with(CHAT, "\"logit_bias\":{\"5\":-100,\"70\":1.5}");
    assert_int_equal(request->sampling.n_logit_bias, 2);
    float seen = 0;
    for (uint32_t i = 0; i < 2; i++) {
        const Spin__V1__LogitBias *bias = request->sampling.logit_bias[i];
        assert_true(bias->token == 5 || bias->token == 70);
        seen += bias->bias;
    }
    assert_true(seen == -98.5F);
    spin_openai_request_destroy(request);
    spin_openai_request_destroy(with(CHAT, "\"logit_bias\":{}"));
    static const char *const bad[] = {"[]",
                                      "5",
                                      "{\"x\":1}",
                                      "{\"\":1}",
                                      "{\"-1\":1}",
                                      "{\"2147483648\":1}",
                                      "{\"1\":101}",
                                      "{\"1\":-101}",
                                      "{\"1\":\"1\"}",
                                      "{\"1\":null}"};
    char member[128];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        (void)snprintf(member, sizeof member, "\"logit_bias\":%s", bad[i]);
        refused(CHAT, make_body(CHAT, member), "logit_bias", VALUE);
    }
}

/* --- echo and scores --- */

static void test_echo(void **state)
{
    (void)state;
    struct spin_openai_request *request =
        with(TEXT, "\"echo\":true,\"logprobs\":1,\"max_tokens\":0");
    assert_true(request->echo && request->logprobs && request->sampling.prompt_logprobs);
    assert_int_equal(request->sampling.top_logprobs, 1);
    spin_openai_request_destroy(request);
    request = with(TEXT, "\"echo\":true");
    assert_true(request->echo);
    assert_false(request->sampling.prompt_logprobs); /* nobody wants to see them */
    spin_openai_request_destroy(request);
    request = with(TEXT, "\"echo\":true,\"max_tokens\":0");
    assert_true(request->sampling.prompt_logprobs); /* else there is nothing to run */
    spin_openai_request_destroy(request);
    refused(TEXT, make_body(TEXT, "\"max_tokens\":0,\"logprobs\":1"), "max_tokens", VALUE);
    refused(CHAT, make_body(CHAT, "\"echo\":true"), "echo", "unknown_parameter");
}

static void test_chat_logprobs(void **state)
{
    (void)state;
    spin_openai_request_destroy(with(CHAT, "\"logprobs\":false,\"top_logprobs\":0"));
    spin_openai_request_destroy(with(CHAT, "\"top_logprobs\":20,\"logprobs\":true"));
    refused(CHAT, make_body(CHAT, "\"logprobs\":3"), "logprobs", VALUE);
    refused(CHAT, make_body(CHAT, "\"top_logprobs\":3"), "top_logprobs", VALUE);
    refused(CHAT, make_body(CHAT, "\"logprobs\":true,\"top_logprobs\":21"), "top_logprobs", VALUE);
    refused(TEXT, make_body(TEXT, "\"top_logprobs\":3"), "top_logprobs", "unknown_parameter");
}

/* --- no-ops and refusals --- */

static void test_harmless(void **state)
{
    (void)state;
    static const char *const both[] = {
        "\"temperature\":null,\"stop\":null,\"seed\":null,\"stream_options\":null,\"n\":null",
        "\"response_format\":{\"type\":\"text\"}",
        "\"store\":false,\"metadata\":{\"a\":\"b\"},\"service_tier\":\"auto\",\"user\":\"u\"",
        "\"stream_options\":{\"include_usage\":true}",
        "\"stream_options\":{\"include_obfuscation\":false,\"continuous_usage_stats\":true}",
        "\"skip_special_tokens\":true,\"include_stop_str_in_output\":false",
        "\"use_beam_search\":false,\"logits_processors\":[],\"safety_identifier\":\"x\"",
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(both); i++) {
        spin_openai_request_destroy(with(CHAT, both[i]));
        spin_openai_request_destroy(with(TEXT, both[i]));
    }
    spin_openai_request_destroy(with(TEXT, "\"best_of\":1,\"suffix\":\"\""));
    spin_openai_request_destroy(with(TEXT, "\"best_of\":3,\"n\":3"));
    spin_openai_request_destroy(
        with(CHAT, "\"tools\":[],\"tool_choice\":\"none\",\"parallel_tool_calls\":true,"
                   "\"functions\":[],\"function_call\":\"auto\",\"modalities\":[\"text\"]"));
    spin_openai_request_destroy(with(CHAT, "\"max_tokens\":5,\"max_completion_tokens\":5"));
}

static void test_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        const char *value;
        enum spin_openai_endpoint endpoint;
    } rows[] = {
        {"tools", "[{\"type\":\"function\"}]", CHAT},
        {"functions", "[{}]", CHAT},
        {"tool_choice", "\"required\"", CHAT},
        {"tool_choice", "{\"type\":\"function\"}", CHAT},
        {"response_format", "{\"type\":\"json_object\"}", CHAT},
        {"response_format", "{\"type\":\"json_schema\",\"json_schema\":{}}", TEXT},
        {"response_format", "\"text\"", CHAT},
        {"modalities", "[\"text\",\"audio\"]", CHAT},
        {"audio", "{\"voice\":\"x\"}", CHAT},
        {"reasoning_effort", "\"high\"", CHAT},
        {"prediction", "{\"type\":\"content\"}", CHAT},
        {"web_search_options", "{\"x\":1}", CHAT},
        {"logits_processors", "[\"x\"]", TEXT},
        {"suffix", "\"end\"", TEXT},
        {"best_of", "2", TEXT},
        {"skip_special_tokens", "false", TEXT},
        {"include_stop_str_in_output", "true", CHAT},
        {"use_beam_search", "true", TEXT},
        {"guided_json", "{\"type\":\"object\"}", CHAT},
        {"bad_words", "[\"x\"]", CHAT},
        {"prompt_logprobs", "1", TEXT},
    };
    char member[128];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        (void)snprintf(member, sizeof member, "\"%s\":%s", rows[i].name, rows[i].value);
        refused(rows[i].endpoint, make_body(rows[i].endpoint, member), rows[i].name,
                "unsupported_parameter");
    }
    refused(CHAT, make_body(CHAT, "\"foo\":1"), "foo", "unknown_parameter");
    refused(CHAT, make_body(CHAT, "\"foo\":null"), "foo", "unknown_parameter");
    refused(CHAT, make_body(CHAT, "\"stream_options\":{\"foo\":1}"), "stream_options",
            "unknown_parameter");
    refused(CHAT, make_body(CHAT, "\"max_tokens\":5,\"max_completion_tokens\":6"),
            "max_completion_tokens", VALUE);
}

static void test_not_json(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        "",
        " ",
        "{",
        "[]",
        "\"x\"",
        "null",
        "{\"prompt\":\"a\"",
        "{\"prompt\":\"a\"} x",
        "{\"prompt\":'a'}",
        "{\"prompt\":\"a\",}",
        "{\"prompt\":\"a\",\"prompt\":\"b\"}",
        "{\"prompt\":\"\\u0000\"}",
        "{\"prompt\":\"\\ud800\"}",
        "{\"prompt\":\"\xff\"}",
        "{\"prompt\":\"a\nb\"}",
        "{\"prompt\":\"a\",\"seed\":9223372036854775808}",
        "{\"prompt\":\"a\",\"temperature\":1e999}",
        "{\"prompt\":\"a\",\"temperature\":NaN}",
        "{\"prompt\":\"a\",\"n\":01}",
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bodies); i++) {
        refused(TEXT, bodies[i], "", "invalid_json");
    }
    struct spin_openai_error error = {0};
    assert_null(read_body(TEXT, "{\"prompt\":\n \"a\" \"b\"}", &error));
    assert_non_null(strstr(error.message, "line 2, byte "));
}

/* --- tokenize, detokenize --- */

static void test_tokenize(void **state)
{
    (void)state;
    struct spin_openai_request *request =
        must_read(SPIN_OPENAI_TOKENIZE, "{\"prompt\":\"a\",\"add_special_tokens\":false}");
    assert_false(request->add_special_tokens);
    assert_int_equal(request->prompt_count, 1);
    spin_openai_request_destroy(request);
    request = must_read(SPIN_OPENAI_TOKENIZE,
                        "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"model\":\"m\"}");
    assert_true(request->add_special_tokens);
    assert_int_equal(request->message_count, 1);
    spin_openai_request_destroy(request);
    request = must_read(SPIN_OPENAI_DETOKENIZE, "{\"tokens\":[1,2]}");
    assert_int_equal(request->prompts[0].token_count, 2);
    spin_openai_request_destroy(request);
    request = must_read(SPIN_OPENAI_DETOKENIZE, "{\"tokens\":[]}");
    assert_int_equal(request->prompts[0].token_count, 0);
    spin_openai_request_destroy(request);
    refused(SPIN_OPENAI_TOKENIZE, "{}", "prompt", "missing_required_parameter");
    refused(SPIN_OPENAI_TOKENIZE, "{\"prompt\":\"a\",\"n\":1}", "n", "unknown_parameter");
    refused(SPIN_OPENAI_TOKENIZE,
            "{\"prompt\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", "prompt",
            VALUE);
    refused(SPIN_OPENAI_DETOKENIZE, "{}", "tokens", "missing_required_parameter");
    refused(SPIN_OPENAI_DETOKENIZE, "{\"tokens\":\"a\"}", "tokens", VALUE);
    refused(SPIN_OPENAI_DETOKENIZE, "{\"tokens\":[-1]}", "tokens", VALUE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),     cmocka_unit_test(test_numbers_arrive),
        cmocka_unit_test(test_defaults),    cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_bad_prompts), cmocka_unit_test(test_counts),
        cmocka_unit_test(test_messages),    cmocka_unit_test(test_bad_messages),
        cmocka_unit_test(test_stop),        cmocka_unit_test(test_logit_bias),
        cmocka_unit_test(test_echo),        cmocka_unit_test(test_chat_logprobs),
        cmocka_unit_test(test_harmless),    cmocka_unit_test(test_refused_by_name),
        cmocka_unit_test(test_not_json),    cmocka_unit_test(test_tokenize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
