/* The writing half of run_file.h. */
#include "base/clock.h"
#include "bench/report/fields.h"
#include "bench/report/json_out.h"
#include "bench/report/run_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static uint64_t read_u64(const void *field)
{
    uint64_t value = 0;
    memcpy(&value, field, sizeof value);
    return value;
}

static void put_field(struct spin_json_out *out, const struct spin_bench_field *field,
                      const void *base)
{
    const void *value = (const uint8_t *)base + field->offset;
    switch (field->kind) {
    case SPIN_BENCH_FIELD_TEXT:
        spin_json_out_text(out, field->key, value);
        break;
    case SPIN_BENCH_FIELD_BOOL:
        spin_json_out_bool(out, field->key, *(const bool *)value);
        break;
    case SPIN_BENCH_FIELD_U32:
        spin_json_out_integer(out, field->key, *(const uint32_t *)value);
        break;
    case SPIN_BENCH_FIELD_U64:
        spin_json_out_integer(out, field->key, SPIN_MIN(read_u64(value), SPIN_BENCH_INTEGER_MAX));
        break;
    case SPIN_BENCH_FIELD_DECIMAL: {
        char digits[24];
        (void)snprintf(digits, sizeof digits, "%" PRIu64, read_u64(value));
        spin_json_out_text(out, field->key, digits);
        break;
    }
    case SPIN_BENCH_FIELD_MS:
        spin_json_out_real(out, field->key, (double)read_u64(value) / (double)SPIN_NS_PER_MS);
        break;
    case SPIN_BENCH_FIELD_WALL:
        spin_json_out_integer(out, field->key, read_u64(value) / SPIN_NS_PER_MS);
        break;
    case SPIN_BENCH_FIELD_REAL: {
        double real = 0;
        memcpy(&real, value, sizeof real);
        spin_json_out_real(out, field->key, real);
        break;
    }
    }
}

static void put_fields(struct spin_json_out *out, const struct spin_bench_object *object,
                       const void *base)
{
    for (uint32_t i = 0; i < object->count; i++) {
        put_field(out, &object->fields[i], base);
    }
}

static void put_histogram(struct spin_json_out *out, const struct spin_histogram *histogram)
{
    spin_json_out_open_flat(out, "lower_ns", '[');
    for (uint32_t i = 0; i < SPIN_HISTOGRAM_BUCKETS; i++) {
        if (histogram->buckets[i] != 0) {
            spin_json_out_integer(out, NULL, spin_histogram_lower(i));
        }
    }
    spin_json_out_close(out, ']');
    spin_json_out_open_flat(out, "counts", '[');
    for (uint32_t i = 0; i < SPIN_HISTOGRAM_BUCKETS; i++) {
        if (histogram->buckets[i] != 0) {
            spin_json_out_integer(out, NULL, histogram->buckets[i]);
        }
    }
    spin_json_out_close(out, ']');
}

static void put_latencies(struct spin_json_out *out, const struct spin_bench_summary *summary)
{
    spin_json_out_open(out, "latencies", '{');
    for (uint32_t i = 0; i < SPIN_BENCH_LATENCIES; i++) {
        spin_json_out_open(out, spin_bench_latency_name((enum spin_bench_latency)i), '{');
        put_fields(out, spin_bench_object_spread(), &summary->spreads[i]);
        put_histogram(out, &summary->histograms[i]);
        spin_json_out_close(out, '}');
    }
    spin_json_out_close(out, '}');
}

static void put_outcomes(struct spin_json_out *out, const struct spin_bench_summary *summary)
{
    spin_json_out_open_flat(out, "outcomes", '{');
    for (uint32_t i = 0; i < SPIN_BENCH_OUTCOMES; i++) {
        spin_json_out_integer(out, spin_bench_outcome_name((enum spin_bench_outcome)i),
                              summary->counts.by_outcome[i]);
    }
    spin_json_out_close(out, '}');
    spin_json_out_open(out, "errors", '{');
    for (uint32_t i = 0; i < SPIN_BENCH_OUTCOMES; i++) {
        if (summary->errors[i].count != 0) {
            spin_json_out_open_flat(out, spin_bench_outcome_name((enum spin_bench_outcome)i), '{');
            spin_json_out_integer(out, "count", summary->errors[i].count);
            spin_json_out_text(out, "first", summary->errors[i].first);
            spin_json_out_close(out, '}');
        }
    }
    spin_json_out_close(out, '}');
}

