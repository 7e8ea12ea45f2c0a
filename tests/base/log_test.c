/* Lines are read back from a pipe in the place of standard error. */
#include "base/log.h"

#include "tests/spin_test.h"

#include <errno.h>
#include <pthread.h>
#include <regex.h>
#include <unistd.h>

static int real_stderr;
static int read_end;

static void begin_capture(void)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    real_stderr = dup(STDERR_FILENO);
    assert_true(real_stderr >= 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    (void)close(ends[1]);
    read_end = ends[0];
}

/* What was written since, NUL-terminated. */
static const char *end_capture(void)
{
    static char said[65536];
    assert_true(dup2(real_stderr, STDERR_FILENO) >= 0);
    (void)close(real_stderr);
    size_t count = 0;
    ssize_t got = 0;
    while ((got = read(read_end, said + count, sizeof said - 1 - count)) > 0) {
        count += (size_t)got;
    }
    (void)close(read_end);
    said[count] = '\0';
    return said;
}

static bool matches(const char *text, const char *pattern)
{
    regex_t regex;
    assert_int_equal(regcomp(&regex, pattern, REG_EXTENDED | REG_NOSUB), 0);
    const bool found = regexec(&regex, text, 0, NULL, 0) == 0;
    regfree(&regex);
    return found;
}

#define STAMP "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{6}Z "

static void test_line_has_time_level_place_text(void **state)
{
    (void)state;
    begin_capture();
    errno = EDOM;
    SPIN_INFO("peer lost: peer=%s after_ms=%u", "w-1", 300u);
    assert_int_equal(errno, EDOM);
    assert_true(matches(end_capture(),
                        STAMP "info log_test\\.c:[0-9]+ peer lost: peer=w-1 after_ms=300\n$"));
}

static int evaluations;
static int evaluate(void)
{
    return ++evaluations;
}

static void test_levels(void **state)
{
    (void)state;
    static const char *const names[] = {"error", "warn", "info", "debug", "trace"};
    for (int level = SPIN_LOG_ERROR; level <= SPIN_LOG_TRACE; level++) {
        spin_log_set_level((enum spin_log_level)level);
        evaluations = 0;
        begin_capture();
        SPIN_ERROR("x%d", evaluate());
        SPIN_WARN("x%d", evaluate());
        SPIN_INFO("x%d", evaluate());
        SPIN_DEBUG_LOG("x%d", evaluate());
        SPIN_TRACE("x%d", evaluate());
        const char *said = end_capture();
        assert_int_equal(evaluations, level + 1); /* off means not evaluated */
        for (int other = SPIN_LOG_ERROR; other <= SPIN_LOG_TRACE; other++) {
            char word[16];
            (void)snprintf(word, sizeof word, "Z %s ", names[other]);
            assert_int_equal(strstr(said, word) != NULL, other <= level);
        }
    }
    spin_log_set_level(SPIN_LOG_INFO);
}

static void test_text_cannot_forge_lines(void **state)
{
    (void)state;
    begin_capture();
    SPIN_WARN("name=%s", "a\n2026-01-01T00:00:00.000000Z error x.c:1 forged\x1B[31m\x7F");
    const char *said = end_capture();
    assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
    assert_null(strchr(said, '\x1B'));
    assert_non_null(strstr(said, "name=a?2026"));
}

static void test_long_lines_are_cut(void **state)
{
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    begin_capture();
    SPIN_WARN("%s", text);
    const char *said = end_capture();
    assert_in_range(strlen(said), 2000, 2048);
    assert_string_equal(said + strlen(said) - 5, "x...\n");
}

#define THREADS 4
#define LINES 100

static void *write_lines(void *argument)
{
    const int *number = argument;
    for (int i = 0; i < LINES; i++) {
        SPIN_INFO("thread=%d line=%d end", *number, i);
    }
    return NULL;
}

/* A line is one write, so lines of threads never mix. */
static void test_threads_write_whole_lines(void **state)
{
    (void)state;
    pthread_t threads[THREADS];
    int numbers[THREADS];
    begin_capture();
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &numbers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    }
    const char *line = end_capture();
    int lines = 0;
    while (*line != '\0') {
        const size_t bytes = strcspn(line, "\n");
        char copy[256];
        assert_true(bytes < sizeof copy);
        memcpy(copy, line, bytes);
        copy[bytes] = '\0';
        assert_true(matches(copy, STAMP "info log_test\\.c:[0-9]+ thread=[0-3] line=[0-9]+ end$"));
        line += bytes + 1;
        lines++;
    }
    assert_int_equal(lines, THREADS * LINES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line_has_time_level_place_text),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_text_cannot_forge_lines),
        cmocka_unit_test(test_long_lines_are_cut),
        cmocka_unit_test(test_threads_write_whole_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
