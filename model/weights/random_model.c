/* random_model: a model of a known shape with seeded weights, for benchmarks and tests.
 *
 * Element e of tensor t is a pure function of (seed, t, e): 16-bit lane e % 8 of Philox block e / 8
 * of stream t, so that any number of threads gives the same bits. A lane is a uniform value in
 * (-a, a) with a = sqrt(3 / fan_in): variance 1 / fan_in keeps activations near 1 throughout. */
#include "base/assert.h"
#include "base/checked.h"
#include "base/rng.h"
#include "model/weights/weights_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LANES 8u        /* 16-bit values in a Philox block */
#define LEVELS 65536u   /* values of a lane */
#define THREADS_MAX 64u /* memory bandwidth is exhausted before */
/* Starting a thread costs what 1 MiB of weights does. */
#define BYTES_PER_THREAD (UINT64_C(4) << 20)
#define TENSOR_ALIGNMENT UINT64_C(64)

struct random_shape {
    const char *name;
    struct spin_model_config config;
};

/* head_dim, rope.dim and rope.pairs are filled in by find_shape. */
#define LLAMA_31_ROPE \
    { \
        .scaling = SPIN_ROPE_SCALING_LLAMA3, .base = 500000, .factor = 8, .low_freq_factor = 1, \
        .high_freq_factor = 4, .original_context = 8192 \
    }

/* The tiny ones are for tests: each has the peculiarities of its family, and odd group sizes. */
static const struct random_shape shapes[] = {
    {"tiny",
     {.arch = SPIN_ARCH_LLAMA,
      .layers = 2,
      .hidden = 64,
      .ffn = 128,
      .q_heads = 4,
      .kv_heads = 2,
      .head_dim = 16,
      .vocab = 512,
      .context_max = 32768,
      .rms_eps = 1e-5,
      .tied = true,
      .rope = {.base = 10000}}},
    {"tiny-qwen2",
     {.arch = SPIN_ARCH_QWEN2,
      .layers = 3,
      .hidden = 96,
      .ffn = 160,
      .q_heads = 6,
      .kv_heads = 2,
      .head_dim = 16,
      .vocab = 512,
      .context_max = 32768,
      .rms_eps = 1e-6,
      .tied = true,
      .qkv_bias = true,
      .rope = {.base = 1000000}}},
    {"tiny-qwen3",
     {.arch = SPIN_ARCH_QWEN3,
      .layers = 3,
      .hidden = 64,
      .ffn = 192,
      .q_heads = 5,
      .kv_heads = 1,
      .head_dim = 32,
      .vocab = 512,
      .context_max = 32768,
      .rms_eps = 1e-6,
      .qk_norm = true,
      .rope = {.base = 1000000}}},
    {"smollm2-135m",
     {.arch = SPIN_ARCH_LLAMA,
      .layers = 30,
      .hidden = 576,
      .ffn = 1536,
      .q_heads = 9,
      .kv_heads = 3,
      .head_dim = 64,
      .vocab = 49152,
      .context_max = 8192,
      .rms_eps = 1e-5,
      .tied = true,
      .rope = {.base = 100000}}},
    {"llama-3.1-8b",
     {.arch = SPIN_ARCH_LLAMA,
      .layers = 32,
      .hidden = 4096,
      .ffn = 14336,
      .q_heads = 32,
      .kv_heads = 8,
      .head_dim = 128,
      .vocab = 128256,
      .context_max = 131072,
      .rms_eps = 1e-5,
      .rope = LLAMA_31_ROPE}},
    {"llama-3.1-70b",
     {.arch = SPIN_ARCH_LLAMA,
      .layers = 80,
      .hidden = 8192,
      .ffn = 28672,
      .q_heads = 64,
      .kv_heads = 8,
      .head_dim = 128,
      .vocab = 128256,
      .context_max = 131072,
      .rms_eps = 1e-5,
      .rope = LLAMA_31_ROPE}},
    {"qwen2.5-7b",
     {.arch = SPIN_ARCH_QWEN2,
      .layers = 28,
      .hidden = 3584,
      .ffn = 18944,
      .q_heads = 28,
      .kv_heads = 4,
      .head_dim = 128,
      .vocab = 152064,
      .context_max = 32768,
      .rms_eps = 1e-6,
      .qkv_bias = true,
      .rope = {.base = 1000000}}},
    {"qwen3-0.6b",
     {.arch = SPIN_ARCH_QWEN3,
      .layers = 28,
      .hidden = 1024,
      .ffn = 3072,
      .q_heads = 16,
      .kv_heads = 8,
      .head_dim = 128,
      .vocab = 151936,
      .context_max = 40960,
      .rms_eps = 1e-6,
      .tied = true,
      .qk_norm = true,
      .rope = {.base = 1000000}}},
    {"qwen3-8b",
     {.arch = SPIN_ARCH_QWEN3,
      .layers = 36,
      .hidden = 4096,
      .ffn = 12288,
      .q_heads = 32,
      .kv_heads = 8,
      .head_dim = 128,
      .vocab = 151936,
      .context_max = 40960,
      .rms_eps = 1e-6,
      .qk_norm = true,
      .rope = {.base = 1000000}}},
    {"qwen3-14b",
     {.arch = SPIN_ARCH_QWEN3,
      .layers = 40,
      .hidden = 5120,
      .ffn = 17408,
      .q_heads = 40,
      .kv_heads = 8,
      .head_dim = 128,
      .vocab = 151936,
      .context_max = 40960,
      .rms_eps = 1e-6,
      .qk_norm = true,
      .rope = {.base = 1000000}}},
};

