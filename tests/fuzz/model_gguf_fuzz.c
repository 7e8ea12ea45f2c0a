/* Any bytes as a GGUF file: an index whose every tensor lies inside the file, and a model or an
 * error. */
#include "base/assert.h"
#include "model/weights/weights_internal.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void check_tensors(const struct spin_gguf *gguf, const struct spin_file_map *file)
{
    for (uint32_t i = 0; i < spin_gguf_tensor_count(gguf); i++) {
        const struct spin_gguf_tensor *tensor = spin_gguf_tensor_at(gguf, i);
        SPIN_ASSERT(tensor->data >= file->bytes);
        SPIN_ASSERT(tensor->bytes >= 1);
        SPIN_ASSERT_LE(tensor->bytes, (uint64_t)(file->bytes + file->count - tensor->data));
        char *name = strndup(tensor->name.bytes, tensor->name.count);
        SPIN_ASSERT(spin_gguf_tensor_find(gguf, name) == tensor);
        free(name);
    }
}

static void check_tokens(const struct spin_gguf *gguf)
{
    struct spin_gguf_array array = {0};
    struct spin_string string = {0};
    uint64_t cursor = 0;
    uint64_t count = 0;
    if (spin_gguf_array(gguf, "tokenizer.ggml.tokens", &array, NULL) != SPIN_OK) {
        return;
    }
    while (spin_gguf_array_next_string(&array, &cursor, &string)) {
        SPIN_ASSERT((const uint8_t *)string.bytes + string.count <= array.bytes + array.byte_count);
        count++;
    }
    SPIN_ASSERT_EQ(count, array.type == SPIN_GGUF_STRING ? array.count : 0);
}

static void check_model(const struct spin_file_map *file)
{
    struct spin_error err = {.status = SPIN_OK};
    struct spin_model *model = NULL;
    const spin_status status = spin_model_open_gguf(file, "fuzz", &model, &err);
    SPIN_ASSERT_EQ(err.status, status);
    SPIN_ASSERT((model != NULL) == (status == SPIN_OK));
    if (model != NULL) {
        char text[256];
        double frequencies[SPIN_HEAD_DIM_MAX / 2];
        double magnitude = 0;
        spin_model_describe(model, text, sizeof text);
        spin_rope_frequencies(&model->config.rope, frequencies, &magnitude);
    }
    spin_model_close(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    const struct spin_file_map file = {.bytes = bytes, .count = count};
    struct spin_error err = {.status = SPIN_OK};
    struct spin_gguf *gguf = NULL;
    const spin_status status = spin_gguf_open(&file, &gguf, &err);
    SPIN_ASSERT_EQ(err.status, status);
    SPIN_ASSERT((gguf != NULL) == (status == SPIN_OK));
    if (gguf != NULL) {
        check_tensors(gguf, &file);
        check_tokens(gguf);
        check_model(&file);
    }
    spin_gguf_close(gguf);
    return 0;
}
