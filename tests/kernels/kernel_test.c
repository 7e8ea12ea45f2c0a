#include "tests/kernels/kernel_test.h"

#include <inttypes.h>

#define CANARY_BYTES UINT64_C(256)
#define CANARY 0xa5

struct spin_stream *spin_test_stream(uint32_t threads)
{
    struct spin_stream *stream = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_stream_create_cpu(threads, &stream, &err), &err);
    return stream;
}

struct test_memory spin_test_memory_create(uint64_t bytes)
{
    const uint64_t total = (bytes + 2 * CANARY_BYTES + 63) / 64 * 64;
    struct test_memory memory = {aligned_alloc(64, total), bytes};
    assert_non_null(memory.base);
    memset(memory.base, CANARY, total);
    memset(memory.base + CANARY_BYTES, 0xff, bytes);
    return memory;
}

void *spin_test_memory_data(const struct test_memory *memory)
{
    return memory->base + CANARY_BYTES;
}

void spin_test_memory_destroy(struct test_memory *memory)
{
    for (uint64_t i = 0; i < CANARY_BYTES; i++) {
        if (memory->base[i] != CANARY || memory->base[CANARY_BYTES + memory->bytes + i] != CANARY) {
            fail_msg("canary %" PRIu64 " of a buffer of %" PRIu64 " bytes was overwritten", i,
                     memory->bytes);
        }
    }
    free(memory->base);
    memory->base = NULL;
}

struct test_matrix spin_test_matrix_create(uint32_t rows, uint32_t cols, uint32_t padding)
{
    const uint64_t stride = (uint64_t)cols + padding;
    struct test_matrix matrix;
    matrix.memory = spin_test_memory_create(rows * stride * sizeof(float));
    matrix.view = (struct spin_matrix){.data = spin_test_memory_data(&matrix.memory),
                                       .dtype = SPIN_DTYPE_F32,
                                       .rows = rows,
                                       .cols = cols,
                                       .stride = stride};
    return matrix;
}

float *spin_test_row(const struct test_matrix *matrix, uint64_t row)
{
    return spin_matrix_row(&matrix->view, row);
}

void spin_test_matrix_fill(struct test_matrix *matrix, struct spin_rng *rng)
{
    for (uint32_t r = 0; r < matrix->view.rows; r++) {
        for (uint32_t c = 0; c < matrix->view.cols; c++) {
            spin_test_row(matrix, r)[c] = (float)spin_rng_normal(rng);
        }
    }
}

void spin_test_matrix_destroy(struct test_matrix *matrix)
{
    for (uint32_t r = 0; r < matrix->view.rows; r++) {
        for (uint64_t c = matrix->view.cols; c < matrix->view.stride; c++) {
            if (!isnan(spin_test_row(matrix, r)[c])) {
                fail_msg("padding of row %u was written at column %" PRIu64, r, c);
            }
        }
    }
    spin_test_memory_destroy(&matrix->memory);
}

struct spin_matrix spin_test_rows(const struct test_matrix *matrix, uint32_t first, uint32_t count)
{
    struct spin_matrix view = matrix->view;
    view.data = spin_test_row(matrix, first);
    view.rows = count;
    return view;
}

static void put_f16(uint8_t *target, double value)
{
    const uint16_t bits = spin_f16_from_f32((float)value);
    memcpy(target, &bits, sizeof bits);
}

/* Random bytes are random quants; what is left are the floats of a block. */
static void set_scales(enum spin_dtype dtype, uint8_t *block, struct spin_rng *rng)
{
    const double d = (0.5 + spin_rng_uniform(rng)) * 0.01;
    const double sign = spin_rng_below(rng, 2) == 0 ? 1 : -1;
    const float plain = (float)spin_rng_normal(rng) * 0.05F;
    const uint16_t bf16 = spin_bf16_from_f32(plain);
    switch (dtype) {
    case SPIN_DTYPE_F32:
        memcpy(block, &plain, sizeof plain);
        break;
    case SPIN_DTYPE_F16:
        put_f16(block, (double)plain);
        break;
    case SPIN_DTYPE_BF16:
        memcpy(block, &bf16, sizeof bf16);
        break;
    case SPIN_DTYPE_Q4_1:
        put_f16(block, d * sign);
        put_f16(block + 2, -8 * d * sign);
        break;
    case SPIN_DTYPE_Q4_K:
        put_f16(block, d / 32);
        put_f16(block + 2, d / 4);
        break;
    case SPIN_DTYPE_Q6_K:
        put_f16(block + 208, d / 64 * sign);
        break;
    case SPIN_DTYPE_Q8_0:
        put_f16(block, d / 16 * sign);
        break;
    case SPIN_DTYPE_Q4_0:
        put_f16(block, d * sign);
        break;
    case SPIN_DTYPE_COUNT:
        break;
    }
}

struct test_weight spin_test_weight_create(enum spin_dtype dtype, uint32_t rows, uint32_t cols,
                                           struct spin_rng *rng)
{
    const uint64_t bytes = rows * spin_dtype_row_bytes(dtype, cols);
    const uint32_t block_bytes = spin_dtype_block_bytes(dtype);
    struct test_weight weight = {.memory = spin_test_memory_create(bytes)};
    uint8_t *data = spin_test_memory_data(&weight.memory);
    for (uint64_t i = 0; i < bytes; i += block_bytes) {
        for (uint32_t j = 0; j < block_bytes; j++) {
            data[i + j] = (uint8_t)spin_rng_u32(rng);
        }
        set_scales(dtype, data + i, rng);
    }
    weight.view = (struct spin_weight){data, dtype, rows, cols};
    return weight;
}

