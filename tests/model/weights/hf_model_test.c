/* Folders with config.json and shards are written to the test's own directory, opened, and compared
 * byte by byte with what was written; then folders with one thing wrong. */
#include "model/weights/weights_internal.h"
#include "tests/model/built_file.h"
#include "tests/model/safetensors_builder.h"
#include "tests/spin_test.h"

#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONFIG_FORMAT \
    "{\"model_type\":\"%s\",\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2," \
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":40," \
    "\"max_position_embeddings\":2048,\"rms_norm_eps\":1e-05,\"tie_word_embeddings\":%s}"

/* Of 16-bit values; the matrices of a layer come before its norms. */
#define EMBED_BYTES UINT64_C(5120)         /* 40 x 64 */
#define Q_BYTES UINT64_C(8192)             /* 64 x 64 */
#define LAYER_MATRIX_BYTES UINT64_C(61440) /* 2 (64 + 32) x 64 + 3 x 96 x 64 */
#define NORM_F32_BYTES UINT64_C(256)

/* One shard while it is being written: its header and where its data ends. */
struct shard {
    char header[8192];
    uint64_t data_bytes;
};

static void add(struct shard *shard, const char *name, const char *dtype, uint64_t rows,
                uint64_t cols)
{
    const uint64_t width = strcmp(dtype, "F32") == 0 ? 4 : 2;
    const uint64_t bytes = SPIN_MAX(rows, 1) * cols * width;
    const size_t used = strlen(shard->header);
    char shape[48];
    (void)snprintf(shape, sizeof shape, rows == 0 ? "%" PRIu64 : "%" PRIu64 ",%" PRIu64,
                   rows == 0 ? cols : rows, cols);
    const int added = snprintf(
        shard->header + used, sizeof shard->header - used,
        "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}",
        used == 0 ? "{" : ",", name, dtype, shape, shard->data_bytes, shard->data_bytes + bytes);
    assert_true(added > 0 && (size_t)added < sizeof shard->header - used);
    shard->data_bytes += bytes;
}

static void add_layer(struct shard *shard, uint32_t layer, const char *dtype)
{
    static const struct {
        const char *name;
        uint64_t rows, cols;
    } tensors[] = {
        {"self_attn.q_proj.weight", 64, 64},        {"self_attn.k_proj.weight", 32, 64},
        {"self_attn.v_proj.weight", 32, 64},        {"self_attn.o_proj.weight", 64, 64},
        {"mlp.gate_proj.weight", 96, 64},           {"mlp.up_proj.weight", 96, 64},
        {"mlp.down_proj.weight", 64, 96},           {"input_layernorm.weight", 0, 64},
        {"post_attention_layernorm.weight", 0, 64},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(tensors); i++) {
        char name[96];
        (void)snprintf(name, sizeof name, "model.layers.%u.%s", layer, tensors[i].name);
        add(shard, name, dtype, tensors[i].rows, tensors[i].cols);
    }
}

static void make_folder(const char *name, char out[512])
{
    /* Relative to the scratch folder, so that an error text has room for more than the path. */
    (void)snprintf(out, 512, "%s", name);
    assert_true(mkdir(out, 0700) == 0 || access(out, W_OK) == 0);
}

static void write_file(const char *folder, const char *name, const void *bytes, uint64_t count)
{
    char path[1024];
    (void)snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, count, file), count);
    assert_int_equal(fclose(file), 0);
}

static void write_config(const char *folder, const char *type, bool tied)
{
    char text[1024];
    (void)snprintf(text, sizeof text, CONFIG_FORMAT, type, tied ? "true" : "false");
    write_file(folder, "config.json", text, strlen(text));
}

/* `padding`: spaces behind the header, which move the data off its alignment. */
static void write_shard(const char *folder, const char *name, struct shard *shard, uint32_t padding)
{
    (void)snprintf(shard->header + strlen(shard->header),
                   sizeof shard->header - strlen(shard->header), "}%*s", (int)padding, "");
    struct spin_file_map map = spin_safetensors_builder_make(shard->header, shard->data_bytes);
    write_file(folder, name, map.bytes, map.count);
    spin_built_free(&map);
}

static void expect_bytes(const void *data, uint64_t offset, uint64_t count)
{
    const uint8_t *bytes = data;
    for (uint64_t i = 0; i < count; i++) {
        assert_int_equal(bytes[i], spin_safetensors_builder_data(offset + i));
    }
}

static void expect_failure(const char *folder, spin_status wanted, const char *words)
{
    struct spin_error err = {0};
    struct spin_model *model = NULL;
    const spin_status status = spin_model_open(folder, &model, &err);
    if (status != wanted || strstr(err.text, words) == NULL || strstr(err.text, folder) == NULL) {
        fail_msg("wanted %s with \"%s\" and \"%s\", got %s with \"%s\"", spin_status_name(wanted),
                 words, folder, spin_status_name(status), err.text);
    }
}

/* ---- good folders ---- */

