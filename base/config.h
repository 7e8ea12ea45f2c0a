/* config: one table of options makes flags, environment, file keys, --help and the documentation.
 *
 * Why        A default, its unit, its range and its help stand in one row and cannot drift apart.
 *            "--max-num-seqs 32", "SPIN_MAX_NUM_SEQS=32" and the file line "max-num-seqs: 32" are
 *            one option. Flags go before the environment, it before the file (--config PATH, YAML
 *            or JSON), and that before the default.
 * Ownership  Strings in the caller's struct are owned by the spin_config_values that loaded them.
 * Threading  Load once at start; read-only afterwards.
 * Units      BYTES takes suffixes KiB MiB GiB KB MB GB; DURATION takes ns us ms s m h and is kept
 *            in ns.
 * Errors     INVALID: the text names the option, where it came from, the value and the range. */
#pragma once

#include "base/status.h"

#include <stdio.h>

SPIN_BEGIN_DECLS

enum spin_option_type {
    SPIN_OPTION_BOOL,     /* bool: --x, --x=false, --no-x */
    SPIN_OPTION_U32,      /* uint32_t */
    SPIN_OPTION_U64,      /* uint64_t */
    SPIN_OPTION_BYTES,    /* uint64_t */
    SPIN_OPTION_DURATION, /* uint64_t, nanoseconds */
    SPIN_OPTION_DOUBLE,   /* double */
    SPIN_OPTION_STRING,   /* const char *; NULL when absent and without a default */
    SPIN_OPTION_CHOICE    /* uint32_t: index into `choices` */
};

struct spin_option {
    const char *name; /* "max-num-seqs" */
    enum spin_option_type type;
    uint32_t offset;           /* of the field in the caller's struct */
    const char *default_value; /* as text, in the option's own syntax; NULL: none */
    double min;                /* numbers only, DURATION in ns; max <= min: unbounded */
    double max;
    const char *choices; /* CHOICE: "cpu,cuda,auto" */
    const char *unit;    /* "tokens", "ms", ...; NULL: none */
    const char *help;    /* one sentence */
    bool required;
    bool secret; /* printed as "***" */
};

struct spin_config_spec {
    const char *program;  /* "spin-worker" */
    const char *synopsis; /* one line after "usage: <program> [options] " */
    const char *about;    /* a short paragraph */
    const struct spin_option *options;
    uint32_t option_count;
    uint32_t positional_max; /* how many bare arguments are allowed */
};

struct spin_config_values; /* where each value came from, and the strings; private to config.c */

/* Fills `config` (the struct that the offsets are of). `environment` is environ or a test's own.
 * --help, --version and --help-markdown are recognised here: *out_exit is set true, the text goes
 * to standard output and the program should return 0. --config-check likewise after validation. */
SPIN_MUST_USE spin_status spin_config_load(const struct spin_config_spec *spec, int argc,
                                           char *const *argv, char *const *environment,
                                           void *config, struct spin_config_values **out,
                                           bool *out_exit, struct spin_error *err);
void spin_config_values_destroy(struct spin_config_values *values); /* NULL is allowed */
uint32_t spin_config_positional_count(const struct spin_config_values *values);
const char *spin_config_positional(const struct spin_config_values *values, uint32_t index);
/* "flag", "environment", "file" or "default". */
const char *spin_config_source(const struct spin_config_values *values, const char *option);

void spin_config_print_help(const struct spin_config_spec *spec, FILE *out);
void spin_config_print_markdown(const struct spin_config_spec *spec, FILE *out);
/* "name: value" lines in table order, parseable as a config file; secrets masked. */
void spin_config_print_effective(const struct spin_config_spec *spec, const void *config,
                                 const struct spin_config_values *values, FILE *out);

SPIN_END_DECLS
