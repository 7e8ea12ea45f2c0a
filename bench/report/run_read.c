/* The reading half of run_file.h: bytes from outside. Every value is looked at before it is taken,
 * every array has a limit, and what is wrong is named by its path: runs[2].rates.window_s. */
#include "base/clock.h"
#include "bench/report/fields.h"
#include "bench/report/run_file.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Where in which file; what every complaint needs. */
struct place {
    const char *name;
    uint32_t run;
    const char *object; /* "latencies.ttft" */
    struct spin_error *err;
};

static spin_status wrong(const struct place *place, const char *key, const char *what)
{
    return spin_fail(place->err, SPIN_ERR_CORRUPT, "%s: runs[%u].%s.%s: %s", place->name,
                     place->run, place->object, key, what);
}

static spin_status take_text(const struct place *place, const json_t *value,
                             const struct spin_bench_field *field, char *out)
{
    if (!json_is_string(value)) {
        return wrong(place, field->key, "must be a text");
    }
    if (json_string_length(value) >= field->bytes) {
        return wrong(place, field->key, "is longer than a text of this key may be");
    }
    memcpy(out, json_string_value(value), json_string_length(value) + 1);
    return SPIN_OK;
}

static bool whole_number(const json_t *value, uint64_t max, uint64_t *out)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        (uint64_t)json_integer_value(value) > max) {
        return false;
    }
    *out = (uint64_t)json_integer_value(value);
    return true;
}

static spin_status take_whole(const struct place *place, const json_t *value,
                              const struct spin_bench_field *field, void *out)
{
    const bool small = field->kind == SPIN_BENCH_FIELD_U32;
    uint64_t whole = 0;
    if (!whole_number(value, small ? UINT32_MAX : SPIN_BENCH_INTEGER_MAX, &whole)) {
        return wrong(place, field->key,
                     small ? "must be a whole number of 0 .. 2^32 - 1"
                           : "must be a whole number of 0 .. 2^53 - 1");
    }
    if (small) {
        *(uint32_t *)out = (uint32_t)whole;
        return SPIN_OK;
    }
    if (field->kind == SPIN_BENCH_FIELD_WALL) {
        if (whole > UINT64_MAX / SPIN_NS_PER_MS) {
            return wrong(place, field->key, "is no moment of this millennium");
        }
        whole *= SPIN_NS_PER_MS;
    }
    memcpy(out, &whole, sizeof whole);
    return SPIN_OK;
}

static spin_status take_decimal(const struct place *place, const json_t *value,
                                const struct spin_bench_field *field, void *out)
{
    const char *digits = json_string_value(value);
    if (digits == NULL || *digits == '\0' || strspn(digits, "0123456789") != strlen(digits)) {
        return wrong(place, field->key, "must be decimal digits in a text");
    }
    errno = 0;
    const uint64_t whole = strtoull(digits, NULL, 10);
    if (errno != 0) {
        return wrong(place, field->key, "is over 2^64 - 1");
    }
    memcpy(out, &whole, sizeof whole);
    return SPIN_OK;
}

/* Longest time that is kept in ns and comes back exactly: 26 days. */
#define MS_MAX 2.25e9

static spin_status take_real(const struct place *place, const json_t *value,
                             const struct spin_bench_field *field, void *out)
{
    const double real = json_number_value(value);
    if (!json_is_number(value) || !isfinite(real) || real < 0) {
        return wrong(place, field->key, "must be a number, 0 or more");
    }
    if (field->kind == SPIN_BENCH_FIELD_REAL) {
        memcpy(out, &real, sizeof real);
        return SPIN_OK;
    }
    if (real > MS_MAX) {
        return wrong(place, field->key, "is over 26 days");
    }
    const uint64_t ns = (uint64_t)llround(real * (double)SPIN_NS_PER_MS);
    memcpy(out, &ns, sizeof ns);
    return SPIN_OK;
}

static spin_status take_field(const struct place *place, const json_t *object,
                              const struct spin_bench_field *field, void *base)
{
    const json_t *value = json_object_get(object, field->key);
    if (value == NULL) {
        return wrong(place, field->key, "is missing");
    }
    void *out = (uint8_t *)base + field->offset;
    switch (field->kind) {
    case SPIN_BENCH_FIELD_TEXT:
        return take_text(place, value, field, out);
    case SPIN_BENCH_FIELD_BOOL:
        if (!json_is_boolean(value)) {
            return wrong(place, field->key, "must be true or false");
        }
        *(bool *)out = json_is_true(value);
        return SPIN_OK;
    case SPIN_BENCH_FIELD_U32:
    case SPIN_BENCH_FIELD_U64:
    case SPIN_BENCH_FIELD_WALL:
        return take_whole(place, value, field, out);
    case SPIN_BENCH_FIELD_DECIMAL:
        return take_decimal(place, value, field, out);
    case SPIN_BENCH_FIELD_MS:
    case SPIN_BENCH_FIELD_REAL:
        return take_real(place, value, field, out);
    }
    return wrong(place, field->key, "is of no kind");
}

