#include "router/http/intake.h"

#include "base/assert.h"

#include <stdlib.h>
#include <string.h>

/* Of ids or text as JSON: more than any body within its limit can ask for. */
#define REPLY_BYTES_MAX (UINT64_C(512) << 20)

static void set_error(struct spin_intake *intake, const struct spin_error *err)
{
    intake->status = err->status;
    spin_openai_error_from_status(&intake->error, err->status, err->text);
}

/* --- chat and completions --- */

static spin_status fill_prompt(const struct spin_intake *intake, uint32_t index,
                               struct spin_prompt_tokens *out, struct spin_error *err)
{
    const struct spin_openai_request *request = intake->request;
    if (request->prompt_count == 0) {
        return spin_prompt_from_messages(intake->model, request->messages, request->message_count,
                                         intake->max_model_len, out, err);
    }
    const struct spin_openai_prompt *prompt = &request->prompts[index];
    if (prompt->text != NULL) {
        return spin_prompt_from_text(intake->model, prompt->text, prompt->text_bytes,
                                     intake->max_model_len, out, err);
    }
    return spin_prompt_from_tokens(intake->model, prompt->tokens, prompt->token_count,
                                   intake->max_model_len, out, err);
}

static spin_status build_prompts(struct spin_intake *intake, struct spin_error *err)
{
    const uint32_t count = SPIN_MAX(intake->request->prompt_count, 1);
    intake->prompts = calloc(count, sizeof *intake->prompts);
    if (intake->prompts == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt: %u prompts", count);
    }
    intake->prompt_count = count;
    for (uint32_t i = 0; i < count; i++) {
        SPIN_TRY(fill_prompt(intake, i, &intake->prompts[i], err));
    }
    return SPIN_OK;
}

/* --- tokenize, detokenize --- */

/* An empty text and one without BOS are fine here, other than for a worker. */
static spin_status encode_text(const struct spin_intake *intake, struct spin_token_sink *sink,
                               struct spin_error *err)
{
    const struct spin_openai_request *request = intake->request;
    const uint32_t flags = SPIN_ENCODE_PARSE_SPECIAL |
                           (request->add_special_tokens ? SPIN_ENCODE_ADD_BOS : SPIN_ENCODE_PLAIN);
    return spin_tokenizer_encode(intake->model->tokenizer, request->prompts->text,
                                 request->prompts->text_bytes, flags, sink->tokens, sink->capacity,
                                 &sink->count, err);
}

static spin_status build_text_tokens(const struct spin_intake *intake,
                                     struct spin_prompt_tokens *out, struct spin_error *err)
{
    struct spin_token_sink sink = {0};
    spin_status status = encode_text(intake, &sink, err);
    if (status == SPIN_OK || (status == SPIN_ERR_LIMIT && sink.count != 0)) {
        sink.capacity = sink.count;
        sink.tokens = calloc(SPIN_MAX(sink.count, 1), sizeof *sink.tokens);
        status = sink.tokens == NULL ? spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt: too many tokens")
                                     : encode_text(intake, &sink, err);
    }
    if (status != SPIN_OK) {
        free(sink.tokens);
        return status;
    }
    SPIN_ASSERT_LE(sink.count, UINT32_MAX);
    *out = (struct spin_prompt_tokens){sink.tokens, (uint32_t)sink.count};
    return SPIN_OK;
}

static spin_status tokenize(struct spin_intake *intake, struct spin_error *err)
{
    const struct spin_openai_request *request = intake->request;
    struct spin_json_writer *reply = &intake->reply;
    struct spin_prompt_tokens prompt = {0};
    if (request->prompt_count != 0 && request->prompts->text == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "prompt: must be a text");
    }
    SPIN_TRY(request->prompt_count != 0
                 ? build_text_tokens(intake, &prompt, err)
                 : spin_prompt_from_messages(intake->model, request->messages,
                                             request->message_count, UINT32_MAX, &prompt, err));
    SPIN_JSON_LITERAL(reply, "{\"tokens\":[");
    for (uint32_t i = 0; i < prompt.count; i++) {
        if (i != 0) {
            SPIN_JSON_LITERAL(reply, ",");
        }
        spin_json_put_u64(reply, (uint32_t)prompt.tokens[i]);
    }
    SPIN_JSON_LITERAL(reply, "],\"count\":");
    spin_json_put_u64(reply, prompt.count);
    SPIN_JSON_LITERAL(reply, ",\"max_model_len\":");
    if (intake->max_model_len == 0) {
        SPIN_JSON_LITERAL(reply, "null"); /* no worker has said it yet */
    } else {
        spin_json_put_u64(reply, intake->max_model_len);
    }
    SPIN_JSON_LITERAL(reply, "}");
    spin_prompt_tokens_deinit(&prompt);
    return SPIN_OK;
}

