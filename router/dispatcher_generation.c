/* One generation: what was asked, and what a worker sends as what the sink gets. */
#include "base/assert.h"
#include "base/clock.h"
#include "router/dispatcher_internal.h"

#include <stdlib.h>
#include <string.h>

#define ARENA_CHUNK_BYTES (UINT64_C(4) << 10)
#define TEXT_FIRST_BYTES (UINT64_C(4) << 10)
/* Tokens that go into the sequence at once. */
#define SLICE_TOKENS 64u

uint64_t spin_dispatcher_generation_bytes(void)
{
    return sizeof(struct spin_generation) + ARENA_CHUNK_BYTES;
}

/* --- what was asked --- */

/* The largest request: a prompt as long as a message may be, and the API's limits. */
static uint64_t arena_cap(const struct spin_generation_request *request)
{
    const uint64_t biases = request->sampling->n_logit_bias *
                            (sizeof(Spin__V1__LogitBias) + sizeof(Spin__V1__LogitBias *));
    const uint64_t stops = (uint64_t)SPIN_STOP_STRINGS_MAX * (SPIN_STOP_STRING_BYTES_MAX + 64);
    return request->prompt_count * sizeof(int32_t) + biases + stops + 4 * ARENA_CHUNK_BYTES;
}

static spin_status copy_biases(struct spin_generation *generation,
                               const Spin__V1__Sampling *sampling)
{
    const size_t count = sampling->n_logit_bias;
    Spin__V1__LogitBias *biases = spin_arena_take(generation->arena, count * sizeof *biases);
    Spin__V1__LogitBias **list = spin_arena_take(generation->arena, count * sizeof(void *));
    if (biases == NULL || list == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    for (size_t i = 0; i < count; i++) {
        spin__v1__logit_bias__init(&biases[i]);
        biases[i].token = sampling->logit_bias[i]->token;
        biases[i].bias = sampling->logit_bias[i]->bias;
        list[i] = &biases[i];
    }
    generation->sampling.logit_bias = list;
    return SPIN_OK;
}

static int32_t *copy_tokens(struct spin_arena *arena, const int32_t *tokens, uint64_t count)
{
    int32_t *copy = spin_arena_take(arena, count * sizeof *copy);
    if (copy != NULL && count > 0) {
        memcpy(copy, tokens, count * sizeof *copy);
    }
    return copy;
}

static spin_status copy_request(struct spin_generation *generation,
                                const struct spin_generation_request *request)
{
    generation->sampling = *request->sampling;
    generation->sampling.base.n_unknown_fields = 0;
    generation->sampling.base.unknown_fields = NULL;
    SPIN_TRY(copy_biases(generation, request->sampling));
    generation->sampling.stop_token_ids = copy_tokens(
        generation->arena, request->sampling->stop_token_ids, request->sampling->n_stop_token_ids);
    generation->prompt = copy_tokens(generation->arena, request->prompt, request->prompt_count);
    if (generation->prompt == NULL || generation->sampling.stop_token_ids == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    for (uint32_t i = 0; i < request->stop.count; i++) {
        const char *text = request->stop.texts[i];
        generation->stop.texts[i] = spin_arena_copy_string(generation->arena, text, strlen(text));
        if (generation->stop.texts[i] == NULL) {
            return SPIN_ERR_NO_MEMORY;
        }
    }
    generation->stop.count = request->stop.count;
    return SPIN_OK;
}

static spin_status build(struct spin_generation *generation,
                         const struct spin_generation_request *request,
                         const struct spin_tokenizer *tokenizer, struct spin_error *err)
{
    SPIN_TRY(spin_arena_create(ARENA_CHUNK_BYTES, arena_cap(request), &generation->arena, err));
    if (copy_request(generation, request) != SPIN_OK) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for a prompt of %u tokens",
                         request->prompt_count);
    }
    return spin_text_stream_create(tokenizer, &generation->stop, &generation->text, err);
}

