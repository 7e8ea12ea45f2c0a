/* openai_request_internal: the readers of fields, shared by the files of openai_request.
 *
 * Why        One table row per field; a row names its reader, its range and where the value goes.
 * Ownership  A reader borrows the document's values.
 * Threading  One thread at a time.
 * Errors     INVALID, with the client's error written. */
#pragma once

#include "router/http/openai_request.h"

#include <jansson.h>

SPIN_BEGIN_DECLS

struct spin_openai_reader {
    struct spin_openai_request *request;
    struct spin_openai_error *error;
};

struct spin_openai_field {
    const char *name;
    uint32_t endpoints; /* bits: where the field is known */
    spin_status (*read)(const struct spin_openai_reader *reader,
                        const struct spin_openai_field *field, const json_t *value);
    size_t offset; /* in struct spin_openai_request */
    double min;
    double max;
};

/* "an array", for messages. */
const char *spin_openai_type_name(const json_t *value);
/* NULL after telling the client. */
void *spin_openai_take(const struct spin_openai_reader *reader, uint64_t count, uint64_t size);

/* Readers of one value; the field's name is in every error. */
SPIN_MUST_USE spin_status spin_openai_read_bool(const struct spin_openai_reader *reader,
                                                const struct spin_openai_field *field,
                                                const json_t *value);
SPIN_MUST_USE spin_status spin_openai_read_real(const struct spin_openai_reader *reader,
                                                const struct spin_openai_field *field,
                                                const json_t *value);
SPIN_MUST_USE spin_status spin_openai_read_positive(const struct spin_openai_reader *reader,
                                                    const struct spin_openai_field *field,
                                                    const json_t *value);
SPIN_MUST_USE spin_status spin_openai_read_u32(const struct spin_openai_reader *reader,
                                               const struct spin_openai_field *field,
                                               const json_t *value);
SPIN_MUST_USE spin_status spin_openai_read_text(const struct spin_openai_reader *reader,
                                                const struct spin_openai_field *field,
                                                const json_t *value);
SPIN_MUST_USE spin_status spin_openai_read_integer(const struct spin_openai_reader *reader,
                                                   const struct spin_openai_field *field,
                                                   const json_t *value, int64_t *out);
/* A list of integers in the field's range. `label` names it in errors: "prompt[3]". */
SPIN_MUST_USE spin_status spin_openai_read_tokens(const struct spin_openai_reader *reader,
                                                  const char *label, const json_t *list,
                                                  const int32_t **out, uint64_t *out_count);

/* Readers of what a client wants answered. */
SPIN_MUST_USE spin_status spin_openai_read_messages(const struct spin_openai_reader *reader,
                                                    const struct spin_openai_field *field,
                                                    const json_t *value);
SPIN_MUST_USE spin_status spin_openai_read_prompt(const struct spin_openai_reader *reader,
                                                  const struct spin_openai_field *field,
                                                  const json_t *value);

SPIN_END_DECLS
