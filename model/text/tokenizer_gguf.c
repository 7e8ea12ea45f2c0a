#include "base/assert.h"
#include "base/file.h"
#include "model/format/gguf.h"
#include "model/format/name.h"
#include "model/text/tokenizer_parts.h"

#include <string.h>

/* Rows of the largest vocabulary and merge list: 160 MB of address space, touched as far as
 * used. */
#define SCRATCH_CHUNK_BYTES (UINT64_C(1) << 20)
#define SCRATCH_CAP_BYTES (UINT64_C(1) << 30)

/* tokenizer.ggml.token_type */
enum gguf_token_type {
    GGUF_TOKEN_NORMAL = 1,
    GGUF_TOKEN_UNKNOWN = 2,
    GGUF_TOKEN_CONTROL = 3,
    GGUF_TOKEN_USER_DEFINED = 4,
    GGUF_TOKEN_UNUSED = 5
};

/* A GGUF file names the pre-tokenizer; what the name stands for is in the model's
 * tokenizer.json. */
struct family {
    const char *pre;
    enum spin_split stages[2];
    uint32_t stage_count;
    bool nfc;
    bool llama3; /* whole pieces that are tokens skip the merges; BOS unless the file says no */
};

static const struct family families[] = {
    {"gpt-2", {SPIN_SPLIT_GPT2}, 1, false, false},
    {"smollm", {SPIN_SPLIT_DIGIT, SPIN_SPLIT_GPT2}, 2, false, false},
    {"llama-bpe", {SPIN_SPLIT_LLAMA3}, 1, false, true},
    {"llama3", {SPIN_SPLIT_LLAMA3}, 1, false, true},
    {"llama-v3", {SPIN_SPLIT_LLAMA3}, 1, false, true},
    {"qwen2", {SPIN_SPLIT_QWEN2}, 1, true, false},
};

struct loader {
    const struct spin_gguf *gguf;
    struct spin_arena *arena;
    struct spin_tokenizer_parts *parts;
    struct spin_error *err;
};

/* The start of a string for an error text; *bytes is its length. */
static const char *quote(struct spin_string string, int *bytes)
{
    static const char unprintable[] = "(unprintable)";
    if (!spin_name_is_printable(string.bytes, string.count)) {
        *bytes = (int)strlen(unprintable);
        return unprintable;
    }
    *bytes = (int)SPIN_MIN(string.count, 60);
    return string.bytes;
}

static bool is_text(struct spin_string string, const char *text)
{
    return string.count == strlen(text) && memcmp(string.bytes, text, string.count) == 0;
}

/* NOT_FOUND comes without a text; for a key that must be there it is the file's fault. */
static spin_status required(const struct loader *loader, const char *key, spin_status status)
{
    if (status == SPIN_ERR_NOT_FOUND) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT, "%s: not in the file", key);
    }
    return status;
}

static spin_status required_string(const struct loader *loader, const char *key,
                                   struct spin_string *out)
{
    return required(loader, key, spin_gguf_string(loader->gguf, key, out, loader->err));
}

static spin_status required_array(const struct loader *loader, const char *key,
                                  struct spin_gguf_array *out)
{
    return required(loader, key, spin_gguf_array(loader->gguf, key, out, loader->err));
}

static spin_status load_kind(struct loader *loader)
{
    struct spin_string model;
    struct spin_string pre;
    SPIN_TRY(required_string(loader, "tokenizer.ggml.model", &model));
    int bytes = 0;
    if (!is_text(model, "gpt2")) {
        const char *name = quote(model, &bytes);
        return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED,
                         "tokenizer.ggml.model '%.*s': only gpt2 (byte-level BPE)", bytes, name);
    }
    SPIN_TRY(required_string(loader, "tokenizer.ggml.pre", &pre));
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(families); i++) {
        const struct family *family = &families[i];
        if (is_text(pre, family->pre)) {
            memcpy(loader->parts->stages, family->stages, sizeof family->stages);
            loader->parts->stage_count = family->stage_count;
            loader->parts->nfc = family->nfc;
            loader->parts->ignore_merges = family->llama3;
            loader->parts->add_bos = family->llama3;
            return SPIN_OK;
        }
    }
    const char *name = quote(pre, &bytes);
    return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED,
                     "tokenizer.ggml.pre '%.*s': have gpt-2, smollm, llama-bpe, qwen2", bytes,
                     name);
}

