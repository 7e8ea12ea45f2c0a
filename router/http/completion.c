/* One HTTP request's generations: submitted together, streamed as they come or collected. */
#include "base/assert.h"
#include "base/clock.h"
#include "router/http/api_internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define COMPLETIONS_MAX_TOKENS_DEFAULT 16u /* OpenAI's */

/* --- text and log probabilities of one answer --- */

static void add_logprobs(struct spin_api_answer *answer, const struct spin_generation_delta *delta)
{
    const struct spin_tokenizer *tokenizer = answer->call->api->parts.prompt.tokenizer;
    for (uint32_t i = 0; i < delta->prompt_count; i++) {
        spin_openai_logprobs_add(&answer->logprobs, &delta->prompt[i], !answer->added_bos);
        answer->added_bos = false;
    }
    for (uint32_t i = 0; i < delta->token_count; i++) {
        spin_openai_logprobs_add(&answer->logprobs, &delta->tokens[i],
                                 !spin_tokenizer_is_special(tokenizer, delta->tokens[i].token));
    }
}

/* Readers of echoed log probabilities cut the prompt off by counting, and the last token as the
 * one that was generated: so there is an entry for the end token, of which no more is known. */
static void add_end_token(struct spin_api_answer *answer, const struct spin_generation_end *end)
{
    if (answer->call->logprobs && !answer->call->chat && answer->call->echo &&
        end->reason == SPIN__V1__FINISH_REASON__FINISH_STOP && end->stop_token >= 0) {
        const struct spin_generation_token token = {.token = end->stop_token, .logprob = NAN};
        spin_openai_logprobs_add(&answer->logprobs, &token, false);
    }
}

static void fail_status(struct spin_api_call *call, spin_status status, const char *text)
{
    struct spin_openai_error error;
    spin_openai_error_from_status(&error, status, text);
    spin_api_call_fail(call, &error);
}

/* --- streaming --- */

static void send_scratch(struct spin_api_call *call)
{
    struct spin_json_writer *writer = &call->api->scratch;
    if (writer->failed) {
        fail_status(call, SPIN_ERR_NO_MEMORY, NULL);
        return;
    }
    call->written_ns = spin_loop_now_ns(call->api->parts.loop);
    spin_http_stream_write(call->exchange, writer->bytes, writer->count);
}

static void set_usage(const struct spin_api_answer *answer, struct spin_openai_chunk *chunk)
{
    const struct spin_api_call *call = answer->call;
    if (call->continuous_usage) {
        chunk->usage_mode = SPIN_OPENAI_USAGE_SHOWN;
        chunk->usage.prompt_tokens = answer->prompt_tokens;
        chunk->usage.completion_tokens = answer->tokens;
    } else if (call->include_usage) {
        chunk->usage_mode = SPIN_OPENAI_USAGE_NULL;
    }
}

/* What every answer begins with: a role for chat, the prompt where it is echoed. */
static void write_first(struct spin_api_answer *answer)
{
    const struct spin_api_call *call = answer->call;
    struct spin_json_writer *writer = &call->api->scratch;
    struct spin_openai_chunk chunk = {.index = answer->index, .role = call->chat, .text = ""};
    if (answer->begun) {
        return;
    }
    answer->begun = true;
    set_usage(answer, &chunk);
    if (call->chat) {
        spin_openai_write_chunk(writer, &call->head, &chunk);
    } else if (call->echo) {
        chunk.escaped = &answer->text;
        spin_openai_write_chunk(writer, &call->head, &chunk);
    }
}

static void stream_delta(struct spin_api_answer *answer, const struct spin_generation_delta *delta)
{
    struct spin_api_call *call = answer->call;
    struct spin_json_writer *writer = &call->api->scratch;
    answer->tokens += delta->token_count;
    if (call->logprobs) {
        add_logprobs(answer, delta);
    }
    if (delta->text_bytes == 0 && spin_openai_logprobs_bytes(&answer->logprobs) == 0) {
        return;
    }
    struct spin_openai_chunk chunk = {.index = answer->index,
                                      .text = delta->text,
                                      .text_bytes = delta->text_bytes,
                                      .logprobs = call->logprobs ? &answer->logprobs : NULL};
    set_usage(answer, &chunk);
    spin_json_writer_reset(writer);
    write_first(answer);
    spin_openai_write_chunk(writer, &call->head, &chunk);
    spin_openai_logprobs_reset(&answer->logprobs);
    send_scratch(call);
}

