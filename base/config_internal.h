/* config_internal: what the files of the config module share: values as text and back.
 *
 * Why        Reading a value (config_value.c), deciding where it comes from (config.c) and printing
 *            the table (config_print.c) are three jobs over the same rows.
 * Ownership  Nothing here owns memory.
 * Threading  Any thread; pure.
 * Errors     Parsing says in `reason` what the value is not; the caller adds which option and
 *            where. */
#pragma once

#include "base/config.h"

SPIN_BEGIN_DECLS

/* Longest text of a formatted number, choice or range, with its NUL. */
#define SPIN_CONFIG_TEXT_BYTES 160

/* The value of one option, whatever its type. */
union spin_config_scalar {
    bool boolean;
    uint32_t u32;
    uint64_t u64;
    double real;
    const char *string;
};

/* Reads `text` in the syntax of the option and checks the range. A STRING borrows `text`. */
bool spin_config_scalar_parse(const struct spin_option *option, const char *text,
                              union spin_config_scalar *out, char reason[SPIN_CONFIG_TEXT_BYTES]);
/* The field of the caller's struct. */
union spin_config_scalar spin_config_scalar_load(const struct spin_option *option,
                                                 const void *config);
void spin_config_scalar_store(const struct spin_option *option, union spin_config_scalar value,
                              void *config);
/* The inverse of parse for all types but STRING: "4GiB", "30s", "0.5", "cuda". */
void spin_config_scalar_format(const struct spin_option *option, union spin_config_scalar value,
                               char out[SPIN_CONFIG_TEXT_BYTES]);
/* "1..1024", "at most ...", "cpu|cuda|auto"; empty when anything of the type will do. */
void spin_config_range_format(const struct spin_option *option, char out[SPIN_CONFIG_TEXT_BYTES]);
/* "SPIN_MAX_NUM_SEQS" */
void spin_config_environment_name(const char *option, char out[SPIN_CONFIG_TEXT_BYTES]);
/* The name in the table or among the built-in flags that was probably meant, or NULL. */
const char *spin_config_nearest(const struct spin_config_spec *spec, const char *name);

/* The flags of every program, in the order of --help. */
struct spin_config_builtin {
    const char *name;
    const char *value; /* "PATH", or NULL */
    const char *help;
};
extern const struct spin_config_builtin spin_config_builtins[];
extern const uint32_t spin_config_builtins_count;

SPIN_END_DECLS
