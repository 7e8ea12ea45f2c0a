#include "model/text/tokenizer.h"

#include "base/assert.h"
#include "model/text/added.h"
#include "model/text/encode.h"
#include "model/text/normalize.h"
#include "model/text/tokenizer_parts.h"
#include "model/text/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Tables of a large model (280,000 merges) take about 20 MB. */
#define TABLE_CHUNK_BYTES (UINT64_C(1) << 20)
#define TABLE_CAP_BYTES (UINT64_C(2) << 30)
/* The longest text as one piece needs 28 bytes a byte, half as much again for arrays outgrown on
 * the way, and its normal form. Address space: pages are touched as far as they are used. */
#define SCRATCH_CHUNK_BYTES (UINT64_C(16) << 10)
#define SCRATCH_CAP_BYTES (UINT64_C(128) * SPIN_TOKENIZER_TEXT_BYTES_MAX)

/* The two sets of added tokens, in the order in which they are looked for. */
enum { ADDED_RAW, ADDED_NORMALIZED, ADDED_COUNT };

struct spin_tokenizer {
    struct spin_arena *arena;
    struct spin_vocab vocab;
    struct spin_bpe bpe;
    struct spin_added added[ADDED_COUNT];
    struct spin_pretokenizer *pretokenizer; /* NULL: a text is one piece */
    uint32_t vocab_count;                   /* vocab.count, and ids without text beyond */
    bool nfc;
    bool add_bos;
    int32_t bos;
    int32_t eos;
    int32_t ends[SPIN_TOKENIZER_ENDS_MAX];
    uint32_t end_count;
    const char *chat_template;
};

/* --- building --------------------------------------------------------------------------------- */

struct spin_tokenizer_parts spin_tokenizer_parts_default(void)
{
    return (struct spin_tokenizer_parts){.unknown = -1, .bos = -1, .eos = -1};
}

static spin_status check_id(const struct spin_tokenizer_parts *parts, int32_t id, const char *what,
                            struct spin_error *err)
{
    if (id >= 0 && (uint32_t)id >= parts->row_count) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "%s token %d: the vocabulary has %u", what, id,
                         parts->row_count);
    }
    return SPIN_OK;
}

static spin_status check_parts(const struct spin_tokenizer_parts *parts, struct spin_error *err)
{
    SPIN_TRY(check_id(parts, parts->unknown, "unknown", err));
    SPIN_TRY(check_id(parts, parts->bos, "bos", err));
    SPIN_TRY(check_id(parts, parts->eos, "eos", err));
    SPIN_ASSERT_LE(parts->end_count, SPIN_TOKENIZER_ENDS_MAX);
    for (uint32_t i = 0; i < parts->end_count; i++) {
        SPIN_TRY(check_id(parts, parts->ends[i], "end", err));
    }
    if (parts->vocab > SPIN_TOKENIZER_VOCAB_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "vocabulary of %u tokens, limit %u", parts->vocab,
                         SPIN_TOKENIZER_VOCAB_MAX);
    }
    if (parts->add_bos && parts->bos < 0) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "add_bos without a bos token");
    }
    if (parts->chat_template.count > SPIN_TEMPLATE_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "chat template of %llu bytes, limit %llu",
                         (unsigned long long)parts->chat_template.count,
                         (unsigned long long)SPIN_TEMPLATE_BYTES_MAX);
    }
    return SPIN_OK;
}

static void add_end(struct spin_tokenizer *tokenizer, int32_t token)
{
    if (token >= 0 && !spin_tokenizer_is_end(tokenizer, token) &&
        tokenizer->end_count < SPIN_TOKENIZER_ENDS_MAX) {
        tokenizer->ends[tokenizer->end_count++] = token;
    }
}

/* Files name one end token at most; chat models stop with another. */
static void find_ends(struct spin_tokenizer *tokenizer, const struct spin_tokenizer_parts *parts)
{
    static const char *const known[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>",
                                        "<|end_of_text|>"};
    add_end(tokenizer, parts->eos);
    for (uint32_t i = 0; i < parts->end_count; i++) {
        add_end(tokenizer, parts->ends[i]);
    }
    for (uint32_t set = 0; set < ADDED_COUNT; set++) {
        const struct spin_added *added = &tokenizer->added[set];
        for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(known); i++) {
            const struct spin_string text = {known[i], strlen(known[i])};
            uint64_t begin = 0;
            const struct spin_added_token *found = spin_added_find(added, text, 0, &begin);
            if (found != NULL && found->special && found->text.count == text.count) {
                add_end(tokenizer, found->token);
            }
        }
    }
}