static void stream_end_of(struct spin_api_answer *answer)
{
    struct spin_api_call *call = answer->call;
    struct spin_json_writer *writer = &call->api->scratch;
    struct spin_openai_chunk chunk = {.index = answer->index,
                                      .text = "",
                                      .logprobs = call->logprobs ? &answer->logprobs : NULL,
                                      .finish_reason = answer->finish_reason};
    set_usage(answer, &chunk);
    spin_json_writer_reset(writer);
    write_first(answer);
    spin_openai_write_chunk(writer, &call->head, &chunk);
    send_scratch(call);
}

static void finish_stream(struct spin_api_call *call)
{
    struct spin_json_writer *writer = &call->api->scratch;
    spin_json_writer_reset(writer);
    if (call->include_usage) {
        spin_openai_write_usage_chunk(writer, &call->head, &call->usage);
    }
    SPIN_JSON_LITERAL(writer, "data: [DONE]\n\n");
    send_scratch(call);
    if (!call->closing) {
        spin_http_stream_end(call->exchange, true);
        spin_api_call_destroy(call);
    }
}

/* --- collecting --- */

static void collect(struct spin_api_answer *answer, const struct spin_generation_delta *delta)
{
    struct spin_api_call *call = answer->call;
    spin_json_put_escaped(&answer->text, delta->text, delta->text_bytes);
    if (call->logprobs) {
        add_logprobs(answer, delta);
    }
    const uint64_t bytes = answer->text.count + spin_openai_logprobs_bytes(&answer->logprobs);
    SPIN_ASSERT_GE(bytes, answer->bytes);
    call->collected_bytes += bytes - answer->bytes;
    answer->bytes = bytes;
    if (call->collected_bytes > SPIN_API_REPLY_BYTES_MAX) {
        struct spin_openai_error error;
        (void)spin_openai_refuse(&error, SPIN_OPENAI_VALUE, NULL,
                                 "the reply is over %u MiB: ask for less, or for a stream",
                                 (uint32_t)(SPIN_API_REPLY_BYTES_MAX >> 20));
        spin_api_call_fail(call, &error);
    }
}

static void finish_collected(struct spin_api_call *call)
{
    /* Twice the limit: the choices fit it, and so does what stands around them. */
    struct spin_json_writer writer;
    spin_json_writer_init(&writer, 2 * SPIN_API_REPLY_BYTES_MAX);
    spin_openai_write_begin(&writer, &call->head);
    for (uint32_t i = 0; i < call->answer_count; i++) {
        const struct spin_api_answer *answer = &call->answers[i];
        const struct spin_openai_choice choice = {.index = answer->index,
                                                  .text = &answer->text,
                                                  .logprobs =
                                                      call->logprobs ? &answer->logprobs : NULL,
                                                  .finish_reason = answer->finish_reason};
        spin_openai_write_choice(&writer, &call->head, &choice);
    }
    spin_openai_write_end(&writer, &call->usage);
    if (writer.failed) {
        fail_status(call, SPIN_ERR_NO_MEMORY, NULL);
    } else {
        const struct spin_api_reply reply = {.status = 200,
                                             .content_type = "application/json",
                                             .body = writer.bytes,
                                             .body_bytes = writer.count,
                                             .request_id = call->request_id};
        spin_api_respond(call->api, call->exchange, &reply);
        spin_api_call_destroy(call);
    }
    spin_json_writer_deinit(&writer);
}

/* --- the sink --- */

static void on_delta(void *context, const struct spin_generation_delta *delta)
{
    struct spin_api_answer *answer = context;
    if (answer->call->closing) {
        return;
    }
    if (answer->call->stream) {
        stream_delta(answer, delta);
    } else {
        collect(answer, delta);
    }
}

static void count_usage(const struct spin_api_answer *answer, const struct spin_generation_end *end)
{
    struct spin_openai_usage *usage = &answer->call->usage;
    usage->completion_tokens += end->completion_tokens;
    if (answer->index % answer->call->n == 0) { /* a prompt counts once, whatever n is */
        usage->prompt_tokens += end->prompt_tokens;
        usage->cached_tokens += end->cached_tokens;
    }
}

