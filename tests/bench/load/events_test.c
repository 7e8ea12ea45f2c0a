/* Server-sent events by the rules of the HTML standard, and what completions of different servers
 * say in them. */
#include "bench/load/openai_event.h"
#include "bench/load/sse.h"
#include "tests/spin_test.h"

#include <string.h>

struct joined {
    char text[256]; /* the events, a bar behind each */
    uint32_t stops_after;
    uint32_t count;
};

static bool on_event(void *context, const char *data, uint64_t bytes)
{
    struct joined *joined = context;
    assert_int_equal(strlen(data), bytes);
    const uint64_t used = strlen(joined->text);
    (void)snprintf(joined->text + used, sizeof joined->text - used, "%s|", data);
    return ++joined->count != joined->stops_after;
}

static void test_the_standard(void **state)
{
    (void)state;
    static const struct {
        const char *stream;
        const char *events;
    } rows[] = {
        {"data: a\n\ndata: b\n\n", "a|b|"},
        {"data: a\r\n\r\ndata: b\r\n\r\n", "a|b|"},
        {"data: a\r\rdata: b\r\r", "a|b|"},
        {"data:a\n\n", "a|"},
        {"data:  a \n\n", " a |"},
        {"data: a\ndata: b\ndata:\ndata: c\n\n", "a\nb\n\nc|"},
        {"data\n\n", "|"},
        {"data\ndata\n\n", "\n|"},
        {": comment\nevent: x\nid: 1\nretry: 5\ndata: a\nx\n\n", "a|"},
        {"datax: a\n\n dat: b\n\n", ""},
        {"\n\n\n", ""},
        {"data: never ended", ""},
        {"data: never ended\n", ""},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct spin_sse sse = {0};
        struct joined joined = {0};
        assert_int_equal(
            spin_sse_feed(&sse, rows[i].stream, strlen(rows[i].stream), on_event, &joined),
            SPIN_OK);
        assert_string_equal(joined.text, rows[i].events);
        spin_sse_deinit(&sse);
    }
}

static void test_who_stops_gets_no_more(void **state)
{
    (void)state;
    static const char stream[] = "data: a\n\ndata: b\n\ndata: c\n\n";
    struct spin_sse sse = {0};
    struct joined joined = {.stops_after = 2};
    assert_int_equal(spin_sse_feed(&sse, stream, sizeof stream - 1, on_event, &joined), SPIN_OK);
    assert_string_equal(joined.text, "a|b|");
    spin_sse_deinit(&sse);
}

static void test_an_event_without_an_end(void **state)
{
    (void)state;
    static char piece[4096];
    struct spin_sse sse = {0};
    struct joined joined = {0};
    spin_status status = SPIN_OK;
    uint64_t fed = 0;
    memset(piece, 'a', sizeof piece);
    for (; status == SPIN_OK && fed < 2 * SPIN_SSE_EVENT_BYTES_MAX; fed += sizeof piece) {
        status = spin_sse_feed(&sse, piece, sizeof piece, on_event, &joined);
    }
    assert_int_equal(status, SPIN_ERR_LIMIT);
    assert_true(fed <= SPIN_SSE_EVENT_BYTES_MAX + sizeof piece);
    spin_sse_deinit(&sse);
    spin_sse_deinit(&sse);
}

static void test_events(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        bool understood;
        struct spin_openai_event event;
    } rows[] = {
        {"[DONE]", true, {.done = true}},
        {"{\"choices\":[{\"text\":\" a\",\"finish_reason\":null}]}", true, {.has_text = true}},
        {"{\"choices\":[{\"text\":\"\",\"finish_reason\":\"length\"}]}", true, {.has_end = true}},
        {"{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}", true, {.has_text = true}},
        {"{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}", true, {0}},
        {"{\"choices\":[{\"delta\":{\"reasoning_content\":\"a\"}}]}", true, {.has_text = true}},
        {"{\"choices\":[{\"delta\":{\"tool_calls\":[{}]}}]}", true, {.has_text = true}},
        {"{\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}",
         true,
         {.has_usage = true, .prompt_tokens = 7, .completion_tokens = 3}},
        {"{\"usage\":null}", true, {0}},
        {"{\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":3}}", true, {0}},
        {"{\"error\":{\"message\":\"a\\nb\"}}", true, {.error = "a b"}},
        {"{\"error\":\"text\"}", true, {.error = "text"}},
        {"{\"error\":{}}", true, {.error = "an error without a message"}},
        {"{\"error\":null}", true, {0}},
        {"{}", true, {0}},
        {"[]", false, {0}},
        {"", false, {0}},
        {"{\"choices\":", false, {0}},
        {"{} {}", false, {0}},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct spin_openai_event event;
        const char *data = rows[i].data;
        assert_int_equal(spin_openai_event_read(data, strlen(data), &event), rows[i].understood);
        assert_int_equal(event.done, rows[i].event.done);
        assert_int_equal(event.has_text, rows[i].event.has_text);
        assert_int_equal(event.has_end, rows[i].event.has_end);
        assert_int_equal(event.has_usage, rows[i].event.has_usage);
        if (event.has_usage) {
            assert_int_equal(event.prompt_tokens, rows[i].event.prompt_tokens);
            assert_int_equal(event.completion_tokens, rows[i].event.completion_tokens);
        }
        assert_string_equal(event.error, rows[i].event.error);
    }
}

static void test_refusals_and_models(void **state)
{
    (void)state;
    static const char *const refusals[][2] = {
        {"{\"error\":{\"message\":\"too long\"}}", "too long"},
        {"{\"error\":\"busy\"}", "busy"},
        {"{\"message\":\"no\"}", "no"},
        {"{\"detail\":\"not found\"}", "not found"},
        {"<html>\r\n<h1>502</h1>", "<html>"},
        {"", ""},
    };
    char text[64];
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(refusals); i++) {
        spin_openai_error_read(refusals[i][0], strlen(refusals[i][0]), text, sizeof text);
        assert_string_equal(text, refusals[i][1]);
    }
    static const char models[] = "{\"data\":[{\"id\":\"a/b\"},{\"id\":\"c\"}]}";
    assert_true(spin_openai_model_read(models, sizeof models - 1, text, sizeof text));
    assert_string_equal(text, "a/b");
    assert_false(spin_openai_model_read(models, sizeof models - 1, text, 3)); /* no room */
    assert_false(spin_openai_model_read("{\"data\":[]}", 11, text, sizeof text));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_standard),
        cmocka_unit_test(test_who_stops_gets_no_more),
        cmocka_unit_test(test_an_event_without_an_end),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_refusals_and_models),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
