#include "bench/kv/trace.h"

#include "base/assert.h"
#include "base/file.h"

#include <stdlib.h>
#include <string.h>

static const char magic[8] = "SPINTRC";

_Static_assert(sizeof(struct spin_trace_shape) == 72, "bytes of a file");
_Static_assert(sizeof(struct spin_trace_document) == 40, "bytes of a file");

/* --- writing --- */

static void put_bytes(struct spin_trace_writer *writer, const void *bytes, uint64_t count)
{
    writer->failed = writer->failed || fwrite(bytes, 1, count, writer->file) != count;
}

static void put_varint(struct spin_trace_writer *writer, uint32_t value)
{
    uint8_t bytes[5];
    uint32_t count = 0;
    do {
        bytes[count] = (uint8_t)((value & 0x7F) | (value > 0x7F ? 0x80 : 0));
        value >>= 7;
        count++;
    } while (value != 0);
    put_bytes(writer, bytes, count);
}

spin_status spin_trace_create(const char *path, const struct spin_trace_shape *shape,
                              const struct spin_trace_document *documents,
                              struct spin_trace_writer *out, struct spin_error *err)
{
    *out = (struct spin_trace_writer){.file = fopen(path, "wb")};
    if (out->file == NULL) {
        return spin_fail_errno(err, SPIN_ERR_IO, "%s", path);
    }
    struct spin_trace_shape head = *shape;
    memcpy(head.magic, magic, sizeof magic);
    head.version = SPIN_TRACE_VERSION;
    put_bytes(out, &head, sizeof head);
    put_bytes(out, documents, sizeof *documents * shape->documents);
    return SPIN_OK;
}

void spin_trace_put_window(struct spin_trace_writer *writer, struct spin_trace_window window)
{
    put_varint(writer, window.sink_end);
    put_varint(writer, window.local_begin);
}

static uint32_t run_end(struct spin_trace_list list, uint32_t at)
{
    uint32_t end = at + 1;
    while (end < list.count && list.pages[end] == list.pages[end - 1] + 1) {
        end++;
    }
    return end;
}

void spin_trace_put_list(struct spin_trace_writer *writer, struct spin_trace_list list)
{
    uint32_t runs = 0;
    for (uint32_t at = 0; at < list.count; at = run_end(list, at)) {
        runs++;
    }
    put_varint(writer, runs);
    uint32_t behind = 0;
    for (uint32_t at = 0; at < list.count;) {
        const uint32_t end = run_end(list, at);
        put_varint(writer, list.pages[at] - behind);
        put_varint(writer, end - at);
        behind = (uint32_t)list.pages[end - 1] + 1;
        at = end;
    }
}

spin_status spin_trace_finish(struct spin_trace_writer *writer, struct spin_error *err)
{
    const bool closed = fclose(writer->file) == 0;
    writer->file = NULL;
    if (writer->failed || !closed) {
        return spin_fail(err, SPIN_ERR_IO, "the trace could not be written: is the disk full?");
    }
    return SPIN_OK;
}

/* --- reading --- */

struct reader {
    const uint8_t *bytes;
    uint64_t count;
    uint64_t at;
    bool broken; /* the bytes ended, or a number has no end */
};

