#include "router/http/openai_request.h"

#include "base/arena.h"
#include "base/assert.h"
#include "router/http/openai_request_internal.h"

#include <stdlib.h>
#include <string.h>

#define ARENA_CHUNK_BYTES 4096u
/* What is taken besides strings that stay in the document: ids at two bytes of JSON or more each,
 * joined parts, and per message and prompt a record and its alignment. */
#define ARENA_BODY_FACTOR 4u
#define ARENA_LEAST_BYTES (UINT64_C(4) << 20)
#define NUMBER_DIGITS_MAX 10u

typedef struct spin_openai_reader reader_t;
typedef struct spin_openai_field field_t;

static spin_status unsupported(const reader_t *reader, const char *name, const char *what)
{
    return spin_openai_refuse(reader->error, SPIN_OPENAI_UNSUPPORTED, name, "%s: %s", name, what);
}

/* --- fields that change nothing --- */

static spin_status read_ignored(const reader_t *reader, const field_t *field, const json_t *value)
{
    (void)reader;
    (void)field;
    (void)value;
    return SPIN_OK;
}

/* What would change the answer unless it is empty. */
static spin_status read_empty(const reader_t *reader, const field_t *field, const json_t *value)
{
    const bool empty = (json_is_array(value) && json_array_size(value) == 0) ||
                       (json_is_object(value) && json_object_size(value) == 0) ||
                       (json_is_string(value) && json_string_length(value) == 0);
    return empty ? SPIN_OK : unsupported(reader, field->name, "not supported");
}

/* A bool of which only one value is what we do; field->max says which. */
static spin_status read_fixed(const reader_t *reader, const field_t *field, const json_t *value)
{
    if (json_is_boolean(value) && json_is_true(value) == (field->max != 0)) {
        return SPIN_OK;
    }
    return unsupported(reader, field->name,
                       field->max != 0 ? "only true is supported" : "only false is supported");
}

static spin_status read_tool_choice(const reader_t *reader, const field_t *field,
                                    const json_t *value)
{
    const char *text = json_is_string(value) ? json_string_value(value) : "";
    if (strcmp(text, "none") == 0 || strcmp(text, "auto") == 0) {
        return SPIN_OK;
    }
    return unsupported(reader, field->name, "only none and auto are supported: there are no tools");
}

static spin_status read_response_format(const reader_t *reader, const field_t *field,
                                        const json_t *value)
{
    const json_t *type = json_object_get(value, "type");
    if (json_is_string(type) && strcmp(json_string_value(type), "text") == 0) {
        return SPIN_OK;
    }
    return unsupported(reader, field->name, "only {\"type\": \"text\"} is supported");
}

static spin_status read_modalities(const reader_t *reader, const field_t *field,
                                   const json_t *value)
{
    const json_t *first = json_array_get(value, 0);
    if (json_array_size(value) == 1 && json_is_string(first) &&
        strcmp(json_string_value(first), "text") == 0) {
        return SPIN_OK;
    }
    return unsupported(reader, field->name, "only [\"text\"] is supported");
}

/* --- fields that need more than a range --- */

/* max_tokens and max_completion_tokens are two names of one thing. */
static spin_status read_max_tokens(const reader_t *reader, const field_t *field,
                                   const json_t *value)
{
    struct spin_openai_request *request = reader->request;
    int64_t given = 0;
    SPIN_TRY(spin_openai_read_integer(reader, field, value, &given));
    if (request->max_tokens_given && request->max_tokens != (uint32_t)given) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: max_tokens and max_completion_tokens differ", field->name);
    }
    request->max_tokens = (uint32_t)given;
    request->max_tokens_given = true;
    return SPIN_OK;
}

static spin_status read_seed(const reader_t *reader, const field_t *field, const json_t *value)
{
    int64_t given = 0;
    SPIN_TRY(spin_openai_read_integer(reader, field, value, &given));
    reader->request->seed = (uint64_t)given;
    reader->request->seed_given = true;
    return SPIN_OK;
}

