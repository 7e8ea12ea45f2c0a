#include "router/session/text_stream.h"

#include "base/assert.h"
#include "model/text/utf8.h"
#include "router/session/stop_filter.h"

#include <stdlib.h>

/* Where the text of some tokens ends. */
struct token_end {
    uint64_t at; /* bytes of text, counted from the beginning */
    uint32_t tokens;
};

/* Three counts of bytes, from the beginning of the text, tell which tokens are out:
 *
 *     tokens   |  t0  |   t1   | t2 |  t3  |   t4   . . the character that t4 ends in is not whole
 *     text     ----------------^----------------^
 *                              passed           made        t0, t1 are out; t2, t3 are in `ends`;
 *                              (the rest is held back)      t4 is `unended` */
struct spin_text_stream {
    struct spin_detokenizer detokenizer;
    struct spin_stop_filter *filter;
    uint64_t made;
    uint64_t passed;
    /* A ring. Tokens that end at the same byte share an entry, and what is held back is bounded, so
     * the entries are, however many tokens give no text. */
    struct token_end *ends;
    uint32_t end_first;
    uint32_t end_count;
    uint32_t end_capacity;
    uint32_t unended;
    char *piece; /* what the detokenizer gave */
    uint64_t piece_capacity;
    char *out; /* and what the filter let through */
};

spin_status spin_text_stream_create(const struct spin_tokenizer *tokenizer,
                                    const struct spin_stop_strings *stop,
                                    struct spin_text_stream **out, struct spin_error *err)
{
    struct spin_text_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "text stream: %zu bytes", sizeof *stream);
    }
    spin_status status;
    SPIN_TRY_GOTO(status, spin_stop_filter_create(stop, &stream->filter, err), fail);
    spin_detokenizer_init(&stream->detokenizer, tokenizer, true);
    const uint32_t held_max = spin_stop_filter_held_max(stream->filter);
    /* Ends after `passed`, at most one a byte: the bytes held back before a push, and its token's
     * own two (where a character is completed that others began, and its own). */
    stream->end_capacity = held_max + 2;
    /* tokenizer.h: a byte may become three, and a character may be pending. */
    stream->piece_capacity = (uint64_t)spin_tokenizer_piece_bytes_max(tokenizer) * 3 + 12;
    stream->ends = calloc(stream->end_capacity, sizeof *stream->ends);
    stream->piece = malloc(stream->piece_capacity);
    stream->out = malloc(stream->piece_capacity + held_max + SPIN_UTF8_REPLACEMENT_BYTES);
    if (stream->ends == NULL || stream->piece == NULL || stream->out == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "text stream: its buffers");
        goto fail;
    }
    *out = stream;
    return SPIN_OK;
fail:
    spin_text_stream_destroy(stream);
    return status;
}

void spin_text_stream_destroy(struct spin_text_stream *stream)
{
    if (stream != NULL) {
        spin_stop_filter_destroy(stream->filter);
        free(stream->ends);
        free(stream->piece);
        free(stream->out);
        free(stream);
    }
}

static void add_end(struct spin_text_stream *stream, uint64_t at, uint32_t tokens)
{
    const uint32_t capacity = stream->end_capacity;
    if (stream->end_count > 0) {
        struct token_end *last =
            &stream->ends[(stream->end_first + stream->end_count - 1) % capacity];
        SPIN_DASSERT(last->at <= at);
        if (last->at == at) {
            last->tokens += tokens;
            return;
        }
    }
    SPIN_ASSERT(stream->end_count < capacity);
    stream->ends[(stream->end_first + stream->end_count) % capacity] =
        (struct token_end){at, tokens};
    stream->end_count++;
}

/* Counts what the detokenizer gave for one more token, or for none at the end. */
static void add_piece(struct spin_text_stream *stream, uint64_t bytes, uint32_t tokens)
{
    if (bytes > 0 && stream->unended > 0) {
        /* What was pending is decided: it is the first character of the piece. */
        uint32_t length = 0;
        (void)spin_utf8_step(stream->piece, bytes, &length);
        add_end(stream, stream->made + length, stream->unended);
        stream->unended = 0;
    }
    stream->made += bytes;
    if (stream->detokenizer.pending_bytes > 0) {
        stream->unended += tokens;
    } else if (tokens > 0) {
        add_end(stream, stream->made, tokens);
    }
}

/* The tokens that end within what has passed. */
static uint32_t take_tokens(struct spin_text_stream *stream)
{
    uint32_t tokens = 0;
    while (stream->end_count > 0 && stream->ends[stream->end_first].at <= stream->passed) {
        tokens += stream->ends[stream->end_first].tokens;
        stream->end_first = (stream->end_first + 1) % stream->end_capacity;
        stream->end_count--;
    }
    return tokens;
}

spin_status spin_text_stream_push(struct spin_text_stream *stream, int32_t token,
                                  struct spin_text *out, struct spin_error *err)
{
    const uint32_t vocab = spin_tokenizer_vocab(stream->detokenizer.tokenizer);
    if (token < 0 || (uint32_t)token >= vocab) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "token %d, but the tokenizer knows %u: it is another model's", token,
                         vocab);
    }
    *out = (struct spin_text){.bytes = stream->out};
    if (spin_stop_filter_found(stream->filter) >= 0) {
        return SPIN_OK;
    }
    const uint64_t bytes =
        spin_detokenizer_push(&stream->detokenizer, token, stream->piece, stream->piece_capacity);
    add_piece(stream, bytes, 1);
    out->count = spin_stop_filter_push(stream->filter, stream->piece, bytes, stream->out);
    stream->passed += out->count;
    out->tokens = take_tokens(stream);
    return SPIN_OK;
}

struct spin_text spin_text_stream_finish(struct spin_text_stream *stream)
{
    struct spin_text text = {.bytes = stream->out};
    if (spin_stop_filter_found(stream->filter) >= 0) {
        return text;
    }
    const uint64_t bytes =
        spin_detokenizer_finish(&stream->detokenizer, stream->piece, stream->piece_capacity);
    add_piece(stream, bytes, 0);
    text.count = spin_stop_filter_push(stream->filter, stream->piece, bytes, stream->out);
    text.count += spin_stop_filter_finish(stream->filter, stream->out + text.count);
    stream->passed += text.count;
    text.tokens = take_tokens(stream);
    return text;
}

int32_t spin_text_stream_stopped(const struct spin_text_stream *stream)
{
    return spin_stop_filter_found(stream->filter);
}
