/* kv_fixture: sequences in the KV manager's arrays, for tests of Select and Index.
 *
 * Why        Both need blocks, slots and summaries that lie anywhere, in one of several layers, and
 *            NaN in every byte that belongs to nobody.
 * Ownership  The fixture owns its memory until spin_test_fixture_destroy, which fails when somebody
 *            wrote around it.
 * Threading  The test's thread.
 * Units      Tokens, pages; rows are (sequence of the batch, kv head). */
#pragma once

#include "kernels/kv_index.h"
#include "tests/kernels/kernel_test.h"

SPIN_BEGIN_DECLS

#define FIXTURE_LAYERS 3u
#define FIXTURE_LAYER 1u

struct fixture_config {
    enum spin_summary summary;
    uint32_t kv_heads;
    uint32_t group;
    uint32_t head_dim;
    uint32_t page_tokens;
    uint32_t partition_tokens;
    uint32_t sequences;
    const uint32_t *tokens; /* [sequences] */
};

struct fixture {
    struct spin_kv_view view;
    struct spin_kv_batch batch;
    struct spin_kv_lists lists; /* slots: every page of every row, from entry 0 on */
    uint32_t group;
    enum spin_summary summary;
    struct test_memory pool;
    struct test_memory summaries;
    struct test_memory pages;   /* of lists.pages */
    struct spin_kv_lists whole; /* of spin_test_fixture_list */
    uint32_t *sequence;         /* what the batch and the view only see as const */
    uint32_t *tokens;
    uint32_t *slots;
    uint32_t *blocks;
};

struct fixture spin_test_fixture_create(const struct fixture_config *config, struct spin_rng *rng);
void spin_test_fixture_destroy(struct fixture *fixture);

/* What Index reads: lists of the pages from skip[row] (NULL: 0) to the newest, in order. Valid
 * until the next call. */
struct spin_kv_lists spin_test_fixture_list(const struct fixture *fixture, const uint32_t *skip);
uint32_t spin_test_fixture_pages(const struct fixture *fixture, uint32_t sequence);
/* Partitions whose tokens are all there. */
uint32_t spin_test_fixture_sealed(const struct fixture *fixture, uint32_t sequence);
/* K of a token in its page. */
uint16_t *spin_test_fixture_key(const struct fixture *fixture, uint64_t row, uint32_t token);
uint16_t *spin_test_fixture_summary(const struct fixture *fixture, uint64_t row,
                                    uint32_t partition);
/* Normal numbers; V stays NaN. */
void spin_test_fixture_fill_keys(struct fixture *fixture, struct spin_rng *rng);
/* Sealed partitions: normal numbers, minima below maxima. */
void spin_test_fixture_fill_summaries(struct fixture *fixture, struct spin_rng *rng);

SPIN_END_DECLS
