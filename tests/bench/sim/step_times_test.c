/* Method: a table whose values are sums that one can do in one's head; the same table with one
 * thing wrong, for each thing that can be. */
#include "bench/sim/step_times.h"

#include "tests/bench/sim/small_table.h"
#include "tests/spin_test.h"

static struct spin_step_times *parse(const char *text)
{
    struct spin_step_times *times = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_step_times_parse(text, strlen(text), &times, &err), &err);
    return times;
}

static void test_fields(void **state)
{
    (void)state;
    struct spin_step_times *times = parse(spin_small_table);
    const struct spin_step_engine *engine = spin_step_times_engine(times);
    assert_string_equal(engine->model, "random:tiny");
    assert_string_equal(engine->machine, "paper and pencil");
    assert_string_equal(engine->algorithm, "dense");
    assert_int_equal(engine->layers, 2);
    assert_int_equal(engine->super_chunk_tokens, 1000);
    assert_int_equal(engine->kv_slabs, 16000);
    assert_int_equal(spin_step_times_first_ns(times), 1000000);
    assert_int_equal(spin_step_times_least_decode_ns(times), 11000000);
    assert_int_equal(spin_step_times_prompt_max(times), 2000);
    assert_int_equal(spin_step_times_sequences_max(times), 8);
    assert_int_equal(spin_step_times_context_max(times), 3000);
    spin_step_times_destroy(times);
}

/* All layers of all chunks of a prompt, and its first token. */
static uint64_t whole_prompt(const struct spin_step_times *times, uint32_t tokens)
{
    uint64_t ns = spin_step_times_first_ns(times);
    for (uint32_t begin = 0; begin < tokens; begin += 100) {
        ns += 2 * spin_step_times_unit_ns(times, begin, SPIN_MIN(begin + 100, tokens));
    }
    return ns;
}

static void test_units(void **state)
{
    (void)state;
    struct spin_step_times *times = parse(spin_small_table);
    assert_int_equal(spin_step_times_unit_ns(times, 0, 100), 50000000);
    assert_int_equal(spin_step_times_unit_ns(times, 0, 50), 25000000); /* on the line */
    assert_int_equal(spin_step_times_unit_ns(times, 900, 1000), 50000000);
    assert_int_equal(spin_step_times_unit_ns(times, 1000, 1100), 100000000);
    /* 10 tokens cost what they cost at 0, and a tenth of what a chunk costs more there. */
    assert_int_equal(spin_step_times_unit_ns(times, 1500, 1510), 5000000 + 5000000);
    assert_int_equal(spin_step_times_unit_ns(times, 3000, 3100), 100000000); /* the line goes on */
    /* Prompts that were measured take what was measured. */
    assert_int_equal(whole_prompt(times, 1), 2000000);
    assert_int_equal(whole_prompt(times, 100), 101000000);
    assert_int_equal(whole_prompt(times, 1000), 1001000000);
    assert_int_equal(whole_prompt(times, 2000), 3001000000);
    spin_step_times_destroy(times);
}

static void test_decode(void **state)
{
    (void)state;
    struct spin_step_times *times = parse(spin_small_table);
    assert_int_equal(spin_step_times_decode_ns(times, 1, 1000), 11000000);
    assert_int_equal(spin_step_times_decode_ns(times, 1, 2000), 12000000);
    assert_int_equal(spin_step_times_decode_ns(times, 1, 10), 11000000);    /* the nearest */
    assert_int_equal(spin_step_times_decode_ns(times, 1, 5000), 15000000);  /* the line goes on */
    assert_int_equal(spin_step_times_decode_ns(times, 8, 12000), 29000000); /* 1,500 each */
    /* Half-way between 1 and 8 sequences, at 2,000 tokens each. */
    const double middle = 12e6 + (33e6 - 12e6) * 3 / 7;
    assert_int_equal(spin_step_times_decode_ns(times, 4, 8000), (uint64_t)middle);
    assert_int_equal(spin_step_times_decode_ns(times, 15, 15000), 25000000 + 14000000);
    spin_step_times_destroy(times);
}

/* Falling lines are noise: what goes on behind them does not fall, and nothing is below the least.
 */
