/* What is written is read back by jansson, which we did not write, and compared with what went in:
 * every control character, every way not to be UTF-8 (Unicode 15, table 3-7), the ends of numbers.
 * */
#include "router/http/openai_reply.h"

#include "router/http/openai_error.h"
#include "tests/spin_test.h"

#include <float.h>
#include <jansson.h>

#define CAP (UINT64_C(1) << 20)

static struct spin_tokenizer *tokenizer; /* "random:": a token per byte, and special ones */

static int open_tokenizer(void **state)
{
    (void)state;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_tokenizer_open("random:", &tokenizer, &err), &err);
    return 0;
}

static int close_tokenizer(void **state)
{
    (void)state;
    spin_tokenizer_close(tokenizer);
    return 0;
}

static int32_t token_of(const char *text)
{
    int32_t token = -1;
    uint64_t count = 0;
    SPIN_EXPECT_OK(spin_tokenizer_encode(tokenizer, text, strlen(text), SPIN_ENCODE_PARSE_SPECIAL,
                                         &token, 1, &count, NULL),
                   NULL);
    return token;
}

static json_t *parse(const char *bytes, uint64_t count)
{
    json_error_t error;
    json_t *json = json_loadb(bytes, count, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (json == NULL) {
        fail_msg("%s: %.*s", error.text, (int)count, bytes);
    }
    return json;
}

/* An event: "data: " JSON and an empty line. */
static json_t *parse_event(const struct spin_json_writer *writer)
{
    assert_false(writer->failed);
    assert_true(writer->count > 8);
    assert_memory_equal(writer->bytes, "data: ", 6);
    assert_memory_equal(writer->bytes + writer->count - 2, "\n\n", 2);
    assert_null(memchr(writer->bytes, '\n', writer->count - 2)); /* one line */
    return parse(writer->bytes + 6, writer->count - 8);
}

static const json_t *at(const json_t *json, const char *path)
{
    char key[64];
    while (*path != '\0') {
        const size_t bytes = strcspn(path, "/");
        (void)snprintf(key, sizeof key, "%.*s", (int)bytes, path);
        json = json_is_array(json) ? json_array_get(json, strtoul(key, NULL, 10))
                                   : json_object_get(json, key);
        assert_non_null(json);
        path += bytes + (path[bytes] == '/' ? 1 : 0);
    }
    return json;
}

static void expect_text(const json_t *json, const char *path, const char *wanted)
{
    assert_true(json_is_string(at(json, path)));
    assert_string_equal(json_string_value(at(json, path)), wanted);
}

/* --- strings and numbers --- */

static void expect_json(const char *text, uint64_t count, const char *wanted, uint64_t wanted_count)
{
    struct spin_json_writer writer;
    spin_json_writer_init(&writer, CAP);
    spin_json_put_string(&writer, text, count);
    assert_false(writer.failed);
    json_error_t error;
    json_t *json = json_loadb(writer.bytes, writer.count, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    assert_non_null(json);
    assert_int_equal(json_string_length(json), wanted_count);
    assert_memory_equal(json_string_value(json), wanted, wanted_count);
    json_decref(json);
    spin_json_writer_deinit(&writer);
}

static void test_every_ascii_character(void **state)
{
    (void)state;
    char text[3] = "a?b";
    for (int byte = 0; byte < 0x80; byte++) {
        text[1] = (char)byte;
        expect_json(text, 3, text, 3);
    }
    char all[0x80];
    for (int byte = 0; byte < 0x80; byte++) {
        all[byte] = (char)byte;
    }
    expect_json(all, sizeof all, all, sizeof all);
    expect_json("", 0, "", 0);
    expect_json(NULL, 0, "", 0);
}

#define R "\xEF\xBF\xBD"

static void test_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *given;
        const char *wanted;
    } rows[] = {
        {"\xc2\x80\xdf\xbf", "\xc2\x80\xdf\xbf"},
        {"\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf",
         "\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf"},
        {"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"},
        {"\xc0\x80", R R},             /* overlong */
        {"\xe0\x80\x80", R R R},       /* overlong */
        {"\xed\xa0\x80", R R R},       /* a surrogate */
        {"\xf4\x90\x80\x80", R R R R}, /* beyond U+10FFFF */
        {"a\xff\"", "a" R "\""},
        {"\xe2\x82", R}, /* cut: one maximal subpart */
        {"\xe2\x82x", R "x"},
        {"x\x80", "x" R},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        expect_json(rows[i].given, strlen(rows[i].given), rows[i].wanted, strlen(rows[i].wanted));
    }
}