/* A number of alternatives for completions, a switch for chat. */
static spin_status read_logprobs(const reader_t *reader, const field_t *field, const json_t *value)
{
    struct spin_openai_request *request = reader->request;
    if (request->endpoint == SPIN_OPENAI_CHAT) {
        return spin_openai_read_bool(reader, field, value);
    }
    int64_t given = 0;
    SPIN_TRY(spin_openai_read_integer(reader, field, value, &given));
    request->logprobs = true;
    request->sampling.top_logprobs = (uint32_t)given;
    return SPIN_OK;
}

static spin_status read_stop(const reader_t *reader, const field_t *field, const json_t *value)
{
    struct spin_stop_strings *stop = &reader->request->stop;
    const size_t count = json_is_array(value) ? json_array_size(value) : 1;
    if (count > SPIN_STOP_STRINGS_MAX) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: %zu strings, at most %u", field->name, count,
                                  SPIN_STOP_STRINGS_MAX);
    }
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        const size_t bytes = json_string_length(item); /* 0 for anything else */
        if (bytes == 0 || bytes > SPIN_STOP_STRING_BYTES_MAX) {
            return spin_openai_refuse(
                reader->error, SPIN_OPENAI_VALUE, field->name,
                "%s: must be a string of 1 to %u bytes, or a list of such strings", field->name,
                SPIN_STOP_STRING_BYTES_MAX);
        }
        stop->texts[i] = json_string_value(item);
    }
    stop->count = (uint32_t)count;
    return SPIN_OK;
}

static spin_status read_stop_token_ids(const reader_t *reader, const field_t *field,
                                       const json_t *value)
{
    Spin__V1__Sampling *sampling = &reader->request->sampling;
    if (!json_is_array(value) || json_array_size(value) > SPIN_STOP_TOKEN_IDS_MAX) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: must be a list of at most %u token ids", field->name,
                                  SPIN_STOP_TOKEN_IDS_MAX);
    }
    const int32_t *tokens = NULL;
    uint64_t count = 0;
    SPIN_TRY(spin_openai_read_tokens(reader, field->name, value, &tokens, &count));
    /* The message wants them writable; they are the arena's. */
    sampling->stop_token_ids = count == 0 ? NULL : spin_openai_take(reader, count, sizeof *tokens);
    if (count != 0 && sampling->stop_token_ids == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    for (uint64_t i = 0; i < count; i++) {
        sampling->stop_token_ids[i] = tokens[i];
    }
    sampling->n_stop_token_ids = (size_t)count;
    return SPIN_OK;
}

/* Keys are token ids as text. */
static bool read_token_key(const char *key, int32_t *out)
{
    const size_t digits = strspn(key, "0123456789");
    if (digits == 0 || digits > NUMBER_DIGITS_MAX || key[digits] != '\0') {
        return false;
    }
    const unsigned long long value = strtoull(key, NULL, 10);
    *out = (int32_t)value;
    return value <= INT32_MAX;
}

static spin_status read_bias(const reader_t *reader, const char *key, const json_t *value,
                             Spin__V1__LogitBias *out)
{
    spin__v1__logit_bias__init(out);
    if (!read_token_key(key, &out->token)) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, "logit_bias",
                                  "logit_bias: \"%.20s\" is not the id of a token", key);
    }
    const double bias = json_is_number(value) ? json_number_value(value) : 1e9;
    if (!(bias >= -100 && bias <= 100)) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, "logit_bias",
                                  "logit_bias: of token %d, must be a number in -100..100",
                                  out->token);
    }
    out->bias = (float)bias;
    return SPIN_OK;
}