static void on_ended(void *context, const struct spin_generation_end *end)
{
    struct spin_api_answer *answer = context;
    struct spin_api_call *call = answer->call;
    answer->generation = NULL;
    SPIN_ASSERT_GT(call->answers_open, 0);
    call->answers_open--;
    if (call->closing) {
        return;
    }
    if (end->status != SPIN_OK) {
        fail_status(call, end->status, end->text);
        return;
    }
    count_usage(answer, end);
    add_end_token(answer, end);
    answer->finish_reason = spin_openai_finish_reason(end->reason);
    if (call->stream) {
        answer->tokens = end->completion_tokens;
        stream_end_of(answer);
    }
    if (call->answers_open != 0 || call->closing) {
        return;
    }
    if (call->stream) {
        finish_stream(call);
    } else {
        finish_collected(call);
    }
}

/* --- beginning --- */

/* Echoes of all prompts leave at once, however fast a client reads: a stream must have room for
 * them in what may wait for it, and a whole reply in its limit. */
static spin_status check_echo(const struct spin_api_call *call, uint64_t bytes,
                              struct spin_error *err)
{
    const bool stream = call->intake.request->stream;
    const uint64_t max =
        stream ? call->api->config.http.write_bytes_max / 2 : SPIN_API_REPLY_BYTES_MAX;
    if (bytes <= max) {
        return SPIN_OK;
    }
    return spin_fail(err, SPIN_ERR_INVALID,
                     "echo: over %" PRIu64 " bytes of prompts, times n, to send back at once; %s",
                     max, stream ? "ask without stream" : "ask for fewer");
}

static spin_status echo_prompt(struct spin_api_answer *answer, uint64_t *total,
                               struct spin_error *err)
{
    const struct spin_api_call *call = answer->call;
    const uint32_t prompt = answer->index / call->n;
    spin_intake_echo(&call->intake, prompt, &answer->text);
    answer->added_bos = spin_intake_added_bos(&call->intake, prompt);
    if (answer->text.failed) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for the answers");
    }
    *total += answer->text.count;
    return check_echo(call, *total, err);
}

static spin_status build_answers(struct spin_api_call *call, struct spin_error *err)
{
    uint64_t echoed = 0;
    const struct spin_tokenizer *tokenizer = call->api->parts.prompt.tokenizer;
    const uint32_t count = call->intake.prompt_count * call->n;
    SPIN_ASSERT_LE(count, SPIN_GENERATIONS_MAX);
    call->answers = calloc(count, sizeof *call->answers);
    if (call->answers == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for the answers");
    }
    call->answer_count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct spin_api_answer *answer = &call->answers[i];
        answer->call = call;
        answer->index = i;
        answer->prompt_tokens = call->intake.prompts[i / call->n].count;
        spin_json_writer_init(&answer->text, SPIN_API_REPLY_BYTES_MAX);
        spin_openai_logprobs_init(&answer->logprobs, call->chat, tokenizer,
                                  SPIN_API_REPLY_BYTES_MAX);
        if (call->echo) {
            SPIN_TRY(echo_prompt(answer, &echoed, err));
        }
    }
    return SPIN_OK;
}

/* Chat gets what fits and completions get 16 tokens, unless the client said how many. */
static uint32_t choose_max_tokens(const struct spin_openai_request *request, uint32_t prompt,
                                  uint32_t limit)
{
    if (request->max_tokens_given) {
        return request->max_tokens;
    }
    const uint32_t fits = prompt < limit ? limit - prompt : 1; /* 1: refused with both numbers */
    return request->endpoint == SPIN_OPENAI_CHAT ? fits
                                                 : SPIN_MIN(fits, COMPLETIONS_MAX_TOKENS_DEFAULT);
}

