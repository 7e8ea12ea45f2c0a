#include "bench/load/trace.h"

#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "bench/load/workload.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define TIMESTAMP_MS_MAX 1e12 /* thirty years */

struct spin_bench_trace {
    struct spin_bench_trace_line *lines;
    uint32_t count;
    uint32_t capacity;
    double first_ms;
    double last_ms;
};

/* Where a reader is: for messages. */
struct place {
    const char *name;
    uint64_t line;
};

static spin_status grow(struct spin_bench_trace *trace, const struct place *place,
                        struct spin_error *err)
{
    if (trace->count < trace->capacity) {
        return SPIN_OK;
    }
    if (trace->count == SPIN_BENCH_TRACE_LINES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%.128s: more than %u requests", place->name,
                         SPIN_BENCH_TRACE_LINES_MAX);
    }
    const uint32_t capacity = SPIN_MAX(2 * trace->capacity, 256u);
    struct spin_bench_trace_line *lines = realloc(trace->lines, capacity * sizeof *lines);
    if (lines == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%.128s: %u requests", place->name, capacity);
    }
    trace->lines = lines;
    trace->capacity = capacity;
    return SPIN_OK;
}

/* --- members --- */

static spin_status read_tokens(const json_t *object, const char *member, const struct place *place,
                               uint32_t *out, struct spin_error *err)
{
    const json_t *value = json_object_get(object, member);
    const json_int_t tokens = json_integer_value(value); /* 0 when it is none */
    if (tokens < 1 || tokens > (json_int_t)SPIN_BENCH_TOKENS_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "%.128s line %" PRIu64 ": %s: a whole number from 1 to %u", place->name,
                         place->line, member, SPIN_BENCH_TOKENS_MAX);
    }
    *out = (uint32_t)tokens;
    return SPIN_OK;
}

static spin_status read_timestamp(struct spin_bench_trace *trace, const json_t *object,
                                  const struct place *place, uint64_t *out_ns,
                                  struct spin_error *err)
{
    const json_t *value = json_object_get(object, "timestamp");
    const double ms = json_number_value(value);
    if (!json_is_number(value) || !(ms >= 0) || ms > TIMESTAMP_MS_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "%.128s line %" PRIu64 ": timestamp: milliseconds from 0 to %.0f",
                         place->name, place->line, TIMESTAMP_MS_MAX);
    }
    if (trace->count == 0) {
        trace->first_ms = ms;
    } else if (ms < trace->last_ms) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "%.128s line %" PRIu64 ": timestamp %.0f is before %.0f above it",
                         place->name, place->line, ms, trace->last_ms);
    }
    trace->last_ms = ms;
    *out_ns = (uint64_t)((ms - trace->first_ms) * (double)SPIN_NS_PER_MS);
    return SPIN_OK;
}

static spin_status read_hashes(const json_t *object, const struct place *place,
                               struct spin_bench_trace_line *line, struct spin_error *err)
{
    const json_t *ids = json_object_get(object, "hash_ids");
    const size_t count = json_array_size(ids); /* 0 when it is none */
    if (ids != NULL && (!json_is_array(ids) || count > SPIN_BENCH_TRACE_HASHES_MAX)) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "%.128s line %" PRIu64 ": hash_ids: an array of at most %u", place->name,
                         place->line, SPIN_BENCH_TRACE_HASHES_MAX);
    }
    if (count == 0) {
        return SPIN_OK;
    }
    uint64_t *copy = malloc(count * sizeof *copy);
    if (copy == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%.128s: %zu hash_ids", place->name, count);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0) {
            free(copy);
            return spin_fail(err, SPIN_ERR_INVALID,
                             "%.128s line %" PRIu64 ": hash_ids: whole numbers from 0", place->name,
                             place->line);
        }
        copy[i] = (uint64_t)json_integer_value(id);
    }
    line->hash_ids = copy;
    line->hash_count = (uint32_t)count;
    return SPIN_OK;
}

/* --- lines --- */

