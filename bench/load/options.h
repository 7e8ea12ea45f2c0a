/* options: what `spin bench` can be told.
 *
 * Why        Flags, environment, file, --help and docs/config.md come from one table.
 * Ownership  Strings belong to the spin_config_values that loaded them.
 * Threading  Loaded once at start; read-only afterwards.
 * Units      Durations in nanoseconds. */
#pragma once

#include "base/config.h"
#include "bench/load/schedule.h"

SPIN_BEGIN_DECLS

enum spin_load_api { SPIN_LOAD_COMPLETIONS, SPIN_LOAD_CHAT };
enum spin_load_progress_when {
    SPIN_LOAD_PROGRESS_AUTO,
    SPIN_LOAD_PROGRESS_ON,
    SPIN_LOAD_PROGRESS_OFF
};

struct spin_load_options {
    const char *target;
    uint32_t api; /* enum spin_load_api */
    const char *model;
    const char *label;
    const char *api_key;
    bool tls;
    const char *tls_ca;
    const char *tls_cert;
    const char *tls_key;
    bool ignore_eos;
    const char *extra_body;
    const char *metrics;
    struct spin_bench_schedule_options schedule;
    uint32_t repeat;
    uint64_t connect_timeout_ns;
    uint64_t stall_timeout_ns;
    uint64_t timeout_ns;
    uint64_t drain_timeout_ns;
    uint32_t progress; /* enum spin_load_progress_when */
    const char *json;
    const char *html;
};

extern const struct spin_config_spec spin_load_config_spec;

/* The rows that every command has that sends requests; `options` has the fields above. */
extern const uint32_t spin_load_option_count;
extern const struct spin_option spin_load_option_rows[];

SPIN_END_DECLS
