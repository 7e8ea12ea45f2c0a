#include "router/http/openai_reply.h"

#include "base/assert.h"
#include "base/version.h"
#include "model/text/utf8.h"

#include <math.h>
#include <string.h>

/* What clients know as "as good as never": JSON has no infinity. */
#define LOGPROB_MIN (-9999.0)
#define HEAD_BYTES_MAX (UINT64_C(64) << 10)

enum { TOKENS, TOKEN_LOGPROBS, TOP_LOGPROBS, TEXT_OFFSET };
#define ENTRIES TOKENS /* chat has one list */

static_assert(TEXT_OFFSET + 1 == SPIN_OPENAI_LISTS, "a list per field");

/* --- log probabilities --- */

struct piece {
    const char *bytes;
    uint32_t count;
};

static struct piece piece_of(const struct spin_openai_logprobs *logprobs, int32_t token)
{
    struct piece piece = {"", 0};
    if (!spin_tokenizer_piece(logprobs->tokenizer, token, &piece.bytes, &piece.count)) {
        return (struct piece){"", 0}; /* padding of the vocabulary has no text */
    }
    return piece;
}

static void write_logprob(struct spin_json_writer *writer, float logprob)
{
    /* It comes from a worker, and JSON has no infinity of either sign and no NaN. */
    const bool is_real = isfinite(logprob) && logprob > (float)LOGPROB_MIN;
    spin_json_put_real(writer, is_real ? (double)logprob : LOGPROB_MIN);
}

/* Completions have no bytes beside a token's text, so one that is not text alone is spelled out:
 * that keeps the keys of top_logprobs apart. */
static void write_token_text(struct spin_json_writer *writer, struct piece piece)
{
    static const char digits[] = "0123456789abcdef";
    if (spin_utf8_valid_prefix(piece.bytes, piece.count) == piece.count) {
        spin_json_put_string(writer, piece.bytes, piece.count);
        return;
    }
    SPIN_JSON_LITERAL(writer, "\"bytes:");
    for (uint32_t i = 0; i < piece.count; i++) {
        const uint8_t byte = (uint8_t)piece.bytes[i];
        const char hex[] = {'\\', '\\', 'x', digits[byte >> 4], digits[byte & 15]};
        spin_json_put_raw(writer, hex, sizeof hex);
    }
    SPIN_JSON_LITERAL(writer, "\"");
}

static void write_bytes(struct spin_json_writer *writer, struct piece piece)
{
    SPIN_JSON_LITERAL(writer, "[");
    for (uint32_t i = 0; i < piece.count; i++) {
        if (i != 0) {
            SPIN_JSON_LITERAL(writer, ",");
        }
        spin_json_put_u64(writer, (uint8_t)piece.bytes[i]);
    }
    SPIN_JSON_LITERAL(writer, "]");
}

/* {"token":..,"logprob":..,"bytes":[..] without its end. */
static void write_entry(struct spin_json_writer *writer, struct piece piece, float logprob)
{
    SPIN_JSON_LITERAL(writer, "{\"token\":");
    spin_json_put_string(writer, piece.bytes, piece.count);
    SPIN_JSON_LITERAL(writer, ",\"logprob\":");
    write_logprob(writer, logprob);
    SPIN_JSON_LITERAL(writer, ",\"bytes\":");
    write_bytes(writer, piece);
}

static void add_chat(struct spin_openai_logprobs *logprobs,
                     const struct spin_generation_token *token)
{
    struct spin_json_writer *list = &logprobs->lists[ENTRIES];
    if (list->count != 0) {
        SPIN_JSON_LITERAL(list, ",");
    }
    write_entry(list, piece_of(logprobs, token->token), token->logprob);
    SPIN_JSON_LITERAL(list, ",\"top_logprobs\":[");
    for (uint32_t i = 0; i < token->top_count; i++) {
        if (i != 0) {
            SPIN_JSON_LITERAL(list, ",");
        }
        write_entry(list, piece_of(logprobs, token->top[i].token), token->top[i].logprob);
        SPIN_JSON_LITERAL(list, "}");
    }
    SPIN_JSON_LITERAL(list, "]}");
}

