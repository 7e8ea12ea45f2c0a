#include "model/text/tokenizer_json.h"

#include "base/assert.h"
#include "base/file.h"
#include "model/format/json.h"
#include "model/format/name.h"

#include <stdio.h>
#include <string.h>

/* Published files are below 20 MB. */
#define JSON_BYTES_MAX (UINT64_C(256) << 20)
#define SCRATCH_CHUNK_BYTES (UINT64_C(1) << 20)
#define SCRATCH_CAP_BYTES (UINT64_C(1) << 30)
#define PATH_BYTES_MAX 4096u

struct spin_string spin_json_text(const json_t *value)
{
    if (!json_is_string(value)) {
        return (struct spin_string){NULL, 0};
    }
    return (struct spin_string){json_string_value(value), json_string_length(value)};
}

bool spin_json_is(const json_t *value, const char *text)
{
    return json_is_string(value) && strcmp(json_string_value(value), text) == 0;
}

const char *spin_json_quote(const json_t *value)
{
    const struct spin_string text = spin_json_text(value);
    if (text.bytes == NULL) {
        return value == NULL || json_is_null(value) ? "(none)" : "(no string)";
    }
    return text.count <= 60 && spin_name_is_printable(text.bytes, text.count) ? text.bytes
                                                                              : "(unprintable)";
}

static const json_t *model_of(const struct spin_json_loader *loader)
{
    return json_object_get(loader->root, "model");
}

static bool is_id(const json_t *value)
{
    return json_is_integer(value) && json_integer_value(value) >= 0 &&
           json_integer_value(value) < (json_int_t)SPIN_TOKENIZER_VOCAB_MAX;
}

int32_t spin_json_find_token(const struct spin_json_loader *loader, const json_t *text)
{
    if (!json_is_string(text)) {
        return -1;
    }
    const json_t *added = json_object_get(loader->root, "added_tokens");
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *entry = json_array_get(added, i);
        const json_t *id = json_object_get(entry, "id");
        if (is_id(id) && json_equal(json_object_get(entry, "content"), text)) {
            return (int32_t)json_integer_value(id);
        }
    }
    const json_t *id =
        json_object_get(json_object_get(model_of(loader), "vocab"), json_string_value(text));
    return is_id(id) ? (int32_t)json_integer_value(id) : -1;
}

/* --- vocabulary ------------------------------------------------------------------------------- */

static spin_status bad_id(const struct spin_json_loader *loader, const json_t *text)
{
    return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                     "tokenizer.json: token '%s' has no id from 0 to %u", spin_json_quote(text),
                     SPIN_TOKENIZER_VOCAB_MAX - 1);
}

/* Checks every id on the way, so that filling need not. */
static spin_status count_rows(const struct spin_json_loader *loader, json_t *vocab,
                              const json_t *added, uint32_t *out)
{
    uint32_t count = 0;
    for (void *it = json_object_iter(vocab); it != NULL; it = json_object_iter_next(vocab, it)) {
        const json_t *id = json_object_iter_value(it);
        if (!is_id(id)) {
            return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                             "tokenizer.json: model.vocab: an id is not from 0 to %u",
                             SPIN_TOKENIZER_VOCAB_MAX - 1);
        }
        count = SPIN_MAX(count, (uint32_t)json_integer_value(id) + 1);
    }
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *entry = json_array_get(added, i);
        const json_t *id = json_object_get(entry, "id");
        if (!is_id(id) || !json_is_string(json_object_get(entry, "content"))) {
            return bad_id(loader, json_object_get(entry, "content"));
        }
        count = SPIN_MAX(count, (uint32_t)json_integer_value(id) + 1);
    }
    *out = count;
    return SPIN_OK;
}

