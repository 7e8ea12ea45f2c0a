/* Lines through a pipe: cut anywhere, with and without ends, too long, and a signal between. */
#include "client/lines.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#include <pthread.h>
#include <unistd.h>

struct fixture {
    struct spin_interrupt interrupt;
    struct spin_lines lines;
    int write_fd;
};

static void set_up(struct fixture *fixture)
{
    int fds[2];
    struct spin_error err = {0};
    assert_int_equal(pipe(fds), 0);
    *fixture = (struct fixture){.lines = {.fd = fds[0]}, .write_fd = fds[1]};
    SPIN_EXPECT_OK(spin_interrupt_open(&fixture->interrupt, &err), &err);
}

static void tear_down(struct fixture *fixture)
{
    spin_interrupt_close(&fixture->interrupt);
    (void)close(fixture->lines.fd);
    spin_lines_deinit(&fixture->lines);
}

static spin_status next(struct fixture *fixture, char **line)
{
    int number = 0;
    struct spin_error err = {0};
    *line = NULL;
    const spin_status status =
        spin_lines_next(&fixture->lines, &fixture->interrupt, line, &number, &err);
    if (status == SPIN_ERR_CANCELLED) {
        assert_int_equal(number, SIGINT);
    }
    return status;
}

static void expect_line(struct fixture *fixture, const char *wanted)
{
    char *line;
    assert_int_equal(next(fixture, &line), SPIN_OK);
    assert_string_equal(line, wanted);
}

static void expect_status(struct fixture *fixture, spin_status wanted)
{
    char *line;
    SPIN_EXPECT_STATUS(next(fixture, &line), wanted);
}

static void write_all(int fd, const char *text, size_t bytes)
{
    assert_int_equal(write(fd, text, bytes), bytes);
}

static void test_lines(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture);
    static const char text[] = "one\ntwo\r\n\n \nlast";
    write_all(fixture.write_fd, text, sizeof text - 1);
    (void)close(fixture.write_fd);
    expect_line(&fixture, "one");
    expect_line(&fixture, "two");
    expect_line(&fixture, "");
    expect_line(&fixture, " ");
    expect_line(&fixture, "last");
    expect_status(&fixture, SPIN_ERR_NOT_FOUND);
    expect_status(&fixture, SPIN_ERR_NOT_FOUND);
    tear_down(&fixture);
}

/* Writes the same numbered lines in pieces of random lengths. */
static void *write_pieces(void *self)
{
    const struct fixture *fixture = self;
    struct spin_rng rng = {.seed = 1};
    char text[16384];
    int bytes = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        bytes += snprintf(text + bytes, sizeof text - (size_t)bytes, "line %u\n", i);
    }
    for (int at = 0; at < bytes;) {
        const int piece = SPIN_MIN(1 + (int)spin_rng_below(&rng, 60), bytes - at);
        if (write(fixture->write_fd, text + at, (size_t)piece) != piece) {
            abort();
        }
        at += piece;
    }
    (void)close(fixture->write_fd);
    return NULL;
}

static void test_any_pieces(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture);
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_pieces, &fixture), 0);
    for (uint32_t i = 0; i < 1000; i++) {
        char wanted[32];
        (void)snprintf(wanted, sizeof wanted, "line %u", i);
        expect_line(&fixture, wanted);
    }
    expect_status(&fixture, SPIN_ERR_NOT_FOUND);
    (void)pthread_join(writer, NULL);
    tear_down(&fixture);
}

struct long_lines {
    int fd;
    uint64_t bytes; /* of each */
    const char *rest;
};

static void *write_long(void *self)
{
    const struct long_lines *lines = self;
    char *text = malloc(lines->bytes + 64);
    if (text == NULL) {
        abort();
    }
    memset(text, 'x', lines->bytes);
    const int rest = snprintf(text + lines->bytes, 64, "%s", lines->rest);
    const uint64_t all = lines->bytes + (uint64_t)rest;
    for (uint64_t at = 0; at < all;) {
        const ssize_t written = write(lines->fd, text + at, all - at);
        if (written <= 0) {
            abort();
        }
        at += (uint64_t)written;
    }
    (void)close(lines->fd);
    free(text);
    return NULL;
}

static void run_long(uint64_t bytes, const char *rest, struct fixture *fixture)
{
    set_up(fixture);
    struct long_lines lines = {fixture->write_fd, bytes, rest};
    pthread_t writer;
    assert_int_equal(pthread_create(&writer, NULL, write_long, &lines), 0);
    char *line;
    const spin_status status = next(fixture, &line);
    if (bytes > SPIN_LINE_BYTES_MAX) {
        assert_int_equal(status, SPIN_ERR_LIMIT);
    } else {
        assert_int_equal(status, SPIN_OK);
        assert_int_equal(strlen(line), bytes);
    }
    if (rest[1] != '\0') {
        expect_line(fixture, "next");
    }
    expect_status(fixture, SPIN_ERR_NOT_FOUND);
    (void)pthread_join(writer, NULL);
    tear_down(fixture);
}

static void test_too_long(void **state)
{
    (void)state;
    struct fixture fixture;
    run_long(SPIN_LINE_BYTES_MAX, "\nnext\n", &fixture);
    run_long(SPIN_LINE_BYTES_MAX + 1, "\nnext\n", &fixture);
    run_long(5 * SPIN_LINE_BYTES_MAX, "\nnext", &fixture);
    run_long(3 * SPIN_LINE_BYTES_MAX, "y", &fixture); /* it is the last and has no end */
}

static void test_a_signal_comes_between(void **state)
{
    (void)state;
    struct fixture fixture;
    set_up(&fixture);
    write_all(fixture.write_fd, "one\ntw", 6);
    expect_line(&fixture, "one");
    (void)kill(getpid(), SIGINT); /* blocked: it waits for us */
    expect_status(&fixture, SPIN_ERR_CANCELLED);
    write_all(fixture.write_fd, "o\n", 2);
    expect_line(&fixture, "two"); /* nothing of it was lost */
    (void)close(fixture.write_fd);
    tear_down(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_any_pieces),
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_a_signal_comes_between),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
