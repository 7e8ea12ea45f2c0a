/* Both copies in both versions against a pool and a host filled in here, byte for byte, from the
 * layout's words alone: what should have moved has, and nothing else has. */
#include "tests/kernels/kernel_test.h"

enum { SEQUENCES = 4, LAYERS = 2, HEADS = 3, LAYER = 1, BATCH = 3, HEAD_DIM = 16 };
enum { BLOCKS_MAX = 3, BLOCKS = SEQUENCES * BLOCKS_MAX + 2, STRIDE = 24, ROWS = BATCH * HEADS };
/* A token's K and V, of one row. */
enum { TOKEN_BYTES = 2 * HEAD_DIM * 2 };

struct tiers {
    struct spin_kv_view view;
    struct spin_kv_lists lists;
    struct spin_kv_batch batch;
    struct test_memory pool;
    struct test_memory host;
    uint16_t pages[ROWS * STRIDE];
    uint32_t slots[ROWS * STRIDE];
    uint32_t visible[ROWS];
    uint32_t miss_count[ROWS];
    struct spin_kv_miss misses[ROWS * STRIDE];
    uint32_t blocks[SEQUENCES * BLOCKS_MAX];
    uint32_t sequence[BATCH];
    uint32_t tokens[BATCH];
};

static void shuffle(uint32_t *values, uint32_t count, struct spin_rng *rng)
{
    for (uint32_t i = 0; i < count; i++) {
        values[i] = i;
    }
    for (uint32_t i = count - 1; i > 0; i--) {
        const uint32_t j = spin_rng_below(rng, i + 1);
        const uint32_t value = values[i];
        values[i] = values[j];
        values[j] = value;
    }
}

static void fill_bytes(struct test_memory *memory, struct spin_rng *rng)
{
    uint8_t *bytes = spin_test_memory_data(memory);
    for (uint64_t i = 0; i < memory->bytes; i++) {
        bytes[i] = (uint8_t)spin_rng_u32(rng);
    }
}

