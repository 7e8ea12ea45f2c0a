/* kernel_test: what the tests of the operations share.
 *
 * Why        Every op is tried the same way: outputs start as NaN between canaries, inputs are
 *            seeded normal numbers in rows longer than the matrix (the padding is NaN), and bits
 *            are compared as bits.
 * Ownership  test_matrix and test_weight own their memory until test_free.
 * Threading  The test's thread. */
#pragma once

#include "base/rng.h"
#include "kernels/kernels_internal.h"
#include "kernels/ops.h"
#include "tests/spin_test.h"

SPIN_BEGIN_DECLS

struct test_memory {
    uint8_t *base;
    uint64_t bytes;
};

struct test_matrix {
    struct spin_matrix view;
    struct test_memory memory;
};

struct test_weight {
    struct spin_weight view;
    struct test_memory memory;
};

struct spin_stream *spin_test_stream(uint32_t threads);

/* `bytes` of 0xff (NaN in every float format), 64-byte aligned, with canaries on both sides. */
struct test_memory spin_test_memory_create(uint64_t bytes);
void *spin_test_memory_data(const struct test_memory *memory);
/* Fails when a canary is gone, then frees. */
void spin_test_memory_destroy(struct test_memory *memory);

/* NaN everywhere; stride = cols + padding. */
struct test_matrix spin_test_matrix_create(uint32_t rows, uint32_t cols, uint32_t padding);
void spin_test_matrix_fill(struct test_matrix *matrix, struct spin_rng *rng);
/* Fails when the padding is no longer NaN, then destroys the memory. */
void spin_test_matrix_destroy(struct test_matrix *matrix);
float *spin_test_row(const struct test_matrix *matrix, uint64_t row);
/* Rows [first, first + count) of another matrix. */
struct spin_matrix spin_test_rows(const struct test_matrix *matrix, uint32_t first, uint32_t count);

/* Random blocks: quants of all values, scales of a trained matrix's size. */
struct test_weight spin_test_weight_create(enum spin_dtype dtype, uint32_t rows, uint32_t cols,
                                           struct spin_rng *rng);
void spin_test_weight_destroy(struct test_weight *weight);

/* The first difference in bits is printed with its place. */
void spin_test_expect_same_bits(const struct spin_matrix *a, const struct spin_matrix *b);
/* Whole-matrix relative L2 of `a` against `b`. */
double spin_test_matrix_error(const struct spin_matrix *a, const struct spin_matrix *b);

/* A batch over paged KV, with shuffled slots and NaN in every byte that no list token owns. */
struct test_kv_config {
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t page_tokens;
    uint32_t sequences;
    const uint32_t *visible; /* [sequences] */
    const uint32_t *queries; /* [sequences]: tokens in the batch, the last ones of each sequence */
};

struct test_kv {
    struct spin_page_lists lists;
    struct spin_spans spans;
    struct test_memory pool;
    uint32_t *slots;
    uint64_t *row_offset;
    uint32_t *visible; /* per row */
    uint32_t *first;
    uint64_t slot_count;
};

struct test_kv spin_test_kv_create(const struct test_kv_config *config, struct spin_rng *rng);
void spin_test_kv_fill(struct test_kv *kv, struct spin_rng *rng);
void spin_test_kv_destroy(struct test_kv *kv);

SPIN_END_DECLS
