#include "tests/kernels/kv_fixture.h"

/* The tables know more sequences than the batch has. */
#define SPARE_SEQUENCES 2u

static void *zeroed(uint64_t count, uint64_t bytes)
{
    void *memory = calloc(SPIN_MAX(count, 1), bytes);
    assert_non_null(memory);
    return memory;
}

static void shuffle(uint32_t *values, uint64_t count, struct spin_rng *rng)
{
    for (uint64_t i = 0; i < count; i++) {
        values[i] = (uint32_t)i;
    }
    for (uint64_t i = count - 1; i > 0; i--) {
        const uint32_t j = spin_rng_below(rng, (uint32_t)i + 1);
        const uint32_t value = values[i];
        values[i] = values[j];
        values[j] = value;
    }
}

static void create_view(struct fixture *fixture, const struct fixture_config *config)
{
    struct spin_kv_view *view = &fixture->view;
    uint32_t longest = 1;
    for (uint32_t s = 0; s < config->sequences; s++) {
        longest = SPIN_MAX(longest, config->tokens[s]);
    }
    view->layout = (struct spin_kv_layout){FIXTURE_LAYERS, config->kv_heads, config->head_dim,
                                           SPIN_KV_BF16, SPIN_SWIZZLE_NONE};
    view->page_tokens = config->page_tokens;
    view->partition_tokens = config->partition_tokens;
    view->summary_bytes = config->head_dim * (config->summary == SPIN_SUMMARY_BOUNDS ? 4u : 2u);
    view->blocks_max = (longest + SPIN_BLOCK_TOKENS - 1) / SPIN_BLOCK_TOKENS;
    fixture->lists.stride = view->blocks_max * (SPIN_BLOCK_TOKENS / config->page_tokens);
}

struct fixture spin_test_fixture_create(const struct fixture_config *config, struct spin_rng *rng)
{
    struct fixture fixture = {.group = config->group, .summary = config->summary};
    create_view(&fixture, config);
    struct spin_kv_view *view = &fixture.view;
    const uint64_t known = config->sequences + SPARE_SEQUENCES;
    const uint64_t rows = (uint64_t)config->sequences * config->kv_heads;
    const uint64_t block_count = known * view->blocks_max;
    const uint64_t block_summaries = (uint64_t)(SPIN_BLOCK_TOKENS / view->partition_tokens) *
                                     spin_kv_rows(view) * view->summary_bytes;
    const uint64_t slot_count = rows * fixture.lists.stride;
    fixture.pool =
        spin_test_memory_create(slot_count * spin_page_bytes(&view->layout, view->page_tokens));
    fixture.summaries = spin_test_memory_create(block_count * block_summaries);
    fixture.pages = spin_test_memory_create(slot_count * sizeof(uint16_t));
    fixture.sequence = zeroed(known, sizeof *fixture.sequence);
    fixture.tokens = zeroed(known, sizeof *fixture.tokens);
    fixture.slots = zeroed(slot_count, sizeof *fixture.slots);
    fixture.blocks = zeroed(block_count, sizeof *fixture.blocks);
    shuffle(fixture.sequence, known, rng);
    shuffle(fixture.slots, slot_count, rng);
    shuffle(fixture.blocks, block_count, rng);
    memcpy(fixture.tokens, config->tokens, config->sequences * sizeof *config->tokens);
    view->pool = spin_test_memory_data(&fixture.pool);
    view->summaries = spin_test_memory_data(&fixture.summaries);
    view->blocks = fixture.blocks;
    fixture.batch = (struct spin_kv_batch){FIXTURE_LAYER, config->sequences, fixture.sequence,
                                           fixture.tokens, NULL};
    fixture.lists.pages = spin_test_memory_data(&fixture.pages);
    fixture.lists.page_count = zeroed(rows, sizeof *fixture.lists.page_count);
    fixture.lists.slots = fixture.slots;
    fixture.whole.stride = fixture.lists.stride;
    fixture.whole.pages = zeroed(slot_count, sizeof *fixture.whole.pages);
    fixture.whole.slots = zeroed(slot_count, sizeof *fixture.whole.slots);
    fixture.whole.visible = zeroed(rows, sizeof *fixture.whole.visible);
    return fixture;
}