static spin_status fill_vocab(const struct spin_json_loader *loader, json_t *vocab,
                              struct spin_token_row *rows)
{
    for (void *it = json_object_iter(vocab); it != NULL; it = json_object_iter_next(vocab, it)) {
        const uint32_t id = (uint32_t)json_integer_value(json_object_iter_value(it));
        if (rows[id].kind != SPIN_TOKEN_UNUSED) {
            return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                             "tokenizer.json: model.vocab: two tokens have id %u", id);
        }
        const char *key = json_object_iter_key(it);
        rows[id] = (struct spin_token_row){.text = {key, strlen(key)}, .kind = SPIN_TOKEN_NORMAL};
    }
    return SPIN_OK;
}

static spin_status fill_added(const struct spin_json_loader *loader, const json_t *added,
                              struct spin_token_row *rows)
{
    static const char *const refused[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *entry = json_array_get(added, i);
        const uint32_t id = (uint32_t)json_integer_value(json_object_get(entry, "id"));
        const struct spin_string text = spin_json_text(json_object_get(entry, "content"));
        SPIN_ASSERT(text.bytes != NULL); /* count_rows looked */
        for (uint32_t k = 0; k < SPIN_ARRAY_COUNT(refused); k++) {
            if (json_is_true(json_object_get(entry, refused[k]))) {
                return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED,
                                 "tokenizer.json: added token %u: %s", id, refused[k]);
            }
        }
        const struct spin_token_row *row = &rows[id];
        if (row->kind != SPIN_TOKEN_UNUSED &&
            (row->kind != SPIN_TOKEN_NORMAL || row->text.count != text.count ||
             memcmp(row->text.bytes, text.bytes, text.count) != 0)) {
            return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                             "tokenizer.json: added token %u: the id is taken", id);
        }
        rows[id] = (struct spin_token_row){
            .text = text,
            .kind = json_is_true(json_object_get(entry, "special")) ? SPIN_TOKEN_SPECIAL
                                                                    : SPIN_TOKEN_ADDED,
            .normalized = json_is_true(json_object_get(entry, "normalized")),
        };
    }
    return SPIN_OK;
}

static spin_status load_rows(struct spin_json_loader *loader)
{
    json_t *vocab = json_object_get(model_of(loader), "vocab");
    const json_t *added = json_object_get(loader->root, "added_tokens");
    if (!json_is_object(vocab)) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT, "tokenizer.json: model.vocab: no object");
    }
    uint32_t count = 0;
    SPIN_TRY(count_rows(loader, vocab, added, &count));
    struct spin_token_row *rows = spin_arena_take_zeroed(loader->arena, count, sizeof *rows);
    if (rows == NULL) {
        return spin_fail(loader->err, SPIN_ERR_NO_MEMORY, "tokenizer.json: %u tokens", count);
    }
    SPIN_TRY(fill_vocab(loader, vocab, rows));
    SPIN_TRY(fill_added(loader, added, rows));
    loader->parts->rows = rows;
    loader->parts->row_count = count;
    return SPIN_OK;
}

/* --- merges ----------------------------------------------------------------------------------- */

/* "left right" or ["left", "right"]: both spellings are in use. */
static bool parse_merge(const json_t *merge, struct spin_merge_row *out)
{
    if (json_is_array(merge)) {
        out->left = spin_json_text(json_array_get(merge, 0));
        out->right = spin_json_text(json_array_get(merge, 1));
        return json_array_size(merge) == 2 && out->left.bytes != NULL && out->right.bytes != NULL;
    }
    const struct spin_string text = spin_json_text(merge);
    const char *space = text.bytes == NULL ? NULL : memchr(text.bytes, ' ', text.count);
    if (space == NULL) {
        return false;
    }
    const uint64_t left = (uint64_t)(space - text.bytes);
    out->left = (struct spin_string){text.bytes, left};
    out->right = (struct spin_string){space + 1, text.count - left - 1};
    return true;
}

