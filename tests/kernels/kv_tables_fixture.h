/* kv_tables_fixture: the tables of a few sequences over a pool, and the host that grants slabs.
 *
 * Why        The table operations need a manager: somebody who keeps slab lists. This one grants
 *            slabs at random, so that neighbours in a row are strangers in the pool.
 * Ownership  A fixture owns its memory until spin_test_tables_destroy, which fails when somebody
 *            wrote around it. Two of them in step are the two versions of an operation.
 * Threading  The test's thread.
 * Units      Slabs, slots of the row, pool slots, pages. */
#pragma once

#include "tests/kernels/kernel_test.h"

SPIN_BEGIN_DECLS

struct test_tables_config {
    enum spin_kv_replacement replacement;
    uint32_t sequences;
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t page_tokens;
    uint32_t pages_max; /* of a sequence */
    uint32_t slabs_max; /* of a row */
    uint32_t slabs;     /* of the pool */
    uint32_t bucket_shift;
};

#define TEST_TABLES_ARRAYS_MAX 16u
#define TEST_TABLES_SLOTS_MAX 4096u
#define TEST_TABLES_PAGES_MAX 4096u

struct test_tables {
    struct spin_kv_view view;
    struct spin_kv_lists lists; /* of as many rows as the tables have in a layer */
    enum spin_kv_replacement replacement;
    uint32_t sequences;
    uint32_t slabs;
    /* What the view and the batch see as const. */
    uint8_t *residency;
    uint32_t *slab_list;
    uint32_t *slab_count;
    uint32_t *blocks;
    uint32_t *free_groups; /* [slabs / kv_heads]: the first free_count are free */
    uint32_t free_count;
    struct test_memory arrays[TEST_TABLES_ARRAYS_MAX];
    uint32_t array_count;
};

/* No row has a slab, every table is poison; no host, no pool. */
struct test_tables spin_test_tables_create(const struct test_tables_config *config);
void spin_test_tables_destroy(struct test_tables *tables);
/* The slab lists, counts and residencies of `from`. */
void spin_test_tables_copy_host(struct test_tables *to, const struct test_tables *from);
/* Fails at the first byte of any array that differs. */
void spin_test_tables_expect_same(const struct test_tables *a, const struct test_tables *b);

/* The host's side of a resize: each row of (sequence, layer) gets slabs at random, or gives back
 * its last ones. False: the pool has not got them. */
bool spin_test_tables_grant(struct test_tables *tables, uint32_t sequence, uint32_t layer,
                            uint32_t slabs, struct spin_rng *rng);
void spin_test_tables_revoke(struct test_tables *tables, uint32_t sequence, uint32_t layer,
                             uint32_t slabs);
/* Gives back the first `count` slabs of each row; the others move up. */
void spin_test_tables_revoke_first(struct test_tables *tables, uint32_t sequence, uint32_t layer,
                                   uint32_t count);

uint32_t spin_test_tables_slots(const struct test_tables *tables, uint32_t sequence,
                                uint32_t layer);
/* What the first `slots` slots of a row hold: a page, or -1. bucketed: found by a walk over the
 * leaves. Fails when the tables contradict themselves: a page in two
 * slots, a slot in two leaves, a leaf that is neither free nor used or both. */
void spin_test_tables_read(const struct test_tables *tables, uint64_t row, uint32_t slots,
                           int32_t *pages);

SPIN_END_DECLS
