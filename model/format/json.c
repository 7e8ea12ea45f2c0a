#include "model/format/json.h"

#include "model/format/name.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define NAME_BYTES_MAX 255u

spin_status spin_json_parse(const char *subject, const char *bytes, uint64_t count,
                            struct json_t **out, struct spin_error *err)
{
    json_error_t error;
    json_t *json = json_loadb(bytes, count, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL) {
        /* jansson quotes the text near the error; what it quotes came from outside. */
        for (char *at = error.text; *at != '\0'; at++) {
            if (!spin_name_is_printable(at, 1)) {
                *at = '?';
            }
        }
        return spin_fail(err, SPIN_ERR_CORRUPT, "%s: line %d, byte %d: %s", subject, error.line,
                         error.position, error.text);
    }
    *out = json;
    return SPIN_OK;
}

/* NULL when absent or null. */
static const json_t *field(const struct spin_json_object *object, const char *key)
{
    const json_t *value = json_object_get(object->json, key);
    return json_is_null(value) ? NULL : value;
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a bool";
    case JSON_NULL:
        return "null";
    }
    return "unknown";
}

static spin_status wrong_type(const struct spin_json_object *object, const char *key,
                              const char *wanted, struct spin_error *err)
{
    return spin_fail(err, SPIN_ERR_INVALID, "%s: '%s': %s wanted, found %s", object->subject, key,
                     wanted, type_name(field(object, key)));
}

spin_status spin_json_u64(const struct spin_json_object *object, const char *key, uint64_t *out,
                          struct spin_error *err)
{
    const json_t *value = field(object, key);
    if (value == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    if (!json_is_integer(value)) {
        return wrong_type(object, key, "an integer", err);
    }
    if (json_integer_value(value) < 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s: '%s': %" JSON_INTEGER_FORMAT " is negative",
                         object->subject, key, json_integer_value(value));
    }
    *out = (uint64_t)json_integer_value(value);
    return SPIN_OK;
}

spin_status spin_json_f64(const struct spin_json_object *object, const char *key, double *out,
                          struct spin_error *err)
{
    const json_t *value = field(object, key);
    if (value == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    if (!json_is_number(value)) {
        return wrong_type(object, key, "a number", err);
    }
    *out = json_number_value(value);
    return SPIN_OK;
}

spin_status spin_json_bool(const struct spin_json_object *object, const char *key, bool *out,
                           struct spin_error *err)
{
    const json_t *value = field(object, key);
    if (value == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    if (!json_is_boolean(value)) {
        return wrong_type(object, key, "a bool", err);
    }
    *out = json_is_true(value);
    return SPIN_OK;
}

spin_status spin_json_name(const struct spin_json_object *object, const char *key, const char **out,
                           struct spin_error *err)
{
    const json_t *value = field(object, key);
    if (value == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    if (!json_is_string(value)) {
        return wrong_type(object, key, "a string", err);
    }
    const size_t count = json_string_length(value);
    if (count == 0 || count > NAME_BYTES_MAX ||
        !spin_name_is_printable(json_string_value(value), count)) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s: '%s': 1 to %u bytes of printable ASCII wanted",
                         object->subject, key, NAME_BYTES_MAX);
    }
    *out = json_string_value(value);
    return SPIN_OK;
}