static spin_status load_merges(struct spin_json_loader *loader)
{
    const json_t *merges = json_object_get(model_of(loader), "merges");
    const size_t count = json_array_size(merges);
    if (!json_is_array(merges) || count > SPIN_MERGES_MAX) {
        return spin_fail(loader->err, json_is_array(merges) ? SPIN_ERR_LIMIT : SPIN_ERR_CORRUPT,
                         "tokenizer.json: model.merges: not an array of at most %u",
                         SPIN_MERGES_MAX);
    }
    struct spin_merge_row *rows = spin_arena_take(loader->arena, count * sizeof *rows);
    if (rows == NULL) {
        return spin_fail(loader->err, SPIN_ERR_NO_MEMORY, "tokenizer.json: %zu merges", count);
    }
    for (size_t i = 0; i < count; i++) {
        if (!parse_merge(json_array_get(merges, i), &rows[i])) {
            return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                             "tokenizer.json: model.merges[%zu]: not a pair", i);
        }
    }
    loader->parts->merges = (struct spin_merge_list){rows, count};
    return SPIN_OK;
}

/* --- the model object ------------------------------------------------------------------------- */

static bool is_off(const json_t *value)
{
    return value == NULL || json_is_null(value) || json_is_false(value) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_number(value) && json_number_value(value) == 0);
}

static spin_status load_model(struct spin_json_loader *loader)
{
    static const char *const refused[] = {"dropout", "continuing_subword_prefix",
                                          "end_of_word_suffix", "byte_fallback"};
    const json_t *model = model_of(loader);
    if (!spin_json_is(json_object_get(model, "type"), "BPE")) {
        return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED,
                         "tokenizer.json: model.type '%s': only BPE",
                         spin_json_quote(json_object_get(model, "type")));
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(refused); i++) {
        if (!is_off(json_object_get(model, refused[i]))) {
            return spin_fail(loader->err, SPIN_ERR_UNSUPPORTED, "tokenizer.json: model.%s",
                             refused[i]);
        }
    }
    loader->parts->fuse_unknown = json_is_true(json_object_get(model, "fuse_unk"));
    loader->parts->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    SPIN_TRY(load_rows(loader));
    SPIN_TRY(load_merges(loader));
    const json_t *unknown = json_object_get(model, "unk_token");
    loader->parts->unknown = spin_json_find_token(loader, unknown);
    if (!is_off(unknown) && loader->parts->unknown < 0) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                         "tokenizer.json: model.unk_token '%s' is not in the vocabulary",
                         spin_json_quote(unknown));
    }
    return SPIN_OK;
}

/* --- tokenizer_config.json -------------------------------------------------------------------- */

/* "<s>" or {"content": "<s>", ...} */
static spin_status load_config_token(struct spin_json_loader *loader, const char *key, int32_t *out)
{
    const json_t *value = json_object_get(loader->config, key);
    const json_t *text = json_is_object(value) ? json_object_get(value, "content") : value;
    if (text == NULL || json_is_null(text)) {
        return SPIN_OK;
    }
    const int32_t token = spin_json_find_token(loader, text);
    if (token < 0) {
        return spin_fail(loader->err, SPIN_ERR_CORRUPT,
                         "tokenizer_config.json: %s '%s' is not in the vocabulary", key,
                         spin_json_quote(text));
    }
    *out = token;
    return SPIN_OK;
}

/* A string, or a list of named ones of which "default" is meant. */
static struct spin_string config_template(const struct spin_json_loader *loader)
{
    const json_t *value = json_object_get(loader->config, "chat_template");
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        if (spin_json_is(json_object_get(entry, "name"), "default")) {
            return spin_json_text(json_object_get(entry, "template"));
        }
    }
    return spin_json_text(value);
}

static spin_status load_config(struct spin_json_loader *loader)
{
    struct spin_tokenizer_parts *parts = loader->parts;
    SPIN_TRY(load_config_token(loader, "bos_token", &parts->bos));
    SPIN_TRY(load_config_token(loader, "eos_token", &parts->eos));
    const json_t *add_bos = json_object_get(loader->config, "add_bos_token");
    if (json_is_boolean(add_bos)) {
        parts->add_bos = json_is_true(add_bos) && parts->bos >= 0;
    }
    if (parts->chat_template.bytes == NULL) {
        parts->chat_template = config_template(loader);
    }
    return SPIN_OK;
}

