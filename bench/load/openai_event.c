#include "bench/load/openai_event.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static bool has_string(const json_t *object, const char *member)
{
    return json_string_length(json_object_get(object, member)) != 0;
}

static bool delta_has_text(const json_t *delta)
{
    return has_string(delta, "content") || has_string(delta, "reasoning_content") ||
           has_string(delta, "reasoning") ||
           json_array_size(json_object_get(delta, "tool_calls")) != 0;
}

static bool read_count(const json_t *usage, const char *member, uint32_t *out)
{
    const json_t *value = json_object_get(usage, member);
    const json_int_t count = json_integer_value(value);
    if (!json_is_integer(value) || count < 0 || count > UINT32_MAX) {
        return false;
    }
    *out = (uint32_t)count;
    return true;
}

/* {"message": "..."} or a text, in one line. */
static void copy_error(const json_t *error, char *out, uint64_t capacity)
{
    const json_t *message = json_object_get(error, "message");
    const char *text = json_string_value(message != NULL ? message : error);
    (void)snprintf(out, capacity, "%s", text != NULL ? text : "an error without a message");
    for (char *at = out; *at != '\0'; at++) {
        if ((unsigned char)*at < 0x20) {
            *at = ' ';
        }
    }
}

static void read_choice(const json_t *root, struct spin_openai_event *out)
{
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0);
    out->has_text = has_string(choice, "text") || delta_has_text(json_object_get(choice, "delta"));
    out->has_end = json_is_string(json_object_get(choice, "finish_reason"));
}

bool spin_openai_event_read(const char *data, uint64_t bytes, struct spin_openai_event *out)
{
    *out = (struct spin_openai_event){0};
    if (bytes == 6 && memcmp(data, "[DONE]", 6) == 0) {
        out->done = true;
        return true;
    }
    json_t *root = json_loadb(data, bytes, JSON_ALLOW_NUL, NULL);
    if (!json_is_object(root)) {
        json_decref(root);
        return false;
    }
    const json_t *error = json_object_get(root, "error");
    if (error != NULL && !json_is_null(error)) {
        copy_error(error, out->error, sizeof out->error);
    }
    read_choice(root, out);
    const json_t *usage = json_object_get(root, "usage");
    out->has_usage = read_count(usage, "prompt_tokens", &out->prompt_tokens) &&
                     read_count(usage, "completion_tokens", &out->completion_tokens);
    json_decref(root);
    return true;
}

void spin_openai_error_read(const char *body, uint64_t bytes, char *out, uint64_t capacity)
{
    json_t *root = json_loadb(body, bytes, 0, NULL);
    const json_t *error = json_object_get(root, "error");
    error = error != NULL ? error : json_object_get(root, "detail");
    if (json_is_object(root)) {
        copy_error(error != NULL ? error : root, out, capacity);
    } else {
        const uint64_t line = SPIN_MIN(bytes, capacity - 1);
        (void)snprintf(out, capacity, "%.*s", (int)line, body);
        out[strcspn(out, "\r\n")] = '\0';
    }
    json_decref(root);
}

bool spin_openai_model_read(const char *body, uint64_t bytes, char *out, uint64_t capacity)
{
    json_t *root = json_loadb(body, bytes, 0, NULL);
    const json_t *model = json_array_get(json_object_get(root, "data"), 0);
    const char *id = json_string_value(json_object_get(model, "id"));
    const bool fits = id != NULL && strlen(id) < capacity;
    if (fits) {
        (void)snprintf(out, capacity, "%s", id);
    }
    json_decref(root);
    return fits;
}