static spin_status take_fields(const struct place *place, const json_t *from,
                               const struct spin_bench_object *object, void *base)
{
    if (!json_is_object(from)) {
        return wrong(place, "", "must be an object");
    }
    for (uint32_t i = 0; i < object->count; i++) {
        SPIN_TRY(take_field(place, from, &object->fields[i], base));
    }
    return SPIN_OK;
}

/* An array of at most `max` members, or NULL and said so. */
static const json_t *get_array(const struct place *place, const json_t *object, const char *key,
                               uint64_t max)
{
    const json_t *array = json_object_get(object, key);
    if (!json_is_array(array)) {
        (void)wrong(place, key, "must be an array");
        return NULL;
    }
    if (json_array_size(array) > max) {
        (void)wrong(place, key, "has more members than it may");
        return NULL;
    }
    return array;
}

static spin_status take_histogram(const struct place *place, const json_t *from,
                                  const struct spin_bench_spread *spread,
                                  struct spin_histogram *out)
{
    const json_t *lowers = get_array(place, from, "lower_ns", SPIN_HISTOGRAM_BUCKETS);
    const json_t *counts = get_array(place, from, "counts", SPIN_HISTOGRAM_BUCKETS);
    if (lowers == NULL || counts == NULL) {
        return SPIN_ERR_CORRUPT;
    }
    if (json_array_size(lowers) != json_array_size(counts)) {
        return wrong(place, "counts", "must be as many as lower_ns");
    }
    for (size_t i = 0; i < json_array_size(lowers); i++) {
        uint64_t lower = 0;
        uint64_t count = 0;
        if (!whole_number(json_array_get(lowers, i), SPIN_HISTOGRAM_MAX_NS, &lower) ||
            spin_histogram_lower(spin_histogram_bucket(lower)) != lower) {
            return wrong(place, "lower_ns", "has a number at which no bucket starts");
        }
        if (!whole_number(json_array_get(counts, i), SPIN_BENCH_INTEGER_MAX, &count)) {
            return wrong(place, "counts", "must be whole numbers");
        }
        out->buckets[spin_histogram_bucket(lower)] += count;
        out->count += count;
    }
    if (out->count != spread->count) {
        return wrong(place, "counts", "must add up to count");
    }
    out->min_ns = (uint64_t)fmin(spread->min_ms * (double)SPIN_NS_PER_MS, 0x1p63);
    out->max_ns = (uint64_t)fmin(spread->max_ms * (double)SPIN_NS_PER_MS, 0x1p63);
    out->sum_ns = spread->mean_ms * (double)SPIN_NS_PER_MS * (double)spread->count;
    return SPIN_OK;
}

static spin_status take_latencies(struct place *place, const json_t *run,
                                  struct spin_bench_summary *summary)
{
    const json_t *latencies = json_object_get(run, "latencies");
    for (uint32_t i = 0; i < SPIN_BENCH_LATENCIES; i++) {
        place->object = spin_bench_latency_name((enum spin_bench_latency)i);
        const json_t *latency = json_object_get(latencies, place->object);
        SPIN_TRY(take_fields(place, latency, spin_bench_object_spread(), &summary->spreads[i]));
        SPIN_TRY(take_histogram(place, latency, &summary->spreads[i], &summary->histograms[i]));
    }
    return SPIN_OK;
}