static void test_numbers(void **state)
{
    (void)state;
    static const double reals[] = {0, -0.5, 1, -1e-7, 3.14159274F, -FLT_MAX, FLT_MIN, -9999};
    struct spin_json_writer writer;
    spin_json_writer_init(&writer, CAP);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(reals); i++) {
        spin_json_writer_reset(&writer);
        spin_json_put_real(&writer, reals[i]);
        json_t *json = parse(writer.bytes, writer.count);
        assert_true((float)json_number_value(json) == (float)reals[i]);
        json_decref(json);
    }
    spin_json_writer_reset(&writer);
    spin_json_put_u64(&writer, UINT64_MAX);
    spin_json_put_raw(&writer, ",", 1);
    spin_json_put_u64(&writer, 0);
    assert_int_equal(writer.count, 22);
    assert_memory_equal(writer.bytes, "18446744073709551615,0", 22);
    spin_json_writer_deinit(&writer);
}

static void test_cap(void **state)
{
    (void)state;
    struct spin_json_writer writer;
    spin_json_writer_init(&writer, 1000);
    char block[600];
    memset(block, 'x', sizeof block);
    spin_json_put_raw(&writer, block, 600);
    spin_json_put_raw(&writer, block, 400);
    assert_false(writer.failed);
    assert_int_equal(writer.count, 1000);
    spin_json_put_raw(&writer, "y", 1);
    assert_true(writer.failed);
    assert_null(spin_json_reserve(&writer, 1));
    assert_int_equal(writer.count, 1000);
    spin_json_writer_reset(&writer);
    assert_non_null(spin_json_reserve(&writer, 1000));
    spin_json_put_raw(&writer, "y", 1);
    assert_int_equal(writer.count, 1);
    spin_json_writer_deinit(&writer);
}

/* --- chunks --- */

static struct spin_openai_head make_head(bool chat, bool stream)
{
    const struct spin_openai_head_config config = {
        .chat = chat, .stream = stream, .id = "id-1", .model = "a\"b", .created_s = 1700000000};
    struct spin_openai_head head;
    spin_openai_head_init(&head, &config);
    return head;
}

static json_t *write_chunk(bool chat, const struct spin_openai_chunk *chunk)
{
    struct spin_json_writer writer;
    spin_json_writer_init(&writer, CAP);
    struct spin_openai_head head = make_head(chat, true);
    spin_openai_write_chunk(&writer, &head, chunk);
    json_t *json = parse_event(&writer);
    expect_text(json, "id", "id-1");
    expect_text(json, "model", "a\"b");
    expect_text(json, "object", chat ? "chat.completion.chunk" : "text_completion");
    assert_int_equal(json_integer_value(at(json, "created")), 1700000000);
    spin_openai_head_deinit(&head);
    spin_json_writer_deinit(&writer);
    return json;
}