spin_status spin_generation_create(const struct spin_generation_request *request,
                                   const struct spin_generation_setup *setup,
                                   struct spin_generation **out, struct spin_error *err)
{
    struct spin_generation *generation = calloc(1, sizeof *generation);
    if (generation == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "generation: %zu bytes", sizeof *generation);
    }
    spin_sequence_init(&generation->sequence, &setup->sequence, setup->now_ns);
    SPIN_ASSERT_LT(strlen(request->id), sizeof generation->id); /* checked by submit */
    memcpy(generation->id, request->id, strlen(request->id) + 1);
    generation->prompt_count = request->prompt_count;
    generation->tenant = request->tenant;
    generation->return_tokens = request->return_tokens;
    generation->sink = request->sink;
    generation->submitted_ns = setup->now_ns;
    const spin_status status = build(generation, request, setup->tokenizer, err);
    if (status != SPIN_OK) {
        spin_generation_destroy(generation);
        return status;
    }
    *out = generation;
    return SPIN_OK;
}

void spin_generation_destroy(struct spin_generation *generation)
{
    SPIN_ASSERT(generation->call == NULL);
    SPIN_ASSERT(!generation->queued);
    spin_text_stream_destroy(generation->text);
    spin_token_buffer_deinit(&generation->held);
    spin_sequence_deinit(&generation->sequence);
    spin_arena_destroy(generation->arena);
    free(generation);
}

/* protobuf-c has no const; packing only reads. */
static int32_t *borrow_tokens(const int32_t *tokens)
{
    int32_t *borrowed;
    memcpy(&borrowed, &tokens, sizeof tokens);
    return borrowed;
}

static char *borrow_text(const char *text)
{
    char *borrowed;
    memcpy(&borrowed, &text, sizeof text);
    return borrowed;
}

void spin_generation_fill_message(const struct spin_generation *generation,
                                  Spin__V1__GenerateRequest *message, Spin__V1__Sampling *sampling)
{
    *sampling = generation->sampling;
    /* max_tokens 0 is only valid with it. */
    sampling->prompt_logprobs =
        generation->sampling.prompt_logprobs && spin_sequence_wants_scores(&generation->sequence);
    spin__v1__generate_request__init(message);
    message->request_id = borrow_text(generation->id);
    message->n_prompt_tokens = generation->prompt_count;
    message->prompt_tokens = borrow_tokens(generation->prompt);
    message->n_resumed_tokens = generation->sequence.token_count;
    message->resumed_tokens = generation->sequence.tokens;
    message->sampling = sampling;
}

/* --- what comes --- */

static spin_status text_grow(struct spin_delta_text *text, uint64_t needed)
{
    if (needed <= text->capacity) {
        return SPIN_OK;
    }
    const uint64_t capacity = SPIN_MAX(SPIN_MAX(TEXT_FIRST_BYTES, 2 * text->capacity), needed);
    char *bytes = realloc(text->bytes, capacity);
    if (bytes == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    text->bytes = bytes;
    text->capacity = capacity;
    return SPIN_OK;
}

static spin_status text_append(struct spin_delta_text *text, const char *bytes, uint64_t count)
{
    SPIN_TRY(text_grow(text, text->count + count));
    if (count > 0) {
        memcpy(&text->bytes[text->count], bytes, count);
    }
    text->count += count;
    return SPIN_OK;
}

/* How many tokens of the inbox the sequence takes. */
static spin_status feed_sequence(struct spin_generation *generation,
                                 const struct spin_generation_news *news, uint32_t *out_accepted)
{
    const struct spin_token_buffer *tokens = &news->inbox->tokens;
    struct spin_sequence *sequence = &generation->sequence;
    uint32_t accepted = 0;
    for (uint32_t first = 0; first < tokens->count; first += SLICE_TOKENS) {
        int32_t slice[SLICE_TOKENS];
        const uint32_t count = SPIN_MIN(SLICE_TOKENS, tokens->count - first);
        for (uint32_t i = 0; i < count; i++) {
            slice[i] = tokens->tokens[first + i].token;
        }
        uint32_t taken = 0;
        SPIN_TRY(spin_sequence_tokens(sequence, sequence->attempt,
                                      (struct spin_sequence_tokens){slice, count}, news->now_ns,
                                      &taken));
        accepted += taken;
    }
    *out_accepted = accepted;
    return SPIN_OK;
}

/* The first `count` tokens of the inbox as text; *out_released of those that wait are out. */
static spin_status read_text(struct spin_generation *generation, struct spin_generation_news *news,
                             uint32_t *out_released, struct spin_error *err)
{
    const struct spin_generation_token *tokens = spin_token_buffer_view(&news->inbox->tokens);
    for (uint32_t i = 0; i < news->accepted; i++) {
        struct spin_text text;
        SPIN_TRY(spin_text_stream_push(generation->text, tokens[i].token, &text, err));
        generation->read++;
        if (text_append(news->text, text.bytes, text.count) != SPIN_OK ||
            (generation->return_tokens &&
             spin_token_buffer_append(&generation->held, &tokens[i]) != SPIN_OK)) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for the text");
        }
        *out_released += text.tokens;
        if (spin_text_stream_stopped(generation->text) >= 0) {
            break;
        }
    }
    return SPIN_OK;
}

