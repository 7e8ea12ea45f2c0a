/* config_file: the keys and values of a configuration file, YAML or JSON, as text.
 *
 * Why        One flat mapping of scalars is all that a configuration file may be, so a value means
 *            the same as on the command line. JSON is read as the YAML that it is.
 * Ownership  The list owns the strings; valid until deinit.
 * Threading  Load once at start.
 * Units      Lines count from 1.
 * Errors     INVALID with path, line and what was found; LIMIT over the sizes below. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

/* Far above the option table of any program, low enough that a wrong file is refused at once. */
#define SPIN_CONFIG_FILE_BYTES_MAX (UINT64_C(1) << 20)
#define SPIN_CONFIG_FILE_KEYS_MAX 1024u

struct spin_config_file_entry {
    char *key;
    char *value; /* NULL: null, ~ or nothing, which leaves the option as it is */
    uint32_t line;
};

struct spin_config_file {
    struct spin_config_file_entry *entries;
    uint32_t count;
};

/* `path` is for error texts only. *out is written on success. */
SPIN_MUST_USE spin_status spin_config_file_parse(const char *text, uint64_t bytes, const char *path,
                                                 struct spin_config_file *out,
                                                 struct spin_error *err);
void spin_config_file_deinit(struct spin_config_file *file);

SPIN_END_DECLS