const char *spin_model_random_shapes(void)
{
    return "tiny, tiny-qwen2, tiny-qwen3, smollm2-135m, llama-3.1-8b, llama-3.1-70b, qwen2.5-7b, "
           "qwen3-0.6b, qwen3-8b, qwen3-14b";
}

/* ---- values ---- */

struct generator {
    struct spin_model *model;
    uint64_t seed;
    uint32_t thread_count;
    uint64_t used_bytes;    /* of the model's generated memory */
    uint32_t table_fan_in;  /* what `table` was made for; 0: nothing yet */
    uint16_t table[LEVELS]; /* the BF16 value of each lane */
};

/* What one thread fills: Philox blocks [begin, end) of one tensor. */
struct fill {
    const uint16_t *table;
    uint16_t *target;
    uint64_t seed;
    uint64_t stream;
    uint64_t begin;
    uint64_t end;
};

static void make_table(struct generator *generator, uint32_t fan_in)
{
    if (generator->table_fan_in == fan_in) {
        return;
    }
    const double amplitude = sqrt(3.0 / (double)fan_in);
    for (uint32_t i = 0; i < LEVELS; i++) {
        const double unit = (2.0 * (double)i - (LEVELS - 1)) / LEVELS;
        generator->table[i] = spin_bf16_from_f32((float)(unit * amplitude));
    }
    generator->table_fan_in = fan_in;
}

static void *run_fill(void *argument)
{
    const struct fill *fill = argument;
    for (uint64_t block = fill->begin; block < fill->end; block++) {
        const struct spin_philox_block random = spin_philox(fill->seed, fill->stream, block);
        uint16_t *target = fill->target + block * LANES;
        for (size_t i = 0; i < LANES / 2; i++) {
            target[2 * i] = fill->table[random.word[i] & 0xffff];
            target[2 * i + 1] = fill->table[random.word[i] >> 16];
        }
    }
    return NULL;
}