/* An object of token texts; the token that came is in it even when others were more likely. */
static void write_top(struct spin_openai_logprobs *logprobs, struct spin_json_writer *list,
                      const struct spin_generation_token *token)
{
    bool seen = false;
    SPIN_JSON_LITERAL(list, "{");
    for (uint32_t i = 0; i < token->top_count; i++) {
        seen = seen || token->top[i].token == token->token;
        if (i != 0) {
            SPIN_JSON_LITERAL(list, ",");
        }
        write_token_text(list, piece_of(logprobs, token->top[i].token));
        SPIN_JSON_LITERAL(list, ":");
        write_logprob(list, token->top[i].logprob);
    }
    if (!seen) {
        if (token->top_count != 0) {
            SPIN_JSON_LITERAL(list, ",");
        }
        write_token_text(list, piece_of(logprobs, token->token));
        SPIN_JSON_LITERAL(list, ":");
        write_logprob(list, token->logprob);
    }
    SPIN_JSON_LITERAL(list, "}");
}

static uint64_t count_characters(struct piece piece)
{
    uint64_t characters = 0;
    for (uint32_t i = 0; i < piece.count; i++) {
        characters += ((uint8_t)piece.bytes[i] & 0xC0) != 0x80 ? 1 : 0; /* those that begin one */
    }
    return characters;
}

static void add_completions(struct spin_openai_logprobs *logprobs,
                            const struct spin_generation_token *token, bool in_text)
{
    const struct piece piece = piece_of(logprobs, token->token);
    for (uint32_t i = 0; i < SPIN_OPENAI_LISTS; i++) {
        if (logprobs->lists[i].count != 0) {
            SPIN_JSON_LITERAL(&logprobs->lists[i], ",");
        }
    }
    write_token_text(&logprobs->lists[TOKENS], piece);
    if (isnan(token->logprob)) {
        SPIN_JSON_LITERAL(&logprobs->lists[TOKEN_LOGPROBS], "null");
        SPIN_JSON_LITERAL(&logprobs->lists[TOP_LOGPROBS], "null");
    } else {
        write_logprob(&logprobs->lists[TOKEN_LOGPROBS], token->logprob);
        write_top(logprobs, &logprobs->lists[TOP_LOGPROBS], token);
    }
    spin_json_put_u64(&logprobs->lists[TEXT_OFFSET], logprobs->text_offset);
    logprobs->text_offset += in_text ? count_characters(piece) : 0;
}

void spin_openai_logprobs_init(struct spin_openai_logprobs *logprobs, bool chat,
                               const struct spin_tokenizer *tokenizer, uint64_t cap_bytes)
{
    *logprobs = (struct spin_openai_logprobs){.chat = chat, .tokenizer = tokenizer};
    for (uint32_t i = 0; i < SPIN_OPENAI_LISTS; i++) {
        spin_json_writer_init(&logprobs->lists[i], cap_bytes);
    }
}

void spin_openai_logprobs_deinit(struct spin_openai_logprobs *logprobs)
{
    for (uint32_t i = 0; i < SPIN_OPENAI_LISTS; i++) {
        spin_json_writer_deinit(&logprobs->lists[i]);
    }
}

void spin_openai_logprobs_add(struct spin_openai_logprobs *logprobs,
                              const struct spin_generation_token *token, bool in_text)
{
    if (logprobs->chat) {
        add_chat(logprobs, token);
    } else {
        add_completions(logprobs, token, in_text);
    }
}

static void write_list(struct spin_json_writer *writer, const struct spin_json_writer *list)
{
    spin_json_put_raw(writer, list->bytes, list->count);
    writer->failed = writer->failed || list->failed;
}