static void send_delta(struct spin_generation *generation, struct spin_generation_delta *delta,
                       uint32_t released)
{
    if (generation->return_tokens) {
        SPIN_ASSERT_LE(released, generation->held.count);
        delta->tokens = spin_token_buffer_view(&generation->held);
        delta->token_count = released;
    }
    if (delta->text_bytes > 0 || delta->token_count > 0 || delta->prompt_count > 0) {
        generation->sink.delta(generation->sink.context, delta);
    }
    if (generation->return_tokens) {
        spin_token_buffer_drop(&generation->held, released);
    }
}

spin_status spin_generation_read(struct spin_generation *generation,
                                 struct spin_generation_news *news, bool *out_stopped,
                                 struct spin_error *err)
{
    struct spin_sequence *sequence = &generation->sequence;
    struct spin_worker_inbox *inbox = news->inbox;
    struct spin_generation_delta delta = {0};
    *out_stopped = false;
    news->accepted = 0;
    if (inbox->prompt.count > 0) {
        const struct spin_sequence_range range =
            spin_sequence_scores(sequence, sequence->attempt, inbox->prompt.count, news->now_ns);
        delta.prompt = spin_token_buffer_view(&inbox->prompt) + range.skip;
        delta.prompt_count = range.count;
    }
    if (feed_sequence(generation, news, &news->accepted) != SPIN_OK) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for %u tokens", inbox->tokens.count);
    }
    news->text->count = 0;
    uint32_t released = 0;
    SPIN_TRY(read_text(generation, news, &released, err));
    *out_stopped = spin_text_stream_stopped(generation->text) >= 0;
    delta.text = news->text->bytes;
    delta.text_bytes = news->text->count;
    send_delta(generation, &delta, released);
    return SPIN_OK;
}

/* --- the end --- */

static struct spin_generation_end make_end(const struct spin_generation *generation)
{
    const struct spin_sequence *sequence = &generation->sequence;
    const int32_t stopped = spin_text_stream_stopped(generation->text);
    struct spin_generation_end end = {.status = sequence->end.status,
                                      .text = sequence->end.text,
                                      .reason = sequence->end.reason,
                                      .stop_token = sequence->end.stop_token,
                                      .stop_string =
                                          stopped >= 0 ? generation->stop.texts[stopped] : NULL,
                                      .prompt_tokens = generation->prompt_count,
                                      .completion_tokens = generation->read,
                                      .cached_tokens = generation->cached_tokens,
                                      .recoveries = sequence->recoveries,
                                      .preemptions = generation->preemptions};
    if (generation->sent_ns != 0) {
        end.queue_ns = generation->sent_ns - generation->submitted_ns + generation->worker_queue_ns;
    }
    if (generation->first_token_ns != 0) {
        const uint64_t first_ns = generation->first_token_ns - generation->submitted_ns;
        end.prefill_ns = first_ns > end.queue_ns ? first_ns - end.queue_ns : 0;
        end.decode_ns = generation->last_token_ns - generation->first_token_ns;
    }
    return end;
}

void spin_generation_report_end(struct spin_generation *generation)
{
    SPIN_ASSERT(!generation->over);
    const bool ok = generation->sequence.end.status == SPIN_OK;
    if (ok && spin_text_stream_stopped(generation->text) < 0) {
        const struct spin_text rest = spin_text_stream_finish(generation->text);
        struct spin_generation_delta delta = {.text = rest.bytes, .text_bytes = rest.count};
        send_delta(generation, &delta, generation->return_tokens ? rest.tokens : 0);
    }
    if (!generation->over) { /* the delta's sink may have cancelled */
        const struct spin_generation_end end = make_end(generation);
        generation->over = true;
        generation->sink.ended(generation->sink.context, &end);
    }
}