static void test_one_shard(void **state)
{
    (void)state;
    char folder[512];
    struct shard shard = {.data_bytes = 0};
    make_folder("one", folder);
    write_config(folder, "llama", true);
    add(&shard, "model.embed_tokens.weight", "BF16", 40, 64);
    add_layer(&shard, 0, "BF16");
    add_layer(&shard, 1, "BF16");
    add(&shard, "model.norm.weight", "F32", 0, 64);
    /* What tied and old checkpoints carry besides. */
    add(&shard, "lm_head.weight", "BF16", 40, 64);
    add(&shard, "model.layers.0.self_attn.rotary_emb.inv_freq", "F32", 0, 8);
    write_shard(folder, "model.safetensors", &shard, 0);

    struct spin_error err = {0};
    struct spin_model *model = NULL;
    SPIN_EXPECT_OK(spin_model_open(folder, &model, &err), &err);
    assert_string_equal(model->name, "one");
    assert_int_equal(model->config.rope.pairs, SPIN_ROPE_HALVES);
    assert_int_equal(model->embed.rows, 40);
    assert_int_equal(model->embed.cols, 64);
    assert_ptr_equal(model->lm_head.data, model->embed.data);
    expect_bytes(model->embed.data, 0, EMBED_BYTES);
    expect_bytes(model->layers[0].q.data, EMBED_BYTES, Q_BYTES);
    assert_int_equal(model->layers[1].down.dtype, SPIN_DTYPE_BF16);
    assert_int_equal(model->layers[1].down.rows, 64);
    assert_int_equal(model->layers[1].down.cols, 96);
    /* A BF16 norm became F32: the upper half of the bits, exactly. */
    for (uint32_t i = 0; i < 64; i++) {
        const uint64_t offset = EMBED_BYTES + LAYER_MATRIX_BYTES + UINT64_C(2) * i;
        const uint32_t bits = (uint32_t)spin_safetensors_builder_data(offset) << 16 |
                              (uint32_t)spin_safetensors_builder_data(offset + 1) << 24;
        assert_memory_equal(&model->layers[0].attn_norm[i], &bits, 4);
    }
    spin_model_close(model);
}

/* Two shards; the second one's data starts at an odd address, so its matrices are copied. */
static void write_two_shards(const char *folder, uint32_t padding)
{
    static const char index_start[] = "{\"metadata\":{\"total_size\":1},\"weight_map\":{";
    struct shard first = {.data_bytes = 0};
    struct shard second = {.data_bytes = 0};
    add(&first, "model.embed_tokens.weight", "F16", 40, 64);
    add_layer(&first, 0, "F16");
    add(&second, "model.norm.weight", "F32", 0, 64);
    add(&second, "lm_head.weight", "F32", 40, 64);
    add_layer(&second, 1, "F32");
    char index[8192];
    size_t used = (size_t)snprintf(index, sizeof index, "%s", index_start);
    const struct shard *shards[] = {&first, &second};
    for (uint32_t i = 0; i < 2; i++) {
        /* Every name of the header is behind `{"` or `,"` and before `":{`. */
        for (const char *end = strstr(shards[i]->header, "\":{"); end != NULL;
             end = strstr(end + 1, "\":{")) {
            const char *start = end;
            while (start[-1] != '"') {
                start--;
            }
            used += (size_t)snprintf(index + used, sizeof index - used,
                                     "%s\"%.*s\":\"model-0000%u-of-00002.safetensors\"",
                                     index[used - 1] == '{' ? "" : ",", (int)(end - start), start,
                                     i + 1);
        }
    }
    (void)snprintf(index + used, sizeof index - used, "}}");
    write_file(folder, "model.safetensors.index.json", index, strlen(index));
    write_shard(folder, "model-00001-of-00002.safetensors", &first, 0);
    write_shard(folder, "model-00002-of-00002.safetensors", &second, padding);
}

static void test_two_shards(void **state)
{
    (void)state;
    for (uint32_t padding = 0; padding < 4; padding++) {
        char folder[512];
        char name[16];
        (void)snprintf(name, sizeof name, "two%u", padding);
        make_folder(name, folder);
        write_config(folder, "llama", false);
        write_two_shards(folder, padding);
        struct spin_error err = {0};
        struct spin_model *model = NULL;
        SPIN_EXPECT_OK(spin_model_open(folder, &model, &err), &err);
        assert_int_equal(model->embed.dtype, SPIN_DTYPE_F16);
        assert_int_equal(model->lm_head.dtype, SPIN_DTYPE_F32);
        assert_int_equal((uintptr_t)model->lm_head.data % 4, 0);
        expect_bytes(model->output_norm, 0, NORM_F32_BYTES);
        expect_bytes(model->lm_head.data, NORM_F32_BYTES, 2 * EMBED_BYTES);
        expect_bytes(model->layers[1].q.data, NORM_F32_BYTES + 2 * EMBED_BYTES, 2 * Q_BYTES);
        spin_model_close(model);
    }
}

/* ---- folders with one thing wrong ---- */