void spin_test_fixture_destroy(struct fixture *fixture)
{
    spin_test_memory_destroy(&fixture->pool);
    spin_test_memory_destroy(&fixture->summaries);
    spin_test_memory_destroy(&fixture->pages);
    free(fixture->lists.page_count);
    free(fixture->whole.pages);
    free(fixture->whole.slots);
    free(fixture->whole.visible);
    free(fixture->sequence);
    free(fixture->tokens);
    free(fixture->slots);
    free(fixture->blocks);
}

struct spin_kv_lists spin_test_fixture_list(const struct fixture *fixture, const uint32_t *skip)
{
    const struct spin_kv_lists *whole = &fixture->whole;
    const uint32_t kv_heads = fixture->view.layout.kv_heads;
    for (uint64_t row = 0; row < (uint64_t)fixture->batch.count * kv_heads; row++) {
        const uint32_t sequence = (uint32_t)(row / kv_heads);
        const uint32_t first = skip == NULL ? 0 : skip[row];
        const uint64_t start = row * whole->stride;
        for (uint32_t page = first; page < spin_test_fixture_pages(fixture, sequence); page++) {
            whole->pages[start + page - first] = (uint16_t)page;
            whole->slots[start + page - first] = fixture->slots[start + page];
        }
        whole->visible[row] = fixture->tokens[sequence] - first * fixture->view.page_tokens;
    }
    return *whole;
}

uint32_t spin_test_fixture_pages(const struct fixture *fixture, uint32_t sequence)
{
    return (fixture->tokens[sequence] + fixture->view.page_tokens - 1) / fixture->view.page_tokens;
}

uint32_t spin_test_fixture_sealed(const struct fixture *fixture, uint32_t sequence)
{
    return fixture->tokens[sequence] / fixture->view.partition_tokens;
}

uint16_t *spin_test_fixture_key(const struct fixture *fixture, uint64_t row, uint32_t token)
{
    const struct spin_kv_view *view = &fixture->view;
    const uint32_t slot = fixture->slots[row * fixture->lists.stride + token / view->page_tokens];
    uint8_t *page = spin_kv_slot_bytes(view, slot);
    return (uint16_t *)(void *)(page +
                                spin_page_k_offset(&view->layout, token % view->page_tokens));
}

uint16_t *spin_test_fixture_summary(const struct fixture *fixture, uint64_t row, uint32_t partition)
{
    const uint32_t kv_heads = fixture->view.layout.kv_heads;
    return (uint16_t *)(void *)spin_kv_summary(&fixture->view, fixture->sequence[row / kv_heads],
                                               fixture->batch.layer, (uint32_t)(row % kv_heads),
                                               partition);
}

void spin_test_fixture_fill_keys(struct fixture *fixture, struct spin_rng *rng)
{
    const struct spin_kv_layout *layout = &fixture->view.layout;
    for (uint64_t row = 0; row < (uint64_t)fixture->batch.count * layout->kv_heads; row++) {
        for (uint32_t t = 0; t < fixture->tokens[row / layout->kv_heads]; t++) {
            uint16_t *key = spin_test_fixture_key(fixture, row, t);
            for (uint32_t d = 0; d < layout->head_dim; d++) {
                key[d] = spin_bf16_from_f32((float)spin_rng_normal(rng));
            }
        }
    }
}

void spin_test_fixture_fill_summaries(struct fixture *fixture, struct spin_rng *rng)
{
    const struct spin_kv_layout *layout = &fixture->view.layout;
    for (uint64_t row = 0; row < (uint64_t)fixture->batch.count * layout->kv_heads; row++) {
        const uint32_t sealed =
            spin_test_fixture_sealed(fixture, (uint32_t)(row / layout->kv_heads));
        for (uint32_t p = 0; p < sealed; p++) {
            uint16_t *summary = spin_test_fixture_summary(fixture, row, p);
            for (uint32_t d = 0; d < layout->head_dim; d++) {
                const double low = spin_rng_normal(rng);
                summary[d] = spin_bf16_from_f32((float)low);
                if (fixture->summary == SPIN_SUMMARY_BOUNDS) {
                    summary[layout->head_dim + d] =
                        spin_bf16_from_f32((float)(low + spin_rng_uniform(rng)));
                }
            }
        }
    }
}