/* Splits one tensor over threads; a thread that cannot be started is done by the caller. */
static void fill_matrix(const struct generator *generator, const struct fill *whole)
{
    pthread_t threads[THREADS_MAX];
    struct fill parts[THREADS_MAX];
    bool started[THREADS_MAX];
    const uint64_t blocks = whole->end;
    const uint64_t wanted = 1 + blocks * sizeof(struct spin_philox_block) / BYTES_PER_THREAD;
    const uint32_t count = (uint32_t)SPIN_MIN(wanted, generator->thread_count);
    for (uint32_t i = 0; i < count; i++) {
        parts[i] = *whole;
        parts[i].begin = blocks * i / count;
        parts[i].end = blocks * (i + 1) / count;
        started[i] = i + 1 < count && pthread_create(&threads[i], NULL, run_fill, &parts[i]) == 0;
    }
    for (uint32_t i = 0; i < count; i++) {
        if (started[i]) {
            SPIN_ASSERT_EQ(pthread_join(threads[i], NULL), 0);
        } else {
            (void)run_fill(&parts[i]);
        }
    }
}

static spin_status generate_matrix(struct generator *generator,
                                   const struct spin_tensor_request *request,
                                   struct spin_tensor_view *out)
{
    struct spin_model_storage *storage = generator->model->storage;
    const uint64_t elements = request->rows * request->cols;
    SPIN_ASSERT_EQ(elements % LANES, 0); /* cols is a multiple of 32 */
    SPIN_ASSERT(spin_range_fits(generator->used_bytes, elements * 2, storage->generated_bytes));
    uint8_t *target = (uint8_t *)storage->generated + generator->used_bytes;
    make_table(generator, (uint32_t)request->cols);
    const struct fill fill = {
        .table = generator->table,
        .target = (uint16_t *)(void *)target,
        .seed = generator->seed,
        .stream = request->ordinal,
        .end = elements / LANES,
    };
    fill_matrix(generator, &fill);
    generator->used_bytes += elements * 2;
    out->dtype = SPIN_DTYPE_BF16;
    out->data = target;
    out->bytes = elements * 2;
    return SPIN_OK;
}

/* Norms lie near 1 and biases near 0, both far enough off for a forgotten one to show. */
static spin_status generate_vector(struct generator *generator,
                                   const struct spin_tensor_request *request,
                                   struct spin_tensor_view *out, struct spin_error *err)
{
    const size_t name_bytes = strlen(request->name);
    const bool is_bias = name_bytes > 5 && strcmp(request->name + name_bytes - 5, ".bias") == 0;
    float *values =
        spin_arena_take(generator->model->storage->arena, request->cols * sizeof *values);
    if (values == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "tensor '%s': %" PRIu64 " values", request->name,
                         request->cols);
    }
    for (uint64_t i = 0; i < request->cols; i++) {
        const double uniform = spin_philox_uniform(generator->seed, request->ordinal, i);
        values[i] = (float)((is_bias ? 0.0 : 1.0) + 0.2 * (uniform - 0.5));
    }
    out->dtype = SPIN_DTYPE_F32;
    out->data = (const uint8_t *)values;
    out->bytes = request->cols * sizeof *values;
    return SPIN_OK;
}

static spin_status find_tensor(void *context, const struct spin_tensor_request *request,
                               struct spin_tensor_view *out, struct spin_error *err)
{
    struct generator *generator = context;
    out->dim_count = request->dim_count;
    out->rows = request->rows;
    out->cols = request->cols;
    return request->dim_count == 1 ? generate_vector(generator, request, out, err)
                                   : generate_matrix(generator, request, out);
}

/* ---- memory ---- */

static uint64_t matrix_bytes(const struct spin_model_config *config)
{
    const uint64_t q_width = (uint64_t)config->q_heads * config->head_dim;
    const uint64_t kv_width = (uint64_t)config->kv_heads * config->head_dim;
    const uint64_t layer = (uint64_t)2 * config->hidden * (q_width + kv_width) +
                           (uint64_t)3 * config->hidden * config->ffn;
    const uint64_t vocab = (uint64_t)config->vocab * config->hidden * (config->tied ? 1 : 2);
    return 2 * (vocab + config->layers * layer);
}

