/* Readers of what is to be answered: messages, and prompts of four forms. */
#include "base/arena.h"
#include "base/assert.h"
#include "router/http/openai_request_internal.h"

#include <stdio.h>
#include <string.h>

#define PATH_BYTES 64u

/* --- messages --- */

struct message_reader {
    const struct spin_openai_reader *reader;
    char path[PATH_BYTES]; /* "messages[3]" */
};

static spin_status refuse(const struct message_reader *at, enum spin_openai_error_kind kind,
                          const char *key, const char *what)
{
    char path[2 * PATH_BYTES];
    (void)snprintf(path, sizeof path, "%s%s%.40s", at->path, key[0] == '\0' ? "" : ".", key);
    return spin_openai_refuse(at->reader->error, kind, path, "%s: %s", path, what);
}

/* One of a list of parts: {"type": "text", "text": "..."}. */
static spin_status read_part(const struct message_reader *at, const json_t *part, const char **out,
                             uint64_t *out_bytes)
{
    const json_t *type = json_object_get(part, "type");
    if (!json_is_string(type)) {
        return refuse(at, SPIN_OPENAI_VALUE, "content", "a part must be an object with a type");
    }
    if (strcmp(json_string_value(type), "text") != 0) {
        return refuse(at, SPIN_OPENAI_UNSUPPORTED, "content",
                      "only parts of type text are supported: no images, audio or files");
    }
    const json_t *text = json_object_get(part, "text");
    if (!json_is_string(text)) {
        return refuse(at, SPIN_OPENAI_VALUE, "content", "a part of type text must have a text");
    }
    *out = json_string_value(text);
    *out_bytes = json_string_length(text);
    return SPIN_OK;
}

/* The parts, one behind the other. */
static spin_status join_parts(const struct message_reader *at, const json_t *parts,
                              struct spin_chat_message *message)
{
    uint64_t bytes = 0;
    const char *text = "";
    uint64_t text_bytes = 0;
    const size_t count = json_array_size(parts);
    for (size_t i = 0; i < count; i++) {
        SPIN_TRY(read_part(at, json_array_get(parts, i), &text, &text_bytes));
        bytes += text_bytes; /* of strings that are all in memory: no overflow */
    }
    message->content = text;
    message->content_bytes = bytes;
    if (count < 2) {
        return SPIN_OK;
    }
    char *joined = spin_openai_take(at->reader, bytes + 1, 1);
    if (joined == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    uint64_t filled = 0;
    for (size_t i = 0; i < count; i++) {
        SPIN_TRY(read_part(at, json_array_get(parts, i), &text, &text_bytes));
        memcpy(joined + filled, text, (size_t)text_bytes);
        filled += text_bytes;
    }
    SPIN_ASSERT_EQ(filled, bytes);
    message->content = joined;
    return SPIN_OK;
}

static spin_status read_content(const struct message_reader *at, const json_t *content,
                                struct spin_chat_message *message)
{
    if (json_is_string(content)) {
        message->content = json_string_value(content);
        message->content_bytes = json_string_length(content);
        return SPIN_OK;
    }
    if (json_is_array(content)) {
        return join_parts(at, content, message);
    }
    const bool absent = content == NULL || json_is_null(content);
    if (absent && strcmp(message->role, "assistant") == 0) {
        message->content = "";
        message->content_bytes = 0;
        return SPIN_OK;
    }
    return refuse(at, absent ? SPIN_OPENAI_MISSING : SPIN_OPENAI_VALUE, "content",
                  "must be a string or a list of parts");
}

static spin_status read_role(const struct message_reader *at, const json_t *role, const char **out)
{
    static const struct {
        const char *given;
        const char *ours;
    } roles[] = {{"system", "system"},
                 {"developer", "system"},
                 {"user", "user"},
                 {"assistant", "assistant"},
                 {"tool", "tool"}};
    const char *given = json_is_string(role) ? json_string_value(role) : "";
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(roles); i++) {
        if (strcmp(given, roles[i].given) == 0) {
            *out = roles[i].ours;
            return SPIN_OK;
        }
    }
    return refuse(at, role == NULL ? SPIN_OPENAI_MISSING : SPIN_OPENAI_VALUE, "role",
                  "must be system, developer, user, assistant or tool");
}

