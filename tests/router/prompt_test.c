/* Text, messages and ids as tokens, with a tokenizer that adds BOS and has a token of several
 * letters ("hello"): counts on both sides of a limit, and what is refused by which status. */
#include "router/prompt.h"

#include "tests/model/text/small_json.h"
#include "tests/spin_test.h"

#define BOS SMALL_TOOL

static struct spin_tokenizer *tokenizer;
static struct spin_prompt_model model;

static int open_model(void **state)
{
    (void)state;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_small_json_open(&(struct small_json){0},
                                        "{\"bos_token\":\"<tool>\",\"eos_token\":\"<|end|>\","
                                        "\"add_bos_token\":true}",
                                        &tokenizer, &err),
                   &err);
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

static void expect_tokens(struct spin_prompt_tokens *prompt, const int32_t *wanted, uint32_t count)
{
    assert_int_equal(prompt->count, count);
    assert_memory_equal(prompt->tokens, wanted, count * sizeof *wanted);
    spin_prompt_tokens_deinit(prompt);
    assert_null(prompt->tokens);
    spin_prompt_tokens_deinit(prompt); /* nothing is left to free */
}

static void test_text(void **state)
{
    (void)state;
    struct spin_error err = {.status = SPIN_OK};
    struct spin_prompt_tokens prompt = {0};
    SPIN_EXPECT_OK(spin_prompt_from_text(&model, "hellohe", 7, 3, &prompt, &err), &err);
    expect_tokens(&prompt, (const int32_t[]){BOS, SMALL_HELLO, SMALL_HE}, 3);
    SPIN_EXPECT_OK(spin_prompt_from_text(&model, "<|end|>", 7, 3, &prompt, &err), &err);
    expect_tokens(&prompt, (const int32_t[]){BOS, SMALL_END}, 2); /* special ones are parsed */
    SPIN_EXPECT_OK(spin_prompt_from_text(&model, "", 0, 3, &prompt, &err), &err);
    expect_tokens(&prompt, (const int32_t[]){BOS}, 1);
    SPIN_EXPECT_STATUS(spin_prompt_from_text(&model, "hellohe", 7, 2, &prompt, &err),
                       SPIN_ERR_LIMIT);
    assert_string_equal(err.text,
                        "prompt: 3 tokens; this model's maximum context length is 2 tokens");
}

static void test_messages(void **state)
{
    (void)state;
    const struct spin_chat_message messages[] = {{"system", "hello", 5}, {"user", "<|end|>", 7}};
    struct spin_error err = {.status = SPIN_OK};
    struct spin_prompt_tokens prompt = {0};
    SPIN_EXPECT_OK(spin_prompt_from_messages(&model, messages, 2, 1000, &prompt, &err), &err);
    const uint32_t count = prompt.count;
    for (uint32_t i = 0; i < count; i++) {
        assert_int_not_equal(prompt.tokens[i], SMALL_END); /* content is text */
    }
    spin_prompt_tokens_deinit(&prompt);
    SPIN_EXPECT_OK(spin_prompt_from_messages(&model, messages, 2, count, &prompt, &err), &err);
    assert_int_equal(prompt.count, count);
    spin_prompt_tokens_deinit(&prompt);
    SPIN_EXPECT_STATUS(spin_prompt_from_messages(&model, messages, 2, count - 1, &prompt, &err),
                       SPIN_ERR_LIMIT);
    assert_non_null(strstr(err.text, "maximum context length is"));
    SPIN_EXPECT_STATUS(spin_prompt_from_messages(&model, messages, 0, 1000, &prompt, &err),
                       SPIN_ERR_INVALID);
    const struct spin_chat_message strange[] = {{"user", "x", 1}, {"owner", "x", 1}};
    SPIN_EXPECT_STATUS(spin_prompt_from_messages(&model, strange, 2, 1000, &prompt, &err),
                       SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "messages[1].role"));
    const struct spin_prompt_model plain = {tokenizer, NULL};
    SPIN_EXPECT_STATUS(spin_prompt_from_messages(&plain, messages, 2, 1000, &prompt, &err),
                       SPIN_ERR_UNSUPPORTED);
    assert_null(prompt.tokens);
}

static void test_tokens(void **state)
{
    (void)state;
    static const int32_t good[] = {0, SMALL_COUNT - 1};
    struct spin_error err = {.status = SPIN_OK};
    struct spin_prompt_tokens prompt = {0};
    SPIN_EXPECT_OK(spin_prompt_from_tokens(&model, good, 2, 2, &prompt, &err), &err);
    expect_tokens(&prompt, good, 2);
    SPIN_EXPECT_STATUS(spin_prompt_from_tokens(&model, good, 2, 1, &prompt, &err), SPIN_ERR_LIMIT);
    SPIN_EXPECT_STATUS(spin_prompt_from_tokens(&model, good, 0, 2, &prompt, &err),
                       SPIN_ERR_INVALID);
    static const int32_t bad[] = {0, SMALL_COUNT};
    SPIN_EXPECT_STATUS(spin_prompt_from_tokens(&model, bad, 2, 2, &prompt, &err), SPIN_ERR_INVALID);
    assert_string_equal(err.text, "prompt[1]: token 262, the vocabulary is 0..261");
    static const int32_t negative[] = {-1};
    SPIN_EXPECT_STATUS(spin_prompt_from_tokens(&model, negative, 1, 2, &prompt, &err),
                       SPIN_ERR_INVALID);
    assert_null(prompt.tokens);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_tokens),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