#define PUT_CURVE(out, summary, field) \
    do { \
        spin_json_out_open_flat((out), #field, '['); \
        for (uint32_t point_ = 0; point_ < (summary)->points_count; point_++) { \
            spin_json_out_real((out), NULL, (summary)->points[point_].field); \
        } \
        spin_json_out_close((out), ']'); \
    } while (0)

static void put_timeline(struct spin_json_out *out, const struct spin_bench_summary *summary)
{
    spin_json_out_open(out, "timeline", '{');
    spin_json_out_real(out, "step_ms", summary->step_ms);
    PUT_CURVE(out, summary, output_tokens_per_s);
    PUT_CURVE(out, summary, running);
    PUT_CURVE(out, summary, waiting);
    PUT_CURVE(out, summary, finished_per_s);
    PUT_CURVE(out, summary, failed_per_s);
    spin_json_out_close(out, '}');
}

static void put_time(struct spin_json_out *out, double time_ms)
{
    if (time_ms < 0) {
        spin_json_out_null(out, NULL);
    } else {
        spin_json_out_real(out, NULL, time_ms);
    }
}

/* Rows rather than objects: the keys would be most of the file. */
static void put_samples(struct spin_json_out *out, const struct spin_bench_summary *summary)
{
    spin_json_out_open(out, "samples", '[');
    for (uint32_t i = 0; i < summary->samples_count; i++) {
        const struct spin_bench_sample *sample = &summary->samples[i];
        spin_json_out_open_flat(out, NULL, '[');
        put_time(out, sample->intended_ms);
        put_time(out, sample->ttft_ms);
        put_time(out, sample->tpot_ms);
        put_time(out, sample->e2e_ms);
        spin_json_out_integer(out, NULL, sample->prompt_tokens);
        spin_json_out_integer(out, NULL, sample->output_tokens);
        spin_json_out_text(out, NULL, spin_bench_outcome_name(sample->outcome));
        spin_json_out_close(out, ']');
    }
    spin_json_out_close(out, ']');
}

static void put_value(struct spin_json_out *out, bool has, double value)
{
    if (has) {
        spin_json_out_real(out, NULL, value);
    } else {
        spin_json_out_null(out, NULL);
    }
}

static void put_metrics(struct spin_json_out *out, const struct spin_bench_summary *summary)
{
    spin_json_out_open(out, "metrics", '[');
    for (uint32_t i = 0; i < summary->metrics_count; i++) {
        const struct spin_bench_metric *metric = &summary->metrics[i];
        spin_json_out_open_flat(out, NULL, '[');
        spin_json_out_text(out, NULL, metric->name);
        put_value(out, metric->has_before, metric->before);
        put_value(out, metric->has_after, metric->after);
        spin_json_out_close(out, ']');
    }
    spin_json_out_close(out, ']');
}

static void put_run(struct spin_json_out *out, const struct spin_bench_summary *summary)
{
    spin_json_out_open(out, NULL, '{');
    for (uint32_t i = 0; i < spin_bench_object_count(); i++) {
        const struct spin_bench_object *object = spin_bench_object_at(i);
        spin_json_out_open(out, object->key, '{');
        put_fields(out, object, (const uint8_t *)summary + object->offset);
        spin_json_out_close(out, '}');
    }
    put_outcomes(out, summary);
    put_latencies(out, summary);
    put_timeline(out, summary);
    put_samples(out, summary);
    put_metrics(out, summary);
    spin_json_out_close(out, '}');
}

spin_status spin_bench_runs_text(const struct spin_bench_runs *list, char **text,
                                 struct spin_error *err)
{
    struct spin_json_out out = {0};
    spin_json_writer_init(&out.writer, SPIN_BENCH_FILE_BYTES_MAX);
    spin_json_out_open(&out, NULL, '{');
    spin_json_out_text(&out, "schema", "spin-bench");
    spin_json_out_integer(&out, "version", SPIN_BENCH_FILE_VERSION);
    spin_json_out_open(&out, "runs", '[');
    for (uint32_t i = 0; i < list->count; i++) {
        put_run(&out, list->items[i]);
    }
    spin_json_out_close(&out, ']');
    spin_json_out_close(&out, '}');
    spin_json_put_raw(&out.writer, "\n", 2); /* with the end of a text */
    if (out.writer.failed) {
        spin_json_writer_deinit(&out.writer);
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "%u runs: no memory, or over the %" PRIu64 " bytes of a file", list->count,
                         SPIN_BENCH_FILE_BYTES_MAX);
    }
    *text = out.writer.bytes; /* from malloc, and nobody else's now */
    return SPIN_OK;
}
