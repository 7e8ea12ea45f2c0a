#include "base/file.h"

#include "base/assert.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* The first buffer of spin_file_read: most files that are read whole are smaller. */
#define FIRST_READ_BYTES UINT64_C(16384)

static spin_status fail_from_errno(struct spin_error *err, const char *path)
{
    switch (errno) {
    case ENOENT:
    case ENOTDIR:
        return spin_fail_errno(err, SPIN_ERR_NOT_FOUND, "%s", path);
    case EACCES:
    case EPERM:
        return spin_fail_errno(err, SPIN_ERR_DENIED, "%s", path);
    default:
        return spin_fail_errno(err, SPIN_ERR_IO, "%s", path);
    }
}

static spin_status map_descriptor(int fd, const char *path, struct spin_file_map *out,
                                  struct spin_error *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0) {
        return fail_from_errno(err, path);
    }
    if (!S_ISREG(info.st_mode)) {
        return spin_fail(err, SPIN_ERR_IO, "%s: not a regular file", path);
    }
    const uint64_t count = (uint64_t)info.st_size;
    if (count == 0) { /* mmap refuses zero bytes */
        *out = (struct spin_file_map){0};
        return SPIN_OK;
    }
    void *bytes = mmap(NULL, count, PROT_READ, MAP_SHARED, fd, 0);
    if (bytes == MAP_FAILED) {
        return fail_from_errno(err, path);
    }
    *out = (struct spin_file_map){.bytes = bytes, .count = count};
    return SPIN_OK;
}

spin_status spin_file_map_open(const char *path, struct spin_file_map *out, struct spin_error *err)
{
    /* O_NONBLOCK: a FIFO in place of the file must not hang the start-up. */
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return fail_from_errno(err, path);
    }
    const spin_status status = map_descriptor(fd, path, out, err);
    (void)close(fd); /* the map stays valid */
    return status;
}

static int unmap(const struct spin_file_map *map)
{
    union {
        const uint8_t *readable;
        void *any;
    } bytes = {.readable = map->bytes}; /* munmap wants the pointer that mmap gave, without const */
    return munmap(bytes.any, map->count);
}

void spin_file_map_close(struct spin_file_map *map)
{
    if (map->bytes != NULL) {
        SPIN_ASSERT_EQ(unmap(map), 0);
    }
    *map = (struct spin_file_map){0};
}

struct text_buffer {
    char *bytes;
    uint64_t count;
    uint64_t capacity;
};

/* Room for at least one more byte and the NUL. The capacity never passes max_bytes + 2: one byte
 * over the limit tells "exactly at" from "over". */
static bool grow(struct text_buffer *buffer, uint64_t max_bytes)
{
    if (buffer->count + 1 < buffer->capacity) {
        return true;
    }
    const uint64_t doubled = SPIN_MAX(FIRST_READ_BYTES, buffer->capacity * 2);
    const uint64_t capacity = SPIN_MIN(doubled, max_bytes + 2);
    char *bytes = realloc(buffer->bytes, capacity);
    if (bytes == NULL) {
        return false;
    }
    buffer->bytes = bytes;
    buffer->capacity = capacity;
    return true;
}

static spin_status read_all(int fd, const char *path, uint64_t max_bytes,
                            struct text_buffer *buffer, struct spin_error *err)
{
    for (;;) {
        if (!grow(buffer, max_bytes)) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: buffer", path);
        }
        const ssize_t got =
            read(fd, buffer->bytes + buffer->count, buffer->capacity - buffer->count - 1);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return fail_from_errno(err, path);
        }
        if (got == 0) {
            buffer->bytes[buffer->count] = '\0';
            return SPIN_OK;
        }
        buffer->count += (uint64_t)got;
        if (buffer->count > max_bytes) {
            return spin_fail(err, SPIN_ERR_LIMIT, "%s: more than %" PRIu64 " bytes", path,
                             max_bytes);
        }
    }
}

spin_status spin_file_read(const char *path, uint64_t max_bytes, char **out, uint64_t *out_bytes,
                           struct spin_error *err)
{
    SPIN_ASSERT(max_bytes < UINT64_MAX - 2);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return fail_from_errno(err, path);
    }
    struct text_buffer buffer = {0};
    const spin_status status = read_all(fd, path, max_bytes, &buffer, err);
    (void)close(fd);
    if (status != SPIN_OK) {
        free(buffer.bytes);
        return status;
    }
    *out = buffer.bytes;
    *out_bytes = buffer.count;
    return SPIN_OK;
}

spin_status spin_file_replace(const char *path, const char *text, struct spin_error *err)
{
    char beside[4096];
    if ((size_t)snprintf(beside, sizeof beside, "%s.new", path) >= sizeof beside) {
        return spin_fail(err, SPIN_ERR_INVALID, "path of over %zu bytes", sizeof beside - 5);
    }
    FILE *file = fopen(beside, "we");
    if (file == NULL) {
        return spin_fail_errno(err, SPIN_ERR_IO, "%s", path);
    }
    const bool written = fputs(text, file) >= 0;
    if (fclose(file) != 0 || !written || rename(beside, path) != 0) {
        return spin_fail_errno(err, SPIN_ERR_IO, "%s", path);
    }
    return SPIN_OK;
}
