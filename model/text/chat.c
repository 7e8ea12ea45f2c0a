#include "model/text/chat.h"

#include "base/arena.h"
#include "base/assert.h"
#include "model/text/chat_format.h"
#include "model/text/encode.h"

#include <string.h>

/* The longest prompt, its spans and a chunk's rounding. */
#define SCRATCH_CHUNK_BYTES (UINT64_C(16) << 10)
#define SCRATCH_CAP_BYTES (2 * SPIN_TOKENIZER_TEXT_BYTES_MAX)

static const char names[] =
    "chatml, smollm2, llama3, llama3.1, qwen1.5, qwen2, qwen2.5, qwen3, qwen3-nothink";

static bool has_all(const char *text, const char *const *markers)
{
    for (uint32_t i = 0; i < SPIN_CHAT_MARKERS_MAX && markers[i] != NULL; i++) {
        if (strstr(text, markers[i]) == NULL) {
            return false;
        }
    }
    return true;
}

static bool has_any(const char *text, const char *const *markers)
{
    for (uint32_t i = 0; i < SPIN_CHAT_MARKERS_MAX && markers[i] != NULL; i++) {
        if (strstr(text, markers[i]) != NULL) {
            return true;
        }
    }
    return false;
}

static const struct spin_chat_format *find_by_name(const char *name)
{
    for (uint32_t i = 0; i < spin_chat_formats_count; i++) {
        if (strcmp(spin_chat_formats[i].name, name) == 0) {
            return &spin_chat_formats[i];
        }
    }
    return NULL;
}

static const struct spin_chat_format *find_by_template(const char *text)
{
    for (uint32_t i = 0; i < spin_chat_formats_count; i++) {
        const struct spin_chat_format *format = &spin_chat_formats[i];
        if (format->has[0] != NULL && has_all(text, format->has) && !has_any(text, format->lacks)) {
            return format;
        }
    }
    return NULL;
}

spin_status spin_chat_format_find(const char *template_text, const char *override_name,
                                  const struct spin_chat_format **out, struct spin_error *err)
{
    if (override_name != NULL) {
        const struct spin_chat_format *named = find_by_name(override_name);
        if (named == NULL) {
            return spin_fail(err, SPIN_ERR_UNSUPPORTED, "--chat-template %.40s: one of %s",
                             override_name, names);
        }
        *out = named;
        return SPIN_OK;
    }
    if (template_text == NULL) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "the model has no chat template: give --chat-template, one of %s", names);
    }
    const struct spin_chat_format *found = find_by_template(template_text);
    if (found == NULL) {
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "the model's chat template is unknown: give --chat-template, one of %s",
                         names);
    }
    *out = found;
    return SPIN_OK;
}

const char *spin_chat_format_name(const struct spin_chat_format *format)
{
    return format->name;
}

const char *spin_chat_format_names(void)
{
    return names;
}

/* --- rendering -------------------------------------------------------------------------------- */

static spin_status check_messages(const struct spin_chat_prompt *prompt, struct spin_error *err)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    if (prompt->message_count == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "messages: none");
    }
    for (uint32_t i = 0; i < prompt->message_count; i++) {
        bool known = false;
        for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(roles); k++) {
            known = known || strcmp(prompt->messages[i].role, roles[k]) == 0;
        }
        if (!known) {
            return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                             "messages[%u].role '%.40s': one of system, user, assistant, tool", i,
                             prompt->messages[i].role);
        }
    }
    return SPIN_OK;
}

spin_status spin_chat_render_text(const struct spin_chat_prompt *prompt,
                                  struct spin_chat_text *text, struct spin_error *err)
{
    SPIN_TRY(check_messages(prompt, err));
    text->count = 0;
    text->content_count = 0;
    SPIN_TRY(prompt->format->render(prompt, text, err));
    if (text->count > text->capacity) {
        return spin_fail(err, SPIN_ERR_LIMIT, "prompt of %llu bytes, room for %llu",
                         (unsigned long long)text->count, (unsigned long long)text->capacity);
    }
    return SPIN_OK;
}

/* NOLINTNEXTLINE(readability-function-size): the public contract spells its arguments out. */
spin_status spin_chat_render(const struct spin_chat_format *format,
                             const struct spin_chat_message *messages, uint32_t message_count,
                             const struct spin_chat_options *options, char *out, uint64_t capacity,
                             uint64_t *out_bytes, struct spin_error *err)
{
    const struct spin_chat_prompt prompt = {format, messages, message_count, *options};
    struct spin_chat_text text = {.capacity = capacity};
    text.bytes = out;
    const spin_status status = spin_chat_render_text(&prompt, &text, err);
    if (status == SPIN_OK || status == SPIN_ERR_LIMIT) {
        *out_bytes = text.count;
    }
    return status;
}

/* --- encoding --------------------------------------------------------------------------------- */

/* The first pass only measures. */
static spin_status take_text(const struct spin_chat_prompt *prompt, struct spin_arena *arena,
                             struct spin_chat_text *text, struct spin_error *err)
{
    struct spin_chat_text measured = {0};
    const spin_status status = spin_chat_render_text(prompt, &measured, err);
    if (status != SPIN_OK && status != SPIN_ERR_LIMIT) {
        return status;
    }
    if (measured.count > SPIN_TOKENIZER_TEXT_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "prompt of %llu bytes, limit %llu",
                         (unsigned long long)measured.count,
                         (unsigned long long)SPIN_TOKENIZER_TEXT_BYTES_MAX);
    }
    *text = (struct spin_chat_text){
        .bytes = spin_arena_take(arena, measured.count),
        .capacity = measured.count,
        .content = spin_arena_take(arena, measured.content_count * sizeof *text->content),
        .content_capacity = measured.content_count,
    };
    if (text->bytes == NULL || text->content == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt of %llu bytes",
                         (unsigned long long)measured.count);
    }
    SPIN_TRY(spin_chat_render_text(prompt, text, err));
    SPIN_ASSERT_EQ(text->content_count, text->content_capacity);
    return SPIN_OK;
}

static spin_status encode_in(const struct spin_tokenizer *tokenizer,
                             struct spin_chat_prompt *prompt, struct spin_arena *arena,
                             struct spin_token_sink *sink, struct spin_error *err)
{
    const char *bos;
    uint32_t bos_bytes;
    if (prompt->options.bos_text == NULL &&
        spin_tokenizer_piece(tokenizer, spin_tokenizer_bos(tokenizer), &bos, &bos_bytes)) {
        prompt->options.bos_text = spin_arena_copy_string(arena, bos, bos_bytes);
        if (prompt->options.bos_text == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "bos text");
        }
    }
    struct spin_chat_text text;
    SPIN_TRY(take_text(prompt, arena, &text, err));
    const struct spin_encode_input input = {
        .text = {text.bytes, text.count},
        .flags = SPIN_ENCODE_PARSE_SPECIAL,
        .literal = text.content,
        .literal_count = text.content_count,
    };
    return spin_tokenizer_encode_input(tokenizer, &input, sink, err);
}

spin_status spin_chat_encode(const struct spin_tokenizer *tokenizer,
                             const struct spin_chat_prompt *prompt, struct spin_token_sink *sink,
                             struct spin_error *err)
{
    struct spin_arena *arena = NULL;
    struct spin_chat_prompt with_bos = *prompt;
    sink->count = 0;
    SPIN_TRY(spin_arena_create(SCRATCH_CHUNK_BYTES, SCRATCH_CAP_BYTES, &arena, err));
    const spin_status status = encode_in(tokenizer, &with_bos, arena, sink, err);
    spin_arena_destroy(arena);
    return status;
}