static void test_missing_files(void **state)
{
    (void)state;
    char folder[512];
    make_folder("empty", folder);
    expect_failure(folder, SPIN_ERR_NOT_FOUND, "config.json");
    write_config(folder, "llama", true);
    expect_failure(folder, SPIN_ERR_NOT_FOUND, "neither model.safetensors nor");
    write_file(folder, "model.safetensors", "", 0);
    expect_failure(folder, SPIN_ERR_CORRUPT, "model.safetensors: safetensors: a file of 0 bytes");
}

static void test_index(void **state)
{
    (void)state;
    static const struct {
        const char *index;
        spin_status status;
        const char *words;
    } rows[] = {
        {"", SPIN_ERR_CORRUPT, "index.json: line"},
        {"{}", SPIN_ERR_CORRUPT, "'weight_map' is not an object"},
        {"{\"weight_map\":[]}", SPIN_ERR_CORRUPT, "'weight_map' is not an object"},
        {"{\"weight_map\":{}}", SPIN_ERR_CORRUPT, "'weight_map' is empty"},
        {"{\"weight_map\":{\"a\":7}}", SPIN_ERR_CORRUPT, "not a plain name"},
        {"{\"weight_map\":{\"a\":\"\"}}", SPIN_ERR_CORRUPT, "not a plain name"},
        {"{\"weight_map\":{\"a\":\"../two0/model-00001-of-00002.safetensors\"}}", SPIN_ERR_CORRUPT,
         "not a plain name"},
        {"{\"weight_map\":{\"a\":\"/etc/x.safetensors\"}}", SPIN_ERR_CORRUPT, "not a plain name"},
        {"{\"weight_map\":{\"a\":\"..safetensors\"}}", SPIN_ERR_CORRUPT, "not a plain name"},
        {"{\"weight_map\":{\"a\":\"config.json\"}}", SPIN_ERR_CORRUPT, "'config.json' is not"},
        {"{\"weight_map\":{\"a\":\"gone.safetensors\"}}", SPIN_ERR_NOT_FOUND, "gone.safetensors"},
    };
    char folder[512];
    make_folder("index", folder);
    write_config(folder, "llama", true);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        write_file(folder, "model.safetensors.index.json", rows[i].index, strlen(rows[i].index));
        expect_failure(folder, rows[i].status, rows[i].words);
    }
}

static void test_tensors(void **state)
{
    (void)state;
    char folder[512];
    char other[512];
    make_folder("tensors", folder);
    struct shard shard = {.data_bytes = 0};
    add(&shard, "model.embed_tokens.weight", "BF16", 40, 64);
    add_layer(&shard, 0, "BF16");
    add_layer(&shard, 1, "BF16");
    add(&shard, "model.norm.weight", "BF16", 0, 64);
    const struct shard whole = shard;

    write_shard(folder, "model.safetensors", &shard, 0);
    write_config(folder, "llama", false);
    expect_failure(folder, SPIN_ERR_CORRUPT, "tensor 'lm_head.weight' is missing");
    write_config(folder, "qwen2", true);
    expect_failure(folder, SPIN_ERR_CORRUPT, "'model.layers.0.self_attn.q_proj.bias' is missing");
    write_config(folder, "qwen3", true); /* without head_dim: 128, which this file is not */
    expect_failure(folder, SPIN_ERR_CORRUPT, "tensor 'model.layers.0.self_attn.q_proj.weight': ");

    /* The same file under a name that the index gives; the index knows a tensor that it has not. */
    char index[256];
    (void)snprintf(index, sizeof index, "{\"weight_map\":{\"%s\":\"%s\"}}", "lm_head.weight",
                   "a.safetensors");
    make_folder("index_lies", other);
    shard = whole;
    write_shard(other, "a.safetensors", &shard, 0);
    write_file(other, "model.safetensors.index.json", index, strlen(index));
    write_config(other, "llama", true);
    expect_failure(other, SPIN_ERR_CORRUPT, "'model.embed_tokens.weight' is missing");
    (void)snprintf(index, sizeof index, "{\"weight_map\":{\"%s\":\"%s\",\"x\":\"%s\"}}",
                   "model.embed_tokens.weight", "b.safetensors", "a.safetensors");
    shard = (struct shard){.data_bytes = 0};
    add(&shard, "y", "F32", 0, 1);
    write_shard(other, "b.safetensors", &shard, 0);
    write_file(other, "model.safetensors.index.json", index, strlen(index));
    expect_failure(other, SPIN_ERR_CORRUPT,
                   "'model.embed_tokens.weight' is not in b.safetensors, as the index says");

    write_config(folder, "llama", true);
    shard = whole;
    add(&shard, "model.layers.0.self_attn.q_proj.bias", "BF16", 0, 64);
    write_shard(folder, "model.safetensors", &shard, 0);
    expect_failure(folder, SPIN_ERR_UNSUPPORTED,
                   "'model.layers.0.self_attn.q_proj.bias' is not part of");
}

int main(void)
{
    const char *scratch = getenv("TEST_TMPDIR");
    if (chdir(scratch == NULL ? "/tmp" : scratch) != 0) {
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_shard),     cmocka_unit_test(test_two_shards),
        cmocka_unit_test(test_missing_files), cmocka_unit_test(test_index),
        cmocka_unit_test(test_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