static spin_status kind_of_type(int32_t type, uint64_t index, enum spin_token_kind *out,
                                struct spin_error *err)
{
    switch (type) {
    case GGUF_TOKEN_NORMAL:
        *out = SPIN_TOKEN_NORMAL;
        return SPIN_OK;
    case GGUF_TOKEN_UNKNOWN:
    case GGUF_TOKEN_CONTROL:
        *out = SPIN_TOKEN_SPECIAL;
        return SPIN_OK;
    case GGUF_TOKEN_USER_DEFINED:
        *out = SPIN_TOKEN_ADDED;
        return SPIN_OK;
    case GGUF_TOKEN_UNUSED:
        *out = SPIN_TOKEN_UNUSED;
        return SPIN_OK;
    default:
        return spin_fail(err, SPIN_ERR_CORRUPT, "tokenizer.ggml.token_type: token %llu has type %d",
                         (unsigned long long)index, type);
    }
}

static spin_status load_kinds(struct loader *loader, struct spin_token_row *rows, uint64_t count)
{
    struct spin_gguf_array types;
    SPIN_TRY(required_array(loader, "tokenizer.ggml.token_type", &types));
    if ((types.type != SPIN_GGUF_I32 && types.type != SPIN_GGUF_U32) || types.count != count) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                         "tokenizer.ggml.token_type: %llu elements of type %d for %llu tokens",
                         (unsigned long long)types.count, (int)types.type,
                         (unsigned long long)count);
    }
    for (uint64_t i = 0; i < count; i++) {
        int32_t type;
        memcpy(&type, types.bytes + i * sizeof type, sizeof type);
        SPIN_TRY(kind_of_type(type, i, &rows[i].kind, loader->err));
    }
    return SPIN_OK;
}

static spin_status load_tokens(struct loader *loader)
{
    struct spin_gguf_array tokens;
    SPIN_TRY(required_array(loader, "tokenizer.ggml.tokens", &tokens));
    if (tokens.type != SPIN_GGUF_STRING) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT, "tokenizer.ggml.tokens: not strings");
    }
    if (tokens.count == 0 || tokens.count > SPIN_TOKENIZER_VOCAB_MAX) {
        return spin_fail(loader->err, SPIN_ERR_LIMIT, "tokenizer.ggml.tokens: %llu, limit %u",
                         (unsigned long long)tokens.count, SPIN_TOKENIZER_VOCAB_MAX);
    }
    struct spin_token_row *rows = spin_arena_take_zeroed(loader->arena, tokens.count, sizeof *rows);
    if (rows == NULL) {
        return spin_fail(loader->err, SPIN_ERR_NO_MEMORY, "%llu tokens",
                         (unsigned long long)tokens.count);
    }
    uint64_t cursor = 0;
    uint64_t filled = 0;
    while (filled < tokens.count &&
           spin_gguf_array_next_string(&tokens, &cursor, &rows[filled].text)) {
        filled++;
    }
    SPIN_ASSERT_EQ(filled, tokens.count);
    loader->parts->rows = rows;
    loader->parts->row_count = (uint32_t)tokens.count;
    return load_kinds(loader, rows, tokens.count);
}

/* "left right": neither has a space, the byte alphabet spells it otherwise. */
static spin_status split_merge(struct spin_string text, uint64_t index, struct spin_merge_row *out,
                               struct spin_error *err)
{
    const char *space = text.count == 0 ? NULL : memchr(text.bytes, ' ', text.count);
    if (space == NULL) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "tokenizer.ggml.merges: merge %llu has no space",
                         (unsigned long long)index);
    }
    const uint64_t left = (uint64_t)(space - text.bytes);
    out->left = (struct spin_string){text.bytes, left};
    out->right = (struct spin_string){space + 1, text.count - left - 1};
    return SPIN_OK;
}

