#include "client/prompt.h"

#include "base/file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES_FIRST (UINT64_C(64) << 10)

struct prompt_text {
    char *bytes;
    uint64_t count;
};

static spin_status read_all(FILE *stream, struct prompt_text *out, struct spin_error *err)
{
    uint64_t capacity = READ_BYTES_FIRST;
    char *bytes = malloc(capacity);
    uint64_t count = 0;
    while (bytes != NULL && count <= SPIN_PROMPT_BYTES_MAX) {
        count += fread(bytes + count, 1, capacity - count, stream);
        if (count < capacity) {
            break;
        }
        capacity *= 2;
        char *larger = realloc(bytes, capacity);
        if (larger == NULL) {
            free(bytes);
        }
        bytes = larger;
    }
    if (bytes == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt: %" PRIu64 " bytes", capacity);
    }
    if (ferror(stream) != 0 || count > SPIN_PROMPT_BYTES_MAX) {
        free(bytes);
        return ferror(stream) != 0
                   ? spin_fail_errno(err, SPIN_ERR_IO, "standard input")
                   : spin_fail(err, SPIN_ERR_LIMIT, "standard input: over %" PRIu64 " bytes",
                               SPIN_PROMPT_BYTES_MAX);
    }
    *out = (struct prompt_text){bytes, count};
    return SPIN_OK;
}

static spin_status copy_text(const char *text, struct prompt_text *out, struct spin_error *err)
{
    out->count = strlen(text);
    out->bytes = strdup(text);
    return out->bytes != NULL ? SPIN_OK : spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt");
}

static spin_status read_text(const struct spin_generate_options *options, const char *argument,
                             struct prompt_text *out, struct spin_error *err)
{
    const int sources = (argument != NULL) + (options->prompt != NULL) + (options->file != NULL);
    if (sources > 1) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "prompt: given %d times; one of the bare argument, --prompt and --file",
                         sources);
    }
    if (argument != NULL || options->prompt != NULL) {
        return copy_text(argument != NULL ? argument : options->prompt, out, err);
    }
    if (options->file != NULL && strcmp(options->file, "-") != 0) {
        return spin_file_read(options->file, SPIN_PROMPT_BYTES_MAX, &out->bytes, &out->count, err);
    }
    if (options->file == NULL && isatty(STDIN_FILENO) == 1) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "prompt: none; give it as an argument, with --file, or on standard input");
    }
    return read_all(stdin, out, err);
}

spin_status spin_prompt_read(const struct spin_generate_options *options, const char *argument,
                             char **out, struct spin_error *err)
{
    struct prompt_text text = {0};
    SPIN_TRY(read_text(options, argument, &text, err));
    spin_status status = SPIN_OK;
    char *terminated = NULL;
    const char *nul = text.count == 0 ? NULL : memchr(text.bytes, '\0', text.count);
    if (text.count == 0) {
        status = spin_fail(err, SPIN_ERR_INVALID, "prompt: empty");
    } else if (nul != NULL) {
        status = spin_fail(err, SPIN_ERR_INVALID, "prompt: byte %td is NUL, this is no text",
                           nul - text.bytes);
    } else {
        terminated = realloc(text.bytes, text.count + 1);
        if (terminated == NULL) {
            status = spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt: %" PRIu64 " bytes", text.count);
        }
    }
    if (status != SPIN_OK) {
        free(text.bytes);
        return status;
    }
    terminated[text.count] = '\0';
    *out = terminated;
    return SPIN_OK;
}