static void test_chat_chunks(void **state)
{
    (void)state;
    json_t *json = write_chunk(true, &(struct spin_openai_chunk){.index = 3, .role = true});
    expect_text(json, "choices/0/delta/role", "assistant");
    expect_text(json, "choices/0/delta/content", "");
    assert_int_equal(json_integer_value(at(json, "choices/0/index")), 3);
    assert_null(json_object_get(json, "usage"));
    json_decref(json);

    json = write_chunk(true, &(struct spin_openai_chunk){.text = "a\nb",
                                                         .text_bytes = 3,
                                                         .usage_mode = SPIN_OPENAI_USAGE_NULL});
    expect_text(json, "choices/0/delta/content", "a\nb");
    assert_true(json_is_null(at(json, "choices/0/finish_reason")));
    assert_true(json_is_null(at(json, "choices/0/logprobs")));
    assert_true(json_is_null(at(json, "usage")));
    json_decref(json);

    json = write_chunk(true, &(struct spin_openai_chunk){.finish_reason = "stop",
                                                         .usage_mode = SPIN_OPENAI_USAGE_SHOWN,
                                                         .usage = {5, 7, 2}});
    assert_int_equal(json_object_size(at(json, "choices/0/delta")), 0);
    expect_text(json, "choices/0/finish_reason", "stop");
    assert_int_equal(json_integer_value(at(json, "usage/prompt_tokens")), 5);
    assert_int_equal(json_integer_value(at(json, "usage/completion_tokens")), 7);
    assert_int_equal(json_integer_value(at(json, "usage/total_tokens")), 12);
    assert_int_equal(json_integer_value(at(json, "usage/prompt_tokens_details/cached_tokens")), 2);
    json_decref(json);
}

static void test_text_chunks(void **state)
{
    (void)state;
    json_t *json =
        write_chunk(false, &(struct spin_openai_chunk){.text = "x", .text_bytes = 1, .index = 1});
    expect_text(json, "choices/0/text", "x");
    json_decref(json);
    struct spin_json_writer escaped;
    spin_json_writer_init(&escaped, CAP);
    spin_json_put_escaped(&escaped, "\"q\"", 3);
    json = write_chunk(false, &(struct spin_openai_chunk){.escaped = &escaped});
    expect_text(json, "choices/0/text", "\"q\"");
    json_decref(json);
    spin_json_writer_deinit(&escaped);

    struct spin_json_writer writer;
    spin_json_writer_init(&writer, CAP);
    struct spin_openai_head head = make_head(false, true);
    spin_openai_write_usage_chunk(&writer, &head, &(struct spin_openai_usage){1, 2, 0});
    json = parse_event(&writer);
    assert_int_equal(json_array_size(at(json, "choices")), 0);
    assert_int_equal(json_integer_value(at(json, "usage/total_tokens")), 3);
    json_decref(json);
    spin_openai_head_deinit(&head);
    spin_json_writer_deinit(&writer);
}

/* --- log probabilities --- */

static json_t *write_logprobs(const struct spin_openai_logprobs *logprobs)
{
    struct spin_json_writer writer;
    spin_json_writer_init(&writer, CAP);
    spin_openai_logprobs_write(logprobs, &writer);
    assert_false(writer.failed);
    json_t *json = parse(writer.bytes, writer.count);
    spin_json_writer_deinit(&writer);
    return json;
}

static void test_chat_logprobs(void **state)
{
    (void)state;
    struct spin_openai_logprobs logprobs;
    spin_openai_logprobs_init(&logprobs, true, tokenizer, CAP);
    json_t *json = write_logprobs(&logprobs);
    assert_true(json_is_null(json)); /* nothing was added */
    json_decref(json);
    const struct spin_generation_alternative top[] = {{token_of("a"), -0.25F},
                                                      {token_of("\""), -INFINITY}};
    spin_openai_logprobs_add(&logprobs,
                             &(struct spin_generation_token){token_of("a"), -0.25F, top, 2}, true);
    spin_openai_logprobs_add(&logprobs,
                             &(struct spin_generation_token){.token = 0xC3, .logprob = -1}, true);
    json = write_logprobs(&logprobs);
    assert_int_equal(json_array_size(at(json, "content")), 2);
    expect_text(json, "content/0/token", "a");
    assert_true(json_number_value(at(json, "content/0/logprob")) == -0.25);
    assert_int_equal(json_integer_value(at(json, "content/0/bytes/0")), 'a');
    expect_text(json, "content/0/top_logprobs/1/token", "\"");
    assert_true(json_number_value(at(json, "content/0/top_logprobs/1/logprob")) == -9999);
    expect_text(json, "content/1/token", R); /* a byte that is no character: see bytes */
    assert_int_equal(json_integer_value(at(json, "content/1/bytes/0")), 0xC3);
    assert_int_equal(json_array_size(at(json, "content/1/top_logprobs")), 0);
    json_decref(json);
    spin_openai_logprobs_deinit(&logprobs);
}

