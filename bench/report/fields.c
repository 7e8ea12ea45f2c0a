#include "bench/report/fields.h"

#include "base/assert.h"

#define TEXT(type, field) \
    { \
#field, SPIN_BENCH_FIELD_TEXT, offsetof(struct type, field), \
            sizeof(((struct type *)NULL)->field) \
    }
#define FLAT(type, field, kind) \
    { \
#field, SPIN_BENCH_FIELD_##kind, offsetof(struct type, field), 0 \
    }
#define TIME(type, name) \
    { \
#name "_ms", SPIN_BENCH_FIELD_MS, offsetof(struct type, name##_ns), 0 \
    }

static const struct spin_bench_field setup_fields[] = {
    TEXT(spin_bench_setup, label),
    TEXT(spin_bench_setup, driver),
    TEXT(spin_bench_setup, target),
    TEXT(spin_bench_setup, model),
    TEXT(spin_bench_setup, workload),
    TEXT(spin_bench_setup, arrival),
    TEXT(spin_bench_setup, command),
    TEXT(spin_bench_setup, generator),
    TEXT(spin_bench_setup, machine),
    {"wall_start_ms", SPIN_BENCH_FIELD_WALL, offsetof(struct spin_bench_setup, wall_start_ns), 0},
    FLAT(spin_bench_setup, rate_per_s, REAL),
    FLAT(spin_bench_setup, concurrency, U32),
    FLAT(spin_bench_setup, repeat, U32),
    FLAT(spin_bench_setup, seed, DECIMAL),
    FLAT(spin_bench_setup, scale, REAL),
    TIME(spin_bench_setup, warm_up),
    TIME(spin_bench_setup, duration),
    FLAT(spin_bench_setup, requests, U32),
};

static const struct spin_bench_field slo_fields[] = {
    TIME(spin_bench_slo, ttft),
    TIME(spin_bench_slo, tpot),
    TIME(spin_bench_slo, e2e),
};

static const struct spin_bench_field generator_fields[] = {
    FLAT(spin_bench_generator, cpu_s, REAL), FLAT(spin_bench_generator, cpu_busiest, REAL),
    TIME(spin_bench_generator, lag_max),     FLAT(spin_bench_generator, limited, BOOL),
    TEXT(spin_bench_generator, limited_why),
};

static const struct spin_bench_field counts_fields[] = {
    FLAT(spin_bench_counts, measured, U64),      FLAT(spin_bench_counts, warm_up, U64),
    FLAT(spin_bench_counts, good, U64),          FLAT(spin_bench_counts, prompt_tokens, U64),
    FLAT(spin_bench_counts, output_tokens, U64), FLAT(spin_bench_counts, messages, U64),
    FLAT(spin_bench_counts, usage, U64),
};

static const struct spin_bench_field rates_fields[] = {
    FLAT(spin_bench_rates, window_s, REAL),
    FLAT(spin_bench_rates, offered_per_s, REAL),
    FLAT(spin_bench_rates, requests_per_s, REAL),
    FLAT(spin_bench_rates, output_tokens_per_s, REAL),
    FLAT(spin_bench_rates, tokens_per_s, REAL),
    FLAT(spin_bench_rates, goodput_per_s, REAL),
    FLAT(spin_bench_rates, good_part, REAL),
    FLAT(spin_bench_rates, failed_part, REAL),
    FLAT(spin_bench_rates, concurrency_mean, REAL),
    FLAT(spin_bench_rates, concurrency_max, REAL),
};

static const struct spin_bench_field run_fields[] = {
    FLAT(spin_bench_summary, length_s, REAL),
    FLAT(spin_bench_summary, simulated_in_s, REAL),
    FLAT(spin_bench_summary, interrupted, BOOL),
    TEXT(spin_bench_summary, metrics_note),
};

static const struct spin_bench_field spread_fields[] = {
    FLAT(spin_bench_spread, count, U64),   FLAT(spin_bench_spread, mean_ms, REAL),
    FLAT(spin_bench_spread, min_ms, REAL), FLAT(spin_bench_spread, p50_ms, REAL),
    FLAT(spin_bench_spread, p90_ms, REAL), FLAT(spin_bench_spread, p99_ms, REAL),
    FLAT(spin_bench_spread, max_ms, REAL),
};

#define OBJECT(name) \
    { \
#name, name##_fields, SPIN_ARRAY_COUNT(name##_fields), \
            offsetof(struct spin_bench_summary, name) \
    }

static const struct spin_bench_object objects[] = {
    OBJECT(setup),  OBJECT(slo),   OBJECT(generator),
    OBJECT(counts), OBJECT(rates), {"run", run_fields, SPIN_ARRAY_COUNT(run_fields), 0},
};

static const struct spin_bench_object spread_object = {NULL, spread_fields,
                                                       SPIN_ARRAY_COUNT(spread_fields), 0};

uint32_t spin_bench_object_count(void)
{
    return SPIN_ARRAY_COUNT(objects);
}

const struct spin_bench_object *spin_bench_object_at(uint32_t index)
{
    SPIN_ASSERT(index < SPIN_ARRAY_COUNT(objects));
    return &objects[index];
}

const struct spin_bench_object *spin_bench_object_spread(void)
{
    return &spread_object;
}
