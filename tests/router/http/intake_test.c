/* Bodies into tokens and replies, with the tokenizer of one token per byte: what the tokens must be
 * can be read off the text. BOS and the chat format are the demo family's (docs/text.md). */
#include "router/http/intake.h"

#include "tests/model/text/small_json.h"
#include "tests/spin_test.h"

#include <jansson.h>

#define LIMIT 64u
#define TEXT SPIN_OPENAI_COMPLETIONS

static struct spin_tokenizer *tokenizer;
static struct spin_prompt_model model;

static int open_model(void **state)
{
    (void)state;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_tokenizer_open("random:", &tokenizer, &err), &err);
    model.tokenizer = tokenizer;
    SPIN_EXPECT_OK(spin_chat_format_find(NULL, "chatml", &model.chat_format, &err), &err);
    return 0;
}

static int close_model(void **state)
{
    (void)state;
    spin_tokenizer_close(tokenizer);
    return 0;
}

static struct spin_intake run(enum spin_openai_endpoint endpoint, const char *body)
{
    struct spin_intake intake = {.endpoint = endpoint,
                                 .body = body,
                                 .body_bytes = strlen(body),
                                 .model = &model,
                                 .model_name = "served",
                                 .max_model_len = LIMIT};
    spin_intake_run(&intake);
    return intake;
}

static void refused(enum spin_openai_endpoint endpoint, const char *body, int http_status,
                    const char *text)
{
    struct spin_intake intake = run(endpoint, body);
    if (intake.status == SPIN_OK || intake.error.http_status != http_status ||
        strstr(intake.error.message, text) == NULL) {
        fail_msg("%s: %d %s", body, intake.error.http_status, intake.error.message);
    }
    spin_intake_deinit(&intake);
}

static void test_text(void **state)
{
    (void)state;
    struct spin_intake intake = run(TEXT, "{\"prompt\":[\"abc\",\"d\"],\"model\":\"served\"}");
    assert_int_equal(intake.status, SPIN_OK);
    assert_int_equal(intake.prompt_count, 2);
    assert_int_equal(intake.prompts[0].count, 3);
    assert_int_equal(intake.prompts[0].tokens[1], 'b');
    assert_int_equal(intake.prompts[1].count, 1);
    spin_intake_deinit(&intake);
    spin_intake_deinit(&intake); /* twice is fine */
    intake = run(TEXT, "{\"prompt\":[256,97]}");
    assert_int_equal(intake.prompts[0].tokens[0], 256);
    spin_intake_deinit(&intake);
    /* A special token that is spelled in a prompt is that token; in a message it is text. */
    intake = run(TEXT, "{\"prompt\":\"<|im_end|>\"}");
    assert_int_equal(intake.prompts[0].count, 1);
    assert_true(spin_tokenizer_is_special(tokenizer, intake.prompts[0].tokens[0]));
    spin_intake_deinit(&intake);
}

static void test_messages(void **state)
{
    (void)state;
    struct spin_intake intake =
        run(SPIN_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"<|im_end|>\"}]}");
    assert_int_equal(intake.status, SPIN_OK);
    assert_int_equal(intake.prompt_count, 1);
    uint32_t special = 0;
    for (uint32_t i = 0; i < intake.prompts[0].count; i++) {
        special += spin_tokenizer_is_special(tokenizer, intake.prompts[0].tokens[i]) ? 1 : 0;
    }
    assert_int_equal(special, 3); /* start, end, start of the answer */
    spin_intake_deinit(&intake);
}

static void test_refusals(void **state)
{
    (void)state;
    char body[256];
    refused(TEXT, "{\"prompt\":\"a\",\"model\":\"other\"}", 404, "\"other\" is not served here");
    refused(TEXT, "{\"prompt\":\"\"}", 400, "prompt: empty");
    refused(TEXT, "{\"prompt\":[]}", 400, "prompt: empty");
    refused(TEXT, "{\"prompt\":[1048576]}", 400, "prompt[0]: token 1048576");
    (void)snprintf(body, sizeof body, "{\"prompt\":\"%065d\"}", 1);
    refused(TEXT, body, 400, "prompt: 65 tokens; this model's maximum context length is 64");
    (void)snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":\"%065d\"}]}",
                   1);
    refused(SPIN_OPENAI_CHAT, body, 400, "maximum context length is 64");
    (void)snprintf(body, sizeof body, "{\"prompt\":\"%064d\"}", 1); /* as much as there may be */
    struct spin_intake intake = run(TEXT, body);
    assert_int_equal(intake.status, SPIN_OK);
    assert_int_equal(intake.prompts[0].count, 64);
    spin_intake_deinit(&intake);

    const struct spin_chat_format *format = model.chat_format;
    model.chat_format = NULL;
    refused(SPIN_OPENAI_CHAT, "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}", 400,
            "no chat format");
    model.chat_format = format;
}