static spin_status read_logit_bias(const reader_t *reader, const field_t *field,
                                   const json_t *value)
{
    Spin__V1__Sampling *sampling = &reader->request->sampling;
    const size_t count = json_object_size(value);
    if (!json_is_object(value) || count > SPIN_LOGIT_BIASES_MAX) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: must be an object of at most %u token ids", field->name,
                                  SPIN_LOGIT_BIASES_MAX);
    }
    Spin__V1__LogitBias *biases = spin_openai_take(reader, count, sizeof *biases);
    sampling->logit_bias = spin_openai_take(reader, count, sizeof(void *));
    if (biases == NULL || sampling->logit_bias == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    const char *key;
    json_t *item;
    json_object_foreach(json_object_get(reader->request->document, field->name), key, item)
    {
        Spin__V1__LogitBias *bias = &biases[sampling->n_logit_bias];
        SPIN_TRY(read_bias(reader, key, item, bias));
        sampling->logit_bias[sampling->n_logit_bias++] = bias;
    }
    SPIN_ASSERT_EQ(sampling->n_logit_bias, count);
    return SPIN_OK;
}

static spin_status read_stream_options(const reader_t *reader, const field_t *field,
                                       const json_t *value)
{
    static const field_t rows[] = {
        {"include_usage", 0, spin_openai_read_bool,
         offsetof(struct spin_openai_request, include_usage), 0, 0},
        {"continuous_usage_stats", 0, spin_openai_read_bool,
         offsetof(struct spin_openai_request, continuous_usage), 0, 0},
        {"include_obfuscation", 0, read_ignored, 0, 0, 0},
    };
    if (!json_is_object(value)) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: must be an object", field->name);
    }
    size_t known = 0;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        const json_t *item = json_object_get(value, rows[i].name);
        known += item == NULL ? 0 : 1;
        if (item != NULL && !json_is_null(item)) {
            SPIN_TRY(rows[i].read(reader, &rows[i], item));
        }
    }
    if (known != json_object_size(value)) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_UNKNOWN, field->name,
                                  "%s: only include_usage and continuous_usage_stats are known",
                                  field->name);
    }
    return SPIN_OK;
}

static spin_status read_detokenize(const reader_t *reader, const field_t *field,
                                   const json_t *value)
{
    if (!json_is_array(value)) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, field->name,
                                  "%s: must be a list of token ids", field->name);
    }
    struct spin_openai_prompt *prompt = spin_openai_take(reader, 1, sizeof *prompt);
    if (prompt == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    SPIN_TRY(
        spin_openai_read_tokens(reader, field->name, value, &prompt->tokens, &prompt->token_count));
    reader->request->prompts = prompt;
    reader->request->prompt_count = 1;
    return SPIN_OK;
}

/* --- the table --- */

#define CHAT SPIN_OPENAI_CHAT
#define TEXT SPIN_OPENAI_COMPLETIONS
#define BOTH (SPIN_OPENAI_CHAT | SPIN_OPENAI_COMPLETIONS)
#define IDS (SPIN_OPENAI_TOKENIZE)
#define BACK (SPIN_OPENAI_DETOKENIZE)
#define AT(member) offsetof(struct spin_openai_request, member)

