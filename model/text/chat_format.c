#include "model/text/chat_format.h"

#include "model/format/gguf.h"
#include "model/text/utf8.h"

#include <string.h>

/* --- writing ---------------------------------------------------------------------------------- */

/* Goes on counting where nothing fits any more, so that the caller learns the size. */
static void put(struct spin_chat_text *text, const char *bytes, uint64_t count)
{
    if (text->count < text->capacity) {
        memcpy(text->bytes + text->count, bytes, SPIN_MIN(count, text->capacity - text->count));
    }
    text->count += count;
}

static void put_format(struct spin_chat_text *text, const char *format)
{
    put(text, format, strlen(format));
}

/* Message content: bytes that are not UTF-8 are replaced here, so that spans mean the final
 * text. */
static void put_content(struct spin_chat_text *text, struct spin_string content)
{
    const uint64_t begin = text->count;
    for (uint64_t at = 0; at < content.count;) {
        const uint64_t valid = spin_utf8_valid_prefix(content.bytes + at, content.count - at);
        put(text, content.bytes + at, valid);
        at += valid;
        if (at < content.count) {
            uint32_t length;
            (void)spin_utf8_step(content.bytes + at, content.count - at, &length);
            put_format(text, SPIN_UTF8_REPLACEMENT);
            at += length;
        }
    }
    if (text->count == begin) {
        return;
    }
    if (text->content_count < text->content_capacity) {
        text->content[text->content_count] = (struct spin_text_span){begin, text->count};
    }
    text->content_count++;
}

/* --- strings as Jinja has them ---------------------------------------------------------------- */

static struct spin_string content_of(const struct spin_chat_message *message)
{
    return (struct spin_string){message->content, message->content_bytes};
}

static bool has_role(const struct spin_chat_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

static bool is_among(uint32_t code_point, const uint32_t *set, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (set[i] == code_point) {
            return true;
        }
    }
    return false;
}

/* str.strip() of Python: what str.isspace() holds for. */
static bool is_space(uint32_t code_point)
{
    static const uint32_t others[] = {0x20,   0x85,   0xA0,   0x1680, 0x2028,
                                      0x2029, 0x202F, 0x205F, 0x3000};
    return (code_point >= 0x9 && code_point <= 0xD) || (code_point >= 0x1C && code_point <= 0x1F) ||
           (code_point >= 0x2000 && code_point <= 0x200A) ||
           is_among(code_point, others, SPIN_ARRAY_COUNT(others));
}

/* The white-space character at the text's start; 0: there is none. */
static uint32_t leading_space(struct spin_string text)
{
    uint32_t length;
    if (text.count == 0 || spin_utf8_step(text.bytes, text.count, &length) != SPIN_UTF8_WHOLE ||
        !is_space(spin_utf8_decode(text.bytes, &length))) {
        return 0;
    }
    return length;
}

static uint32_t trailing_space(struct spin_string text)
{
    for (uint32_t bytes = 1; bytes <= 3 && bytes <= text.count; bytes++) {
        const struct spin_string end = {text.bytes + text.count - bytes, bytes};
        if (leading_space(end) == bytes) {
            return bytes;
        }
    }
    return 0;
}

static struct spin_string trim(struct spin_string text)
{
    for (uint32_t bytes = leading_space(text); bytes > 0; bytes = leading_space(text)) {
        text.bytes += bytes;
        text.count -= bytes;
    }
    for (uint32_t bytes = trailing_space(text); bytes > 0; bytes = trailing_space(text)) {
        text.count -= bytes;
    }
    return text;
}

static struct spin_string strip_newlines_left(struct spin_string text)
{
    while (text.count > 0 && text.bytes[0] == '\n') {
        text.bytes++;
        text.count--;
    }
    return text;
}

static struct spin_string strip_newlines_right(struct spin_string text)
{
    while (text.count > 0 && text.bytes[text.count - 1] == '\n') {
        text.count--;
    }
    return text;
}

static bool begins_with(struct spin_string text, const char *prefix)
{
    const size_t bytes = strlen(prefix);
    return text.count >= bytes && memcmp(text.bytes, prefix, bytes) == 0;
}

static bool ends_with(struct spin_string text, const char *suffix)
{
    const size_t bytes = strlen(suffix);
    return text.count >= bytes && memcmp(text.bytes + text.count - bytes, suffix, bytes) == 0;
}

