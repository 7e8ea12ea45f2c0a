#include "client/text_stream.h"

#include "client/stop_filter.h"

#include <stdlib.h>

/* A character begun and not ended, as U+FFFD. */
#define TAIL_BYTES_MAX 3u

struct spin_text_stream {
    struct spin_detokenizer detokenizer;
    struct spin_stop_filter filter;
    char *piece; /* what the detokenizer gave */
    uint64_t piece_capacity;
    char *out; /* and what the filter let through */
};

spin_status spin_text_stream_create(const struct spin_tokenizer *tokenizer, const char *stop,
                                    struct spin_text_stream **out, struct spin_error *err)
{
    struct spin_text_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "text stream: %zu bytes", sizeof *stream);
    }
    spin_status status;
    SPIN_TRY_GOTO(status, spin_stop_filter_init(&stream->filter, stop, err), fail);
    spin_detokenizer_init(&stream->detokenizer, tokenizer, true);
    /* tokenizer.h: a byte may become three, and a character may be pending. */
    stream->piece_capacity = (uint64_t)spin_tokenizer_piece_bytes_max(tokenizer) * 3 + 12;
    stream->piece = malloc(stream->piece_capacity);
    stream->out = malloc(stream->piece_capacity + SPIN_STOP_BYTES_MAX + TAIL_BYTES_MAX);
    if (stream->piece == NULL || stream->out == NULL) {
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
        free(stream->piece);
        free(stream->out);
        free(stream);
    }
}

spin_status spin_text_stream_push(struct spin_text_stream *stream, int32_t token,
                                  struct spin_text *out, struct spin_error *err)
{
    const uint32_t vocab = spin_tokenizer_vocab(stream->detokenizer.tokenizer);
    if (token < 0 || (uint32_t)token >= vocab) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "token %d, but --model has a vocabulary of %u: not the worker's model",
                         token, vocab);
    }
    const uint64_t bytes =
        spin_detokenizer_push(&stream->detokenizer, token, stream->piece, stream->piece_capacity);
    out->count = spin_stop_filter_push(&stream->filter, stream->piece, bytes, stream->out);
    out->bytes = stream->out;
    return SPIN_OK;
}

struct spin_text spin_text_stream_finish(struct spin_text_stream *stream)
{
    const uint64_t bytes =
        spin_detokenizer_finish(&stream->detokenizer, stream->piece, stream->piece_capacity);
    uint64_t count = spin_stop_filter_push(&stream->filter, stream->piece, bytes, stream->out);
    count += spin_stop_filter_finish(&stream->filter, stream->out + count);
    return (struct spin_text){.bytes = stream->out, .count = count};
}

bool spin_text_stream_stopped(const struct spin_text_stream *stream)
{
    return stream->filter.found;
}