/* The kernel would promise more than the machine has and kill somebody later. */
static spin_status reserve(struct spin_model *model, struct spin_error *err)
{
    struct spin_model_storage *storage = model->storage;
    const uint64_t bytes = matrix_bytes(&model->config);
    const uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    if (bytes > machine) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY,
                         "%s: %.1f GB of weights, this machine has %.1f GB of memory", model->name,
                         (double)bytes / 1e9, (double)machine / 1e9);
    }
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return spin_fail_errno(err, SPIN_ERR_NO_MEMORY, "%s: %.1f GB of weights", model->name,
                               (double)bytes / 1e9);
    }
    /* Huge pages where the system gives them: page faults are half of the cost otherwise. */
    (void)madvise(memory, bytes, MADV_HUGEPAGE);
    storage->generated = memory;
    storage->generated_bytes = bytes;
    return SPIN_OK;
}

/* ---- open ---- */

static spin_status parse_seed(const char *spec, const char *text, uint64_t *out,
                              struct spin_error *err)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "model random:%.80s: the seed must be a number from 0 to %" PRIu64, spec,
                         UINT64_MAX);
    }
    *out = value;
    return SPIN_OK;
}

static spin_status find_shape(const char *spec, struct spin_model_config *config, uint64_t *seed,
                              struct spin_error *err)
{
    const char *colon = strchr(spec, ':');
    const size_t name_bytes = colon == NULL ? strlen(spec) : (size_t)(colon - spec);
    *seed = 0;
    if (colon != NULL) {
        SPIN_TRY(parse_seed(spec, colon + 1, seed, err));
    }
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
        if (strlen(shapes[i].name) == name_bytes && memcmp(shapes[i].name, spec, name_bytes) == 0) {
            *config = shapes[i].config;
            config->rope.dim = config->head_dim;
            config->rope.pairs = SPIN_ROPE_HALVES;
            return SPIN_OK;
        }
    }
    return spin_fail(err, SPIN_ERR_NOT_FOUND, "model random:%.80s: the shapes are %s", spec,
                     spin_model_random_shapes());
}

static spin_status generate(struct spin_model *model, uint64_t seed, struct spin_error *err)
{
    SPIN_TRY(reserve(model, err));
    struct generator *generator = calloc(1, sizeof *generator);
    if (generator == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: %zu bytes", model->name, sizeof *generator);
    }
    const long processors = sysconf(_SC_NPROCESSORS_ONLN);
    generator->model = model;
    generator->seed = seed;
    generator->thread_count = (uint32_t)SPIN_MIN(SPIN_MAX(processors, 1), (long)THREADS_MAX);
    const struct spin_tensor_source source = {
        .names = SPIN_TENSOR_NAMES_HF,
        .context = generator,
        .find = find_tensor,
    };
    const spin_status status = spin_model_bind(model, &source, err);
    free(generator);
    SPIN_TRY(status);
    model->id = spin_model_id_compute(model);
    return SPIN_OK;
}

spin_status spin_model_open_random(const char *spec, struct spin_model **out,
                                   struct spin_error *err)
{
    uint64_t seed = 0;
    struct spin_model_config config = {0};
    SPIN_TRY(find_shape(spec, &config, &seed, err));
    char name[128];
    const int name_bytes = snprintf(name, sizeof name, "random:%.80s", spec);
    struct spin_model *model = NULL;
    /* Norms and biases of 512 layers of 65,536 would be 1 GiB; no shape comes near. */
    SPIN_TRY(spin_model_create(name, (uint64_t)name_bytes, UINT64_C(1) << 30, &model, err));
    model->config = config;
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, spin_model_config_check(&config, err), fail);
    SPIN_TRY_GOTO(status, generate(model, seed, err), fail);
    *out = model;
    return SPIN_OK;
fail:
    spin_model_close(model);
    return status;
}