static spin_status build_tables(struct spin_tokenizer *tokenizer,
                                const struct spin_tokenizer_parts *parts, struct spin_error *err)
{
    struct spin_arena *arena = tokenizer->arena;
    SPIN_TRY(spin_vocab_build(parts->rows, parts->row_count, arena, &tokenizer->vocab, err));
    SPIN_TRY(spin_bpe_build(&parts->merges, &tokenizer->vocab, arena, &tokenizer->bpe, err));
    for (uint32_t set = 0; set < ADDED_COUNT; set++) {
        const struct spin_added_source source = {parts->rows, &tokenizer->vocab,
                                                 set == ADDED_NORMALIZED};
        SPIN_TRY(spin_added_build(&source, arena, &tokenizer->added[set], err));
    }
    if (parts->nfc && tokenizer->added[ADDED_NORMALIZED].count > 0) {
        const int32_t token = tokenizer->added[ADDED_NORMALIZED].tokens[0].token;
        return spin_fail(err, SPIN_ERR_UNSUPPORTED,
                         "added token %d: normalized, together with an NFC normalizer", token);
    }
    if (parts->stage_count > 0) {
        SPIN_TRY(spin_pretokenizer_create(parts->stages, parts->stage_count,
                                          &tokenizer->pretokenizer, err));
    }
    if (parts->chat_template.bytes != NULL) {
        tokenizer->chat_template =
            spin_arena_copy_string(arena, parts->chat_template.bytes, parts->chat_template.count);
        if (tokenizer->chat_template == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "chat template");
        }
    }
    return SPIN_OK;
}

spin_status spin_tokenizer_build(const struct spin_tokenizer_parts *parts,
                                 struct spin_tokenizer **out, struct spin_error *err)
{
    SPIN_TRY(check_parts(parts, err));
    struct spin_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    if (tokenizer == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "tokenizer");
    }
    tokenizer->vocab_count = SPIN_MAX(parts->vocab, parts->row_count);
    tokenizer->nfc = parts->nfc;
    tokenizer->add_bos = parts->add_bos;
    tokenizer->bos = parts->bos;
    tokenizer->eos = parts->eos;
    tokenizer->bpe.unknown = parts->unknown;
    tokenizer->bpe.fuse_unknown = parts->fuse_unknown;
    tokenizer->bpe.ignore_merges = parts->ignore_merges;
    spin_status status;
    SPIN_TRY_GOTO(status,
                  spin_arena_create(TABLE_CHUNK_BYTES, TABLE_CAP_BYTES, &tokenizer->arena, err),
                  fail);
    SPIN_TRY_GOTO(status, build_tables(tokenizer, parts, err), fail);
    find_ends(tokenizer, parts);
    *out = tokenizer;
    return SPIN_OK;
fail:
    spin_tokenizer_close(tokenizer);
    return status;
}

static bool has_suffix(const char *text, const char *suffix)
{
    const size_t bytes = strlen(text);
    const size_t suffix_bytes = strlen(suffix);
    return bytes >= suffix_bytes && strcmp(text + bytes - suffix_bytes, suffix) == 0;
}

spin_status spin_tokenizer_open(const char *source, struct spin_tokenizer **out,
                                struct spin_error *err)
{
    if (strncmp(source, "random:", strlen("random:")) == 0) {
        return spin_tokenizer_open_random(out, err);
    }
    struct stat status;
    if (stat(source, &status) == 0 && S_ISDIR(status.st_mode)) {
        char path[4096];
        const int bytes = snprintf(path, sizeof path, "%s/tokenizer.json", source);
        if (bytes < 0 || (size_t)bytes >= sizeof path) {
            return spin_fail(err, SPIN_ERR_LIMIT, "%.100s...: path of over 4,095 bytes", source);
        }
        return spin_tokenizer_open_json(path, out, err);
    }
    if (has_suffix(source, ".json")) {
        return spin_tokenizer_open_json(source, out, err);
    }
    return spin_tokenizer_open_gguf(source, out, err);
}

void spin_tokenizer_close(struct spin_tokenizer *tokenizer)
{
    if (tokenizer != NULL) {
        spin_pretokenizer_destroy(tokenizer->pretokenizer);
        spin_arena_destroy(tokenizer->arena);
        free(tokenizer);
    }
}

/* --- encoding --------------------------------------------------------------------------------- */

struct encoder {
    const struct spin_tokenizer *tokenizer;
    const struct spin_encode_input *input;
    struct spin_arena *arena;
    struct spin_pretokenizer_matcher *matcher;
    struct spin_bpe_workspace workspace;
    struct spin_token_sink *sink;
};

static spin_status encode_piece(void *context, struct spin_string piece)
{
    struct encoder *encoder = context;
    return spin_bpe_encode(&encoder->tokenizer->bpe, &encoder->tokenizer->vocab, piece,
                           &encoder->workspace, encoder->sink);
}