static uint32_t get_varint(struct reader *reader)
{
    uint32_t value = 0;
    for (uint32_t shift = 0; shift < 32; shift += 7) {
        if (reader->at == reader->count) {
            break;
        }
        const uint8_t byte = reader->bytes[reader->at++];
        value |= (uint32_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
    reader->broken = true;
    return 0;
}

static spin_status check_shape(const struct spin_trace_shape *shape, struct spin_error *err)
{
    if (memcmp(shape->magic, magic, sizeof magic) != 0 || shape->version != SPIN_TRACE_VERSION) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "not a trace of version %u", SPIN_TRACE_VERSION);
    }
    if (memchr(shape->algorithm, 0, sizeof shape->algorithm) == NULL ||
        (shape->page_tokens != 8 && shape->page_tokens != 32)) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "algorithm without an end, or pages of %u tokens",
                         shape->page_tokens);
    }
    const uint64_t rows = (uint64_t)shape->layers * shape->kv_heads;
    if (rows < 1 || rows > SPIN_TRACE_ROWS_MAX || shape->documents < 1 ||
        shape->documents > SPIN_TRACE_DOCUMENTS_MAX || shape->steps < 1 ||
        shape->steps > SPIN_TRACE_STEPS_MAX) {
        return spin_fail(
            err, SPIN_ERR_LIMIT,
            "%u layers of %u heads, %u documents, %u steps: 1 to %u rows, %u documents, "
            "%u steps",
            shape->layers, shape->kv_heads, shape->documents, shape->steps, SPIN_TRACE_ROWS_MAX,
            SPIN_TRACE_DOCUMENTS_MAX, SPIN_TRACE_STEPS_MAX);
    }
    return SPIN_OK;
}

/* Pages of one list into out (NULL: only counts). *count: how many, at most newest + 1. */
static bool get_list(struct reader *reader, uint32_t newest, uint16_t *out, uint32_t *count)
{
    const uint32_t runs = get_varint(reader);
    uint64_t behind = 0;
    *count = 0;
    for (uint32_t run = 0; run < runs && !reader->broken; run++) {
        const uint64_t begin = behind + get_varint(reader);
        const uint64_t end = begin + get_varint(reader);
        if (end == begin || end > (uint64_t)newest + 1 || (run > 0 && begin == behind)) {
            return false;
        }
        for (uint64_t page = begin; page < end && out != NULL; page++) {
            out[*count + page - begin] = (uint16_t)page;
        }
        *count += (uint32_t)(end - begin);
        behind = end;
    }
    return !reader->broken && behind == (uint64_t)newest + 1;
}

static spin_status get_step(struct reader *reader, struct spin_trace *trace, uint64_t at,
                            struct spin_error *err)
{
    const uint32_t rows = spin_trace_rows(&trace->shape);
    const uint32_t document = (uint32_t)(at / trace->shape.steps);
    const uint32_t step = (uint32_t)(at % trace->shape.steps);
    const uint32_t newest =
        (spin_trace_tokens(trace, document, step) - 1) / trace->shape.page_tokens;
    struct spin_trace_window *window = &trace->windows[at];
    window->sink_end = get_varint(reader);
    window->local_begin = get_varint(reader);
    bool good = window->sink_end <= window->local_begin && window->local_begin <= newest;
    for (uint32_t row = 0; good && row < rows; row++) {
        uint64_t *first = &trace->first[at * rows + row];
        uint32_t count = 0;
        good =
            get_list(reader, newest, trace->pages == NULL ? NULL : trace->pages + *first, &count);
        first[1] = *first + count;
    }
    if (!good) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "%s, step %u: bad near byte %llu",
                         trace->documents[document].name, step, (unsigned long long)reader->at);
    }
    return SPIN_OK;
}

/* Once to count, once to keep: a file says nowhere how many pages it names. */
static spin_status get_steps(struct reader *reader, struct spin_trace *trace,
                             struct spin_error *err)
{
    const uint64_t begin = reader->at;
    const uint64_t steps = (uint64_t)trace->shape.documents * trace->shape.steps;
    for (uint64_t at = 0; at < steps; at++) {
        SPIN_TRY(get_step(reader, trace, at, err));
    }
    if (reader->at != reader->count) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "%llu bytes behind the last step",
                         (unsigned long long)(reader->count - reader->at));
    }
    const uint64_t pages = trace->first[steps * spin_trace_rows(&trace->shape)];
    trace->pages = calloc(SPIN_MAX(pages, 1), sizeof *trace->pages);
    if (trace->pages == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "trace of %llu pages", (unsigned long long)pages);
    }
    reader->at = begin;
    for (uint64_t at = 0; at < steps; at++) {
        SPIN_TRY(get_step(reader, trace, at, err));
    }
    return SPIN_OK;
}