static void expect_reply(enum spin_openai_endpoint endpoint, const char *body, const char *wanted)
{
    struct spin_intake intake = run(endpoint, body);
    if (intake.status != SPIN_OK) {
        fail_msg("%s: %s", body, intake.error.message);
    }
    json_t *got = json_loadb(intake.reply.bytes, intake.reply.count, 0, NULL);
    json_t *expected = json_loads(wanted, 0, NULL);
    assert_non_null(expected);
    if (!json_equal(got, expected)) {
        fail_msg("%s: %.*s", body, (int)intake.reply.count, intake.reply.bytes);
    }
    json_decref(got);
    json_decref(expected);
    spin_intake_deinit(&intake);
}

static void test_tokenize(void **state)
{
    (void)state;
    expect_reply(SPIN_OPENAI_TOKENIZE, "{\"prompt\":\"ab\"}",
                 "{\"tokens\":[97,98],\"count\":2,\"max_model_len\":64}");
    expect_reply(SPIN_OPENAI_TOKENIZE, "{\"prompt\":\"\"}",
                 "{\"tokens\":[],\"count\":0,\"max_model_len\":64}");
    expect_reply(SPIN_OPENAI_DETOKENIZE, "{\"tokens\":[104,105,256]}",
                 "{\"prompt\":\"hi<|endoftext|>\"}");
    expect_reply(SPIN_OPENAI_DETOKENIZE, "{\"tokens\":[]}", "{\"prompt\":\"\"}");
    expect_reply(SPIN_OPENAI_DETOKENIZE, "{\"tokens\":[195,169,195]}",
                 "{\"prompt\":\"\\u00e9\\ufffd\"}");
    refused(SPIN_OPENAI_DETOKENIZE, "{\"tokens\":[1048576]}", 400, "tokens: id 1048576");
    refused(SPIN_OPENAI_TOKENIZE, "{\"prompt\":[1,2]}", 400, "prompt: must be a text");
}

static void test_echo(void **state)
{
    (void)state;
    struct spin_intake intake =
        run(TEXT, "{\"prompt\":[[104,105,34],[256]],\"echo\":true,\"max_tokens\":1}");
    struct spin_json_writer text;
    spin_json_writer_init(&text, 1000);
    spin_intake_echo(&intake, 0, &text);
    assert_int_equal(text.count, 4);
    assert_memory_equal(text.bytes, "hi\\\"", 4);
    assert_false(spin_intake_added_bos(&intake, 1)); /* the client gave it */
    spin_json_writer_deinit(&text);
    spin_intake_deinit(&intake);
}

/* A tokenizer that puts BOS before a text: that token has no characters in what is echoed. */
static void test_added_bos(void **state)
{
    (void)state;
    const struct spin_prompt_model kept = model;
    struct spin_tokenizer *adds_bos = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_small_json_open(&(struct small_json){0},
                                        "{\"bos_token\":\"<tool>\",\"add_bos_token\":true}",
                                        &adds_bos, &err),
                   &err);
    model.tokenizer = adds_bos;
    struct spin_intake intake =
        run(TEXT, "{\"prompt\":[\"hello\",\"<tool>\",[261]],\"echo\":true,\"n\":2}");
    assert_int_equal(intake.status, SPIN_OK);
    assert_int_equal(intake.prompts[0].tokens[0], SMALL_TOOL);
    assert_int_equal(intake.prompts[0].tokens[1], SMALL_HELLO);
    assert_true(spin_intake_added_bos(&intake, 0));
    assert_false(spin_intake_added_bos(&intake, 2)); /* the client gave it */
    spin_intake_deinit(&intake);
    expect_reply(SPIN_OPENAI_TOKENIZE, "{\"prompt\":\"hello\"}",
                 "{\"tokens\":[261,259],\"count\":2,\"max_model_len\":64}");
    expect_reply(SPIN_OPENAI_TOKENIZE, "{\"prompt\":\"hello\",\"add_special_tokens\":false}",
                 "{\"tokens\":[259],\"count\":1,\"max_model_len\":64}");
    spin_tokenizer_close(adds_bos);
    model = kept;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),     cmocka_unit_test(test_messages),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_tokenize),
        cmocka_unit_test(test_echo),     cmocka_unit_test(test_added_bos),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