static spin_status take_outcomes(struct place *place, const json_t *run,
                                 struct spin_bench_summary *summary)
{
    const json_t *outcomes = json_object_get(run, "outcomes");
    const json_t *errors = json_object_get(run, "errors");
    place->object = "errors";
    if (!json_is_object(errors)) {
        return wrong(place, "", "must be an object");
    }
    for (uint32_t i = 0; i < SPIN_BENCH_OUTCOMES; i++) {
        const char *key = spin_bench_outcome_name((enum spin_bench_outcome)i);
        place->object = "outcomes";
        if (!whole_number(json_object_get(outcomes, key), SPIN_BENCH_INTEGER_MAX,
                          &summary->counts.by_outcome[i])) {
            return wrong(place, key, "must be a whole number");
        }
        const json_t *error = json_object_get(errors, key);
        if (error == NULL) {
            continue;
        }
        place->object = "errors";
        if (!whole_number(json_object_get(error, "count"), SPIN_BENCH_INTEGER_MAX,
                          &summary->errors[i].count)) {
            return wrong(place, key, "must have a count");
        }
        const struct spin_bench_field first = {.key = key,
                                               .bytes = sizeof summary->errors[i].first};
        SPIN_TRY(
            take_text(place, json_object_get(error, "first"), &first, summary->errors[i].first));
    }
    return SPIN_OK;
}

static const struct {
    const char *key;
    uint32_t offset;
} curves[] = {
    {"output_tokens_per_s", offsetof(struct spin_bench_point, output_tokens_per_s)},
    {"running", offsetof(struct spin_bench_point, running)},
    {"waiting", offsetof(struct spin_bench_point, waiting)},
    {"finished_per_s", offsetof(struct spin_bench_point, finished_per_s)},
    {"failed_per_s", offsetof(struct spin_bench_point, failed_per_s)},
};

static spin_status take_timeline(struct place *place, const json_t *run,
                                 struct spin_bench_summary *summary)
{
    place->object = "timeline";
    const json_t *timeline = json_object_get(run, "timeline");
    const struct spin_bench_field step = {.key = "step_ms", .kind = SPIN_BENCH_FIELD_REAL};
    SPIN_TRY(take_field(place, timeline, &step, &summary->step_ms));
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(curves); i++) {
        const json_t *values =
            get_array(place, timeline, curves[i].key, SPIN_BENCH_TIMELINE_POINTS);
        if (values == NULL) {
            return SPIN_ERR_CORRUPT;
        }
        const uint32_t count = (uint32_t)json_array_size(values);
        if (i > 0 && count != summary->points_count) {
            return wrong(place, curves[i].key, "must have as many points as the other curves");
        }
        summary->points_count = count;
        const struct spin_bench_field value = {
            .key = curves[i].key, .kind = SPIN_BENCH_FIELD_REAL, .offset = curves[i].offset};
        for (uint32_t point = 0; point < count; point++) {
            SPIN_TRY(take_real(place, json_array_get(values, point), &value,
                               (uint8_t *)&summary->points[point] + value.offset));
        }
    }
    return SPIN_OK;
}

/* A time, or null for none. */
static bool read_time(const json_t *value, double *out)
{
    *out = json_is_null(value) ? -1 : json_number_value(value);
    return json_is_null(value) || (json_is_number(value) && isfinite(*out) && *out >= 0);
}

static bool read_outcome(const json_t *value, enum spin_bench_outcome *out)
{
    for (uint32_t i = 0; json_is_string(value) && i < SPIN_BENCH_OUTCOMES; i++) {
        if (strcmp(json_string_value(value), spin_bench_outcome_name((enum spin_bench_outcome)i)) ==
            0) {
            *out = (enum spin_bench_outcome)i;
            return true;
        }
    }
    return false;
}

static bool read_sample(const json_t *row, struct spin_bench_sample *out)
{
    uint64_t prompt_tokens = 0;
    uint64_t output_tokens = 0;
    if (!json_is_array(row) || !read_time(json_array_get(row, 0), &out->intended_ms) ||
        !read_time(json_array_get(row, 1), &out->ttft_ms) ||
        !read_time(json_array_get(row, 2), &out->tpot_ms) ||
        !read_time(json_array_get(row, 3), &out->e2e_ms) ||
        !whole_number(json_array_get(row, 4), UINT32_MAX, &prompt_tokens) ||
        !whole_number(json_array_get(row, 5), UINT32_MAX, &output_tokens) ||
        !read_outcome(json_array_get(row, 6), &out->outcome)) {
        return false;
    }
    out->prompt_tokens = (uint32_t)prompt_tokens;
    out->output_tokens = (uint32_t)output_tokens;
    return true;
}

static spin_status take_samples(struct place *place, const json_t *run,
                                struct spin_bench_summary *summary)
{
    place->object = "samples";
    const json_t *rows = get_array(place, run, "samples", SPIN_BENCH_SAMPLES_MAX);
    if (rows == NULL) {
        return SPIN_ERR_CORRUPT;
    }
    const uint32_t count = (uint32_t)json_array_size(rows);
    summary->samples = calloc(SPIN_MAX(count, 1u), sizeof *summary->samples);
    if (summary->samples == NULL) {
        return spin_fail(place->err, SPIN_ERR_NO_MEMORY, "%u samples", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!read_sample(json_array_get(rows, i), &summary->samples[i])) {
            return wrong(place, "row", "must be four times, two counts and an outcome");
        }
    }
    summary->samples_count = count;
    return SPIN_OK;
}