static spin_status get_documents(struct reader *reader, struct spin_trace *trace,
                                 struct spin_error *err)
{
    const uint32_t count = trace->shape.documents;
    const uint64_t bytes = count * sizeof *trace->documents;
    if (reader->count - reader->at < bytes) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "ends inside the list of %u documents", count);
    }
    memcpy(trace->documents, reader->bytes + reader->at, bytes);
    reader->at += bytes;
    const uint64_t tokens_max = (uint64_t)UINT16_MAX * trace->shape.page_tokens;
    for (uint32_t i = 0; i < count; i++) {
        const struct spin_trace_document *document = &trace->documents[i];
        if (memchr(document->name, 0, sizeof document->name) == NULL ||
            (uint64_t)document->prompt_tokens + trace->shape.steps > tokens_max) {
            return spin_fail(
                err, SPIN_ERR_CORRUPT, "document %u: %u tokens and %u steps: at most %llu", i,
                document->prompt_tokens, trace->shape.steps, (unsigned long long)tokens_max);
        }
    }
    return SPIN_OK;
}

static spin_status decode(struct reader *reader, struct spin_trace *trace, struct spin_error *err)
{
    if (reader->count < sizeof trace->shape) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "%llu bytes: too short for a trace",
                         (unsigned long long)reader->count);
    }
    memcpy(&trace->shape, reader->bytes, sizeof trace->shape);
    reader->at = sizeof trace->shape;
    SPIN_TRY(check_shape(&trace->shape, err));
    const uint64_t steps = (uint64_t)trace->shape.documents * trace->shape.steps;
    trace->documents = calloc(trace->shape.documents, sizeof *trace->documents);
    trace->windows = calloc(steps, sizeof *trace->windows);
    trace->first = calloc(steps * spin_trace_rows(&trace->shape) + 1, sizeof *trace->first);
    if (trace->documents == NULL || trace->windows == NULL || trace->first == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "trace of %llu steps", (unsigned long long)steps);
    }
    SPIN_TRY(get_documents(reader, trace, err));
    return get_steps(reader, trace, err);
}

spin_status spin_trace_open(const char *path, struct spin_trace *out, struct spin_error *err)
{
    struct spin_file_map map;
    SPIN_TRY(spin_file_map_open(path, &map, err));
    struct reader reader = {.bytes = map.bytes, .count = map.count};
    *out = (struct spin_trace){.file_bytes = map.count};
    const spin_status status = decode(&reader, out, err);
    spin_file_map_close(&map);
    if (status != SPIN_OK) {
        spin_trace_close(out);
    }
    return status;
}

void spin_trace_close(struct spin_trace *trace)
{
    free(trace->documents);
    free(trace->windows);
    free(trace->first);
    free(trace->pages);
    *trace = (struct spin_trace){0};
}

struct spin_trace_list spin_trace_get_list(const struct spin_trace *trace, uint32_t document,
                                           uint32_t step, uint32_t row)
{
    const uint64_t at =
        ((uint64_t)document * trace->shape.steps + step) * spin_trace_rows(&trace->shape) + row;
    return (struct spin_trace_list){.pages = trace->pages + trace->first[at],
                                    .count = (uint32_t)(trace->first[at + 1] - trace->first[at])};
}

uint32_t spin_trace_mandatory(const struct spin_trace *trace, uint32_t document)
{
    const uint64_t lists = (uint64_t)trace->shape.steps * spin_trace_rows(&trace->shape);
    const uint64_t *first = trace->first + document * lists;
    uint64_t most = 0;
    for (uint64_t i = 0; i < lists; i++) {
        most = SPIN_MAX(most, first[i + 1] - first[i]);
    }
    return (uint32_t)most;
}