static const field_t fields[] = {
    {"model", BOTH | IDS | BACK, spin_openai_read_text, AT(model), 0, 0},
    {"messages", CHAT | IDS, spin_openai_read_messages, 0, 0, 0},
    {"prompt", TEXT | IDS, spin_openai_read_prompt, 0, 0, 0},
    {"tokens", BACK, read_detokenize, 0, 0, 0},
    {"add_special_tokens", IDS, spin_openai_read_bool, AT(add_special_tokens), 0, 0},
    {"echo", TEXT, spin_openai_read_bool, AT(echo), 0, 0},
    {"max_tokens", CHAT, read_max_tokens, 0, 1, INT32_MAX},
    {"max_tokens", TEXT, read_max_tokens, 0, 0, INT32_MAX}, /* 0: to score what is echoed */
    {"max_completion_tokens", CHAT, read_max_tokens, 0, 1, INT32_MAX},
    {"min_tokens", BOTH, spin_openai_read_u32, AT(sampling.min_tokens), 0, INT32_MAX},
    {"temperature", BOTH, spin_openai_read_real, AT(sampling.temperature), 0, 100},
    {"top_p", BOTH, spin_openai_read_positive, AT(sampling.top_p), 0, 1},
    {"top_k", BOTH, spin_openai_read_u32, AT(sampling.top_k), -1, INT32_MAX},
    {"min_p", BOTH, spin_openai_read_real, AT(sampling.min_p), 0, 1},
    {"n", BOTH, spin_openai_read_u32, AT(n), 1, SPIN_GENERATIONS_MAX},
    {"best_of", TEXT, spin_openai_read_u32, AT(best_of), 1, SPIN_GENERATIONS_MAX},
    {"stop", BOTH, read_stop, 0, 0, 0},
    {"stop_token_ids", BOTH, read_stop_token_ids, 0, 0, 0},
    {"ignore_eos", BOTH, spin_openai_read_bool, AT(ignore_eos), 0, 0},
    {"seed", BOTH, read_seed, 0, -0x1p63, 0x1p63},
    {"logprobs", BOTH, read_logprobs, AT(logprobs), 0, SPIN_TOP_LOGPROBS_LIMIT},
    {"top_logprobs", CHAT, spin_openai_read_u32, AT(sampling.top_logprobs), 0,
     SPIN_TOP_LOGPROBS_LIMIT},
    {"presence_penalty", BOTH, spin_openai_read_real, AT(sampling.presence_penalty), -2, 2},
    {"frequency_penalty", BOTH, spin_openai_read_real, AT(sampling.frequency_penalty), -2, 2},
    {"repetition_penalty", BOTH, spin_openai_read_positive, AT(sampling.repetition_penalty), 0, 10},
    {"logit_bias", BOTH, read_logit_bias, 0, 0, 0},
    {"stream", BOTH, spin_openai_read_bool, AT(stream), 0, 0},
    {"stream_options", BOTH, read_stream_options, 0, 0, 0},

    {"user", BOTH, read_ignored, 0, 0, 0},
    {"store", BOTH, read_ignored, 0, 0, 0},
    {"metadata", BOTH, read_ignored, 0, 0, 0},
    {"service_tier", BOTH, read_ignored, 0, 0, 0},
    {"parallel_tool_calls", CHAT, read_ignored, 0, 0, 0},
    {"safety_identifier", BOTH, read_ignored, 0, 0, 0},
    {"prompt_cache_key", BOTH, read_ignored, 0, 0, 0},
    {"response_format", BOTH, read_response_format, 0, 0, 0},
    {"modalities", CHAT, read_modalities, 0, 0, 0},
    {"tool_choice", CHAT, read_tool_choice, 0, 0, 0},
    {"function_call", CHAT, read_tool_choice, 0, 0, 0},
    {"skip_special_tokens", BOTH, read_fixed, 0, 0, 1},
    {"include_stop_str_in_output", BOTH, read_fixed, 0, 0, 0},
    {"use_beam_search", BOTH, read_fixed, 0, 0, 0},
    {"add_generation_prompt", CHAT | IDS, read_fixed, 0, 0, 1},
    {"return_token_strs", IDS, read_fixed, 0, 0, 0},

    {"tools", CHAT, read_empty, 0, 0, 0},
    {"functions", CHAT, read_empty, 0, 0, 0},
    {"suffix", TEXT, read_empty, 0, 0, 0},
    {"audio", CHAT, read_empty, 0, 0, 0},
    {"prediction", CHAT, read_empty, 0, 0, 0},
    {"reasoning_effort", CHAT, read_empty, 0, 0, 0},
    {"verbosity", CHAT, read_empty, 0, 0, 0},
    {"web_search_options", CHAT, read_empty, 0, 0, 0},
    {"logits_processors", BOTH, read_empty, 0, 0, 0},
    {"prompt_logprobs", BOTH, read_empty, 0, 0, 0},
    {"bad_words", BOTH, read_empty, 0, 0, 0},
    {"allowed_token_ids", BOTH, read_empty, 0, 0, 0},
    {"length_penalty", BOTH, read_empty, 0, 0, 0},
    {"truncate_prompt_tokens", BOTH, read_empty, 0, 0, 0},
    {"structured_outputs", BOTH, read_empty, 0, 0, 0},
    {"guided_json", BOTH, read_empty, 0, 0, 0},
    {"guided_regex", BOTH, read_empty, 0, 0, 0},
    {"guided_choice", BOTH, read_empty, 0, 0, 0},
    {"guided_grammar", BOTH, read_empty, 0, 0, 0},
    {"chat_template", CHAT | IDS, read_empty, 0, 0, 0},
    {"chat_template_kwargs", CHAT | IDS, read_empty, 0, 0, 0},
    {"kv_transfer_params", BOTH, read_empty, 0, 0, 0},
};

