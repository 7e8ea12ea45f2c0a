/* hf_model: a transformer out of a folder with config.json and safetensors shards. */
#include "base/assert.h"
#include "model/format/json.h"
#include "model/format/safetensors.h"
#include "model/weights/weights_internal.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONFIG_NAME "config.json"
#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"
#define SHARD_SUFFIX ".safetensors"

/* A config is some KiB, an index about 100 bytes per tensor. */
#define CONFIG_BYTES_MAX (UINT64_C(1) << 20)
#define INDEX_BYTES_MAX (UINT64_C(16) << 20)
/* The largest published checkpoints have fewer than 200. */
#define SHARDS_MAX 1024u

/* ---- tensors out of shards ---- */

struct shard_reader {
    const char *name;
    struct spin_safetensors *safetensors;
    uint32_t first_index; /* its tensors are first_index .. in the source's numbering */
};

struct hf_source {
    struct shard_reader *shards;
    uint32_t shard_count;
    uint32_t tensor_count;
    json_t *weight_map; /* tensor name -> shard name; NULL: the only shard has all */
    bool tied;
};

/* NULL when the index does not know the tensor or the shard. */
static const struct shard_reader *find_shard(const struct hf_source *source, const char *tensor)
{
    if (source->weight_map == NULL) {
        return &source->shards[0];
    }
    const char *file = json_string_value(json_object_get(source->weight_map, tensor));
    for (uint32_t i = 0; file != NULL && i < source->shard_count; i++) {
        if (strcmp(source->shards[i].name, file) == 0) {
            return &source->shards[i];
        }
    }
    return NULL;
}

static spin_status find_tensor(void *context, const struct spin_tensor_request *request,
                               struct spin_tensor_view *out, struct spin_error *err)
{
    const struct hf_source *source = context;
    const struct shard_reader *shard = find_shard(source, request->name);
    if (shard == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    const struct spin_safetensors_tensor *tensor =
        spin_safetensors_find(shard->safetensors, request->name);
    if (tensor == NULL && source->weight_map != NULL) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "tensor '%s' is not in %.80s, as the index says",
                         request->name, shard->name);
    }
    if (tensor == NULL) {
        return SPIN_ERR_NOT_FOUND;
    }
    const bool is_vector = tensor->dim_count == 1;
    out->dtype = tensor->dtype;
    out->dim_count = tensor->dim_count;
    out->rows = is_vector ? 1 : tensor->dims[0];
    out->cols = is_vector ? tensor->dims[0] : tensor->dims[1];
    out->data = tensor->data;
    out->bytes = tensor->bytes;
    out->index =
        shard->first_index + (uint32_t)(tensor - spin_safetensors_at(shard->safetensors, 0));
    return SPIN_OK;
}

static struct spin_string name_at(void *context, uint32_t index)
{
    const struct hf_source *source = context;
    uint32_t i = source->shard_count - 1;
    while (source->shards[i].first_index > index) {
        i--;
    }
    const struct shard_reader *shard = &source->shards[i];
    const struct spin_safetensors_tensor *tensor =
        spin_safetensors_at(shard->safetensors, index - shard->first_index);
    const struct spin_string name = {.bytes = tensor->name, .count = strlen(tensor->name)};
    return name;
}

static bool ends_with(const char *text, uint64_t count, const char *suffix)
{
    const size_t suffix_bytes = strlen(suffix);
    return count >= suffix_bytes && memcmp(text + count - suffix_bytes, suffix, suffix_bytes) == 0;
}

static bool may_ignore(void *context, const struct spin_string *name)
{
    const struct hf_source *source = context;
    /* Old checkpoints carry the rotation speeds, which follow from config.json. */
    if (ends_with(name->bytes, name->count, ".rotary_emb.inv_freq")) {
        return true;
    }
    /* A tied model may carry the embedding twice; the configuration decides. */
    return source->tied && name->count == strlen("lm_head.weight") &&
           memcmp(name->bytes, "lm_head.weight", name->count) == 0;
}

/* ---- a model out of parts in memory ---- */

static spin_status open_shards(const struct spin_hf_parts *parts, struct hf_source *source,
                               struct spin_error *err)
{
    source->shards = calloc((size_t)parts->shard_count + 1, sizeof *source->shards);
    if (source->shards == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a table of %u shards", parts->shard_count);
    }
    for (uint32_t i = 0; i < parts->shard_count; i++) {
        struct shard_reader *shard = &source->shards[i];
        struct spin_error inner = {0};
        const spin_status status =
            spin_safetensors_open(&parts->shards[i].file, &shard->safetensors, &inner);
        if (status != SPIN_OK) {
            return spin_fail(err, status, "%.80s: %s", parts->shards[i].name, inner.text);
        }
        shard->name = parts->shards[i].name;
        shard->first_index = source->tensor_count;
        source->shard_count = i + 1;
        /* 1,024 shards of 65,536 tensors stay below 2^32. */
        source->tensor_count += spin_safetensors_count(shard->safetensors);
    }
    return SPIN_OK;
}

