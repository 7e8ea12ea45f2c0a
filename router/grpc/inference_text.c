/* Tokenize, Detokenize, GetModel: one answer each. */
#include "base/assert.h"
#include "model/text/utf8.h"
#include "router/grpc/inference_internal.h"

#define CALLS_MAX 256u
#define ARENA_BYTES (UINT64_C(16) << 20) /* a 1 MiB request of the smallest parts is refused */
/* So that the answer is below SPIN_RPC_MESSAGE_BYTES_MAX: an id takes three bytes, its text ... */
#define TOKENS_MAX (1u << 18)
#define TEXT_BYTES_MAX (SPIN_RPC_MESSAGE_BYTES_MAX - 64)
static_assert(TOKENS_MAX * 3 + 64 <= SPIN_RPC_MESSAGE_BYTES_MAX &&
                  SPIN_TOKENIZER_VOCAB_MAX <= 1u << 21,
              "an answer of TOKENS_MAX ids fits");

/* --- Tokenize --- */

static spin_status prepare_tokenize(struct spin_inference_call *call,
                                    const struct ProtobufCMessage *base, struct spin_error *err)
{
    const Spin__V1__TokenizeRequest *message = (const Spin__V1__TokenizeRequest *)base;
    SPIN_TRY(spin_inference_check_model(call, message->model, err));
    if (message->prompt != NULL && message->prompt->n_tokens > 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "prompt.tokens: these are tokens already");
    }
    const spin_status status = spin_inference_read_prompt(call, message->prompt, TOKENS_MAX, err);
    if (status == SPIN_ERR_LIMIT) { /* not the model's limit */
        return spin_fail(err, status, "prompt: over %u tokens, more do not fit one answer",
                         TOKENS_MAX);
    }
    return status;
}

static void ready_tokenize(struct spin_inference_call *call)
{
    Spin__V1__TokenizeResponse response;
    spin__v1__tokenize_response__init(&response);
    response.tokens = call->made.prompt.tokens;
    response.n_tokens = call->made.prompt.count;
    response.max_model_len = call->limits.max_model_len;
    spin_rpc_call_append(call->rpc, &response.base);
    spin_inference_call_end(call, SPIN_OK, NULL);
}

/* --- Detokenize --- */

/* *out: NUL-terminated, in the arena. */
static spin_status detokenize(const struct spin_tokenizer *tokenizer,
                              const Spin__V1__DetokenizeRequest *message, struct spin_arena *arena,
                              char **out, struct spin_error *err)
{
    const uint64_t capacity = (uint64_t)spin_tokenizer_piece_bytes_max(tokenizer) * 3 + 12;
    const uint32_t vocab = spin_tokenizer_vocab(tokenizer);
    char *piece = spin_arena_take(arena, capacity);
    char *text =
        spin_arena_take(arena, TEXT_BYTES_MAX + capacity * SPIN_UTF8_REPLACEMENT_BYTES + 1);
    if (piece == NULL || text == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "tokens: no memory for their text");
    }
    struct spin_detokenizer detokenizer;
    spin_detokenizer_init(&detokenizer, tokenizer, false);
    uint64_t count = 0;
    for (size_t i = 0; i < message->n_tokens && count <= TEXT_BYTES_MAX; i++) {
        const int32_t token = message->tokens[i];
        if (token < 0 || (uint32_t)token >= vocab) {
            return spin_fail(err, SPIN_ERR_INVALID, "tokens[%zu]: %d, the vocabulary is 0..%u", i,
                             token, vocab - 1);
        }
        const uint64_t bytes = spin_detokenizer_push(&detokenizer, token, piece, capacity);
        count += spin_inference_copy_text(text + count, piece, bytes);
    }
    if (count <= TEXT_BYTES_MAX) {
        count += spin_detokenizer_finish(&detokenizer, text + count, capacity);
    }
    if (count > TEXT_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "tokens: their text is over %llu bytes",
                         (unsigned long long)TEXT_BYTES_MAX);
    }
    text[count] = '\0';
    *out = text;
    return SPIN_OK;
}

static spin_status prepare_detokenize(struct spin_inference_call *call,
                                      const struct ProtobufCMessage *base, struct spin_error *err)
{
    const Spin__V1__DetokenizeRequest *message = (const Spin__V1__DetokenizeRequest *)base;
    SPIN_TRY(spin_inference_check_model(call, message->model, err));
    return detokenize(call->line->inference->parts.prompt.tokenizer, message, call->arena,
                      &call->made.text, err);
}

static void ready_detokenize(struct spin_inference_call *call)
{
    Spin__V1__DetokenizeResponse response;
    spin__v1__detokenize_response__init(&response);
    response.text = call->made.text;
    spin_rpc_call_append(call->rpc, &response.base);
    spin_inference_call_end(call, SPIN_OK, NULL);
}

/* --- GetModel --- */

static spin_status prepare_get_model(struct spin_inference_call *call,
                                     const struct ProtobufCMessage *base, struct spin_error *err)
{
    const Spin__V1__GetModelRequest *message = (const Spin__V1__GetModelRequest *)base;
    return spin_inference_check_model(call, message->model, err);
}

static void ready_get_model(struct spin_inference_call *call)
{
    const struct spin_inference_parts *parts = &call->line->inference->parts;
    Spin__V1__ModelIdentity model;
    spin__v1__model_identity__init(&model);
    model.name = spin_inference_borrow(parts->model_name);
    model.vocab = call->limits.vocab;
    model.max_model_len = call->limits.max_model_len;
    Spin__V1__GetModelResponse response;
    spin__v1__get_model_response__init(&response);
    response.model = &model;
    if (parts->prompt.chat_format != NULL) {
        response.chat_format =
            spin_inference_borrow(spin_chat_format_name(parts->prompt.chat_format));
    }
    response.workers = spin_members_ready(spin_dispatcher_members(parts->dispatcher));
    spin_rpc_call_append(call->rpc, &response.base);
    spin_inference_call_end(call, SPIN_OK, NULL);
}

/* The same limits for all three: their largest is the longest text. */
#define METHOD(name, type) \
    { \
        .path = "/spin.v1.Inference/" name, .request = &spin__v1__##type##_request__descriptor, \
        .request_bytes_max = SPIN_RPC_MESSAGE_BYTES_MAX, .arena_bytes_max = ARENA_BYTES, \
        .outbox_bytes = SPIN_RPC_MESSAGE_BYTES_MAX, .calls_max = CALLS_MAX, \
    }

const struct spin_inference_kind spin_inference_tokenize = {
    .method = METHOD("Tokenize", tokenize),
    .prepare = prepare_tokenize,
    .ready = ready_tokenize,
};

const struct spin_inference_kind spin_inference_detokenize = {
    .method = METHOD("Detokenize", detokenize),
    .prepare = prepare_detokenize,
    .ready = ready_detokenize,
};

const struct spin_inference_kind spin_inference_get_model = {
    .method = METHOD("GetModel", get_model),
    .prepare = prepare_get_model,
    .ready = ready_get_model,
};