/* Text between added tokens. */
static spin_status encode_plain(struct encoder *encoder, struct spin_string text)
{
    if (text.count == 0) {
        return SPIN_OK;
    }
    const struct spin_tokenizer *tokenizer = encoder->tokenizer;
    if (tokenizer->nfc) {
        SPIN_TRY(spin_normalize_nfc(text, encoder->arena, &text));
    }
    if (tokenizer->pretokenizer == NULL) {
        return encode_piece(encoder, text);
    }
    return spin_pretokenizer_run(tokenizer->pretokenizer, encoder->matcher, text, encode_piece,
                                 encoder);
}

/* The first span of literal text that [begin, end) touches, or NULL. */
static const struct spin_text_span *touched_literal(const struct spin_encode_input *input,
                                                    uint64_t begin, uint64_t end)
{
    uint32_t low = 0;
    uint32_t high = input->literal_count;
    while (low < high) { /* the first that ends behind `begin` */
        const uint32_t middle = low + (high - low) / 2;
        if (input->literal[middle].end <= begin) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    if (low == input->literal_count || input->literal[low].begin >= end) {
        return NULL;
    }
    return &input->literal[low];
}

/* The added token at exactly `begin` that ends by `limit`, or NULL. */
static const struct spin_added_token *added_within(const struct spin_added *added,
                                                   struct spin_string text, uint64_t begin,
                                                   uint64_t limit)
{
    const struct spin_string within = {text.bytes, limit};
    uint64_t found_at = 0;
    const struct spin_added_token *found = spin_added_find(added, within, begin, &found_at);
    return found != NULL && found_at == begin ? found : NULL;
}

/* The next added token of `set` that counts, at or after *from. One that is special where it may
 * not be is stepped over whole, as the reference does. In literal text only up to that text's end,
 * so that it cannot swallow the format's own token behind it; and where it begins in the format and
 * runs on into literal text, the longest that does not is what the format meant. */
static const struct spin_added_token *next_added(struct encoder *encoder, uint32_t set,
                                                 struct spin_string text, uint64_t *from)
{
    const struct spin_added *added = &encoder->tokenizer->added[set];
    const uint64_t base = (uint64_t)(text.bytes - encoder->input->text.bytes);
    for (uint64_t at = *from;;) {
        const struct spin_added_token *found = spin_added_find(added, text, at, from);
        if (found == NULL || !found->special) {
            return found;
        }
        const uint64_t begin = *from;
        const uint64_t end = begin + found->text.count;
        at = end;
        if ((encoder->input->flags & SPIN_ENCODE_PARSE_SPECIAL) == 0) {
            continue;
        }
        const struct spin_text_span *literal =
            touched_literal(encoder->input, base + begin, base + end);
        if (literal == NULL) {
            return found;
        }
        if (literal->begin > base + begin) {
            found = added_within(added, text, begin, literal->begin - base);
            if (found != NULL) {
                return found;
            }
            at = begin + 1;
        } else {
            at = SPIN_MIN(end, literal->end - base);
        }
    }
}

/* The depth of recursion is the number of sets. */
static spin_status encode_set(struct encoder *encoder, uint32_t set, struct spin_string text)
{
    if (set == ADDED_COUNT) {
        return encode_plain(encoder, text);
    }
    uint64_t at = 0;
    for (;;) {
        uint64_t begin = at;
        const struct spin_added_token *found = next_added(encoder, set, text, &begin);
        const uint64_t end = found == NULL ? text.count : begin;
        SPIN_TRY(encode_set(encoder, set + 1, (struct spin_string){text.bytes + at, end - at}));
        if (found == NULL) {
            return SPIN_OK;
        }
        spin_token_sink_put(encoder->sink, found->token);
        at = begin + found->text.count;
    }
}

/* Valid UTF-8, or a copy with the rest replaced. */
static spin_status make_valid(struct spin_arena *arena, struct spin_string *text)
{
    const uint64_t valid = spin_utf8_valid_prefix(text->bytes, text->count);
    if (valid == text->count) {
        return SPIN_OK;
    }
    char *copy = spin_arena_take(arena, text->count * SPIN_UTF8_REPLACEMENT_BYTES);
    if (copy == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    const uint64_t bytes = spin_utf8_replace(text->bytes, text->count, copy);
    *text = (struct spin_string){copy, bytes};
    return SPIN_OK;
}

static spin_status encode_with(struct encoder *encoder, struct spin_encode_input *input)
{
    const struct spin_tokenizer *tokenizer = encoder->tokenizer;
    SPIN_TRY(make_valid(encoder->arena, &input->text));
    if (tokenizer->pretokenizer != NULL) {
        SPIN_TRY(spin_pretokenizer_matcher_create(tokenizer->pretokenizer, &encoder->matcher));
    }
    if ((input->flags & SPIN_ENCODE_ADD_BOS) != 0 && tokenizer->add_bos) {
        spin_token_sink_put(encoder->sink, tokenizer->bos);
    }
    const spin_status status = encode_set(encoder, 0, input->text);
    spin_pretokenizer_matcher_destroy(encoder->matcher);
    return status;
}

spin_status spin_tokenizer_encode_input(const struct spin_tokenizer *tokenizer,
                                        const struct spin_encode_input *input,
                                        struct spin_token_sink *sink, struct spin_error *err)
{
    if (input->text.count > SPIN_TOKENIZER_TEXT_BYTES_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "text of %llu bytes, limit %llu",
                         (unsigned long long)input->text.count,
                         (unsigned long long)SPIN_TOKENIZER_TEXT_BYTES_MAX);
    }
    struct spin_encode_input valid = *input;
    struct encoder encoder = {.tokenizer = tokenizer, .input = &valid, .sink = sink};
    SPIN_TRY(spin_arena_create(SCRATCH_CHUNK_BYTES, SCRATCH_CAP_BYTES, &encoder.arena, err));
    encoder.workspace.arena = encoder.arena;
    const spin_status status = encode_with(&encoder, &valid);
    SPIN_ASSERT(valid.literal_count == 0 || valid.text.bytes == input->text.bytes);
    spin_arena_destroy(encoder.arena);
    if (status != SPIN_OK) {
        return spin_fail(err, status, "encoding %llu bytes of text",
                         (unsigned long long)input->text.count);
    }
    if (sink->count > sink->capacity) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%llu tokens, room for %llu",
                         (unsigned long long)sink->count, (unsigned long long)sink->capacity);
    }
    return SPIN_OK;
}

