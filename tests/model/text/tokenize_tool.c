/* tokenize_tool: the tokenizer behind a pipe, for comparisons in Python.
 *
 *   tokenize_tool SOURCE            prints what the tokenizer says about itself, then serves stdin
 *
 * A request is one byte (the operation), a little-endian u32 (bytes or ids that follow), and those:
 *   'e' / 's'   text, encoded plain / with special tokens parsed
 *   'd' / 'k'   i32 ids, decoded as a stream whole / with special tokens left out
 * An answer is a u32 count and that many i32 ids ('e', 's') or bytes ('d', 'k'). */
#include "base/assert.h"
#include "model/text/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct buffers {
    char *bytes;
    int32_t *ids;
    uint64_t capacity; /* of both, in elements */
};

static void grow(struct buffers *buffers, uint64_t capacity)
{
    if (capacity <= buffers->capacity) {
        return;
    }
    buffers->capacity = 2 * capacity;
    buffers->bytes = realloc(buffers->bytes, buffers->capacity);
    buffers->ids = realloc(buffers->ids, buffers->capacity * sizeof *buffers->ids);
    SPIN_ASSERT(buffers->bytes != NULL && buffers->ids != NULL);
}

static void answer(const void *elements, uint32_t count, size_t size)
{
    SPIN_ASSERT_EQ(fwrite(&count, sizeof count, 1, stdout), 1);
    SPIN_ASSERT_EQ(fwrite(elements, size, count, stdout), count);
}

static void encode(const struct spin_tokenizer *tokenizer, struct buffers *buffers, uint32_t bytes,
                   uint32_t flags)
{
    grow(buffers, 3 * (uint64_t)bytes + 1); /* a bad byte can become three tokens */
    SPIN_ASSERT_EQ(fread(buffers->bytes, 1, bytes, stdin), bytes);
    uint64_t count = 0;
    struct spin_error err;
    if (spin_tokenizer_encode(tokenizer, buffers->bytes, bytes, flags, buffers->ids,
                              buffers->capacity, &count, &err) != SPIN_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    answer(buffers->ids, (uint32_t)count, sizeof *buffers->ids);
}

static void decode(const struct spin_tokenizer *tokenizer, struct buffers *buffers, uint32_t ids,
                   bool skip_special)
{
    const uint64_t per_token = 3 * (uint64_t)spin_tokenizer_piece_bytes_max(tokenizer) + 12;
    grow(buffers, ids);
    SPIN_ASSERT_EQ(fread(buffers->ids, sizeof *buffers->ids, ids, stdin), ids);
    struct spin_detokenizer detokenizer;
    spin_detokenizer_init(&detokenizer, tokenizer, skip_special);
    uint64_t count = 0;
    for (uint32_t i = 0; i <= ids; i++) {
        grow(buffers, count + per_token);
        char *at = buffers->bytes + count;
        const uint64_t room = buffers->capacity - count;
        count += i < ids ? spin_detokenizer_push(&detokenizer, buffers->ids[i], at, room)
                         : spin_detokenizer_finish(&detokenizer, at, room);
    }
    answer(buffers->bytes, (uint32_t)count, 1);
}

static void describe(const struct spin_tokenizer *tokenizer)
{
    printf("vocab %u bos %d eos %d ends", spin_tokenizer_vocab(tokenizer),
           spin_tokenizer_bos(tokenizer), spin_tokenizer_eos(tokenizer));
    int32_t ends[16];
    const uint32_t count = spin_tokenizer_end_tokens(tokenizer, ends, SPIN_ARRAY_COUNT(ends));
    for (uint32_t i = 0; i < count; i++) {
        printf(" %d", ends[i]);
    }
    printf("\n");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct spin_tokenizer *tokenizer = NULL;
    struct spin_error err;
    if (argc != 2) {
        fprintf(stderr, "usage: tokenize_tool SOURCE\n");
        return 2;
    }
    if (spin_tokenizer_open(argv[1], &tokenizer, &err) != SPIN_OK) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    describe(tokenizer);
    struct buffers buffers = {0};
    grow(&buffers, 1 << 16);
    for (int operation = getchar(); operation != EOF; operation = getchar()) {
        uint32_t count = 0;
        SPIN_ASSERT_EQ(fread(&count, sizeof count, 1, stdin), 1);
        if (operation == 'e' || operation == 's') {
            encode(tokenizer, &buffers, count,
                   operation == 's' ? SPIN_ENCODE_PARSE_SPECIAL : SPIN_ENCODE_PLAIN);
        } else {
            decode(tokenizer, &buffers, count, operation == 'k');
        }
        fflush(stdout);
    }
    free(buffers.bytes);
    free(buffers.ids);
    spin_tokenizer_close(tokenizer);
    return 0;
}