static bool read_metric(const json_t *row, struct spin_bench_metric *out)
{
    const json_t *name = json_array_get(row, 0);
    const json_t *before = json_array_get(row, 1);
    const json_t *after = json_array_get(row, 2);
    if (!json_is_string(name) || json_string_length(name) >= sizeof out->name) {
        return false;
    }
    memcpy(out->name, json_string_value(name), json_string_length(name) + 1);
    out->has_before = json_is_number(before);
    out->has_after = json_is_number(after);
    out->before = json_number_value(before);
    out->after = json_number_value(after);
    return (out->has_before || json_is_null(before)) && (out->has_after || json_is_null(after)) &&
           isfinite(out->before) && isfinite(out->after);
}

static spin_status take_metrics(struct place *place, const json_t *run,
                                struct spin_bench_summary *summary)
{
    place->object = "metrics";
    const json_t *rows = get_array(place, run, "metrics", SPIN_BENCH_METRICS_MAX);
    if (rows == NULL) {
        return SPIN_ERR_CORRUPT;
    }
    const uint32_t count = (uint32_t)json_array_size(rows);
    summary->metrics = calloc(SPIN_MAX(count, 1u), sizeof *summary->metrics);
    if (summary->metrics == NULL) {
        return spin_fail(place->err, SPIN_ERR_NO_MEMORY, "%u metrics", count);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (!read_metric(json_array_get(rows, i), &summary->metrics[i])) {
            return wrong(place, "row", "must be a name and two numbers or nulls");
        }
    }
    summary->metrics_count = count;
    return SPIN_OK;
}

static spin_status take_run(struct place *place, const json_t *run,
                            struct spin_bench_summary *summary)
{
    for (uint32_t i = 0; i < spin_bench_object_count(); i++) {
        const struct spin_bench_object *object = spin_bench_object_at(i);
        place->object = object->key;
        SPIN_TRY(take_fields(place, json_object_get(run, object->key), object,
                             (uint8_t *)summary + object->offset));
    }
    SPIN_TRY(take_outcomes(place, run, summary));
    SPIN_TRY(take_latencies(place, run, summary));
    SPIN_TRY(take_timeline(place, run, summary));
    SPIN_TRY(take_samples(place, run, summary));
    return take_metrics(place, run, summary);
}

static spin_status take_runs(const json_t *file, const char *name, struct spin_bench_runs *list,
                             struct spin_error *err)
{
    const char *schema = json_string_value(json_object_get(file, "schema"));
    if (schema == NULL || strcmp(schema, "spin-bench") != 0) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "%s: schema: must be \"spin-bench\"", name);
    }
    uint64_t version = 0;
    if (!whole_number(json_object_get(file, "version"), SPIN_BENCH_FILE_VERSION, &version) ||
        version == 0) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "%s: version: this program reads 1 .. %u", name,
                         SPIN_BENCH_FILE_VERSION);
    }
    const json_t *runs = json_object_get(file, "runs");
    if (!json_is_array(runs) || json_array_size(runs) > SPIN_BENCH_RUNS_MAX) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "%s: runs: must be an array of at most %u", name,
                         SPIN_BENCH_RUNS_MAX);
    }
    for (uint32_t i = 0; i < json_array_size(runs); i++) {
        struct spin_bench_summary *summary = calloc(1, sizeof *summary);
        if (summary == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "a summary");
        }
        struct place place = {.name = name, .run = i, .err = err};
        const spin_status status = take_run(&place, json_array_get(runs, i), summary);
        if (status != SPIN_OK) {
            spin_bench_summary_destroy(summary);
            return status;
        }
        SPIN_TRY(spin_bench_runs_append(list, summary, err));
    }
    return SPIN_OK;
}

spin_status spin_bench_runs_parse(const char *text, uint64_t bytes, const char *name,
                                  struct spin_bench_runs *list, struct spin_error *err)
{
    json_error_t trouble;
    json_t *file = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &trouble);
    if (file == NULL) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "%s: line %d: %s", name, trouble.line,
                         trouble.text);
    }
    const spin_status status = take_runs(file, name, list, err);
    json_decref(file);
    return status;
}
