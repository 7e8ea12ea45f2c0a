#include "model/weights/model.h"

#include "base/assert.h"
#include "model/weights/weights_internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define RANDOM_PREFIX "random:"
/* Converted norms and biases: a few hundred KiB for most models. */
#define ARENA_CHUNK_BYTES (UINT64_C(256) << 10)

uint64_t spin_model_arena_bytes(uint64_t bytes)
{
    /* Chunks are filled to half in the worst case. File sizes stay below 2^50. */
    return 8 * bytes + 4 * ARENA_CHUNK_BYTES;
}

spin_status spin_model_create(const char *name, uint64_t name_bytes, uint64_t arena_bytes,
                              struct spin_model **out, struct spin_error *err)
{
    spin_status status = SPIN_OK;
    struct spin_model *model = calloc(1, sizeof *model);
    if (model == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "model: %zu bytes", sizeof *model);
    }
    model->storage = calloc(1, sizeof *model->storage);
    if (model->storage == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "model: %zu bytes", sizeof *model->storage);
        goto fail;
    }
    const uint64_t cap = SPIN_MAX(arena_bytes, ARENA_CHUNK_BYTES);
    SPIN_TRY_GOTO(status, spin_arena_create(ARENA_CHUNK_BYTES, cap, &model->storage->arena, err),
                  fail);
    /* The name goes into logs and answers; what is not printable there is shown as '?'. */
    const uint64_t kept = SPIN_MIN(name_bytes, sizeof model->name - 1);
    for (uint64_t i = 0; i < kept; i++) {
        model->name[i] = '?';
        if (spin_name_is_printable(name + i, 1)) {
            model->name[i] = name[i];
        }
    }
    *out = model;
    return SPIN_OK;
fail:
    spin_model_close(model);
    return status;
}

void spin_model_close(struct spin_model *model)
{
    if (model == NULL) {
        return;
    }
    struct spin_model_storage *storage = model->storage;
    if (storage != NULL) {
        for (uint32_t i = 0; i < storage->map_count; i++) {
            spin_file_map_close(&storage->maps[i]);
        }
        free(storage->maps);
        spin_arena_destroy(storage->arena);
        if (storage->generated != NULL) {
            SPIN_ASSERT_EQ(munmap(storage->generated, storage->generated_bytes), 0);
        }
        if (storage->device_memory != NULL) {
            spin_device_free(storage->stream, storage->device_memory);
        }
        free(storage);
    }
    free(model->layers);
    free(model);
}

/* ---- describe ---- */

static uint64_t parameter_count(const struct spin_model_config *config)
{
    const uint64_t q_width = (uint64_t)config->q_heads * config->head_dim;
    const uint64_t kv_width = (uint64_t)config->kv_heads * config->head_dim;
    const uint64_t attention = (uint64_t)2 * config->hidden * (q_width + kv_width);
    const uint64_t ffn = (uint64_t)3 * config->hidden * config->ffn;
    const uint64_t embeddings = (uint64_t)config->vocab * config->hidden * (config->tied ? 1 : 2);
    return embeddings + config->layers * (attention + ffn);
}

/* "Q4_1 210, Q8_0 1": how many matrices there are of each type. */
static void describe_dtypes(const struct spin_model *model, char *out, size_t size)
{
    uint32_t counts[SPIN_DTYPE_COUNT] = {0};
    counts[model->embed.dtype]++;
    if (!model->config.tied) {
        counts[model->lm_head.dtype]++;
    }
    for (uint32_t i = 0; i < model->config.layers; i++) {
        const struct spin_layer_weights *layer = &model->layers[i];
        const struct spin_weight *weights[] = {&layer->q,    &layer->k,  &layer->v,   &layer->o,
                                               &layer->gate, &layer->up, &layer->down};
        for (uint32_t w = 0; w < SPIN_ARRAY_COUNT(weights); w++) {
            counts[weights[w]->dtype]++;
        }
    }
    size_t used = 0;
    for (uint32_t i = 0; i < SPIN_DTYPE_COUNT && used < size; i++) {
        if (counts[i] != 0) {
            used += (size_t)snprintf(out + used, size - used, "%s%s %u", used == 0 ? "" : ", ",
                                     spin_dtype_name((enum spin_dtype)i), counts[i]);
        }
    }
}

void spin_model_describe(const struct spin_model *model, char *out, uint64_t size)
{
    const struct spin_model_config *config = &model->config;
    char dtypes[96];
    describe_dtypes(model, dtypes, sizeof dtypes);
    (void)snprintf(
        out, size,
        "%s: %s, %.1f M parameters, %u layers, hidden %u, heads %u/%u x %u, vocabulary %u, "
        "matrices %s, %.1f MB, context %u",
        model->name, spin_arch_name(config->arch), (double)parameter_count(config) / 1e6,
        config->layers, config->hidden, config->q_heads, config->kv_heads, config->head_dim,
        config->vocab, dtypes, (double)model->weight_bytes / 1e6, config->context_max);
}

/* ---- open ---- */

static spin_status open_gguf_file(const char *path, struct spin_model **out, struct spin_error *err)
{
    const char *slash = strrchr(path, '/');
    struct spin_file_map *map = calloc(1, sizeof *map);
    if (map == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%zu bytes", sizeof *map);
    }
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, spin_file_map_open(path, map, err), free_map);
    SPIN_TRY_GOTO(status, spin_model_open_gguf(map, slash == NULL ? path : slash + 1, out, err),
                  close_map);
    (*out)->storage->maps = map;
    (*out)->storage->map_count = 1;
    return SPIN_OK;
close_map:
    spin_file_map_close(map);
free_map:
    free(map);
    return status;
}

/* The readers name the key or tensor; the file is known here. Of a long path the end says which. */
#define SHOWN_BYTES 120
static spin_status name_source(const char *source, spin_status status, struct spin_error *err)
{
    if (status == SPIN_OK || err == NULL || strstr(err->text, source) != NULL) {
        return status;
    }
    char text[sizeof err->text];
    memcpy(text, err->text, sizeof text);
    const size_t bytes = strlen(source);
    const char *shown = bytes > SHOWN_BYTES ? source + (bytes - SHOWN_BYTES) : source;
    return spin_fail(err, status, "%s: %s", shown, text);
}

spin_status spin_model_open(const char *source, struct spin_model **out, struct spin_error *err)
{
    if (strncmp(source, RANDOM_PREFIX, strlen(RANDOM_PREFIX)) == 0) {
        return spin_model_open_random(source + strlen(RANDOM_PREFIX), out, err);
    }
    struct stat info;
    const bool is_folder = stat(source, &info) == 0 && S_ISDIR(info.st_mode);
    const spin_status status =
        is_folder ? spin_model_open_hf(source, out, err) : open_gguf_file(source, out, err);
    return name_source(source, status, err);
}
