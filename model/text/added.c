#include "model/text/added.h"

#include <stdlib.h>
#include <string.h>

static int compare_tokens(const void *left, const void *right)
{
    const struct spin_added_token *a = left;
    const struct spin_added_token *b = right;
    const int order = memcmp(a->text.bytes, b->text.bytes, SPIN_MIN(a->text.count, b->text.count));
    if (order != 0) {
        return order;
    }
    return (a->text.count > b->text.count) - (a->text.count < b->text.count);
}

static bool is_wanted(const struct spin_token_row *row, bool normalized)
{
    return (row->kind == SPIN_TOKEN_ADDED || row->kind == SPIN_TOKEN_SPECIAL) &&
           row->normalized == normalized && row->text.count > 0;
}

/* Sorted, so equal texts are neighbours. */
static spin_status check_tokens(const struct spin_added_token *tokens, uint32_t count,
                                struct spin_error *err)
{
    for (uint32_t i = 0; i < count; i++) {
        if (tokens[i].text.count > SPIN_ADDED_BYTES_MAX) {
            return spin_fail(err, SPIN_ERR_LIMIT, "added token %d has %llu bytes, limit %u",
                             tokens[i].token, (unsigned long long)tokens[i].text.count,
                             SPIN_ADDED_BYTES_MAX);
        }
        if (i > 0 && compare_tokens(&tokens[i - 1], &tokens[i]) == 0) {
            return spin_fail(err, SPIN_ERR_CORRUPT, "added tokens %d and %d have one text",
                             tokens[i - 1].token, tokens[i].token);
        }
    }
    return SPIN_OK;
}

spin_status spin_added_build(const struct spin_added_source *source, struct spin_arena *arena,
                             struct spin_added *out, struct spin_error *err)
{
    const struct spin_token_row *rows = source->rows;
    const struct spin_vocab *vocab = source->vocab;
    uint32_t count = 0;
    for (uint32_t id = 0; id < vocab->count; id++) {
        count += is_wanted(&rows[id], source->normalized) ? 1 : 0;
    }
    struct spin_added_token *tokens = spin_arena_take(arena, count * sizeof *tokens);
    if (tokens == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%u added tokens", count);
    }
    uint32_t filled = 0;
    for (uint32_t id = 0; id < vocab->count; id++) {
        if (is_wanted(&rows[id], source->normalized)) {
            const uint32_t begin = vocab->offsets[id];
            tokens[filled++] = (struct spin_added_token){
                {vocab->bytes + begin, vocab->offsets[id + 1] - begin},
                (int32_t)id,
                rows[id].kind == SPIN_TOKEN_SPECIAL,
            };
        }
    }
    qsort(tokens, count, sizeof *tokens, compare_tokens);
    SPIN_TRY(check_tokens(tokens, count, err));
    *out = (struct spin_added){.tokens = tokens, .count = count};
    for (uint32_t byte = 0, at = 0; byte <= 256; byte++) {
        while (at < count && (uint8_t)tokens[at].text.bytes[0] < byte) {
            at++;
        }
        out->first[byte] = at;
    }
    return SPIN_OK;
}

/* The first token of [begin, end), all alike in `depth` bytes, whose byte at `depth` is at least
 * `byte`; the one that ends there counts as less than all. */
static uint32_t lower_bound(const struct spin_added *added, uint32_t begin, uint32_t end,
                            uint64_t depth, uint32_t byte)
{
    while (begin < end) {
        const uint32_t middle = begin + (end - begin) / 2;
        const struct spin_string text = added->tokens[middle].text;
        if (text.count <= depth || (uint8_t)text.bytes[depth] < byte) {
            begin = middle + 1;
        } else {
            end = middle;
        }
    }
    return begin;
}

static const struct spin_added_token *longest_at(const struct spin_added *added,
                                                 struct spin_string text)
{
    const uint8_t lead = (uint8_t)text.bytes[0];
    uint32_t begin = added->first[lead];
    uint32_t end = added->first[lead + 1];
    const struct spin_added_token *longest = NULL;
    for (uint64_t depth = 1; begin < end; depth++) {
        if (added->tokens[begin].text.count == depth) {
            longest = &added->tokens[begin];
        }
        if (depth == text.count) {
            break;
        }
        const uint32_t byte = (uint8_t)text.bytes[depth];
        begin = lower_bound(added, begin, end, depth, byte);
        end = lower_bound(added, begin, end, depth, byte + 1);
    }
    return longest;
}

const struct spin_added_token *spin_added_find(const struct spin_added *added,
                                               struct spin_string text, uint64_t from,
                                               uint64_t *begin)
{
    if (added->count == 0) {
        return NULL;
    }
    for (uint64_t at = from; at < text.count; at++) {
        const uint8_t lead = (uint8_t)text.bytes[at];
        if (added->first[lead] == added->first[lead + 1]) {
            continue;
        }
        const struct spin_added_token *found =
            longest_at(added, (struct spin_string){text.bytes + at, text.count - at});
        if (found != NULL) {
            *begin = at;
            return found;
        }
    }
    return NULL;
}