void spin_test_weight_destroy(struct test_weight *weight)
{
    spin_test_memory_destroy(&weight->memory);
}

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

void spin_test_expect_same_bits(const struct spin_matrix *a, const struct spin_matrix *b)
{
    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->cols, b->cols);
    for (uint64_t r = 0; r < a->rows; r++) {
        const float *x = spin_matrix_row(a, r);
        const float *y = spin_matrix_row(b, r);
        for (uint64_t c = 0; c < a->cols; c++) {
            if (bits_of(x[c]) != bits_of(y[c])) {
                fail_msg("row %" PRIu64 " column %" PRIu64 ": %a and %a", r, c, (double)x[c],
                         (double)y[c]);
            }
        }
    }
}

double spin_test_matrix_error(const struct spin_matrix *a, const struct spin_matrix *b)
{
    double difference = 0;
    double norm = 0;
    for (uint64_t r = 0; r < a->rows; r++) {
        for (uint64_t c = 0; c < a->cols; c++) {
            const double x = (double)spin_matrix_row(a, r)[c];
            const double y = (double)spin_matrix_row(b, r)[c];
            if (!isfinite(x)) {
                return (double)INFINITY;
            }
            difference += (x - y) * (x - y);
            norm += y * y;
        }
    }
    return norm > 0 ? sqrt(difference / norm) : sqrt(difference);
}

static uint64_t page_count(const struct test_kv_config *config, uint32_t sequence)
{
    return (config->visible[sequence] + config->page_tokens - 1) / config->page_tokens;
}

/* A permutation of more slots than are used, so that lists are scattered with holes between. */
static void shuffle_slots(struct test_kv *kv, struct spin_rng *rng)
{
    for (uint64_t i = 0; i < kv->slot_count; i++) {
        kv->slots[i] = (uint32_t)i;
    }
    for (uint64_t i = kv->slot_count - 1; i > 0; i--) {
        const uint32_t j = spin_rng_below(rng, (uint32_t)i + 1);
        const uint32_t slot = kv->slots[i];
        kv->slots[i] = kv->slots[j];
        kv->slots[j] = slot;
    }
}

static void *zeroed(uint64_t count, uint64_t bytes)
{
    void *memory = calloc(count, bytes);
    if (memory == NULL) {
        abort();
    }
    return memory;
}

struct test_kv spin_test_kv_create(const struct test_kv_config *config, struct spin_rng *rng)
{
    struct test_kv kv = {0};
    const uint64_t rows = (uint64_t)config->sequences * config->kv_heads;
    uint64_t used = 0;
    kv.row_offset = zeroed(rows + 1, sizeof *kv.row_offset);
    kv.visible = zeroed(rows + 1, sizeof *kv.visible);
    kv.first = zeroed((uint64_t)config->sequences + 1, sizeof *kv.first);
    for (uint32_t s = 0; s < config->sequences; s++) {
        kv.first[s + 1] = kv.first[s] + config->queries[s];
        for (uint32_t h = 0; h < config->kv_heads; h++) {
            const uint64_t row = (uint64_t)s * config->kv_heads + h;
            kv.row_offset[row] = used;
            kv.visible[row] = config->visible[s];
            used += page_count(config, s);
        }
    }
    kv.slot_count = used + used / 4 + 3;
    kv.slots = zeroed(kv.slot_count, sizeof *kv.slots);
    shuffle_slots(&kv, rng);
    kv.lists.layout = (struct spin_kv_layout){1, config->kv_heads, config->head_dim, SPIN_KV_BF16,
                                              SPIN_SWIZZLE_NONE};
    kv.pool = spin_test_memory_create(kv.slot_count *
                                      spin_page_bytes(&kv.lists.layout, config->page_tokens));
    kv.lists.pool = spin_test_memory_data(&kv.pool);
    kv.lists.slots = kv.slots;
    kv.lists.row_offset = kv.row_offset;
    kv.lists.visible = kv.visible;
    kv.lists.page_tokens = config->page_tokens;
    kv.spans = (struct spin_spans){kv.first, config->sequences};
    return kv;
}

void spin_test_kv_fill(struct test_kv *kv, struct spin_rng *rng)
{
    const uint32_t head_dim = kv->lists.layout.head_dim;
    const uint64_t rows = (uint64_t)kv->spans.count * kv->lists.layout.kv_heads;
    for (uint64_t row = 0; row < rows; row++) {
        for (uint32_t t = 0; t < kv->visible[row]; t++) {
            uint16_t *k = spin_list_k(&kv->lists, row, t);
            uint16_t *v = spin_list_v(&kv->lists, row, t);
            for (uint32_t d = 0; d < head_dim; d++) {
                k[d] = spin_bf16_from_f32((float)spin_rng_normal(rng));
                v[d] = spin_bf16_from_f32((float)spin_rng_normal(rng));
            }
        }
    }
}

void spin_test_kv_destroy(struct test_kv *kv)
{
    spin_test_memory_destroy(&kv->pool);
    free(kv->slots);
    free(kv->row_offset);
    free(kv->visible);
    free(kv->first);
}
