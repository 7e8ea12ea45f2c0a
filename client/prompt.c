#include "client/prompt.h"

#include "base/file.h"
#include "model/text/chat.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READ_BYTES_FIRST (UINT64_C(64) << 10)
/* Most texts have fewer tokens than bytes; the rest is asked for a second time. */
#define TOKENS_SLACK 64u

struct prompt_text {
    char *bytes;
    uint64_t count;
};

static spin_status read_all(FILE *stream, struct prompt_text *out, struct spin_error *err)
{
    uint64_t capacity = READ_BYTES_FIRST;
    char *bytes = malloc(capacity);
    uint64_t count = 0;
    while (bytes != NULL && count <= SPIN_TOKENIZER_TEXT_BYTES_MAX) {
        count += fread(bytes + count, 1, capacity - count, stream);
        if (count < capacity) {
            break;
        }
        capacity *= 2;
        char *larger = realloc(bytes, capacity);
        if (larger == NULL) {
            free(bytes);
        }
        bytes = larger;
    }
    if (bytes == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt: %llu bytes",
                         (unsigned long long)capacity);
    }
    if (ferror(stream) != 0 || count > SPIN_TOKENIZER_TEXT_BYTES_MAX) {
        free(bytes);
        return ferror(stream) != 0
                   ? spin_fail_errno(err, SPIN_ERR_IO, "standard input")
                   : spin_fail(err, SPIN_ERR_LIMIT, "standard input: over %llu bytes",
                               (unsigned long long)SPIN_TOKENIZER_TEXT_BYTES_MAX);
    }
    *out = (struct prompt_text){bytes, count};
    return SPIN_OK;
}

static spin_status copy_text(const char *text, struct prompt_text *out, struct spin_error *err)
{
    out->count = strlen(text);
    out->bytes = strdup(text);
    return out->bytes != NULL ? SPIN_OK : spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt");
}

static spin_status read_text(const struct spin_generate_options *options, const char *argument,
                             struct prompt_text *out, struct spin_error *err)
{
    const int sources = (argument != NULL) + (options->prompt != NULL) + (options->file != NULL);
    if (sources > 1) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "prompt: given %d times; one of the bare argument, --prompt and --file",
                         sources);
    }
    if (argument != NULL || options->prompt != NULL) {
        return copy_text(argument != NULL ? argument : options->prompt, out, err);
    }
    if (options->file != NULL && strcmp(options->file, "-") != 0) {
        return spin_file_read(options->file, SPIN_TOKENIZER_TEXT_BYTES_MAX, &out->bytes,
                              &out->count, err);
    }
    if (options->file == NULL && isatty(STDIN_FILENO) == 1) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "prompt: none; give it as an argument, with --file, or on standard input");
    }
    return read_all(stdin, out, err);
}

static spin_status encode_raw(const struct spin_tokenizer *tokenizer,
                              const struct prompt_text *text, struct spin_token_sink *sink,
                              struct spin_error *err)
{
    return spin_tokenizer_encode(tokenizer, text->bytes, text->count,
                                 SPIN_ENCODE_ADD_BOS | SPIN_ENCODE_PARSE_SPECIAL, sink->tokens,
                                 sink->capacity, &sink->count, err);
}

static spin_status encode_chat(const struct spin_generate_options *options,
                               const struct spin_tokenizer *tokenizer,
                               const struct prompt_text *text, struct spin_token_sink *sink,
                               struct spin_error *err)
{
    struct spin_chat_message messages[2];
    uint32_t count = 0;
    if (options->system != NULL) {
        messages[count++] =
            (struct spin_chat_message){"system", options->system, strlen(options->system)};
    }
    messages[count++] = (struct spin_chat_message){"user", text->bytes, text->count};
    struct spin_chat_prompt prompt = {
        .messages = messages, .message_count = count, .options = {.add_generation_prompt = true}};
    SPIN_TRY(spin_chat_format_find(spin_tokenizer_chat_template(tokenizer), options->chat_template,
                                   &prompt.format, err));
    return spin_chat_encode(tokenizer, &prompt, sink, err);
}

static spin_status encode(const struct spin_generate_options *options,
                          const struct spin_tokenizer *tokenizer, const struct prompt_text *text,
                          struct spin_token_sink *sink, struct spin_error *err)
{
    return options->raw ? encode_raw(tokenizer, text, sink, err)
                        : encode_chat(options, tokenizer, text, sink, err);
}

/* Twice at most: the first time may say how much room is needed. */
static spin_status make_tokens(const struct spin_generate_options *options,
                               const struct spin_tokenizer *tokenizer,
                               const struct prompt_text *text, struct spin_prompt *prompt,
                               struct spin_error *err)
{
    struct spin_token_sink sink = {.capacity = text->count + TOKENS_SLACK};
    for (uint32_t attempt = 0; attempt < 2; attempt++) {
        free(sink.tokens);
        sink.tokens = malloc(sink.capacity * sizeof *sink.tokens);
        if (sink.tokens == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "prompt: %llu tokens",
                             (unsigned long long)sink.capacity);
        }
        const spin_status status = encode(options, tokenizer, text, &sink, err);
        if (status == SPIN_OK) {
            *prompt = (struct spin_prompt){sink.tokens, sink.count};
            return SPIN_OK;
        }
        if (status != SPIN_ERR_LIMIT || sink.count <= sink.capacity) {
            free(sink.tokens);
            return status;
        }
        sink.capacity = sink.count;
    }
    free(sink.tokens);
    return spin_fail(err, SPIN_ERR_INTERNAL, "prompt: the tokenizer changed its mind");
}

spin_status spin_prompt_init(struct spin_prompt *prompt,
                             const struct spin_generate_options *options, const char *argument,
                             const struct spin_tokenizer *tokenizer, struct spin_error *err)
{
    struct prompt_text text = {0};
    SPIN_TRY(read_text(options, argument, &text, err));
    spin_status status = make_tokens(options, tokenizer, &text, prompt, err);
    free(text.bytes);
    if (status == SPIN_OK && prompt->count == 0) {
        spin_prompt_deinit(prompt);
        status = spin_fail(err, SPIN_ERR_INVALID, "prompt: empty");
    }
    return status;
}

void spin_prompt_deinit(struct spin_prompt *prompt)
{
    free(prompt->tokens);
    *prompt = (struct spin_prompt){0};
}