static const field_t *find_field(const char *name, enum spin_openai_endpoint endpoint)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(fields); i++) {
        if ((fields[i].endpoints & (uint32_t)endpoint) != 0 && strcmp(fields[i].name, name) == 0) {
            return &fields[i];
        }
    }
    return NULL;
}

static spin_status read_fields(const reader_t *reader)
{
    const char *key;
    json_t *value;
    json_object_foreach(reader->request->document, key, value)
    {
        const field_t *field = find_field(key, reader->request->endpoint);
        if (field == NULL) {
            return spin_openai_refuse(reader->error, SPIN_OPENAI_UNKNOWN, key,
                                      "unrecognized request argument: %.60s", key);
        }
        if (!json_is_null(value)) {
            SPIN_TRY(field->read(reader, field, value));
        }
    }
    return SPIN_OK;
}

/* --- what concerns several fields --- */

static spin_status check_what(const reader_t *reader)
{
    const struct spin_openai_request *request = reader->request;
    static const char tokens[] = "tokens";
    const char *missing = request->endpoint == SPIN_OPENAI_CHAT         ? "messages"
                          : request->endpoint == SPIN_OPENAI_DETOKENIZE ? tokens
                                                                        : "prompt";
    if (request->prompt_count == 0 && request->message_count == 0) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_MISSING, missing, "%s: missing",
                                  missing);
    }
    if (request->prompt_count != 0 && request->message_count != 0) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, "prompt",
                                  "prompt: either this or messages");
    }
    return SPIN_OK;
}

static spin_status check_counts(const reader_t *reader)
{
    const struct spin_openai_request *request = reader->request;
    const uint32_t prompts = SPIN_MAX(request->prompt_count, 1);
    if (request->n > SPIN_GENERATIONS_MAX / prompts) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, "n",
                                  "n: %u answers to each of %u prompts, at most %u in all",
                                  request->n, prompts, SPIN_GENERATIONS_MAX);
    }
    if (request->best_of != 0 && request->best_of != request->n) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_UNSUPPORTED, "best_of",
                                  "best_of: %u, only the same as n is supported, which is %u",
                                  request->best_of, request->n);
    }
    if (request->sampling.top_logprobs != 0 && !request->logprobs) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, "top_logprobs",
                                  "top_logprobs: %u, but logprobs is not true",
                                  request->sampling.top_logprobs);
    }
    if (request->max_tokens_given && request->max_tokens == 0 && !request->echo) {
        return spin_openai_refuse(reader->error, SPIN_OPENAI_VALUE, "max_tokens",
                                  "max_tokens: 0, must be at least 1 unless echo is true");
    }
    return SPIN_OK;
}

static void finish(struct spin_openai_request *request)
{
    Spin__V1__Sampling *sampling = &request->sampling;
    sampling->ignore_eos = request->ignore_eos;
    sampling->logprobs = request->logprobs;
    const bool nothing_else = request->max_tokens_given && request->max_tokens == 0;
    sampling->prompt_logprobs = request->echo && (request->logprobs || nothing_else);
}

/* --- the document --- */