static struct spin_string before_first(struct spin_string text, const char *separator)
{
    const char *found =
        text.count == 0 ? NULL : memmem(text.bytes, text.count, separator, strlen(separator));
    return found == NULL ? text : (struct spin_string){text.bytes, (uint64_t)(found - text.bytes)};
}

static struct spin_string after_last(struct spin_string text, const char *separator)
{
    for (;;) {
        const uint64_t skipped = before_first(text, separator).count;
        if (skipped == text.count) {
            return text;
        }
        text.bytes += skipped + strlen(separator);
        text.count -= skipped + strlen(separator);
    }
}

/* --- ChatML and what grew out of it ----------------------------------------------------------- */

static void put_chatml(struct spin_chat_text *text, const char *role, struct spin_string content)
{
    put_format(text, "<|im_start|>");
    put_format(text, role);
    put_format(text, "\n");
    put_content(text, content);
    put_format(text, "<|im_end|>\n");
}

/* Tool messages in a row share one turn of the user. */
static void put_tool(const struct spin_chat_prompt *prompt, uint32_t index,
                     struct spin_chat_text *text)
{
    const struct spin_chat_message *message = &prompt->messages[index];
    const bool last = index + 1 == prompt->message_count;
    if (index == 0 || !has_role(message - 1, "tool")) {
        put_format(text, "<|im_start|>user");
    }
    put_format(text, "\n<tool_response>\n");
    put_content(text, content_of(message));
    put_format(text, "\n</tool_response>");
    if (last || !has_role(message + 1, "tool")) {
        put_format(text, "<|im_end|>\n");
    }
}

/* The last thing that a person asked: what was thought before it is not shown again. */
static uint32_t last_query(const struct spin_chat_prompt *prompt)
{
    for (uint32_t i = prompt->message_count; i > 0; i--) {
        const struct spin_chat_message *message = &prompt->messages[i - 1];
        const struct spin_string content = content_of(message);
        const bool wrapped =
            begins_with(content, "<tool_response>") && ends_with(content, "</tool_response>");
        if (has_role(message, "user") && !wrapped) {
            return i - 1;
        }
    }
    return prompt->message_count - 1;
}

static void put_thinker(const struct spin_chat_prompt *prompt, uint32_t index, bool after_query,
                        struct spin_chat_text *text)
{
    struct spin_string content = content_of(&prompt->messages[index]);
    struct spin_string reasoning = before_first(content, "</think>");
    if (reasoning.count < content.count) {
        reasoning = strip_newlines_left(after_last(strip_newlines_right(reasoning), "<think>"));
        content = strip_newlines_left(after_last(content, "</think>"));
    } else {
        reasoning.count = 0;
    }
    const bool last = index + 1 == prompt->message_count;
    if (!after_query || (!last && reasoning.count == 0)) {
        put_chatml(text, "assistant", content);
        return;
    }
    put_format(text, "<|im_start|>assistant\n<think>\n");
    put_content(text, strip_newlines_right(reasoning));
    put_format(text, "\n</think>\n\n");
    put_content(text, strip_newlines_left(content));
    put_format(text, "<|im_end|>\n");
}

static spin_status render_chatml(const struct spin_chat_prompt *prompt, struct spin_chat_text *text,
                                 struct spin_error *err)
{
    (void)err;
    const struct spin_chat_format *format = prompt->format;
    if (format->default_system != NULL && !has_role(&prompt->messages[0], "system")) {
        put_format(text, "<|im_start|>system\n");
        put_format(text, format->default_system);
        put_format(text, "<|im_end|>\n");
    }
    const uint32_t query = last_query(prompt);
    for (uint32_t i = 0; i < prompt->message_count; i++) {
        const struct spin_chat_message *message = &prompt->messages[i];
        if (format->wraps_tools && has_role(message, "tool")) {
            put_tool(prompt, i, text);
        } else if (format->thinks && has_role(message, "assistant")) {
            put_thinker(prompt, i, i > query, text);
        } else {
            put_chatml(text, message->role, content_of(message));
        }
    }
    if (prompt->options.add_generation_prompt) {
        put_format(text, "<|im_start|>assistant\n");
        put_format(text, format->generation_suffix == NULL ? "" : format->generation_suffix);
    }
    return SPIN_OK;
}

/* --- Llama 3 ---------------------------------------------------------------------------------- */

static void put_llama3_header(struct spin_chat_text *text, const char *role)
{
    put_format(text, "<|start_header_id|>");
    put_format(text, role);
    put_format(text, "<|end_header_id|>\n\n");
}