/* Numbers that no model gives, but a worker out of order may. */
static void test_logprobs_that_are_no_numbers(void **state)
{
    (void)state;
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(bad); i++) {
        struct spin_openai_logprobs logprobs;
        const struct spin_generation_alternative top = {token_of("b"), bad[i]};
        const struct spin_generation_token token = {token_of("a"), bad[i], &top, 1};
        spin_openai_logprobs_init(&logprobs, true, tokenizer, CAP);
        spin_openai_logprobs_add(&logprobs, &token, true);
        json_t *json = write_logprobs(&logprobs);
        assert_true(json_number_value(at(json, "content/0/logprob")) == -9999);
        assert_true(json_number_value(at(json, "content/0/top_logprobs/0/logprob")) == -9999);
        json_decref(json);
        spin_openai_logprobs_deinit(&logprobs);
    }
}

static void test_completion_logprobs(void **state)
{
    (void)state;
    struct spin_openai_logprobs logprobs;
    spin_openai_logprobs_init(&logprobs, false, tokenizer, CAP);
    const struct spin_generation_alternative top[] = {{token_of("x"), -0.5F}, {0xC3, -0.75F}};
    /* A prompt's first token has nothing before it; the bytes of one character; not the likeliest;
     * an end token, which is in no text. */
    spin_openai_logprobs_add(
        &logprobs, &(struct spin_generation_token){.token = token_of("p"), .logprob = NAN}, true);
    spin_openai_logprobs_add(&logprobs, &(struct spin_generation_token){0xC3, -0.75F, top, 2},
                             true);
    spin_openai_logprobs_add(&logprobs,
                             &(struct spin_generation_token){.token = 0xA9, .logprob = -2}, true);
    spin_openai_logprobs_add(&logprobs, &(struct spin_generation_token){token_of("\\"), -3, top, 1},
                             true);
    spin_openai_logprobs_add(
        &logprobs,
        &(struct spin_generation_token){.token = spin_tokenizer_eos(tokenizer), .logprob = NAN},
        false);
    json_t *json = write_logprobs(&logprobs);
    expect_text(json, "tokens/0", "p");
    assert_true(json_is_null(at(json, "token_logprobs/0")));
    assert_true(json_is_null(at(json, "top_logprobs/0")));
    expect_text(json, "tokens/1", "bytes:\\xc3");
    assert_int_equal(json_object_size(at(json, "top_logprobs/1")), 2);
    assert_true(json_number_value(at(json, "top_logprobs/1/x")) == -0.5);
    assert_true(json_number_value(at(json, "top_logprobs/1/bytes:\\xc3")) == -0.75);
    assert_int_equal(json_object_size(at(json, "top_logprobs/3")), 2); /* its own is there, too */
    assert_true(json_number_value(at(json, "top_logprobs/3/\\")) == -3);
    assert_true(json_is_null(at(json, "token_logprobs/4")));
    static const int offsets[] = {0, 1, 2, 2, 3}; /* in "p\xc3\xa9\\" */
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(offsets); i++) {
        assert_int_equal(json_integer_value(json_array_get(at(json, "text_offset"), i)),
                         offsets[i]);
    }
    json_decref(json);

    spin_openai_logprobs_reset(&logprobs); /* the next chunk */
    assert_int_equal(spin_openai_logprobs_bytes(&logprobs), 0);
    spin_openai_logprobs_add(
        &logprobs, &(struct spin_generation_token){.token = token_of("z"), .logprob = -1}, true);
    json = write_logprobs(&logprobs);
    assert_int_equal(json_integer_value(at(json, "text_offset/0")), 3);
    json_decref(json);
    spin_openai_logprobs_deinit(&logprobs);
}

/* --- whole replies --- */