static void close_shards(struct hf_source *source)
{
    for (uint32_t i = 0; i < source->shard_count; i++) {
        spin_safetensors_close(source->shards[i].safetensors);
    }
    free(source->shards);
}

/* Returns an owned document whose weight_map is an object. */
static spin_status parse_index(const struct spin_string *text, json_t **out, json_t **weight_map,
                               struct spin_error *err)
{
    json_t *json = NULL;
    SPIN_TRY(spin_json_parse(INDEX_NAME, text->bytes, text->count, &json, err));
    json_t *map = json_object_get(json, "weight_map");
    if (!json_is_object(map)) {
        json_decref(json);
        return spin_fail(err, SPIN_ERR_CORRUPT, "%s: 'weight_map' is not an object", INDEX_NAME);
    }
    *weight_map = map;
    *out = json;
    return SPIN_OK;
}

static spin_status build(struct spin_model *model, struct hf_source *hf, struct spin_error *err)
{
    hf->tied = model->config.tied;
    const struct spin_tensor_source source = {
        .names = SPIN_TENSOR_NAMES_HF,
        .context = hf,
        .find = find_tensor,
        .tensor_count = hf->tensor_count,
        .name_at = name_at,
        .may_ignore = may_ignore,
    };
    SPIN_TRY(spin_model_config_check(&model->config, err));
    SPIN_TRY(spin_model_bind(model, &source, err));
    model->id = spin_model_id_compute(model);
    return SPIN_OK;
}

spin_status spin_model_open_hf_parts(const struct spin_hf_parts *parts, const char *name,
                                     struct spin_model **out, struct spin_error *err)
{
    SPIN_ASSERT(parts->shard_count >= 1);
    SPIN_ASSERT_LE(parts->shard_count, SHARDS_MAX);
    struct hf_source source = {0};
    struct spin_model *model = NULL;
    json_t *index = NULL;
    spin_status status = SPIN_OK;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < parts->shard_count; i++) {
        bytes += parts->shards[i].file.count;
    }
    SPIN_TRY_GOTO(status, open_shards(parts, &source, err), done);
    if (parts->index.bytes != NULL) {
        SPIN_TRY_GOTO(status, parse_index(&parts->index, &index, &source.weight_map, err), done);
    }
    SPIN_TRY_GOTO(status,
                  spin_model_create(name, strlen(name), spin_model_arena_bytes(bytes), &model, err),
                  done);
    SPIN_TRY_GOTO(status, spin_hf_config_parse(&parts->config, &model->config, err), done);
    SPIN_TRY_GOTO(status, build(model, &source, err), done);
    *out = model;
    model = NULL;
done:
    spin_model_close(model);
    json_decref(index);
    close_shards(&source);
    return status;
}

/* ---- a folder ---- */

struct hf_folder {
    const char *path;
    char *config;
    uint64_t config_bytes;
    char *index; /* NULL: one shard */
    uint64_t index_bytes;
    json_t *parsed_index;
    struct spin_hf_shard *shards; /* names borrow from parsed_index, or are literals */
    uint32_t shard_count;
    struct spin_error *err;
};

static spin_status join_path(const struct hf_folder *folder, const char *name, char out[PATH_MAX])
{
    const int count = snprintf(out, PATH_MAX, "%s/%s", folder->path, name);
    if (count < 0 || count >= PATH_MAX) {
        return spin_fail(folder->err, SPIN_ERR_LIMIT, "a path of %d bytes, the limit is %d", count,
                         PATH_MAX - 1);
    }
    return SPIN_OK;
}

static bool has_shard(const struct hf_folder *folder, const char *name)
{
    for (uint32_t i = 0; i < folder->shard_count; i++) {
        if (strcmp(folder->shards[i].name, name) == 0) {
            return true;
        }
    }
    return false;
}

/* folder->shards has room for one more. */
static spin_status map_shard(struct hf_folder *folder, const char *name)
{
    char path[PATH_MAX];
    SPIN_TRY(join_path(folder, name, path));
    struct spin_hf_shard *shard = &folder->shards[folder->shard_count];
    SPIN_TRY(spin_file_map_open(path, &shard->file, folder->err));
    folder->shard_count++;
    shard->name = name;
    return SPIN_OK;
}

