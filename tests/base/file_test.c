/* Files of the sizes around a page and around the limits, and paths that are no files. */
#include "base/file.h"

#include "tests/spin_test.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[256];

static const char *path_of(const char *name)
{
    static char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static uint8_t byte_at(uint64_t i)
{
    return (uint8_t)(i * 131 + i / 256);
}

static const char *write_file(const char *name, uint64_t bytes)
{
    const char *path = path_of(name);
    FILE *file = fopen(path, "wbe");
    assert_non_null(file);
    for (uint64_t i = 0; i < bytes; i++) {
        assert_int_equal(fputc(byte_at(i), file), byte_at(i));
    }
    assert_int_equal(fclose(file), 0);
    return path;
}

static void check_bytes(const uint8_t *bytes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(bytes[i], byte_at(i));
    }
}

static const uint64_t sizes[] = {0, 1, 4095, 4096, 4097, 16383, 16384, 16385, 100000};

static void test_maps_and_reads_the_same_bytes(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(sizes); i++) {
        const char *path = write_file("file", sizes[i]);
        struct spin_error err;
        struct spin_file_map map;
        SPIN_EXPECT_OK(spin_file_map_open(path, &map, &err), &err);
        assert_int_equal(map.count, sizes[i]);
        assert_int_equal(map.bytes == NULL, sizes[i] == 0);
        if (map.bytes != NULL) {
            check_bytes(map.bytes, map.count);
        }
        spin_file_map_close(&map);
        assert_null(map.bytes);
        spin_file_map_close(&map);

        char *text = NULL;
        uint64_t bytes = 0;
        SPIN_EXPECT_OK(spin_file_read(path, sizes[i], &text, &bytes, &err), &err);
        assert_int_equal(bytes, sizes[i]);
        check_bytes((const uint8_t *)text, bytes);
        assert_int_equal(text[bytes], '\0');
        free(text);
        if (sizes[i] > 0) {
            text = NULL;
            SPIN_EXPECT_STATUS(spin_file_read(path, sizes[i] - 1, &text, &bytes, &err),
                               SPIN_ERR_LIMIT);
            assert_null(text);
            assert_non_null(strstr(err.text, path));
        }
    }
}

static void expect_both(const char *path, spin_status mapped, spin_status read)
{
    struct spin_error err;
    struct spin_file_map map;
    char *text = NULL;
    uint64_t bytes = 0;
    SPIN_EXPECT_STATUS(spin_file_map_open(path, &map, &err), mapped);
    assert_non_null(strstr(err.text, path));
    SPIN_EXPECT_STATUS(spin_file_read(path, 100, &text, &bytes, &err), read);
    assert_non_null(strstr(err.text, path));
}

static void test_names_what_is_wrong(void **state)
{
    (void)state;
    expect_both(path_of("missing"), SPIN_ERR_NOT_FOUND, SPIN_ERR_NOT_FOUND);
    expect_both(folder, SPIN_ERR_IO, SPIN_ERR_IO);
    write_file("file", 10);
    expect_both(path_of("file/below"), SPIN_ERR_NOT_FOUND, SPIN_ERR_NOT_FOUND);
    const char *path = write_file("secret", 10);
    assert_int_equal(chmod(path, 0), 0);
    if (geteuid() != 0) { /* root may read everything */
        expect_both(path, SPIN_ERR_DENIED, SPIN_ERR_DENIED);
    }
}

/* A map of a FIFO must fail at once instead of waiting for a writer. */
static void test_fifo_is_no_file(void **state)
{
    (void)state;
    const char *path = path_of("fifo");
    assert_int_equal(mkfifo(path, 0600), 0);
    struct spin_file_map map;
    struct spin_error err;
    SPIN_EXPECT_STATUS(spin_file_map_open(path, &map, &err), SPIN_ERR_IO);
}

/* "--config <(command)" is a pipe. */
static void test_reads_a_pipe(void **state)
{
    (void)state;
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], "a: 1\n", 5), 5);
    (void)close(ends[1]);
    char path[64];
    (void)snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    char *text = NULL;
    uint64_t bytes = 0;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_file_read(path, 100, &text, &bytes, &err), &err);
    assert_string_equal(text, "a: 1\n");
    free(text);
    (void)close(ends[0]);
}

static void test_replaces_whole(void **state)
{
    (void)state;
    struct spin_error err;
    char *text = NULL;
    uint64_t bytes = 0;
    SPIN_EXPECT_OK(spin_file_replace(path_of("file"), "first\n", &err), &err);
    SPIN_EXPECT_OK(spin_file_replace(path_of("file"), "2\n", &err), &err);
    SPIN_EXPECT_OK(spin_file_read(path_of("file"), 100, &text, &bytes, &err), &err);
    assert_string_equal(text, "2\n");
    free(text);
    assert_int_equal(access(path_of("file.new"), F_OK), -1); /* nothing is left beside it */
    SPIN_EXPECT_STATUS(spin_file_replace(path_of("none/file"), "x", &err), SPIN_ERR_IO);
    assert_non_null(strstr(err.text, "none/file"));
    char longest[5000];
    memset(longest, 'a', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    SPIN_EXPECT_STATUS(spin_file_replace(longest, "x", &err), SPIN_ERR_INVALID);
}

static int make_folder(void **state)
{
    (void)state;
    const char *base = getenv("TEST_TMPDIR");
    (void)snprintf(folder, sizeof folder, "%s/file_test_XXXXXX", base == NULL ? "/tmp" : base);
    return mkdtemp(folder) == NULL;
}

static int remove_folder(void **state)
{
    (void)state;
    (void)unlink(path_of("file"));
    (void)unlink(path_of("secret"));
    (void)unlink(path_of("fifo"));
    return rmdir(folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_maps_and_reads_the_same_bytes),
        cmocka_unit_test(test_names_what_is_wrong),
        cmocka_unit_test(test_fifo_is_no_file),
        cmocka_unit_test(test_reads_a_pipe),
        cmocka_unit_test(test_replaces_whole),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