static spin_status read_object(struct spin_bench_trace *trace, const json_t *object,
                               const struct place *place, struct spin_error *err)
{
    struct spin_bench_trace_line line = {0};
    SPIN_TRY(grow(trace, place, err));
    SPIN_TRY(read_timestamp(trace, object, place, &line.at_ns, err));
    SPIN_TRY(read_tokens(object, "input_length", place, &line.input_tokens, err));
    SPIN_TRY(read_tokens(object, "output_length", place, &line.output_tokens, err));
    SPIN_TRY(read_hashes(object, place, &line, err));
    trace->lines[trace->count++] = line;
    return SPIN_OK;
}

static bool is_blank(const char *bytes, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        if (bytes[i] != ' ' && bytes[i] != '\t' && bytes[i] != '\r') {
            return false;
        }
    }
    return true;
}

static spin_status read_line(struct spin_bench_trace *trace, const char *bytes, uint64_t count,
                             const struct place *place, struct spin_error *err)
{
    if (is_blank(bytes, count)) {
        return SPIN_OK;
    }
    if (count > SPIN_BENCH_TRACE_LINE_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%.128s line %" PRIu64 ": over %" PRIu64 " bytes",
                         place->name, place->line, SPIN_BENCH_TRACE_LINE_BYTES_MAX);
    }
    json_error_t why;
    json_t *object = json_loadb(bytes, count, JSON_REJECT_DUPLICATES, &why);
    if (!json_is_object(object)) {
        json_decref(object);
        return spin_fail(err, SPIN_ERR_INVALID, "%.128s line %" PRIu64 ": not a JSON object%s%.80s",
                         place->name, place->line, object == NULL ? ": " : "",
                         object == NULL ? why.text : "");
    }
    const spin_status status = read_object(trace, object, place, err);
    json_decref(object);
    return status;
}

static spin_status read_lines(struct spin_bench_trace *trace, const char *name, const char *bytes,
                              uint64_t count, struct spin_error *err)
{
    struct place place = {.name = name, .line = 1};
    uint64_t at = 0;
    for (; at < count; place.line++) {
        const char *end = memchr(bytes + at, '\n', count - at);
        const uint64_t line_bytes = end == NULL ? count - at : (uint64_t)(end - (bytes + at));
        SPIN_TRY(read_line(trace, bytes + at, line_bytes, &place, err));
        at += line_bytes + 1;
    }
    if (trace->count == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "%.128s: no request in it", name);
    }
    return SPIN_OK;
}

spin_status spin_bench_trace_parse(const char *name, const char *bytes, uint64_t count,
                                   struct spin_bench_trace **out, struct spin_error *err)
{
    struct spin_bench_trace *trace = calloc(1, sizeof *trace);
    if (trace == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a trace: %zu bytes", sizeof *trace);
    }
    const spin_status status = read_lines(trace, name, bytes, count, err);
    if (status != SPIN_OK) {
        spin_bench_trace_close(trace);
        return status;
    }
    *out = trace;
    return SPIN_OK;
}

spin_status spin_bench_trace_open(const char *path, struct spin_bench_trace **out,
                                  struct spin_error *err)
{
    struct spin_file_map map;
    SPIN_TRY(spin_file_map_open(path, &map, err));
    const spin_status status =
        spin_bench_trace_parse(path, (const char *)map.bytes, map.count, out, err);
    spin_file_map_close(&map);
    return status;
}

static void free_hashes(const uint64_t *ids)
{
    uint64_t *owned;
    memcpy(&owned, &ids, sizeof owned); /* const for readers; free wants none */
    free(owned);
}

void spin_bench_trace_close(struct spin_bench_trace *trace)
{
    if (trace == NULL) {
        return;
    }
    for (uint32_t i = 0; i < trace->count; i++) {
        free_hashes(trace->lines[i].hash_ids);
    }
    free(trace->lines);
    free(trace);
}

uint64_t spin_bench_trace_count(const struct spin_bench_trace *trace)
{
    return trace->count;
}

const struct spin_bench_trace_line *spin_bench_trace_line(const struct spin_bench_trace *trace,
                                                          uint64_t index)
{
    SPIN_ASSERT_LT(index, trace->count);
    return &trace->lines[index];
}