/* An index comes from outside: it may name files of its own folder and nothing else. */
static spin_status check_shard_name(const struct hf_folder *folder, const char *name)
{
    const size_t count = name == NULL ? 0 : strlen(name);
    if (count == 0 || count > NAME_MAX || !spin_name_is_printable(name, count) ||
        strchr(name, '/') != NULL || strstr(name, "..") != NULL ||
        !ends_with(name, count, SHARD_SUFFIX)) {
        const bool printable = count != 0 && spin_name_is_printable(name, count);
        return spin_fail(folder->err, SPIN_ERR_CORRUPT,
                         "%s: '%.80s' is not a plain name of a *.safetensors file", INDEX_NAME,
                         printable ? name : "?");
    }
    return SPIN_OK;
}

static spin_status map_indexed_shards(struct hf_folder *folder)
{
    json_t *map = NULL;
    const struct spin_string text = {.bytes = folder->index, .count = folder->index_bytes};
    SPIN_TRY(parse_index(&text, &folder->parsed_index, &map, folder->err));
    for (void *at = json_object_iter(map); at != NULL; at = json_object_iter_next(map, at)) {
        const char *name = json_string_value(json_object_iter_value(at));
        SPIN_TRY(check_shard_name(folder, name));
        if (has_shard(folder, name)) {
            continue;
        }
        if (folder->shard_count == SHARDS_MAX) {
            return spin_fail(folder->err, SPIN_ERR_LIMIT, "%s: more than %u files", INDEX_NAME,
                             SHARDS_MAX);
        }
        SPIN_TRY(map_shard(folder, name));
    }
    if (folder->shard_count == 0) {
        return spin_fail(folder->err, SPIN_ERR_CORRUPT, "%s: 'weight_map' is empty", INDEX_NAME);
    }
    return SPIN_OK;
}

static spin_status map_shards(struct hf_folder *folder)
{
    char path[PATH_MAX];
    folder->shards = calloc(SHARDS_MAX, sizeof *folder->shards);
    if (folder->shards == NULL) {
        return spin_fail(folder->err, SPIN_ERR_NO_MEMORY, "a table of %u shards", SHARDS_MAX);
    }
    SPIN_TRY(join_path(folder, SINGLE_NAME, path));
    if (access(path, F_OK) == 0) {
        return map_shard(folder, SINGLE_NAME);
    }
    SPIN_TRY(join_path(folder, INDEX_NAME, path));
    if (access(path, F_OK) != 0) {
        return spin_fail(folder->err, SPIN_ERR_NOT_FOUND, "neither %s nor %s is there", SINGLE_NAME,
                         INDEX_NAME);
    }
    SPIN_TRY(
        spin_file_read(path, INDEX_BYTES_MAX, &folder->index, &folder->index_bytes, folder->err));
    return map_indexed_shards(folder);
}

/* The shards' maps become the model's. */
static spin_status give_maps(struct hf_folder *folder, struct spin_model *model)
{
    struct spin_file_map *maps = calloc(folder->shard_count, sizeof *maps);
    if (maps == NULL) {
        return spin_fail(folder->err, SPIN_ERR_NO_MEMORY, "a table of %u shards",
                         folder->shard_count);
    }
    for (uint32_t i = 0; i < folder->shard_count; i++) {
        maps[i] = folder->shards[i].file;
        folder->shards[i].file = (struct spin_file_map){0};
    }
    model->storage->maps = maps;
    model->storage->map_count = folder->shard_count;
    return SPIN_OK;
}

static spin_status open_folder(struct hf_folder *folder, const char *name, struct spin_model **out)
{
    char path[PATH_MAX];
    SPIN_TRY(join_path(folder, CONFIG_NAME, path));
    SPIN_TRY(spin_file_read(path, CONFIG_BYTES_MAX, &folder->config, &folder->config_bytes,
                            folder->err));
    SPIN_TRY(map_shards(folder));
    const struct spin_hf_parts parts = {
        .config = {.bytes = folder->config, .count = folder->config_bytes},
        .index = {.bytes = folder->index, .count = folder->index_bytes},
        .shards = folder->shards,
        .shard_count = folder->shard_count,
    };
    struct spin_model *model = NULL;
    SPIN_TRY(spin_model_open_hf_parts(&parts, name, &model, folder->err));
    const spin_status status = give_maps(folder, model);
    if (status != SPIN_OK) {
        spin_model_close(model);
        return status;
    }
    *out = model;
    return SPIN_OK;
}

spin_status spin_model_open_hf(const char *path, struct spin_model **out, struct spin_error *err)
{
    struct hf_folder folder = {.path = path, .err = err};
    /* "." and "models/" have a name too. */
    char *resolved = realpath(path, NULL);
    const char *slash = resolved == NULL ? NULL : strrchr(resolved, '/');
    const spin_status status = open_folder(&folder, slash == NULL ? path : slash + 1, out);
    for (uint32_t i = 0; i < folder.shard_count; i++) {
        spin_file_map_close(&folder.shards[i].file);
    }
    free(folder.shards);
    json_decref(folder.parsed_index);
    free(folder.index);
    free(folder.config);
    free(resolved);
    return status;
}
