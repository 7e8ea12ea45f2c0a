/* Prompts: as many tokens as planned by a tokenizer that we did not choose the words for alone
 * (the demo model's), shared where the plan shares, and plain letters throughout. */
#include "bench/load/prompt.h"

#include "model/text/tokenizer.h"
#include "tests/spin_test.h"

#include <stdlib.h>
#include <string.h>

static const char *model_path;

static char *written(const struct spin_bench_plan *plan, uint64_t *bytes)
{
    char *text = calloc(1, spin_bench_prompt_bytes_max(plan) + 1);
    assert_non_null(text);
    *bytes = spin_bench_prompt_write(plan, text);
    assert_true(*bytes < spin_bench_prompt_bytes_max(plan));
    text[*bytes] = '\0';
    return text;
}

static uint32_t words_in(const char *text)
{
    uint32_t spaces = 0;
    for (; *text != '\0'; text++) {
        assert_true((*text >= 'a' && *text <= 'z') || *text == ' ');
        spaces += *text == ' ';
    }
    return spaces + 1;
}

static void test_words_are_distinct_letters(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_BENCH_WORDS; i++) {
        const char *word = spin_bench_word(i);
        assert_in_range(strlen(word), 1, SPIN_BENCH_WORD_BYTES - 1);
        assert_int_equal(words_in(word), 1);
        assert_true(i == 0 || strcmp(spin_bench_word(i - 1), word) < 0); /* sorted: none twice */
    }
}

static void test_blocks_are_shared_text(void **state)
{
    (void)state;
    const uint64_t blocks[] = {11, 12};
    struct spin_bench_plan plan = {.prompt_tokens = 100,
                                   .text_seed = 1,
                                   .blocks = blocks,
                                   .block_count = 2,
                                   .block_tokens = 30};
    uint64_t bytes = 0;
    uint64_t other_bytes = 0;
    char *text = written(&plan, &bytes);
    plan.text_seed = 2;
    char *other = written(&plan, &other_bytes);
    uint64_t same = 0;
    while (text[same] == other[same]) {
        same++;
    }
    text[same] = '\0';
    assert_in_range(words_in(text), 60, 62); /* by chance a word more */
    plan.prompt_tokens = 45;                 /* ends inside the second block */
    char *cut = written(&plan, &bytes);
    assert_int_equal(words_in(cut), 45);
    assert_int_equal(strncmp(cut, other, bytes), 0);
    free(text);
    free(other);
    free(cut);
}

static void test_a_word_is_a_token(void **state)
{
    (void)state;
    struct spin_error err = {0};
    struct spin_tokenizer *tokenizer = NULL;
    assert_int_equal(spin_tokenizer_open(model_path, &tokenizer, &err), SPIN_OK);
    for (uint32_t tokens = 1; tokens < 5000; tokens = tokens * 3 + 1) {
        const struct spin_bench_plan plan = {.prompt_tokens = tokens, .text_seed = tokens};
        uint64_t bytes = 0;
        char *text = written(&plan, &bytes);
        assert_int_equal(words_in(text), tokens);
        uint64_t count = 0;
        int32_t *ids = calloc(tokens + 8, sizeof *ids);
        assert_non_null(ids);
        SPIN_EXPECT_OK(spin_tokenizer_encode(tokenizer, text, bytes, SPIN_ENCODE_PLAIN, ids,
                                             tokens + 8, &count, &err),
                       &err);
        free(ids);
        /* The first word has no space before it: it may be two. */
        assert_in_range(count, tokens, tokens + 1);
        free(text);
    }
    spin_tokenizer_close(tokenizer);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_are_distinct_letters),
        cmocka_unit_test(test_blocks_are_shared_text),
        cmocka_unit_test(test_a_word_is_a_token),
    };
    assert_true(argc > 1);
    model_path = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