void spin_openai_logprobs_write(const struct spin_openai_logprobs *logprobs,
                                struct spin_json_writer *writer)
{
    if (logprobs->lists[TOKENS].count == 0) {
        SPIN_JSON_LITERAL(writer, "null");
        return;
    }
    if (logprobs->chat) {
        SPIN_JSON_LITERAL(writer, "{\"content\":[");
        write_list(writer, &logprobs->lists[ENTRIES]);
        SPIN_JSON_LITERAL(writer, "],\"refusal\":null}");
        return;
    }
    static const char *const begins[SPIN_OPENAI_LISTS] = {
        "{\"tokens\":[", "],\"token_logprobs\":[", "],\"top_logprobs\":[", "],\"text_offset\":["};
    for (uint32_t i = 0; i < SPIN_OPENAI_LISTS; i++) {
        spin_json_put_raw(writer, begins[i], strlen(begins[i]));
        write_list(writer, &logprobs->lists[i]);
    }
    SPIN_JSON_LITERAL(writer, "]}");
}

void spin_openai_logprobs_reset(struct spin_openai_logprobs *logprobs)
{
    for (uint32_t i = 0; i < SPIN_OPENAI_LISTS; i++) {
        spin_json_writer_reset(&logprobs->lists[i]);
    }
}

uint64_t spin_openai_logprobs_bytes(const struct spin_openai_logprobs *logprobs)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < SPIN_OPENAI_LISTS; i++) {
        bytes += logprobs->lists[i].count;
    }
    return bytes;
}

/* --- replies --- */

static const char *object_name(const struct spin_openai_head_config *config)
{
    if (!config->chat) {
        return "text_completion";
    }
    return config->stream ? "chat.completion.chunk" : "chat.completion";
}

void spin_openai_head_init(struct spin_openai_head *head,
                           const struct spin_openai_head_config *config)
{
    *head = (struct spin_openai_head){.chat = config->chat};
    struct spin_json_writer *writer = &head->bytes;
    spin_json_writer_init(writer, HEAD_BYTES_MAX);
    if (config->stream) {
        SPIN_JSON_LITERAL(writer, "data: ");
    }
    SPIN_JSON_LITERAL(writer, "{\"id\":");
    spin_json_put_text(writer, config->id);
    SPIN_JSON_LITERAL(writer, ",\"object\":");
    spin_json_put_text(writer, object_name(config));
    SPIN_JSON_LITERAL(writer, ",\"created\":");
    spin_json_put_u64(writer, config->created_s);
    SPIN_JSON_LITERAL(writer, ",\"model\":");
    spin_json_put_text(writer, config->model);
    SPIN_JSON_LITERAL(writer, ",\"system_fingerprint\":\"spin-" SPIN_VERSION "\",\"choices\":[");
}

void spin_openai_head_deinit(struct spin_openai_head *head)
{
    spin_json_writer_deinit(&head->bytes);
}

static void write_head(struct spin_json_writer *writer, const struct spin_openai_head *head)
{
    spin_json_put_raw(writer, head->bytes.bytes, head->bytes.count);
    writer->failed = writer->failed || head->bytes.failed;
}

static void write_usage(struct spin_json_writer *writer, const struct spin_openai_usage *usage)
{
    SPIN_JSON_LITERAL(writer, "{\"prompt_tokens\":");
    spin_json_put_u64(writer, usage->prompt_tokens);
    SPIN_JSON_LITERAL(writer, ",\"completion_tokens\":");
    spin_json_put_u64(writer, usage->completion_tokens);
    SPIN_JSON_LITERAL(writer, ",\"total_tokens\":");
    spin_json_put_u64(writer, usage->prompt_tokens + usage->completion_tokens);
    SPIN_JSON_LITERAL(writer, ",\"prompt_tokens_details\":{\"cached_tokens\":");
    spin_json_put_u64(writer, usage->cached_tokens);
    SPIN_JSON_LITERAL(writer, "}}");
}

