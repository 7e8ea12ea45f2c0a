/* A page of /metrics: Prometheus text exposition, from outside. */
#include "base/assert.h"
#include "bench/load/result.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_BYTES sizeof(((struct spin_bench_metric *)NULL)->name)
#define VALUE_BYTES 64u

struct sample {
    const char *name; /* with labels; not terminated */
    uint64_t name_bytes;
    double value;
};

static bool is_name_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == ':';
}

/* Bytes of "name{labels}"; 0: the line has no such thing. A brace in quotes ends no labels. */
static uint64_t name_bytes_of(const char *line, uint64_t bytes)
{
    uint64_t at = 0;
    while (at < bytes && is_name_byte(line[at])) {
        at++;
    }
    if (at == 0 || at == bytes || line[at] != '{') {
        return at;
    }
    bool quoted = false;
    for (at++; at < bytes && (uint8_t)line[at] >= ' '; at++) {
        if (quoted && line[at] == '\\') {
            at++;
        } else if (line[at] == '"') {
            quoted = !quoted;
        } else if (!quoted && line[at] == '}') {
            return at + 1;
        }
    }
    return 0;
}

static bool read_value(const char *text, uint64_t bytes, double *out)
{
    while (bytes > 0 && (*text == ' ' || *text == '\t')) {
        text++;
        bytes--;
    }
    char value[VALUE_BYTES];
    const uint64_t count = SPIN_MIN(bytes, sizeof value - 1);
    memcpy(value, text, count);
    value[count] = '\0';
    char *end = value;
    *out = strtod(value, &end);
    /* A timestamp may follow. Infinities and NaN are values there, and nothing that can be told. */
    return end != value && (*end == '\0' || *end == ' ' || *end == '\t' || *end == '\r') &&
           isfinite(*out);
}

static bool ends_with(const char *text, uint64_t bytes, const char *end)
{
    const uint64_t end_bytes = strlen(end);
    return bytes >= end_bytes && memcmp(text + bytes - end_bytes, end, end_bytes) == 0;
}

static bool read_sample(const char *line, uint64_t bytes, struct sample *out)
{
    const uint64_t name_bytes = name_bytes_of(line, bytes);
    if (name_bytes == 0 || name_bytes == bytes) {
        return false;
    }
    const char *brace = memchr(line, '{', name_bytes);
    const uint64_t bare_bytes = brace == NULL ? name_bytes : (uint64_t)(brace - line);
    if (ends_with(line, bare_bytes, "_bucket")) {
        return false;
    }
    out->name = line;
    out->name_bytes = name_bytes;
    return read_value(line + name_bytes, bytes - name_bytes, &out->value);
}

/* `hint` is where the next one stands when both pages have the same order, which they do. */
static struct spin_bench_metric *find_metric(struct spin_bench_result *result,
                                             const struct sample *sample, uint32_t hint)
{
    for (uint32_t i = 0; i < result->metrics_count; i++) {
        struct spin_bench_metric *metric = &result->metrics[(hint + i) % result->metrics_count];
        if (strncmp(metric->name, sample->name, sample->name_bytes) == 0 &&
            metric->name[sample->name_bytes] == '\0') {
            return metric;
        }
    }
    return NULL;
}

/* NULL: over a limit, and said so. */
static struct spin_bench_metric *new_metric(struct spin_bench_result *result,
                                            const struct sample *sample)
{
    if (result->metrics_count == SPIN_BENCH_METRICS_MAX) {
        (void)snprintf(result->metrics_note, sizeof result->metrics_note,
                       "only the first %u samples are kept", SPIN_BENCH_METRICS_MAX);
        return NULL;
    }
    struct spin_bench_metric *metric = &result->metrics[result->metrics_count++];
    memset(metric, 0, sizeof *metric);
    memcpy(metric->name, sample->name, sample->name_bytes);
    return metric;
}

static void take_sample(struct spin_bench_result *result, enum spin_bench_metrics_when when,
                        const struct sample *sample, uint32_t *hint)
{
    if (sample->name_bytes >= NAME_BYTES) {
        (void)snprintf(result->metrics_note, sizeof result->metrics_note,
                       "samples with names of %zu bytes and more are left out", NAME_BYTES);
        return;
    }
    struct spin_bench_metric *metric = find_metric(result, sample, *hint);
    if (metric == NULL) {
        metric = new_metric(result, sample);
    }
    if (metric == NULL) {
        return;
    }
    *hint = (uint32_t)(metric - result->metrics) + 1;
    if (when == SPIN_BENCH_BEFORE) {
        metric->before = sample->value;
        metric->has_before = true;
    } else {
        metric->after = sample->value;
        metric->has_after = true;
    }
}

spin_status spin_bench_result_metrics(struct spin_bench_result *result,
                                      enum spin_bench_metrics_when when, const char *text,
                                      uint64_t bytes, struct spin_error *err)
{
    if (result->metrics == NULL) {
        result->metrics = calloc(SPIN_BENCH_METRICS_MAX, sizeof *result->metrics);
        if (result->metrics == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "%u samples of metrics",
                             SPIN_BENCH_METRICS_MAX);
        }
    }
    uint32_t hint = 0;
    uint64_t at = 0;
    /* A page with more samples than are kept is not worth looking all of them up. */
    for (uint32_t taken = 0; at < bytes && taken < SPIN_BENCH_METRICS_MAX;) {
        const char *line = text + at;
        const char *end = memchr(line, '\n', bytes - at);
        const uint64_t line_bytes = end == NULL ? bytes - at : (uint64_t)(end - line);
        struct sample sample;
        if (read_sample(line, line_bytes, &sample)) {
            take_sample(result, when, &sample, &hint);
            taken++;
        }
        at += line_bytes + 1;
    }
    return SPIN_OK;
}