static spin_status submit(struct spin_api_answer *answer, uint32_t limit, struct spin_error *err)
{
    struct spin_api_call *call = answer->call;
    const struct spin_openai_request *request = call->intake.request;
    const struct spin_prompt_tokens *prompt = &call->intake.prompts[answer->index / call->n];
    Spin__V1__Sampling sampling = request->sampling;
    sampling.max_tokens = choose_max_tokens(request, prompt->count, limit);
    sampling.seed =
        request->seed_given ? request->seed + answer->index % call->n : spin_generation_draw_seed();
    char id[SPIN_GENERATION_ID_BYTES];
    (void)snprintf(id, sizeof id, call->answer_count == 1 ? "%s" : "%s/%u", call->request_id,
                   answer->index);
    const struct spin_generation_request generation = {.id = id,
                                                       .tenant = call->tenant,
                                                       .prompt = prompt->tokens,
                                                       .prompt_count = prompt->count,
                                                       .sampling = &sampling,
                                                       .stop = request->stop,
                                                       .return_tokens =
                                                           call->logprobs || call->continuous_usage,
                                                       .deadline_ns = call->deadline_ns,
                                                       .sink = {answer, on_delta, on_ended}};
    SPIN_TRY(
        spin_dispatcher_submit(call->api->parts.dispatcher, &generation, &answer->generation, err));
    call->answers_open++;
    return SPIN_OK;
}

static void begin_stream(struct spin_api_call *call)
{
    static const char type[] = "text/event-stream";
    const struct spin_http_header_field headers[] = {
        {"x-request-id", call->request_id},
        {"Cache-Control", "no-cache"},
        {"X-Accel-Buffering", "no"}, /* proxies: pass events on as they come */
    };
    const struct spin_http_reply reply = {.status = 200,
                                          .content_type = type,
                                          .headers = headers,
                                          .header_count = SPIN_ARRAY_COUNT(headers)};
    spin_http_stream_begin(call->exchange, &reply);
    spin_api_count_status(call->api, 200);
    call->written_ns = spin_loop_now_ns(call->api->parts.loop);
    spin_list_push_back(&call->api->streams, &call->stream_link);
}

static void read_flags(struct spin_api_call *call)
{
    const struct spin_openai_request *request = call->intake.request;
    call->n = request->n;
    call->chat = request->endpoint == SPIN_OPENAI_CHAT;
    call->echo = request->echo;
    call->logprobs = request->logprobs;
    call->include_usage = request->include_usage;
    call->continuous_usage = request->continuous_usage && request->stream;
    char id[SPIN_API_ID_BYTES];
    spin_api_draw_id(call->chat ? "chatcmpl" : "cmpl", id);
    const struct spin_openai_head_config head = {.chat = call->chat,
                                                 .stream = request->stream,
                                                 .id = id,
                                                 .model = call->api->config.model_name,
                                                 .created_s = spin_wall_ns() / SPIN_NS_PER_S};
    spin_openai_head_init(&call->head, &head);
}

void spin_api_completion_start(struct spin_api_call *call)
{
    const uint32_t limit = spin_dispatcher_limits(call->api->parts.dispatcher).max_model_len;
    struct spin_error err = {0};
    read_flags(call);
    spin_status status = build_answers(call, &err);
    for (uint32_t i = 0; i < call->answer_count && status == SPIN_OK; i++) {
        status = submit(&call->answers[i], limit, &err);
    }
    if (status != SPIN_OK) {
        struct spin_openai_error error;
        spin_openai_error_from_status(&error, status, err.text);
        spin_api_completion_cancel(call);
        spin_api_call_refuse(call, &error);
        return;
    }
    const bool stream = call->intake.request->stream;
    spin_intake_deinit(&call->intake); /* the generations have what they need */
    if (stream) {
        call->stream = true;
        begin_stream(call);
    }
}

void spin_api_completion_cancel(struct spin_api_call *call)
{
    for (uint32_t i = 0; i < call->answer_count; i++) {
        struct spin_api_answer *answer = &call->answers[i];
        if (answer->generation != NULL) {
            spin_dispatcher_cancel(call->api->parts.dispatcher, answer->generation);
            answer->generation = NULL;
            call->answers_open--;
        }
    }
    SPIN_ASSERT_EQ(call->answers_open, 0);
}

void spin_api_completion_deinit(struct spin_api_call *call)
{
    SPIN_ASSERT_EQ(call->answers_open, 0);
    for (uint32_t i = 0; i < call->answer_count; i++) {
        spin_json_writer_deinit(&call->answers[i].text);
        spin_openai_logprobs_deinit(&call->answers[i].logprobs);
    }
    free(call->answers);
    spin_openai_head_deinit(&call->head);
    if (call->stream) {
        spin_list_remove(&call->api->streams, &call->stream_link);
    }
}
