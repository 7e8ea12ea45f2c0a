#include "base/assert.h"
#include "model/text/utf8.h"
#include "router/grpc/inference_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What one message holds at most; more goes into the next. A message of this size is some 20 KiB,
 * far below its limit. */
#define TEXT_BYTES 4096u
#define TOKENS 64u

/* A Token message with what it points to. */
struct packed_token {
    Spin__V1__Token token;
    Spin__V1__TokenLogprob top[SPIN_TOP_LOGPROBS_LIMIT];
    Spin__V1__TokenLogprob *top_list[SPIN_TOP_LOGPROBS_LIMIT];
};

/* Where messages are built before they are packed: one at a time, on the loop. */
struct spin_inference_scratch {
    /* A NUL takes three bytes as U+FFFD. */
    char text[TEXT_BYTES * SPIN_UTF8_REPLACEMENT_BYTES + 1];
    struct packed_token tokens[TOKENS];
    Spin__V1__Token *token_list[TOKENS];
};

spin_status spin_inference_scratch_create(struct spin_inference_scratch **out,
                                          struct spin_error *err)
{
    struct spin_inference_scratch *scratch = calloc(1, sizeof *scratch);
    if (scratch == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "inference: %zu bytes", sizeof *scratch);
    }
    for (uint32_t i = 0; i < TOKENS; i++) {
        struct packed_token *packed = &scratch->tokens[i];
        scratch->token_list[i] = &packed->token;
        spin__v1__token__init(&packed->token);
        packed->token.top = packed->top_list;
        for (uint32_t k = 0; k < SPIN_TOP_LOGPROBS_LIMIT; k++) {
            spin__v1__token_logprob__init(&packed->top[k]);
            packed->top_list[k] = &packed->top[k];
        }
    }
    *out = scratch;
    return SPIN_OK;
}

void spin_inference_scratch_destroy(struct spin_inference_scratch *scratch)
{
    free(scratch);
}

uint64_t spin_inference_copy_text(char *out, const char *text, uint64_t bytes)
{
    if (bytes == 0) {
        return 0;
    }
    if (memchr(text, '\0', bytes) == NULL) { /* nearly always */
        memcpy(out, text, bytes);
        return bytes;
    }
    uint64_t written = 0;
    for (uint64_t i = 0; i < bytes; i++) {
        const bool nul = text[i] == '\0';
        const char *source = nul ? SPIN_UTF8_REPLACEMENT : text + i;
        const uint32_t count = nul ? SPIN_UTF8_REPLACEMENT_BYTES : 1;
        memcpy(out + written, source, count);
        written += count;
    }
    return written;
}

/* Whole characters of the next TEXT_BYTES, as a C string. Returns the bytes used. */
static uint64_t fill_text(struct spin_inference_scratch *scratch, const char *text, uint64_t bytes)
{
    uint64_t used = SPIN_MIN(bytes, TEXT_BYTES);
    while (used < bytes && ((uint8_t)text[used] & 0xC0) == 0x80) {
        used--; /* not inside a character */
    }
    scratch->text[spin_inference_copy_text(scratch->text, text, used)] = '\0';
    return used;
}

/* The next TOKENS at most; returns how many. Without `logprobs` there is none to tell: 0 takes no
 * bytes. */
static uint32_t fill_tokens(struct spin_inference_scratch *scratch,
                            const struct spin_generation_token *tokens, uint32_t count,
                            bool logprobs)
{
    const uint32_t used = SPIN_MIN(count, TOKENS);
    for (uint32_t i = 0; i < used; i++) {
        struct packed_token *packed = &scratch->tokens[i];
        SPIN_ASSERT_LE(tokens[i].top_count, SPIN_TOP_LOGPROBS_LIMIT);
        packed->token.token = tokens[i].token;
        packed->token.logprob = logprobs ? tokens[i].logprob : 0;
        packed->token.n_top = tokens[i].top_count;
        for (uint32_t k = 0; k < tokens[i].top_count; k++) {
            packed->top[k].token = tokens[i].top[k].token;
            packed->top[k].logprob = tokens[i].top[k].logprob;
        }
    }
    return used;
}

char *spin_inference_borrow(const char *text)
{
    char *borrowed;
    memcpy(&borrowed, &text, sizeof borrowed);
    return borrowed;
}

static void append(const struct spin_inference_answer *answer, const char **request_id,
                   Spin__V1__Delta *delta)
{
    delta->index = answer->index;
    Spin__V1__InferenceResponse response;
    spin__v1__inference_response__init(&response);
    if (*request_id != NULL) {
        response.request_id = spin_inference_borrow(*request_id);
        *request_id = NULL;
    }
    response.deltas = &delta;
    response.n_deltas = 1;
    spin_rpc_call_append(answer->call->rpc, &response.base);
}

/* The prompt first, then text, then the tokens whose text it was. */
void spin_inference_send_delta(const struct spin_inference_answer *answer, const char *request_id,
                               bool logprobs, const struct spin_generation_delta *delta)
{
    struct spin_inference_scratch *scratch = answer->call->line->inference->scratch;
    uint64_t text_at = 0;
    uint32_t token_at = 0;
    uint32_t prompt_at = 0;
    do {
        Spin__V1__Delta message;
        spin__v1__delta__init(&message);
        if (prompt_at < delta->prompt_count) {
            message.prompt = scratch->token_list;
            message.n_prompt = fill_tokens(scratch, delta->prompt + prompt_at,
                                           delta->prompt_count - prompt_at, true);
            prompt_at += (uint32_t)message.n_prompt;
            append(answer, &request_id, &message);
            continue;
        }
        if (text_at < delta->text_bytes) {
            text_at += fill_text(scratch, delta->text + text_at, delta->text_bytes - text_at);
            message.text = scratch->text;
        }
        if (text_at == delta->text_bytes && token_at < delta->token_count) {
            message.tokens = scratch->token_list;
            message.n_tokens = fill_tokens(scratch, delta->tokens + token_at,
                                           delta->token_count - token_at, logprobs);
            token_at += (uint32_t)message.n_tokens;
        }
        append(answer, &request_id, &message);
    } while (prompt_at < delta->prompt_count || text_at < delta->text_bytes ||
             token_at < delta->token_count);
}

void spin_inference_send_ending(const struct spin_inference_answer *answer, const char *request_id,
                                const struct spin_generation_end *end)
{
    Spin__V1__Usage usage;
    spin__v1__usage__init(&usage);
    usage.prompt_tokens = end->prompt_tokens;
    usage.cached_tokens = end->cached_tokens;
    usage.completion_tokens = end->completion_tokens;
    usage.queue_ns = end->queue_ns;
    usage.prefill_ns = end->prefill_ns;
    usage.decode_ns = end->decode_ns;
    usage.preemptions = end->preemptions;
    Spin__V1__Ending ending;
    spin__v1__ending__init(&ending);
    ending.reason = end->reason;
    ending.stop_token = end->stop_token;
    ending.usage = &usage;
    ending.recoveries = end->recoveries;
    if (end->stop_string != NULL) {
        ending.stop_string = spin_inference_borrow(end->stop_string);
    }
    Spin__V1__Delta message;
    spin__v1__delta__init(&message);
    message.ending = &ending;
    append(answer, &request_id, &message);
}