/* Every list entry has a slot of its own; blocks lie anywhere. */
static void make(struct tiers *tiers, uint32_t page_tokens, struct spin_rng *rng)
{
    uint32_t blocks[BLOCKS];
    memset(tiers, 0, sizeof *tiers);
    tiers->view.layout =
        (struct spin_kv_layout){LAYERS, HEADS, HEAD_DIM, SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    tiers->view.page_tokens = page_tokens;
    tiers->view.blocks_max = BLOCKS_MAX;
    tiers->view.frame_blocks = BLOCKS;
    tiers->pool = spin_test_memory_create((uint64_t)ROWS * STRIDE * page_tokens * TOKEN_BYTES);
    tiers->host = spin_test_memory_create((uint64_t)BLOCKS * LAYERS * HEADS * 128 * TOKEN_BYTES);
    fill_bytes(&tiers->pool, rng);
    fill_bytes(&tiers->host, rng);
    shuffle(tiers->slots, ROWS * STRIDE, rng);
    shuffle(blocks, BLOCKS, rng);
    memcpy(tiers->blocks, blocks, sizeof tiers->blocks);
    tiers->sequence[0] = 3;
    tiers->sequence[1] = 0;
    tiers->sequence[2] = 2;
    tiers->view.pool = spin_test_memory_data(&tiers->pool);
    tiers->view.host = spin_test_memory_data(&tiers->host);
    tiers->view.blocks = tiers->blocks;
    tiers->lists = (struct spin_kv_lists){.stride = STRIDE,
                                          .pages = tiers->pages,
                                          .slots = tiers->slots,
                                          .visible = tiers->visible,
                                          .misses = tiers->misses,
                                          .miss_count = tiers->miss_count};
    tiers->batch = (struct spin_kv_batch){
        .layer = LAYER, .count = BATCH, .sequence = tiers->sequence, .tokens = tiers->tokens};
}

static void destroy(struct tiers *tiers)
{
    spin_test_memory_destroy(&tiers->pool);
    spin_test_memory_destroy(&tiers->host);
}

/* Where a page of a batch row lies on the host: [block][layer][head][token]. */
static uint64_t frame_at(const struct tiers *tiers, uint32_t row, uint32_t page)
{
    const uint32_t token = page * tiers->view.page_tokens;
    const uint64_t number = tiers->blocks[tiers->sequence[row / HEADS] * BLOCKS_MAX + token / 128];
    const uint64_t block = number % tiers->view.frame_blocks;
    return (((block * LAYERS + LAYER) * HEADS + row % HEADS) * 128 + token % 128) * TOKEN_BYTES;
}

static uint8_t *copy_of(const struct test_memory *memory)
{
    uint8_t *copy = malloc(memory->bytes);
    assert_non_null(copy);
    memcpy(copy, spin_test_memory_data(memory), memory->bytes);
    return copy;
}

static void expect_bytes(const struct test_memory *memory, uint8_t *expected)
{
    assert_memory_equal(spin_test_memory_data(memory), expected, memory->bytes);
    free(expected);
}

/* --- gather --- */

/* Up to `limit` misses of each row, some of them fresh. */
static void make_misses(struct tiers *tiers, uint32_t limit, struct spin_rng *rng)
{
    const uint32_t pages = BLOCKS_MAX * 128 / tiers->view.page_tokens;
    for (uint32_t row = 0; row < ROWS; row++) {
        tiers->miss_count[row] = limit == 0 ? 0 : spin_rng_below(rng, limit + 1);
        for (uint32_t m = 0; m < tiers->miss_count[row]; m++) {
            tiers->misses[row * STRIDE + m] =
                (struct spin_kv_miss){(uint16_t)spin_rng_below(rng, pages),
                                      spin_rng_below(rng, 5) == 0, tiers->slots[row * STRIDE + m]};
        }
    }
}

static void check_gather(const struct spin_ops *ops, uint32_t page_tokens, uint32_t limit,
                         uint32_t threads)
{
    struct spin_rng rng = {31, page_tokens, limit};
    struct tiers tiers;
    make(&tiers, page_tokens, &rng);
    make_misses(&tiers, limit, &rng);
    tiers.view.frame_blocks = limit == 2 ? 5 : BLOCKS; /* blocks may share frames */
    uint8_t *pool = copy_of(&tiers.pool);
    uint8_t *host = copy_of(&tiers.host);
    const uint64_t page_bytes = (uint64_t)page_tokens * TOKEN_BYTES;
    for (uint32_t row = 0; row < ROWS; row++) {
        for (uint32_t m = 0; m < tiers.miss_count[row]; m++) {
            const struct spin_kv_miss *miss = &tiers.misses[row * STRIDE + m];
            for (uint64_t i = 0; i < page_bytes; i++) {
                pool[miss->slot * page_bytes + i] =
                    miss->fresh != 0 ? 0 : host[frame_at(&tiers, row, miss->page) + i];
            }
        }
    }
    struct spin_stream *stream = spin_test_stream(threads);
    const struct spin_kv_gather_args args = {&tiers.view, tiers.batch, tiers.lists};
    assert_int_equal(ops->kv_gather(&args, stream), SPIN_OK);
    expect_bytes(&tiers.pool, pool);
    expect_bytes(&tiers.host, host);
    spin_stream_destroy(stream);
    destroy(&tiers);
}

/* --- offload --- */

/* The lists of a batch whose newest pages are `newest`: each row begins somewhere before its range,
 * and its last page is full or not. */
static void make_lists(struct tiers *tiers, const struct spin_kv_range *ranges,
                       const uint32_t *newest, struct spin_rng *rng)
{
    const uint32_t page_tokens = tiers->view.page_tokens;
    for (uint32_t i = 0; i < BATCH; i++) {
        tiers->tokens[i] = newest[i] * page_tokens + 1 + spin_rng_below(rng, page_tokens);
    }
    for (uint32_t row = 0; row < ROWS; row++) {
        const uint32_t i = row / HEADS;
        const uint32_t least = newest[i] + 1 > STRIDE ? newest[i] + 1 - STRIDE : 0;
        const uint32_t first = least + spin_rng_below(rng, ranges[i].first - least + 1);
        for (uint32_t page = first; page <= newest[i]; page++) {
            tiers->pages[row * STRIDE + page - first] = (uint16_t)page;
        }
        tiers->visible[row] = tiers->tokens[i] - first * page_tokens;
    }
}

static void check_offload(const struct spin_ops *ops, uint32_t page_tokens, bool empty,
                          uint32_t threads)
{
    struct spin_rng rng = {32, page_tokens, empty};
    struct tiers tiers;
    make(&tiers, page_tokens, &rng);
    const uint32_t pages = BLOCKS_MAX * 128 / page_tokens;
    /* Over the edge of a block and not the newest, nothing, one page at the end. */
    const struct spin_kv_range some[BATCH] = {{128 / page_tokens - 2, 9}, {1, 0}, {pages - 1, 1}};
    const struct spin_kv_range none[BATCH] = {{0, 0}, {1, 0}, {2, 0}};
    const uint32_t newest[BATCH] = {128 / page_tokens + 7, 5, pages - 1};
    const struct spin_kv_range *ranges = empty ? none : some;
    make_lists(&tiers, some, newest, &rng);
    uint8_t *pool = copy_of(&tiers.pool);
    uint8_t *host = copy_of(&tiers.host);
    const uint64_t page_bytes = (uint64_t)page_tokens * TOKEN_BYTES;
    for (uint32_t row = 0; row < ROWS; row++) {
        const struct spin_kv_range *range = &ranges[row / HEADS];
        for (uint32_t j = 0; j < range->count; j++) {
            uint32_t entry = 0;
            while (tiers.pages[row * STRIDE + entry] != range->first + j) {
                entry++;
            }
            const uint64_t slot = tiers.slots[row * STRIDE + entry];
            memcpy(host + frame_at(&tiers, row, range->first + j), pool + slot * page_bytes,
                   page_bytes);
        }
    }
    struct spin_stream *stream = spin_test_stream(threads);
    const struct spin_kv_offload_args args = {&tiers.view, tiers.batch, tiers.lists, ranges};
    assert_int_equal(ops->kv_offload(&args, stream), SPIN_OK);
    expect_bytes(&tiers.pool, pool);
    expect_bytes(&tiers.host, host);
    spin_stream_destroy(stream);
    destroy(&tiers);
}

static void test_gather(void **state)
{
    (void)state;
    for (uint32_t page_tokens = 8; page_tokens <= 32; page_tokens += 24) {
        for (uint32_t limit = 0; limit <= STRIDE; limit += limit < 2 ? 1 : STRIDE - 2) {
            check_gather(&spin_ops_ref, page_tokens, limit, 1);
            check_gather(&spin_ops_cpu, page_tokens, limit, 1);
            check_gather(&spin_ops_cpu, page_tokens, limit, 4);
        }
    }
}

static void test_offload(void **state)
{
    (void)state;
    for (uint32_t page_tokens = 8; page_tokens <= 32; page_tokens += 24) {
        for (uint32_t empty = 0; empty < 2; empty++) {
            check_offload(&spin_ops_ref, page_tokens, empty == 1, 1);
            check_offload(&spin_ops_cpu, page_tokens, empty == 1, 1);
            check_offload(&spin_ops_cpu, page_tokens, empty == 1, 4);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gather),
        cmocka_unit_test(test_offload),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