/* --- documents and files ---------------------------------------------------------------------- */

static spin_status load(struct spin_json_loader *loader, struct spin_tokenizer **out)
{
    SPIN_TRY(load_model(loader));
    SPIN_TRY(spin_json_load_pipeline(loader));
    SPIN_TRY(load_config(loader));
    return spin_tokenizer_build(loader->parts, out, loader->err);
}

spin_status spin_tokenizer_parse_json(const struct spin_tokenizer_json *json,
                                      struct spin_tokenizer **out, struct spin_error *err)
{
    json_t *root = NULL;
    json_t *config = NULL;
    struct spin_arena *arena = NULL;
    spin_status status =
        spin_json_parse("tokenizer.json", json->tokenizer.bytes, json->tokenizer.count, &root, err);
    if (status == SPIN_OK && json->config.bytes != NULL) {
        status = spin_json_parse("tokenizer_config.json", json->config.bytes, json->config.count,
                                 &config, err);
    }
    if (status == SPIN_OK) {
        status = spin_arena_create(SCRATCH_CHUNK_BYTES, SCRATCH_CAP_BYTES, &arena, err);
    }
    if (status == SPIN_OK) {
        struct spin_tokenizer_parts parts = spin_tokenizer_parts_default();
        parts.chat_template = json->chat_template;
        struct spin_json_loader loader = {root, config, arena, &parts, err};
        status = load(&loader, out);
    }
    spin_arena_destroy(arena);
    json_decref(config);
    json_decref(root);
    return status;
}

/* The file of another name in the folder of `path`; absent leaves *map empty. */
static spin_status map_beside(const char *path, const char *name, struct spin_file_map *map,
                              struct spin_error *err)
{
    char beside[PATH_BYTES_MAX];
    const char *slash = strrchr(path, '/');
    const int folder = slash == NULL ? 0 : (int)(slash - path + 1);
    const int bytes = snprintf(beside, sizeof beside, "%.*s%s", folder, path, name);
    if (bytes < 0 || (size_t)bytes >= sizeof beside) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%.100s...: path of over %u bytes", path,
                         PATH_BYTES_MAX - 1);
    }
    const spin_status status = spin_file_map_open(beside, map, err);
    return status == SPIN_ERR_NOT_FOUND ? SPIN_OK : status;
}

static struct spin_string bytes_of(const struct spin_file_map *map)
{
    return (struct spin_string){(const char *)map->bytes, map->count};
}

spin_status spin_tokenizer_open_json(const char *path, struct spin_tokenizer **out,
                                     struct spin_error *err)
{
    struct spin_file_map tokenizer = {0};
    struct spin_file_map config = {0};
    struct spin_file_map chat_template = {0};
    spin_status status = spin_file_map_open(path, &tokenizer, err);
    if (status == SPIN_OK) {
        status = map_beside(path, "tokenizer_config.json", &config, err);
    }
    if (status == SPIN_OK) {
        status = map_beside(path, "chat_template.jinja", &chat_template, err);
    }
    if (status == SPIN_OK && tokenizer.count > JSON_BYTES_MAX) {
        status = spin_fail(err, SPIN_ERR_LIMIT, "%s: %llu bytes, limit %llu", path,
                           (unsigned long long)tokenizer.count, (unsigned long long)JSON_BYTES_MAX);
    }
    if (status == SPIN_OK) {
        const struct spin_tokenizer_json json = {bytes_of(&tokenizer), bytes_of(&config),
                                                 bytes_of(&chat_template)};
        status = spin_tokenizer_parse_json(&json, out, err);
    }
    spin_file_map_close(&chat_template);
    spin_file_map_close(&config);
    spin_file_map_close(&tokenizer);
    return status;
}
