#include "client/spin_client_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

void spin_client_scratch_deinit(struct spin_client_scratch *scratch)
{
    free(scratch->tokens);
    free(scratch->top);
    *scratch = (struct spin_client_scratch){0};
}

static spin_status reserve(struct spin_client_scratch *scratch, uint64_t tokens, uint64_t top,
                           struct spin_error *err)
{
    if (tokens > scratch->token_capacity) {
        void *larger = realloc(scratch->tokens, tokens * sizeof *scratch->tokens);
        if (larger == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "answer: %" PRIu64 " tokens", tokens);
        }
        scratch->tokens = larger;
        scratch->token_capacity = tokens;
    }
    if (top > scratch->top_capacity) {
        void *larger = realloc(scratch->top, top * sizeof *scratch->top);
        if (larger == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "answer: %" PRIu64 " alternatives", top);
        }
        scratch->top = larger;
        scratch->top_capacity = top;
    }
    return SPIN_OK;
}

struct token_list {
    Spin__V1__Token *const *tokens;
    uint64_t count;
    bool logprobs; /* were asked for */
};

static uint64_t count_top(const struct token_list *list)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < list->count; i++) {
        count += list->tokens[i]->n_top;
    }
    return count;
}

/* Fills tokens and alternatives from *token_at and *top_at on, for which there is room. */
static const struct spin_client_token *translate(struct spin_client_scratch *scratch,
                                                 const struct token_list *list, uint64_t *token_at,
                                                 uint64_t *top_at)
{
    struct spin_client_token *first = scratch->tokens + *token_at;
    for (uint64_t i = 0; i < list->count; i++) {
        const Spin__V1__Token *token = list->tokens[i];
        first[i] = (struct spin_client_token){.token = token->token,
                                              .logprob = list->logprobs ? token->logprob : NAN,
                                              .top = scratch->top + *top_at,
                                              .top_count = (uint32_t)token->n_top};
        for (size_t k = 0; k < token->n_top; k++) {
            scratch->top[(*top_at)++] =
                (struct spin_client_alternative){token->top[k]->token, token->top[k]->logprob};
        }
    }
    *token_at += list->count;
    return first;
}

static spin_status read_tokens(const struct spin_client_reader *reader,
                               struct spin_client_scratch *scratch, const Spin__V1__Delta *message,
                               struct spin_client_delta *delta, struct spin_error *err)
{
    const struct token_list tokens = {message->tokens, message->n_tokens, reader->logprobs};
    const struct token_list prompt = {message->prompt, message->n_prompt, true};
    SPIN_TRY(reserve(scratch, tokens.count + prompt.count, count_top(&tokens) + count_top(&prompt),
                     err));
    uint64_t token_at = 0;
    uint64_t top_at = 0;
    delta->tokens = translate(scratch, &tokens, &token_at, &top_at);
    delta->token_count = (uint32_t)tokens.count;
    delta->prompt = translate(scratch, &prompt, &token_at, &top_at);
    delta->prompt_count = (uint32_t)prompt.count;
    return SPIN_OK;
}

static spin_status read_ending(const Spin__V1__Ending *message, struct spin_client_ending *out,
                               struct spin_error *err)
{
    if (message->reason != SPIN__V1__FINISH_REASON__FINISH_STOP &&
        message->reason != SPIN__V1__FINISH_REASON__FINISH_LENGTH) {
        return spin_fail(err, SPIN_ERR_INTERNAL, "the router ended an answer with reason %d",
                         (int)message->reason);
    }
    static const Spin__V1__Usage nothing = SPIN__V1__USAGE__INIT;
    const Spin__V1__Usage *usage = message->usage == NULL ? &nothing : message->usage;
    const bool stopped = message->reason == SPIN__V1__FINISH_REASON__FINISH_STOP;
    const bool by_string = stopped && message->stop_string[0] != '\0';
    *out = (struct spin_client_ending){
        .reason = stopped ? SPIN_CLIENT_STOP : SPIN_CLIENT_LENGTH,
        .stop_string = by_string ? message->stop_string : NULL,
        .stop_token = stopped && !by_string ? message->stop_token : -1,
        .prompt_tokens = usage->prompt_tokens,
        .completion_tokens = usage->completion_tokens,
        .cached_tokens = usage->cached_tokens,
        .recoveries = message->recoveries,
        .queue_ns = usage->queue_ns,
        .prefill_ns = usage->prefill_ns,
        .decode_ns = usage->decode_ns,
    };
    return SPIN_OK;
}

spin_status spin_client_read_deltas(struct spin_client_reader *reader,
                                    struct spin_client_scratch *scratch,
                                    const Spin__V1__InferenceResponse *message, bool *out_wanted,
                                    struct spin_error *err)
{
    *out_wanted = true;
    for (size_t i = 0; i < message->n_deltas && *out_wanted; i++) {
        const Spin__V1__Delta *source = message->deltas[i];
        if (source->index >= reader->n) {
            return spin_fail(err, SPIN_ERR_INTERNAL, "the router sent answer %u of %u",
                             source->index, reader->n);
        }
        struct spin_client_ending ending;
        struct spin_client_delta delta = {
            .index = source->index, .text = source->text, .text_bytes = strlen(source->text)};
        SPIN_TRY(read_tokens(reader, scratch, source, &delta, err));
        if (source->ending != NULL) {
            SPIN_TRY(read_ending(source->ending, &ending, err));
            delta.ending = &ending;
            reader->ended++;
        }
        *out_wanted = reader->on_delta(reader->context, &delta);
    }
    return SPIN_OK;
}