static void write_delta(struct spin_json_writer *writer, const struct spin_openai_chunk *chunk)
{
    if (chunk->role) {
        SPIN_JSON_LITERAL(writer, ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    } else if (chunk->finish_reason != NULL) {
        SPIN_JSON_LITERAL(writer, ",\"delta\":{}");
    } else {
        SPIN_JSON_LITERAL(writer, ",\"delta\":{\"content\":");
        spin_json_put_string(writer, chunk->text, chunk->text_bytes);
        SPIN_JSON_LITERAL(writer, "}");
    }
}

/* What ends a choice, in chunks and in whole replies. */
static void write_tail(struct spin_json_writer *writer, const struct spin_openai_logprobs *logprobs,
                       const char *finish_reason)
{
    SPIN_JSON_LITERAL(writer, ",\"logprobs\":");
    if (logprobs == NULL) {
        SPIN_JSON_LITERAL(writer, "null");
    } else {
        spin_openai_logprobs_write(logprobs, writer);
    }
    SPIN_JSON_LITERAL(writer, ",\"finish_reason\":");
    spin_json_put_text(writer, finish_reason);
    SPIN_JSON_LITERAL(writer, "}");
}

void spin_openai_write_chunk(struct spin_json_writer *writer, const struct spin_openai_head *head,
                             const struct spin_openai_chunk *chunk)
{
    SPIN_ASSERT(head->chat || !chunk->role);
    write_head(writer, head);
    SPIN_JSON_LITERAL(writer, "{\"index\":");
    spin_json_put_u64(writer, chunk->index);
    if (head->chat) {
        write_delta(writer, chunk);
    } else if (chunk->escaped != NULL) {
        SPIN_JSON_LITERAL(writer, ",\"text\":\"");
        write_list(writer, chunk->escaped);
        SPIN_JSON_LITERAL(writer, "\"");
    } else {
        SPIN_JSON_LITERAL(writer, ",\"text\":");
        spin_json_put_string(writer, chunk->text, chunk->text_bytes);
    }
    write_tail(writer, chunk->logprobs, chunk->finish_reason);
    SPIN_JSON_LITERAL(writer, "]");
    switch (chunk->usage_mode) {
    case SPIN_OPENAI_USAGE_ABSENT:
        break;
    case SPIN_OPENAI_USAGE_NULL:
        SPIN_JSON_LITERAL(writer, ",\"usage\":null");
        break;
    case SPIN_OPENAI_USAGE_SHOWN:
        SPIN_JSON_LITERAL(writer, ",\"usage\":");
        write_usage(writer, &chunk->usage);
        break;
    }
    SPIN_JSON_LITERAL(writer, "}\n\n");
}

void spin_openai_write_usage_chunk(struct spin_json_writer *writer,
                                   const struct spin_openai_head *head,
                                   const struct spin_openai_usage *usage)
{
    write_head(writer, head);
    SPIN_JSON_LITERAL(writer, "],\"usage\":");
    write_usage(writer, usage);
    SPIN_JSON_LITERAL(writer, "}\n\n");
}

void spin_openai_write_begin(struct spin_json_writer *writer, const struct spin_openai_head *head)
{
    write_head(writer, head);
}

void spin_openai_write_choice(struct spin_json_writer *writer, const struct spin_openai_head *head,
                              const struct spin_openai_choice *choice)
{
    if (choice->index != 0) {
        SPIN_JSON_LITERAL(writer, ",");
    }
    SPIN_JSON_LITERAL(writer, "{\"index\":");
    spin_json_put_u64(writer, choice->index);
    if (head->chat) {
        SPIN_JSON_LITERAL(writer, ",\"message\":{\"role\":\"assistant\",\"content\":\"");
        write_list(writer, choice->text);
        SPIN_JSON_LITERAL(writer, "\",\"refusal\":null}");
    } else {
        SPIN_JSON_LITERAL(writer, ",\"text\":\"");
        write_list(writer, choice->text);
        SPIN_JSON_LITERAL(writer, "\"");
    }
    write_tail(writer, choice->logprobs, choice->finish_reason);
}

void spin_openai_write_end(struct spin_json_writer *writer, const struct spin_openai_usage *usage)
{
    SPIN_JSON_LITERAL(writer, "],\"usage\":");
    write_usage(writer, usage);
    SPIN_JSON_LITERAL(writer, "}");
}

const char *spin_openai_finish_reason(Spin__V1__FinishReason reason)
{
    return reason == SPIN__V1__FINISH_REASON__FINISH_LENGTH ? "length" : "stop";
}