/* The characters of tokens, special ones spelled out, as a string's inside. */
static spin_status detokenize_into(const struct spin_tokenizer *tokenizer, const int32_t *tokens,
                                   uint64_t count, struct spin_json_writer *out)
{
    const uint64_t capacity = (uint64_t)spin_tokenizer_piece_bytes_max(tokenizer) * 3 + 12;
    struct spin_json_writer scratch; /* for its memory alone */
    spin_json_writer_init(&scratch, capacity);
    char *text = spin_json_reserve(&scratch, capacity);
    if (text == NULL) {
        spin_json_writer_deinit(&scratch);
        return SPIN_ERR_NO_MEMORY;
    }
    struct spin_detokenizer detokenizer;
    spin_detokenizer_init(&detokenizer, tokenizer, false);
    for (uint64_t i = 0; i < count; i++) {
        const uint64_t bytes = spin_detokenizer_push(&detokenizer, tokens[i], text, capacity);
        spin_json_put_escaped(out, text, bytes);
    }
    spin_json_put_escaped(out, text, spin_detokenizer_finish(&detokenizer, text, capacity));
    spin_json_writer_deinit(&scratch);
    return SPIN_OK;
}

static spin_status detokenize(struct spin_intake *intake, struct spin_error *err)
{
    const struct spin_openai_prompt *prompt = intake->request->prompts;
    const uint32_t vocab = spin_tokenizer_vocab(intake->model->tokenizer);
    for (uint64_t i = 0; i < prompt->token_count; i++) {
        if ((uint32_t)prompt->tokens[i] >= vocab) {
            return spin_fail(err, SPIN_ERR_INVALID, "tokens: id %d, the vocabulary is 0..%u",
                             prompt->tokens[i], vocab - 1);
        }
    }
    SPIN_JSON_LITERAL(&intake->reply, "{\"prompt\":\"");
    if (detokenize_into(intake->model->tokenizer, prompt->tokens, prompt->token_count,
                        &intake->reply) != SPIN_OK) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "tokens: no memory for their text");
    }
    SPIN_JSON_LITERAL(&intake->reply, "\"}");
    return SPIN_OK;
}

/* --- all --- */

static spin_status run_endpoint(struct spin_intake *intake, struct spin_error *err)
{
    spin_status status = SPIN_OK;
    switch (intake->endpoint) {
    case SPIN_OPENAI_CHAT:
    case SPIN_OPENAI_COMPLETIONS:
        return build_prompts(intake, err);
    case SPIN_OPENAI_TOKENIZE:
        status = tokenize(intake, err);
        break;
    case SPIN_OPENAI_DETOKENIZE:
        status = detokenize(intake, err);
        break;
    }
    if (status == SPIN_OK && intake->reply.failed) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for the reply");
    }
    return status;
}

void spin_intake_run(struct spin_intake *intake)
{
    SPIN_ASSERT(intake->request == NULL);
    spin_json_writer_init(&intake->reply, REPLY_BYTES_MAX);
    intake->status = spin_openai_request_create(intake->endpoint, intake->body, intake->body_bytes,
                                                &intake->request, &intake->error);
    if (intake->status != SPIN_OK) {
        return;
    }
    const char *model = intake->request->model;
    if (model != NULL && strcmp(model, intake->model_name) != 0) {
        intake->status = spin_openai_refuse(&intake->error, SPIN_OPENAI_MODEL, "model",
                                            "model: \"%.100s\" is not served here, only \"%.100s\"",
                                            model, intake->model_name);
        return;
    }
    struct spin_error err = {.status = SPIN_OK};
    if (run_endpoint(intake, &err) != SPIN_OK) {
        set_error(intake, &err);
    }
}

void spin_intake_deinit(struct spin_intake *intake)
{
    for (uint32_t i = 0; i < intake->prompt_count; i++) {
        spin_prompt_tokens_deinit(&intake->prompts[i]);
    }
    free(intake->prompts);
    spin_openai_request_destroy(intake->request);
    spin_json_writer_deinit(&intake->reply);
    intake->prompts = NULL;
    intake->prompt_count = 0;
    intake->request = NULL;
}

void spin_intake_echo(const struct spin_intake *intake, uint32_t prompt,
                      struct spin_json_writer *out)
{
    SPIN_ASSERT_LT(prompt, intake->request->prompt_count);
    const struct spin_openai_prompt *given = &intake->request->prompts[prompt];
    if (given->text != NULL) {
        spin_json_put_escaped(out, given->text, given->text_bytes);
        return;
    }
    const struct spin_prompt_tokens *tokens = &intake->prompts[prompt];
    if (detokenize_into(intake->model->tokenizer, tokens->tokens, tokens->count, out) != SPIN_OK) {
        out->failed = true;
    }
}

bool spin_intake_added_bos(const struct spin_intake *intake, uint32_t prompt)
{
    SPIN_ASSERT_LT(prompt, intake->request->prompt_count);
    const struct spin_openai_prompt *given = &intake->request->prompts[prompt];
    const int32_t bos = spin_tokenizer_bos(intake->model->tokenizer);
    const char *piece = NULL;
    uint32_t bytes = 0;
    if (given->text == NULL || bos < 0 || intake->prompts[prompt].tokens[0] != bos ||
        !spin_tokenizer_piece(intake->model->tokenizer, bos, &piece, &bytes)) {
        return false;
    }
    return given->text_bytes < bytes || memcmp(given->text, piece, bytes) != 0;
}
