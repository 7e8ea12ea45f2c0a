/* options: what each command can be told, one row per option.
 *
 * Why        Flags, environment, file, --help and docs/config.md come from one table.
 * Ownership  Strings belong to the spin_config_values that loaded them.
 * Threading  Loaded once at start; read-only afterwards.
 * Units      Durations in nanoseconds.
 * Errors     parse_stop: INVALID (an empty text), LIMIT (too many). */
#pragma once

#include "base/config.h"

SPIN_BEGIN_DECLS

struct spin_router_options { /* every command's */
    const char *target;      /* host:port */
    const char *api_key;     /* NULL: none */
    bool tls;
    const char *tls_ca; /* NULL: the system's */
    const char *tls_cert;
    const char *tls_key;
    uint64_t connect_timeout_ns;
};

struct spin_sampling_options { /* of generate and chat */
    const char *model;         /* NULL: the one that is served */
    const char *system;        /* NULL: the model's own */
    uint32_t max_tokens;
    double temperature;
    double top_p;
    uint32_t top_k;
    double min_p;
    uint64_t seed;
    const char *stop; /* NULL: none */
    bool stats;
};

struct spin_generate_options {
    struct spin_router_options router;
    struct spin_sampling_options sampling;
    const char *prompt; /* NULL: see the next one, then standard input */
    const char *file;
    bool raw;
    bool ignore_eos;
    bool logprobs;
    uint64_t deadline_ns; /* a duration; 0: none */
    bool json;
};

struct spin_chat_options {
    struct spin_router_options router;
    struct spin_sampling_options sampling;
};

struct spin_status_options {
    struct spin_router_options router;
    bool requests;
    bool watch;
    bool json;
};

extern const struct spin_config_spec spin_generate_config_spec;
extern const struct spin_config_spec spin_chat_config_spec;
extern const struct spin_config_spec spin_status_config_spec;

#define SPIN_STOP_SEPARATOR "|||"
#define SPIN_STOPS_MAX 16u /* a router takes no more */

struct spin_stops {
    const char *texts[SPIN_STOPS_MAX];
    uint32_t count;
    char *bytes;
};
/* The texts of --stop; NULL: none. */
SPIN_MUST_USE spin_status spin_stops_init(struct spin_stops *stops, const char *option,
                                          struct spin_error *err);
void spin_stops_deinit(struct spin_stops *stops); /* zeroed storage is allowed */

SPIN_END_DECLS