static spin_status load_merges(struct loader *loader)
{
    struct spin_gguf_array merges;
    SPIN_TRY(required_array(loader, "tokenizer.ggml.merges", &merges));
    if (merges.type != SPIN_GGUF_STRING) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT, "tokenizer.ggml.merges: not strings");
    }
    if (merges.count > SPIN_MERGES_MAX) {
        return spin_fail(loader->err, SPIN_ERR_LIMIT, "tokenizer.ggml.merges: %llu, limit %u",
                         (unsigned long long)merges.count, SPIN_MERGES_MAX);
    }
    struct spin_merge_row *rows = spin_arena_take(loader->arena, merges.count * sizeof *rows);
    if (rows == NULL) {
        return spin_fail(loader->err, SPIN_ERR_NO_MEMORY, "%llu merges",
                         (unsigned long long)merges.count);
    }
    uint64_t cursor = 0;
    struct spin_string text;
    for (uint64_t i = 0; i < merges.count; i++) {
        SPIN_ASSERT(spin_gguf_array_next_string(&merges, &cursor, &text));
        SPIN_TRY(split_merge(text, i, &rows[i], loader->err));
    }
    loader->parts->merges = (struct spin_merge_list){rows, merges.count};
    return SPIN_OK;
}

/* An optional key: absent leaves *out alone. */
static spin_status load_id(struct loader *loader, const char *key, int32_t *out)
{
    uint64_t value;
    const spin_status status = spin_gguf_u64(loader->gguf, key, &value, loader->err);
    if (status == SPIN_ERR_NOT_FOUND) {
        return SPIN_OK;
    }
    SPIN_TRY(status);
    if (value >= loader->parts->row_count) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT, "%s %llu: the vocabulary has %u", key,
                         (unsigned long long)value, loader->parts->row_count);
    }
    *out = (int32_t)value;
    return SPIN_OK;
}

static spin_status load_specials(struct loader *loader)
{
    struct spin_tokenizer_parts *parts = loader->parts;
    static const char *const end_keys[] = {"tokenizer.ggml.eot_token_id",
                                           "tokenizer.ggml.eom_token_id"};
    SPIN_TRY(load_id(loader, "tokenizer.ggml.bos_token_id", &parts->bos));
    SPIN_TRY(load_id(loader, "tokenizer.ggml.eos_token_id", &parts->eos));
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(end_keys); i++) {
        int32_t end = -1;
        SPIN_TRY(load_id(loader, end_keys[i], &end));
        if (end >= 0) {
            parts->ends[parts->end_count++] = end;
        }
    }
    spin_status status =
        spin_gguf_bool(loader->gguf, "tokenizer.ggml.add_bos_token", &parts->add_bos, loader->err);
    if (status != SPIN_OK && status != SPIN_ERR_NOT_FOUND) {
        return status;
    }
    parts->add_bos = parts->add_bos && (status == SPIN_OK || parts->bos >= 0);
    status = spin_gguf_string(loader->gguf, "tokenizer.chat_template", &parts->chat_template,
                              loader->err);
    return status == SPIN_ERR_NOT_FOUND ? SPIN_OK : status;
}

static spin_status load(struct loader *loader, struct spin_tokenizer **out)
{
    SPIN_TRY(load_kind(loader));
    SPIN_TRY(load_tokens(loader));
    SPIN_TRY(load_merges(loader));
    SPIN_TRY(load_specials(loader));
    return spin_tokenizer_build(loader->parts, out, loader->err);
}

spin_status spin_tokenizer_open_gguf(const char *path, struct spin_tokenizer **out,
                                     struct spin_error *err)
{
    struct spin_file_map file;
    struct spin_gguf *gguf = NULL;
    struct spin_arena *arena = NULL;
    SPIN_TRY(spin_file_map_open(path, &file, err));
    spin_status status = spin_gguf_open(&file, &gguf, err);
    if (status == SPIN_OK) {
        status = spin_arena_create(SCRATCH_CHUNK_BYTES, SCRATCH_CAP_BYTES, &arena, err);
    }
    if (status == SPIN_OK) {
        struct spin_tokenizer_parts parts = spin_tokenizer_parts_default();
        struct loader loader = {gguf, arena, &parts, err};
        status = load(&loader, out);
    }
    spin_arena_destroy(arena);
    spin_gguf_close(gguf);
    spin_file_map_close(&file);
    return status;
}
