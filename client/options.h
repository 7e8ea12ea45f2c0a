/* options: what `spin generate` and `spin status` can be told, one row per option.
 *
 * Why        Flags, environment, file, --help and docs/config.md come from one table.
 * Ownership  Strings belong to the spin_config_values that loaded them.
 * Threading  Loaded once at start; read-only afterwards.
 * Units      Durations in nanoseconds. */
#pragma once

#include "base/config.h"

SPIN_BEGIN_DECLS

struct spin_generate_options {
    const char *worker; /* host:port */
    const char *model;  /* tokenizer source */
    const char *prompt; /* NULL: see the next two, then standard input */
    const char *file;
    const char *system;        /* NULL: the template's default */
    const char *chat_template; /* NULL: the model's own */
    bool raw;
    uint32_t max_tokens;
    double temperature;
    double top_p;
    uint32_t top_k;
    double min_p;
    uint64_t seed;
    const char *stop; /* NULL: none */
    bool ignore_eos;
    bool logprobs;
    uint64_t deadline_ns; /* a duration; 0: none */
    uint64_t connect_timeout_ns;
    bool stats;
    bool json;
};

struct spin_status_options {
    const char *worker;
    uint64_t connect_timeout_ns;
};

extern const struct spin_config_spec spin_generate_config_spec;
extern const struct spin_config_spec spin_status_config_spec;

SPIN_END_DECLS