/* Keys besides role and content: those that change nothing, and those that would. */
static spin_status check_key(const struct message_reader *at, const char *key, const json_t *value)
{
    static const char *const harmless[] = {"role", "content", "name", "tool_call_id"};
    static const char *const refused[] = {"tool_calls", "function_call", "audio", "refusal"};
    if (json_is_null(value)) {
        return SPIN_OK;
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(harmless); i++) {
        if (strcmp(key, harmless[i]) == 0) {
            const bool good = i < 2 || json_is_string(value);
            return good ? SPIN_OK : refuse(at, SPIN_OPENAI_VALUE, key, "must be a string");
        }
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(refused); i++) {
        if (strcmp(key, refused[i]) == 0) {
            const bool empty = json_is_array(value) && json_array_size(value) == 0;
            return empty ? SPIN_OK : refuse(at, SPIN_OPENAI_UNSUPPORTED, key, "not supported");
        }
    }
    return refuse(at, SPIN_OPENAI_UNKNOWN, key, "unknown field of a message");
}

static spin_status read_message(const struct message_reader *at, json_t *item,
                                struct spin_chat_message *message)
{
    if (!json_is_object(item)) {
        return refuse(at, SPIN_OPENAI_VALUE, "", "must be an object");
    }
    const char *key;
    json_t *value;
    json_object_foreach(item, key, value)
    {
        SPIN_TRY(check_key(at, key, value));
    }
    SPIN_TRY(read_role(at, json_object_get(item, "role"), &message->role));
    return read_content(at, json_object_get(item, "content"), message);
}

spin_status spin_openai_read_messages(const struct spin_openai_reader *reader,
                                      const struct spin_openai_field *field, const json_t *value)
{
    const size_t count = json_array_size(value);
    if (count == 0 || count > SPIN_OPENAI_MESSAGES_MAX) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: must be a list of 1 to %u messages", field->name,
                                  SPIN_OPENAI_MESSAGES_MAX);
    }
    struct spin_chat_message *messages = spin_openai_take(reader, count, sizeof *messages);
    if (messages == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    struct message_reader at = {.reader = reader};
    for (size_t i = 0; i < count; i++) {
        (void)snprintf(at.path, sizeof at.path, "%s[%zu]", field->name, i);
        SPIN_TRY(read_message(&at, json_array_get(value, i), &messages[i]));
    }
    reader->request->messages = messages;
    reader->request->message_count = (uint32_t)count;
    return SPIN_OK;
}

/* --- prompts --- */

static spin_status read_one(const struct spin_openai_reader *reader, const char *label,
                            const json_t *value, struct spin_openai_prompt *out)
{
    if (json_is_string(value)) {
        out->text = json_string_value(value);
        out->text_bytes = json_string_length(value);
        return SPIN_OK;
    }
    if (json_is_array(value)) {
        return spin_openai_read_tokens(reader, label, value, &out->tokens, &out->token_count);
    }
    return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, label,
                              "%s: must be a text or a list of token ids, not %s", label,
                              spin_openai_type_name(value));
}

/* A list whose first element is not a token id is a list of prompts. */
static bool is_batch(const struct spin_openai_reader *reader, const json_t *value)
{
    return reader->request->endpoint == SPIN_OPENAI_COMPLETIONS && json_is_array(value) &&
           json_array_size(value) != 0 && !json_is_number(json_array_get(value, 0));
}

spin_status spin_openai_read_prompt(const struct spin_openai_reader *reader,
                                    const struct spin_openai_field *field, const json_t *value)
{
    const bool batch = is_batch(reader, value);
    const size_t count = batch ? json_array_size(value) : 1;
    if (count > SPIN_GENERATIONS_MAX) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: %zu prompts, at most %u", field->name, count,
                                  SPIN_GENERATIONS_MAX);
    }
    struct spin_openai_prompt *prompts = spin_openai_take(reader, count, sizeof *prompts);
    if (prompts == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        char label[PATH_BYTES];
        (void)snprintf(label, sizeof label, batch ? "%s[%zu]" : "%s", field->name, i);
        SPIN_TRY(read_one(reader, label, batch ? json_array_get(value, i) : value, &prompts[i]));
    }
    reader->request->prompts = prompts;
    reader->request->prompt_count = (uint32_t)count;
    return SPIN_OK;
}
