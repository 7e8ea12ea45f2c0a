/* Readers of single values: their types and their ranges. */
#include "base/arena.h"
#include "base/assert.h"
#include "router/http/openai_request_internal.h"

#include <float.h>
#include <string.h>

const char *spin_openai_type_name(const json_t *value)
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
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a bool";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

static spin_status wrong_type(const struct spin_openai_reader *reader, const char *name,
                              const char *wanted, const json_t *value)
{
    return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, name, "%s: must be %s, not %s",
                              name, wanted, spin_openai_type_name(value));
}

void *spin_openai_take(const struct spin_openai_reader *reader, uint64_t count, uint64_t size)
{
    void *taken = spin_arena_take_zeroed(reader->request->arena, count, size);
    if (taken == NULL) {
        spin_openai_error_from_status(reader->error, SPIN_ERR_NO_MEMORY, NULL);
    }
    return taken;
}

static void *place_of(const struct spin_openai_reader *reader,
                      const struct spin_openai_field *field)
{
    return (char *)reader->request + field->offset;
}

spin_status spin_openai_read_bool(const struct spin_openai_reader *reader,
                                  const struct spin_openai_field *field, const json_t *value)
{
    if (!json_is_boolean(value)) {
        return wrong_type(reader, field->name, "a bool", value);
    }
    const bool given = json_is_true(value);
    memcpy(place_of(reader, field), &given, sizeof given);
    return SPIN_OK;
}

static spin_status read_number(const struct spin_openai_reader *reader,
                               const struct spin_openai_field *field, const json_t *value,
                               double *out)
{
    if (!json_is_number(value)) {
        return wrong_type(reader, field->name, "a number", value);
    }
    const double given = json_number_value(value);
    if (!(given >= field->min && given <= field->max)) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: %g, must be in %g..%g", field->name, given, field->min,
                                  field->max);
    }
    *out = given;
    return SPIN_OK;
}

static void put_real(const struct spin_openai_reader *reader, const struct spin_openai_field *field,
                     double value)
{
    const float given = (float)value;
    memcpy(place_of(reader, field), &given, sizeof given);
}

spin_status spin_openai_read_real(const struct spin_openai_reader *reader,
                                  const struct spin_openai_field *field, const json_t *value)
{
    double given = 0;
    SPIN_TRY(read_number(reader, field, value, &given));
    put_real(reader, field, given);
    return SPIN_OK;
}

/* For fields that a worker takes as off when they are 0: 0 itself makes no sense to ask for. */
spin_status spin_openai_read_positive(const struct spin_openai_reader *reader,
                                      const struct spin_openai_field *field, const json_t *value)
{
    double given = 0;
    SPIN_TRY(read_number(reader, field, value, &given));
    if (given == 0) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: 0, must be above 0 and at most %g", field->name, field->max);
    }
    put_real(reader, field, SPIN_MAX(given, (double)FLT_MIN));
    return SPIN_OK;
}

spin_status spin_openai_read_integer(const struct spin_openai_reader *reader,
                                     const struct spin_openai_field *field, const json_t *value,
                                     int64_t *out)
{
    if (!json_is_integer(value)) {
        return wrong_type(reader, field->name, "an integer", value);
    }
    const json_int_t given = json_integer_value(value);
    if ((double)given < field->min || (double)given > field->max) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: %" JSON_INTEGER_FORMAT ", must be an integer in %.0f..%.0f",
                                  field->name, given, field->min, field->max);
    }
    *out = given;
    return SPIN_OK;
}

spin_status spin_openai_read_u32(const struct spin_openai_reader *reader,
                                 const struct spin_openai_field *field, const json_t *value)
{
    int64_t given = 0;
    SPIN_TRY(spin_openai_read_integer(reader, field, value, &given));
    const uint32_t count = given < 0 ? 0 : (uint32_t)given; /* top_k: -1 is off, as 0 is */
    memcpy(place_of(reader, field), &count, sizeof count);
    return SPIN_OK;
}

spin_status spin_openai_read_text(const struct spin_openai_reader *reader,
                                  const struct spin_openai_field *field, const json_t *value)
{
    if (!json_is_string(value)) {
        return wrong_type(reader, field->name, "a string", value);
    }
    const char *given = json_string_value(value);
    memcpy(place_of(reader, field), &given, sizeof given);
    return SPIN_OK;
}

spin_status spin_openai_read_tokens(const struct spin_openai_reader *reader, const char *label,
                                    const json_t *list, const int32_t **out, uint64_t *out_count)
{
    const size_t count = json_array_size(list);
    int32_t *tokens = spin_openai_take(reader, count, sizeof *tokens);
    if (tokens == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_array_get(list, i);
        if (!json_is_integer(item)) {
            return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, label,
                                      "%s[%zu]: must be a token id, not %s", label, i,
                                      spin_openai_type_name(item));
        }
        const json_int_t token = json_integer_value(item);
        if (token < 0 || token > INT32_MAX) {
            return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, label,
                                      "%s[%zu]: %" JSON_INTEGER_FORMAT " is not the id of a token",
                                      label, i, token);
        }
        tokens[i] = (int32_t)token;
    }
    *out = tokens;
    *out_count = count;
    return SPIN_OK;
}