static void test_whole_reply(void **state)
{
    (void)state;
    for (int chat = 0; chat < 2; chat++) {
        struct spin_json_writer writer;
        struct spin_json_writer text;
        spin_json_writer_init(&writer, CAP);
        spin_json_writer_init(&text, CAP);
        spin_json_put_escaped(&text, "a\tb", 3);
        struct spin_openai_head head = make_head(chat != 0, false);
        spin_openai_write_begin(&writer, &head);
        for (uint32_t i = 0; i < 2; i++) {
            spin_openai_write_choice(
                &writer, &head,
                &(struct spin_openai_choice){.index = i, .text = &text, .finish_reason = "length"});
        }
        spin_openai_write_end(&writer, &(struct spin_openai_usage){3, 4, 1});
        json_t *json = parse(writer.bytes, writer.count);
        expect_text(json, "object", chat != 0 ? "chat.completion" : "text_completion");
        expect_text(json, chat != 0 ? "choices/1/message/content" : "choices/1/text", "a\tb");
        expect_text(json, "choices/1/finish_reason", "length");
        assert_int_equal(json_integer_value(at(json, "choices/1/index")), 1);
        assert_int_equal(json_integer_value(at(json, "usage/total_tokens")), 7);
        json_decref(json);
        spin_openai_head_deinit(&head);
        spin_json_writer_deinit(&text);
        spin_json_writer_deinit(&writer);
    }
}

/* --- errors --- */

static void test_errors(void **state)
{
    (void)state;
    static const struct {
        spin_status status;
        const char *text;
        int http_status;
        const char *code;
        const char *param;
    } rows[] = {
        {SPIN_ERR_INVALID, "top_p: 2, must be in 0..1", 400, "invalid_value", "top_p"},
        {SPIN_ERR_INVALID, "messages[3].role: bad", 400, "invalid_value", "messages[3].role"},
        {SPIN_ERR_INVALID, "No field: here", 400, "invalid_value", NULL},
        {SPIN_ERR_LIMIT, "prompt: 5 tokens", 400, "context_length_exceeded", "prompt"},
        {SPIN_ERR_UNSUPPORTED, "messages: no chat", 400, "unsupported_parameter", "messages"},
        {SPIN_ERR_DENIED, "key: unknown", 401, "invalid_api_key", NULL},
        {SPIN_ERR_EXHAUSTED, "queue: full", 429, "rate_limit_exceeded", NULL},
        {SPIN_ERR_AGAIN, "no worker", 503, "service_unavailable", NULL},
        {SPIN_ERR_PEER_LOST, "", 503, "service_unavailable", NULL},
        {SPIN_ERR_SHUTDOWN, NULL, 503, "service_unavailable", NULL},
        {SPIN_ERR_DEADLINE, "late", 504, "deadline_exceeded", NULL},
        {SPIN_ERR_INTERNAL, "x", 500, "internal_error", NULL},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct spin_openai_error error;
        struct spin_json_writer writer;
        spin_json_writer_init(&writer, CAP);
        spin_openai_error_from_status(&error, rows[i].status, rows[i].text);
        assert_int_equal(error.http_status, rows[i].http_status);
        spin_openai_error_write(&error, &writer);
        json_t *json = parse(writer.bytes, writer.count);
        expect_text(json, "error/code", rows[i].code);
        assert_true(json_string_length(at(json, "error/message")) > 0);
        if (rows[i].param == NULL) {
            assert_true(json_is_null(at(json, "error/param")));
        } else {
            expect_text(json, "error/param", rows[i].param);
        }
        json_decref(json);
        spin_json_writer_deinit(&writer);
    }
    struct spin_openai_error error;
    spin_openai_error_from_http(&error, 413, "too much");
    assert_string_equal(error.code, "request_too_large");
    spin_openai_error_from_http(&error, 505, "what");
    assert_int_equal(error.http_status, 505);
    assert_string_equal(error.type, "server_error");
    spin_openai_error_from_http(&error, 400, "what");
    assert_string_equal(error.code, "bad_request");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_ascii_character),
        cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_cap),
        cmocka_unit_test(test_chat_chunks),
        cmocka_unit_test(test_text_chunks),
        cmocka_unit_test(test_chat_logprobs),
        cmocka_unit_test(test_logprobs_that_are_no_numbers),
        cmocka_unit_test(test_completion_logprobs),
        cmocka_unit_test(test_whole_reply),
        cmocka_unit_test(test_errors),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
