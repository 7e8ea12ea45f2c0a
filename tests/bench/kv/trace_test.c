/* What was written comes back, page by page; and a file that says nonsense, however small the
 * difference, is refused with a sentence and never crashes the reader. */
#include "bench/kv/trace.h"

#include "base/file.h"
#include "base/rng.h"
#include "tests/bench/kv/trace_maker.h"
#include "tests/spin_test.h"

#define PAGE_TOKENS 8u

static const struct spin_trace_shape shape_of_two = {.page_tokens = PAGE_TOKENS,
                                                     .first_layer = 2,
                                                     .layers = 1,
                                                     .kv_heads = 2,
                                                     .documents = 1,
                                                     .steps = 2,
                                                     .algorithm = "written"};
static const struct spin_trace_document document_of_two = {.name = "text", .prompt_tokens = 40};

/* Steps of 41 and 42 tokens: pages 0 to 5. */
static const uint16_t written[4][6] = {{0, 1, 2, 3, 4, 5}, {0, 3, 5}, {5}, {1, 2, 4, 5}};
static const uint32_t written_count[4] = {6, 3, 1, 4};

static void write_two(const char *path, uint32_t lists, struct spin_trace_window window)
{
    struct spin_trace_writer writer;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_trace_create(path, &shape_of_two, &document_of_two, &writer, &err), &err);
    for (uint32_t i = 0; i < lists; i++) {
        if (i % 2 == 0) {
            spin_trace_put_window(&writer, window);
        }
        spin_trace_put_list(&writer, (struct spin_trace_list){written[i], written_count[i]});
    }
    SPIN_EXPECT_OK(spin_trace_finish(&writer, &err), &err);
}

static void test_round_trip(void **state)
{
    (void)state;
    const char *path = spin_trace_path("two.trace");
    struct spin_trace trace;
    struct spin_error err;
    write_two(path, 4, (struct spin_trace_window){1, 4});
    SPIN_EXPECT_OK(spin_trace_open(path, &trace, &err), &err);
    assert_string_equal(trace.shape.algorithm, "written");
    assert_string_equal(trace.documents[0].name, "text");
    assert_int_equal(trace.shape.first_layer, 2);
    assert_int_equal(spin_trace_tokens(&trace, 0, 1), 42);
    for (uint32_t i = 0; i < 4; i++) {
        const struct spin_trace_list list = spin_trace_get_list(&trace, 0, i / 2, i % 2);
        assert_int_equal(list.count, written_count[i]);
        assert_memory_equal(list.pages, written[i], list.count * sizeof *list.pages);
    }
    const struct spin_trace_window *window = spin_trace_get_window(&trace, 0, 1);
    assert_true(spin_trace_is_private(window, 0) && !spin_trace_is_private(window, 1));
    assert_true(!spin_trace_is_private(window, 3) && spin_trace_is_private(window, 4));
    assert_int_equal(spin_trace_mandatory(&trace, 0), 6);
    /* The head, one document, two windows, and runs: 1 + 2, 1 + 6, 1 + 2, 1 + 4. */
    assert_int_equal(trace.file_bytes, 72 + 40 + 2 * 2 + 3 + 7 + 3 + 5);
    spin_trace_close(&trace);
}

static void expect_corrupt(const char *path, const char *text)
{
    struct spin_trace trace;
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(spin_trace_open(path, &trace, &err), SPIN_ERR_CORRUPT);
    if (strstr(err.text, text) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    }
}

static void test_refuses(void **state)
{
    (void)state;
    const char *path = spin_trace_path("bad.trace");
    write_two(path, 3, (struct spin_trace_window){1, 4});
    expect_corrupt(path, "text, step 1: bad near byte");
    write_two(path, 4, (struct spin_trace_window){4, 1}); /* the sink ends in the local window */
    expect_corrupt(path, "text, step 0");
    write_two(path, 4, (struct spin_trace_window){1, 6}); /* page 6 does not exist yet */
    expect_corrupt(path, "text, step 0");
    struct spin_error err;
    SPIN_EXPECT_OK(spin_file_replace(path, "not a trace", &err), &err);
    expect_corrupt(path, "too short");
}

static void write_bytes(const char *path, const uint8_t *bytes, uint64_t count)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

/* Cut at every byte, and with every byte of the body changed: whatever is still accepted must hold
 * what the header promises of every list. */
static void test_damage(void **state)
{
    (void)state;
    const struct spin_trace_plan plan = {.seed = 3,
                                         .documents = 2,
                                         .layers = 1,
                                         .kv_heads = 2,
                                         .prompt_tokens = 100,
                                         .steps = 3,
                                         .sink = 1,
                                         .local = 2,
                                         .chosen = 3};
    struct spin_trace trace;
    spin_make_trace(&plan, &trace);
    spin_trace_close(&trace);
    struct spin_file_map map;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_file_map_open(spin_trace_path("made.trace"), &map, &err), &err);
    uint8_t *bytes = malloc(map.count);
    assert_non_null(bytes);
    for (uint64_t cut = 0; cut < map.count; cut++) {
        const char *path = spin_trace_path("cut.trace");
        write_bytes(path, map.bytes, cut);
        expect_corrupt(path, "");
    }
    uint32_t refused = 0;
    const uint64_t body = 72 + 2 * 40;
    for (uint64_t at = body; at < map.count; at++) {
        memcpy(bytes, map.bytes, map.count);
        bytes[at] ^= 0x81;
        write_bytes(spin_trace_path("damaged.trace"), bytes, map.count);
        const spin_status status = spin_trace_open(spin_trace_path("damaged.trace"), &trace, &err);
        refused += status != SPIN_OK;
        for (uint32_t i = 0; status == SPIN_OK && i < 2 * 3 * 2; i++) {
            const struct spin_trace_list list =
                spin_trace_get_list(&trace, i / 6, i / 2 % 3, i % 2);
            const uint32_t tokens = spin_trace_tokens(&trace, i / 6, i / 2 % 3);
            assert_int_equal(list.pages[list.count - 1], (tokens - 1) / PAGE_TOKENS);
        }
        if (status == SPIN_OK) {
            spin_trace_close(&trace);
        }
    }
    assert_true(refused > (map.count - body) / 2);
    free(bytes);
    spin_file_map_close(&map);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