static spin_status check_size(const char *body, uint64_t bytes, struct spin_openai_error *error)
{
    uint64_t containers = 0;
    uint64_t values = 0;
    bool quoted = false;
    for (uint64_t i = 0; i < bytes; i++) {
        const char byte = body[i];
        if (quoted) {
            i += byte == '\\' ? 1 : 0;
            quoted = byte != '"';
        } else {
            quoted = byte == '"';
            containers += byte == '{' || byte == '[' ? 1 : 0;
            values += byte == ',' ? 1 : 0;
        }
    }
    if (containers > SPIN_OPENAI_CONTAINERS_MAX || values > SPIN_OPENAI_VALUES_MAX) {
        return spin_openai_refuse(error, SPIN_OPENAI_VALUE, NULL,
                                  "the body holds more than %u lists and objects or %u values",
                                  SPIN_OPENAI_CONTAINERS_MAX, SPIN_OPENAI_VALUES_MAX);
    }
    return SPIN_OK;
}

static spin_status parse(const char *body, uint64_t bytes, json_t **out,
                         struct spin_openai_error *error)
{
    SPIN_TRY(check_size(body, bytes, error));
    json_error_t why;
    json_t *document = json_loadb(body, (size_t)bytes, JSON_REJECT_DUPLICATES, &why);
    if (document == NULL) {
        return spin_openai_refuse(error, SPIN_OPENAI_JSON, NULL,
                                  "the body is not JSON: line %d, byte %d: %s", why.line,
                                  why.position, why.text);
    }
    if (!json_is_object(document)) {
        json_decref(document);
        return spin_openai_refuse(error, SPIN_OPENAI_JSON, NULL, "the body is not a JSON object");
    }
    *out = document;
    return SPIN_OK;
}

static spin_status read_request(struct spin_openai_request *request,
                                struct spin_openai_error *error)
{
    const reader_t reader = {request, error};
    SPIN_TRY(read_fields(&reader));
    SPIN_TRY(check_what(&reader));
    SPIN_TRY(check_counts(&reader));
    finish(request);
    return SPIN_OK;
}

static struct spin_openai_request *make_request(enum spin_openai_endpoint endpoint, uint64_t bytes)
{
    struct spin_openai_request *request = calloc(1, sizeof *request);
    if (request == NULL) {
        return NULL;
    }
    const uint64_t cap = bytes * ARENA_BODY_FACTOR + ARENA_LEAST_BYTES;
    if (spin_arena_create(ARENA_CHUNK_BYTES, cap, &request->arena, NULL) != SPIN_OK) {
        free(request);
        return NULL;
    }
    request->endpoint = endpoint;
    request->add_special_tokens = true;
    request->n = 1;
    spin__v1__sampling__init(&request->sampling);
    request->sampling.temperature = 1;
    request->sampling.top_p = 1;
    request->sampling.repetition_penalty = 1;
    return request;
}

spin_status spin_openai_request_create(enum spin_openai_endpoint endpoint, const char *body,
                                       uint64_t bytes, struct spin_openai_request **out,
                                       struct spin_openai_error *error)
{
    SPIN_ASSERT_LT(bytes, UINT64_MAX / ARENA_BODY_FACTOR / 2);
    struct spin_openai_request *request = make_request(endpoint, bytes);
    if (request == NULL) {
        spin_openai_error_from_status(error, SPIN_ERR_NO_MEMORY, NULL);
        return SPIN_ERR_NO_MEMORY;
    }
    spin_status status = parse(body, bytes, &request->document, error);
    if (status == SPIN_OK) {
        status = read_request(request, error);
    }
    if (status != SPIN_OK) {
        spin_openai_request_destroy(request);
        return status;
    }
    *out = request;
    return SPIN_OK;
}

void spin_openai_request_destroy(struct spin_openai_request *request)
{
    if (request == NULL) {
        return;
    }
    json_decref(request->document); /* NULL is allowed */
    spin_arena_destroy(request->arena);
    free(request);
}