static void test_noise(void **state)
{
    (void)state;
    char *text = spin_small_table_with(spin_small_table, "decode 1 3000", "decode 1 3000 10000000");
    struct spin_step_times *times = parse(text);
    assert_int_equal(spin_step_times_decode_ns(times, 1, 100000), 10000000);
    assert_int_equal(spin_step_times_least_decode_ns(times), 10000000);
    spin_step_times_destroy(times);
    free(text);
}

static void test_refuses(void **state)
{
    (void)state;
    const struct {
        const char *key;  /* the line that goes */
        const char *line; /* what comes instead */
        const char *says;
    } cases[] = {
        {"spin-step-times 1", "spin-step-times 2", "begins with"},
        {"layers", NULL, "layers: missing"},
        {"model", NULL, "model: missing"},
        {"algorithm", "algorithm", "algorithm: must have 1 to 31 bytes"},
        {"first", NULL, "first"},
        {"layers", "layers 0", "layers 0: must be a whole number, 1 to"},
        {"layers", "layers -1", "layers -1"},
        {"layers", "layers 2.5", "layers 2.5"},
        {"layers", "layers 2 3", "layers 2 3"},
        {"layers", "layers 99999999999999999999", "must be a whole number"},
        {"max_num_seqs", "max_num_seqs 1025", "1 to 1024"},
        {"kv_blocks", "kv_blocks 0x10", "kv_blocks 0x10"},
        {"prompt 100 ", "prompt 100", "2 numbers are wanted"},
        {"prompt 100 ", "prompt 100 1 1", "2 numbers are wanted"},
        {"prompt 1000 ", "prompt 100 2000000000", "rising"},
        {"prompt 1000 ", "prompt 1000 5", "rising"},
        {"prompt 1000 ", "prompt 1000 2000000000000", "nanoseconds"},
        {"decode 8 1000", "decode 0 1000 5", "sequences 0"},
        {"decode 8 2000", "decode 8 1000 5", "rising"},
        {"decode 8 2000", "decode 7 2000 5", "rising"},
        {"decode 8 2000", "decode 8 2000 0", "nanoseconds 0"},
        {"decode 8 2000", "decode 8 2000 nan", "nanoseconds nan"},
        {"first", "first 3000000", "is part of every prompt"},
        {"chunk_tokens", "chunk_tokens 1001", "at most super_chunk_tokens"},
        {NULL, "layers 2", "given twice"},
        {NULL, "first 5", "given twice"},
        {NULL, "colour blue", "no such field"},
        {NULL, "\x01", "not printable"},
        {NULL, "decode 8 3000 5 \xff", "not printable"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(cases); i++) {
        char *text = spin_small_table_with(spin_small_table, cases[i].key, cases[i].line);
        struct spin_step_times *times = NULL;
        struct spin_error err = {0};
        const spin_status status = spin_step_times_parse(text, strlen(text), &times, &err);
        if (status != SPIN_ERR_INVALID || strstr(err.text, cases[i].says) == NULL) {
            fail_msg("case %u: %s: \"%s\" does not say \"%s\"", i, spin_status_name(status),
                     err.text, cases[i].says);
        }
        assert_null(times);
        free(text);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    const uint64_t bytes = SPIN_STEP_TIMES_BYTES_MAX + 1;
    char *text = malloc(bytes);
    assert_non_null(text);
    memset(text, ' ', bytes);
    struct spin_step_times *times = NULL;
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(spin_step_times_parse(text, bytes, &times, &err), SPIN_ERR_INVALID);
    SPIN_EXPECT_STATUS(spin_step_times_parse(text, bytes - 1, &times, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "line 1: at most"));
    SPIN_EXPECT_STATUS(spin_step_times_parse("", 0, &times, &err), SPIN_ERR_INVALID);
    SPIN_EXPECT_STATUS(spin_step_times_read("/nowhere/at/all", &times, &err), SPIN_ERR_NOT_FOUND);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fields),  cmocka_unit_test(test_units),
        cmocka_unit_test(test_decode),  cmocka_unit_test(test_noise),
        cmocka_unit_test(test_refuses), cmocka_unit_test(test_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
