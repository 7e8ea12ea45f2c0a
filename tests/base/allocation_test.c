/* Every constructor of base is run with its n-th allocation failing, for every n until none fails:
 * it says NO_MEMORY, writes no result and leaks nothing. The linker puts these functions in the
 * way. */
#include "base/arena.h"
#include "base/config.h"
#include "base/config_file.h"
#include "base/file.h"
#include "base/metrics.h"
#include "base/ring.h"
#include "tests/spin_test.h"

#include <unistd.h>

static uint32_t fail_at; /* the n-th allocation from now on fails; 0: none */

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t bytes);
void *__real_aligned_alloc(size_t alignment, size_t bytes);
char *__real_strdup(const char *text);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t bytes);
void *__wrap_aligned_alloc(size_t alignment, size_t bytes);
char *__wrap_strdup(const char *text);

static bool fails(void)
{
    return fail_at != 0 && --fail_at == 0;
}

void *__wrap_malloc(size_t bytes)
{
    return fails() ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t bytes)
{
    return fails() ? NULL : __real_realloc(old, bytes);
}

void *__wrap_aligned_alloc(size_t alignment, size_t bytes)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, bytes);
}

char *__wrap_strdup(const char *text)
{
    return fails() ? NULL : __real_strdup(text);
}

/* Makes and unmakes one object; returns how the making went. Leaks are LeakSanitizer's to find. */
typedef spin_status (*spin_make_fn)(struct spin_error *err);

static spin_status make_arena(struct spin_error *err)
{
    struct spin_arena *arena = NULL;
    SPIN_TRY(spin_arena_create(256, 4096, &arena, err));
    spin_status status = SPIN_OK;
    for (int i = 0; i < 4; i++) {
        if (spin_arena_take(arena, 200) == NULL) {
            status = spin_fail(err, SPIN_ERR_NO_MEMORY, "a piece");
        }
    }
    spin_arena_destroy(arena);
    return status;
}

static spin_status make_ring(struct spin_error *err)
{
    struct spin_ring *ring = NULL;
    const spin_status status = spin_ring_create(4, &ring, err);
    assert_int_equal(ring != NULL, status == SPIN_OK);
    spin_ring_destroy(ring);
    return status;
}

static spin_status make_metrics(struct spin_error *err)
{
    static const struct spin_metric table[] = {
        {"spin_x_total", NULL, SPIN_METRIC_COUNTER, "X.", NULL, 0}};
    struct spin_metrics *metrics = NULL;
    const spin_status status = spin_metrics_create(table, 1, &metrics, err);
    assert_int_equal(metrics != NULL, status == SPIN_OK);
    spin_metrics_destroy(metrics);
    return status;
}

static char path[256];

static spin_status make_text(struct spin_error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    const spin_status status = spin_file_read(path, 100000, &text, &bytes, err);
    assert_int_equal(text != NULL, status == SPIN_OK);
    free(text);
    return status;
}

static spin_status make_file(struct spin_error *err)
{
    static const char text[] = "a: 1\nb: two\nc: \"three\"\n";
    struct spin_config_file file = {0};
    const spin_status status = spin_config_file_parse(text, sizeof text - 1, "f", &file, err);
    assert_int_equal(file.count, status == SPIN_OK ? 3 : 0);
    spin_config_file_deinit(&file);
    return status;
}

static spin_status make_config(struct spin_error *err)
{
    static const struct spin_option options[] = {
        {.name = "one", .type = SPIN_OPTION_STRING, .default_value = "x", .help = "One."},
        {.name = "two", .type = SPIN_OPTION_STRING, .offset = sizeof(char *), .help = "Two."}};
    const struct spin_config_spec spec = {.program = "x", .options = options, .option_count = 2};
    char name[] = "x";
    char flag[] = "--config";
    char *const argv[] = {name, flag, path};
    const char *config[2] = {NULL, NULL};
    struct spin_config_values *values = NULL;
    bool leave = true;
    const spin_status status =
        spin_config_load(&spec, 3, argv, NULL, (void *)config, &values, &leave, err);
    assert_int_equal(values != NULL, status == SPIN_OK);
    assert_int_equal(config[0] != NULL, status == SPIN_OK);
    spin_config_values_destroy(values);
    return status;
}

#define ALLOCATIONS_MAX 100u

static void expect_clean_failures(spin_make_fn make, uint32_t at_least)
{
    for (uint32_t n = 1; n < ALLOCATIONS_MAX; n++) {
        struct spin_error err = {.status = SPIN_OK};
        fail_at = n;
        const spin_status status = make(&err);
        const bool reached = fail_at == 0;
        fail_at = 0;
        if (!reached) {
            assert_int_equal(status, SPIN_OK);
            assert_true(n > at_least);
            return;
        }
        assert_int_equal(status, SPIN_ERR_NO_MEMORY);
        assert_int_equal(err.status, SPIN_ERR_NO_MEMORY);
    }
    fail_msg("more than %u allocations", ALLOCATIONS_MAX);
}

static void test_constructors_survive(void **state)
{
    (void)state;
    expect_clean_failures(make_arena, 4);
    expect_clean_failures(make_ring, 2);
    expect_clean_failures(make_metrics, 3);
    expect_clean_failures(make_text, 1);
    expect_clean_failures(make_file, 6);
    expect_clean_failures(make_config, 9);
}

static int write_path(void **state)
{
    (void)state;
    const char *base = getenv("TEST_TMPDIR");
    (void)snprintf(path, sizeof path, "%s/allocation_test_%d", base == NULL ? "/tmp" : base,
                   (int)getpid());
    FILE *file = fopen(path, "we");
    if (file == NULL || fputs("two: words\n", file) < 0) {
        return -1;
    }
    return fclose(file);
}

static int remove_path(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_constructors_survive)};
    return cmocka_run_group_tests(tests, write_path, remove_path);
}