/* NOLINTNEXTLINE(readability-function-size): the public contract spells its arguments out. */
spin_status spin_tokenizer_encode(const struct spin_tokenizer *tokenizer, const char *text,
                                  uint64_t text_bytes, uint32_t flags, int32_t *tokens,
                                  uint64_t capacity, uint64_t *count, struct spin_error *err)
{
    const struct spin_encode_input input = {.text = {text, text_bytes}, .flags = flags};
    struct spin_token_sink sink = {.capacity = capacity};
    sink.tokens = tokens;
    const spin_status status = spin_tokenizer_encode_input(tokenizer, &input, &sink, err);
    if (status == SPIN_OK || status == SPIN_ERR_LIMIT) {
        *count = sink.count;
    }
    return status;
}

/* --- asking ----------------------------------------------------------------------------------- */

bool spin_tokenizer_piece(const struct spin_tokenizer *tokenizer, int32_t token, const char **bytes,
                          uint32_t *byte_count)
{
    if (token < 0 || (uint32_t)token >= tokenizer->vocab_count) {
        return false;
    }
    const struct spin_vocab *vocab = &tokenizer->vocab;
    if ((uint32_t)token >= vocab->count) {
        *bytes = "";
        *byte_count = 0;
        return true;
    }
    const uint32_t begin = vocab->offsets[token];
    *bytes = vocab->bytes + begin;
    *byte_count = vocab->offsets[token + 1] - begin;
    return true;
}

bool spin_tokenizer_is_special(const struct spin_tokenizer *tokenizer, int32_t token)
{
    return token >= 0 && (uint32_t)token < tokenizer->vocab.count &&
           tokenizer->vocab.kinds[token] == SPIN_TOKEN_SPECIAL;
}

bool spin_tokenizer_is_end(const struct spin_tokenizer *tokenizer, int32_t token)
{
    for (uint32_t i = 0; i < tokenizer->end_count; i++) {
        if (tokenizer->ends[i] == token) {
            return true;
        }
    }
    return false;
}

uint32_t spin_tokenizer_end_tokens(const struct spin_tokenizer *tokenizer, int32_t *tokens,
                                   uint32_t capacity)
{
    for (uint32_t i = 0; i < SPIN_MIN(tokenizer->end_count, capacity); i++) {
        tokens[i] = tokenizer->ends[i];
    }
    return tokenizer->end_count;
}

uint32_t spin_tokenizer_vocab(const struct spin_tokenizer *tokenizer)
{
    return tokenizer->vocab_count;
}

int32_t spin_tokenizer_bos(const struct spin_tokenizer *tokenizer)
{
    return tokenizer->bos;
}

int32_t spin_tokenizer_eos(const struct spin_tokenizer *tokenizer)
{
    return tokenizer->eos;
}

const char *spin_tokenizer_chat_template(const struct spin_tokenizer *tokenizer)
{
    return tokenizer->chat_template;
}

uint32_t spin_tokenizer_piece_bytes_max(const struct spin_tokenizer *tokenizer)
{
    return tokenizer->vocab.piece_bytes_max;
}
