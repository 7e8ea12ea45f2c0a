/* json: strict JSON from outside, and fields of objects with errors that name them.
 *
 * Why        config.json, a safetensors header and a shard index ask the same questions of a
 *            document; jansson answers without saying which key of which file was wrong.
 * Ownership  spin_json_parse returns an owned document (json_decref); strings borrow from it.
 * Threading  A document belongs to one thread.
 * Errors     CORRUPT: not JSON, a key twice, bytes behind the end. A field that is absent or null
 *            is NOT_FOUND, without a text and with *out as it was; of another type INVALID. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct json_t; /* <jansson.h> */

/* `subject` names the document in error texts, as in the calls below. */
SPIN_MUST_USE spin_status spin_json_parse(const char *subject, const char *bytes, uint64_t count,
                                          struct json_t **out, struct spin_error *err);

struct spin_json_object {
    const struct json_t *json;
    const char *subject;
};

SPIN_MUST_USE spin_status spin_json_u64(const struct spin_json_object *object, const char *key,
                                        uint64_t *out, struct spin_error *err);
/* Integers are numbers too. */
SPIN_MUST_USE spin_status spin_json_f64(const struct spin_json_object *object, const char *key,
                                        double *out, struct spin_error *err);
SPIN_MUST_USE spin_status spin_json_bool(const struct spin_json_object *object, const char *key,
                                         bool *out, struct spin_error *err);
/* Printable ASCII of at most 255 bytes, as it ends up in error texts; the document owns it. */
SPIN_MUST_USE spin_status spin_json_name(const struct spin_json_object *object, const char *key,
                                         const char **out, struct spin_error *err);

SPIN_END_DECLS
