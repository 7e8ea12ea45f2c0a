/* Any bytes as u32 length, config.json, shard: a model or an error, and a shard whose tensors tile
 * its data. */
#include "base/assert.h"
#include "model/format/safetensors.h"
#include "model/weights/weights_internal.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 4u

static void check_shard(const struct spin_file_map *file)
{
    struct spin_error err = {.status = SPIN_OK};
    struct spin_safetensors *safetensors = NULL;
    const spin_status status = spin_safetensors_open(file, &safetensors, &err);
    SPIN_ASSERT_EQ(err.status, status);
    if (safetensors == NULL) {
        return;
    }
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < spin_safetensors_count(safetensors); i++) {
        const struct spin_safetensors_tensor *tensor = spin_safetensors_at(safetensors, i);
        SPIN_ASSERT(spin_safetensors_find(safetensors, tensor->name) == tensor);
        SPIN_ASSERT(tensor->data >= file->bytes + 8);
        SPIN_ASSERT_LE(tensor->bytes, (uint64_t)(file->bytes + file->count - tensor->data));
        bytes += tensor->bytes;
    }
    SPIN_ASSERT_LE(bytes, file->count);
    spin_safetensors_close(safetensors);
}

static void check_model(const struct spin_string *config, const struct spin_file_map *file)
{
    const struct spin_hf_shard shard = {.name = "model.safetensors", .file = *file};
    const struct spin_hf_parts parts = {.config = *config, .shards = &shard, .shard_count = 1};
    struct spin_error err = {.status = SPIN_OK};
    struct spin_model *model = NULL;
    const spin_status status = spin_model_open_hf_parts(&parts, "fuzz", &model, &err);
    SPIN_ASSERT_EQ(err.status, status);
    SPIN_ASSERT((model != NULL) == (status == SPIN_OK));
    if (model != NULL) {
        double frequencies[SPIN_HEAD_DIM_MAX / 2];
        double magnitude = 0;
        spin_rope_frequencies(&model->config.rope, frequencies, &magnitude);
    }
    spin_model_close(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    uint32_t config_bytes = 0;
    if (count < LENGTH_BYTES) {
        return 0;
    }
    memcpy(&config_bytes, bytes, sizeof config_bytes);
    const uint64_t rest = count - LENGTH_BYTES;
    config_bytes = (uint32_t)SPIN_MIN(config_bytes, rest);
    const struct spin_string config = {.bytes = (const char *)bytes + LENGTH_BYTES,
                                       .count = config_bytes};
    /* A copy, aligned as a map would be. */
    uint8_t *shard = malloc(SPIN_MAX(rest - config_bytes, 1));
    SPIN_ASSERT(shard != NULL);
    memcpy(shard, bytes + LENGTH_BYTES + config_bytes, rest - config_bytes);
    const struct spin_file_map file = {.bytes = shard, .count = rest - config_bytes};
    check_shard(&file);
    check_model(&config, &file);
    free(shard);
    return 0;
}