static void put_llama3(const struct spin_chat_prompt *prompt, uint32_t from,
                       struct spin_chat_text *text)
{
    for (uint32_t i = from; i < prompt->message_count; i++) {
        put_llama3_header(text, prompt->messages[i].role);
        put_content(text, trim(content_of(&prompt->messages[i])));
        put_format(text, "<|eot_id|>");
    }
    if (prompt->options.add_generation_prompt) {
        put_llama3_header(text, "assistant");
    }
}

static void put_bos(const struct spin_chat_prompt *prompt, struct spin_chat_text *text)
{
    put_format(text, prompt->options.bos_text == NULL ? "" : prompt->options.bos_text);
}

static spin_status render_llama3(const struct spin_chat_prompt *prompt, struct spin_chat_text *text,
                                 struct spin_error *err)
{
    (void)err;
    put_bos(prompt, text);
    put_llama3(prompt, 0, text);
    return SPIN_OK;
}

/* 3.1 and later: there is always a system turn, and it begins with two dates. */
static spin_status render_llama31(const struct spin_chat_prompt *prompt,
                                  struct spin_chat_text *text, struct spin_error *err)
{
    for (uint32_t i = 0; i < prompt->message_count; i++) {
        if (has_role(&prompt->messages[i], "tool")) {
            return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                             "chat format llama3.1: messages[%u]: role tool", i);
        }
    }
    const bool has_system = has_role(&prompt->messages[0], "system");
    put_bos(prompt, text);
    put_llama3_header(text, "system");
    put_format(text, "Cutting Knowledge Date: December 2023\nToday Date: ");
    put_format(text, prompt->options.date_text == NULL ? "26 Jul 2024" : prompt->options.date_text);
    put_format(text, "\n\n");
    if (has_system) {
        put_content(text, trim(content_of(&prompt->messages[0])));
    }
    put_format(text, "<|eot_id|>");
    put_llama3(prompt, has_system ? 1 : 0, text);
    return SPIN_OK;
}

/* --- the table -------------------------------------------------------------------------------- */

#define IM_START "<|im_start|>"
#define HEADER_START "<|start_header_id|>"
#define SMOLLM_SYSTEM "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
#define QWEN25_SYSTEM "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

/* The more particular first: the first that fits is taken. */
const struct spin_chat_format spin_chat_formats[] = {
    {.name = "smollm2",
     .has = {IM_START, SMOLLM_SYSTEM},
     .lacks = {"tool", "<think>"},
     .render = render_chatml,
     .default_system = SMOLLM_SYSTEM},
    {.name = "qwen2.5",
     .has = {IM_START, QWEN25_SYSTEM, "<tool_response>"},
     .lacks = {"<think>"},
     .render = render_chatml,
     .default_system = QWEN25_SYSTEM,
     .wraps_tools = true},
    {.name = "qwen2",
     .has = {IM_START, "You are a helpful assistant.<|im_end|>"},
     .lacks = {"tool", "<think>"},
     .render = render_chatml,
     .default_system = "You are a helpful assistant."},
    {.name = "qwen1.5",
     .has = {IM_START, "You are a helpful assistant<|im_end|>"},
     .lacks = {"tool", "<think>"},
     .render = render_chatml,
     .default_system = "You are a helpful assistant"},
    {.name = "qwen3",
     .has = {IM_START, "last_query_index", "<think>", "enable_thinking is false",
             "<tool_response>"},
     .lacks = {"You are a"},
     .render = render_chatml,
     .wraps_tools = true,
     .thinks = true},
    {.name = "qwen3-nothink", /* enable_thinking = false */
     .render = render_chatml,
     .generation_suffix = "<think>\n\n</think>\n\n",
     .wraps_tools = true,
     .thinks = true},
    {.name = "llama3.1",
     .has = {HEADER_START, "Cutting Knowledge Date: December 2023", "26 Jul 2024", "| trim"},
     .render = render_llama31},
    {.name = "llama3",
     .has = {HEADER_START, "<|end_header_id|>", "<|eot_id|>", "bos_token", "| trim"},
     .lacks = {"Knowledge Date", "tool", "<think>", "You are"},
     .render = render_llama3},
    {.name = "chatml",
     .has = {IM_START, "<|im_end|>", "message"},
     .lacks = {"tool", "<think>", "You are", "system", "trim"},
     .render = render_chatml},
};
const uint32_t spin_chat_formats_count = SPIN_ARRAY_COUNT(spin_chat_formats);
