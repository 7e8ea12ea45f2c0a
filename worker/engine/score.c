#include "worker/engine/score.h"

#include "base/assert.h"
#include "base/clock.h"

#include <stdlib.h>

/* Rows of one lm_head product: enough to read the weights seldom, few enough for a large
 * vocabulary. */
#define LOGITS_ROWS 16u
#define GRAPHS 32u
#define WAIT_NS (60 * SPIN_NS_PER_S) /* for one pass; a chunk of a large model's layer is long */

struct spin_scorer {
    struct spin_scorer_config config;
    const struct spin_model *model;
    struct spin_stream *stream;
    struct spin_stream *own; /* the same, or NULL */
    struct spin_kv *kv;
    struct spin_forward *forward;
    struct spin_grid grid;
    float *hidden; /* device [super_chunk_tokens][hidden] */
    float *rows;   /* host [LOGITS_ROWS][vocab] */
    spin_kv_seq seq;
    bool open;
    uint32_t tokens; /* in the sequence */

    /* Of spin_scorer_pages. */
    uint32_t *slots;      /* [kv_heads][pages of tokens_max] */
    uint64_t *row_offset; /* [kv_heads] */
    uint32_t *visible;    /* [kv_heads] */
};

struct spin_scorer_config spin_scorer_config_default(const struct spin_model *model)
{
    return (struct spin_scorer_config){.ops = NULL,
                                       .threads = 1,
                                       .tokens_max = model->config.context_max,
                                       .chunk_tokens = 128,
                                       .super_chunk_tokens = 2048,
                                       .sparse = spin_sparse_options_default(),
                                       .graphs_max = GRAPHS,
                                       .kv_hbm_bytes = 0,
                                       .kv_replacement = SPIN_KV_SLOT_LRU,
                                       .kv_poison = false};
}

/* A pool in which a sequence of tokens_max tokens keeps every page. */
static uint64_t resident_bytes(const struct spin_kv_config *kv)
{
    const struct spin_kv_budget budget = {.layers = kv->layout.layers,
                                          .kv_heads = kv->layout.kv_heads,
                                          .page_tokens = kv->page_tokens,
                                          .demand = kv->demand};
    return (uint64_t)spin_kv_full_row(&budget, kv->tokens_max) * kv->layout.layers *
           kv->layout.kv_heads * spin_kv_slab_bytes(kv);
}

static spin_status create_kv(struct spin_scorer *scorer, struct spin_error *err)
{
    const struct spin_scorer_config *config = &scorer->config;
    const struct spin_model_config *shape = &scorer->model->config;
    struct spin_kv_config kv = {
        .layout = {.layers = shape->layers,
                   .kv_heads = shape->kv_heads,
                   .head_dim = shape->head_dim,
                   .dtype = SPIN_KV_BF16,
                   .swizzle = config->ops->swizzle},
        .ops = config->ops,
        .sequences_max = 1,
        .tokens_max = config->tokens_max,
        .replacement = config->kv_replacement,
    };
    spin_sparse_fill_kv_config(&config->sparse, &kv);
    kv.host_bytes = spin_kv_blocks_for(config->tokens_max) * spin_block_bytes(&kv.layout);
    kv.hbm_bytes = config->kv_hbm_bytes != 0 ? config->kv_hbm_bytes : resident_bytes(&kv);
    SPIN_TRY(spin_kv_create(&kv, scorer->stream, &scorer->kv, err));
    if (config->kv_poison) {
        spin_kv_set_poison(scorer->kv, true);
    }
    return SPIN_OK;
}

static uint32_t pages_max(const struct spin_scorer *scorer)
{
    return (scorer->config.tokens_max - 1) / scorer->config.sparse.algorithm->page_tokens + 1;
}

static spin_status alloc_lists(struct spin_scorer *scorer, struct spin_error *err)
{
    const uint32_t kv_heads = scorer->model->config.kv_heads;
    scorer->slots = calloc((uint64_t)kv_heads * pages_max(scorer), sizeof *scorer->slots);
    scorer->row_offset = calloc(kv_heads, sizeof *scorer->row_offset);
    scorer->visible = calloc(kv_heads, sizeof *scorer->visible);
    if (scorer->slots == NULL || scorer->row_offset == NULL || scorer->visible == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "scorer: lists of %u tokens",
                         scorer->config.tokens_max);
    }
    return SPIN_OK;
}

static spin_status create_parts(struct spin_scorer *scorer, struct spin_error *err)
{
    const struct spin_scorer_config *config = &scorer->config;
    const struct spin_model_config *shape = &scorer->model->config;
    if (config->stream == NULL) {
        SPIN_TRY(spin_stream_create_cpu(config->threads, &scorer->own, err));
    }
    scorer->stream = config->stream != NULL ? config->stream : scorer->own;
    SPIN_TRY(create_kv(scorer, err));
    SPIN_TRY(alloc_lists(scorer, err));
    const struct spin_forward_config forward = {.model = scorer->model,
                                                .ops = config->ops,
                                                .stream = scorer->stream,
                                                .kv = scorer->kv,
                                                .grid = scorer->grid,
                                                .sequences_max = 1,
                                                .tokens_max = config->tokens_max,
                                                .logits_rows_max = LOGITS_ROWS,
                                                .sparse = config->sparse,
                                                .observer = config->observer,
                                                .graphs_max = config->graphs_max};
    SPIN_TRY(spin_forward_create(&forward, &scorer->forward, err));
    void *memory = NULL;
    SPIN_TRY(spin_device_alloc(scorer->stream,
                               (uint64_t)config->super_chunk_tokens * shape->hidden * sizeof(float),
                               &memory, err));
    scorer->hidden = memory;
    SPIN_TRY(spin_host_alloc(scorer->stream, (uint64_t)LOGITS_ROWS * shape->vocab * sizeof(float),
                             &memory, err));
    scorer->rows = memory;
    return SPIN_OK;
}

spin_status spin_scorer_create(const struct spin_scorer_config *config,
                               const struct spin_model *model, struct spin_scorer **out,
                               struct spin_error *err)
{
    if (config->chunk_tokens < 1 || config->super_chunk_tokens < 1) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "chunk_tokens %u, super_chunk_tokens %u: at least 1", config->chunk_tokens,
                         config->super_chunk_tokens);
    }
    struct spin_scorer *scorer = calloc(1, sizeof *scorer);
    if (scorer == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "scorer: %zu bytes", sizeof *scorer);
    }
    scorer->config = *config;
    scorer->model = model;
    if (scorer->config.ops == NULL) {
        scorer->config.ops = spin_ops_best_cpu();
    }
    scorer->grid = (struct spin_grid){
        .layers = model->config.layers,
        .super_chunk_tokens = config->super_chunk_tokens,
        .chunk_tokens = SPIN_MIN(config->chunk_tokens, config->super_chunk_tokens)};
    const spin_status status = create_parts(scorer, err);
    if (status != SPIN_OK) {
        spin_scorer_destroy(scorer);
        return status;
    }
    *out = scorer;
    return SPIN_OK;
}

void spin_scorer_destroy(struct spin_scorer *scorer)
{
    if (scorer == NULL) {
        return;
    }
    if (scorer->open) {
        spin_kv_close(scorer->kv, scorer->seq);
    }
    spin_forward_destroy(scorer->forward);
    spin_kv_destroy(scorer->kv);
    if (scorer->stream != NULL) {
        spin_device_free(scorer->stream, scorer->hidden);
        spin_host_free(scorer->stream, scorer->rows);
    }
    spin_stream_destroy(scorer->own);
    free(scorer->slots);
    free(scorer->row_offset);
    free(scorer->visible);
    free(scorer);
}

static spin_status check_tokens(const struct spin_scorer *scorer, const int32_t *tokens,
                                uint32_t count, struct spin_error *err)
{
    const uint32_t vocab = scorer->model->config.vocab;
    for (uint32_t i = 0; i < count; i++) {
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab) {
            return spin_fail(err, SPIN_ERR_INVALID, "token %d at %u: must be 0 to %u", tokens[i], i,
                             vocab - 1);
        }
    }
    return SPIN_OK;
}

/* Forgets the sequence and begins another, whose first `tokens` tokens are prefilled. The only
 * sequence has both tiers to itself, and they hold tokens_max tokens of it. */
static void start_over(struct spin_scorer *scorer, uint32_t tokens)
{
    if (scorer->open) {
        spin_kv_close(scorer->kv, scorer->seq);
        scorer->tokens = 0;
    }
    spin_status status = spin_kv_open(scorer->kv, &scorer->seq);
    SPIN_ASSERT_EQ(status, SPIN_OK);
    scorer->open = true;
    status = spin_kv_reserve(scorer->kv, scorer->seq, tokens);
    SPIN_ASSERT_EQ(status, SPIN_OK);
    status = spin_kv_activate(scorer->kv, scorer->seq, tokens, 0);
    SPIN_ASSERT_EQ(status, SPIN_OK);
}

static spin_status check_room(const struct spin_scorer *scorer, uint32_t tokens,
                              struct spin_error *err)
{
    if (tokens > scorer->config.tokens_max) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%u tokens: tokens_max is %u", tokens,
                         scorer->config.tokens_max);
    }
    return SPIN_OK;
}

/* The logits of `count` hidden rows, on the host; everything submitted is done. */
static spin_status read_logits(struct spin_scorer *scorer, const float *hidden, uint32_t count,
                               const float **out)
{
    const uint64_t bytes = (uint64_t)count * scorer->model->config.vocab * sizeof(float);
    const float *logits = NULL;
    SPIN_TRY(spin_forward_logits(scorer->forward, hidden, count, &logits));
    if (!spin_device_is_host(scorer->stream)) {
        SPIN_TRY(spin_device_read(scorer->stream, scorer->rows, logits, bytes));
        logits = scorer->rows;
    }
    *out = logits;
    return spin_stream_sync(scorer->stream, WAIT_NS);
}

/* Hands over the rows of one chunk after its last layer. */
static spin_status emit_rows(struct spin_scorer *scorer, const struct spin_unit *unit,
                             const struct spin_score_rows *rows)
{
    const struct spin_model_config *shape = &scorer->model->config;
    for (uint32_t at = SPIN_MAX(unit->begin, rows->first); at < unit->end;) {
        const uint32_t count = SPIN_MIN(LOGITS_ROWS, unit->end - at);
        const float *logits = NULL;
        SPIN_TRY(read_logits(scorer,
                             scorer->hidden + (uint64_t)(at - unit->super_begin) * shape->hidden,
                             count, &logits));
        for (uint32_t i = 0; i < count; i++) {
            rows->row(rows->context, at + i, logits + (uint64_t)i * shape->vocab);
        }
        at += count;
    }
    return SPIN_OK;
}

static spin_status run_units(struct spin_scorer *scorer, const int32_t *tokens, uint32_t count,
                             const struct spin_score_rows *rows)
{
    struct spin_cursor cursor = spin_cursor_start(&scorer->grid, count);
    while (!spin_cursor_done(&cursor)) {
        const struct spin_forward_unit unit = {
            .seq = scorer->seq, .unit = cursor.unit, .tokens = tokens, .hidden = scorer->hidden};
        SPIN_TRY(spin_forward_prefill(scorer->forward, &unit));
        SPIN_TRY(spin_stream_sync(scorer->stream, WAIT_NS));
        if (cursor.unit.layer + 1 == scorer->grid.layers) {
            SPIN_TRY(emit_rows(scorer, &cursor.unit, rows));
        }
        spin_cursor_advance(&scorer->grid, &cursor);
    }
    return SPIN_OK;
}

spin_status spin_scorer_prefill(struct spin_scorer *scorer, const int32_t *tokens, uint32_t count,
                                const struct spin_score_rows *rows, struct spin_error *err)
{
    SPIN_TRY(check_tokens(scorer, tokens, count, err));
    if (count == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "0 tokens: at least 1");
    }
    SPIN_TRY(check_room(scorer, count, err));
    start_over(scorer, count);
    const spin_status status = run_units(scorer, tokens, count, rows);
    if (status != SPIN_OK) {
        return spin_fail(err, status, "prefill of %u tokens failed", count);
    }
    scorer->tokens = count;
    return SPIN_OK;
}

spin_status spin_scorer_decode(struct spin_scorer *scorer, int32_t token, const float **out_logits,
                               struct spin_error *err)
{
    SPIN_TRY(check_tokens(scorer, &token, 1, err));
    SPIN_TRY(check_room(scorer, scorer->tokens + 1, err));
    if (!scorer->open) {
        start_over(scorer, 1);
    }
    spin_status status = spin_kv_reserve(scorer->kv, scorer->seq, scorer->tokens + 1);
    SPIN_ASSERT_EQ(status, SPIN_OK);
    const struct spin_forward_step step = {
        .seq = scorer->seq, .token = token, .position = scorer->tokens};
    float *hidden = NULL;
    status = spin_forward_decode(scorer->forward, &step, 1, &hidden);
    if (status == SPIN_OK) {
        status = read_logits(scorer, hidden, 1, out_logits);
    }
    if (status == SPIN_OK) {
        status = spin_forward_decode_end(scorer->forward);
    }
    if (status != SPIN_OK) {
        return spin_fail(err, status, "decode step at position %u failed", scorer->tokens);
    }
    scorer->tokens++;
    return SPIN_OK;
}

void spin_scorer_get_kv_stats(const struct spin_scorer *scorer, struct spin_kv_stats *out)
{
    spin_kv_get_stats(scorer->kv, out);
}

void spin_scorer_get_sparse_stats(const struct spin_scorer *scorer, struct spin_sparse_stats *out)
{
    spin_forward_get_sparse_stats(scorer->forward, out);
}

void spin_scorer_get_graph_stats(const struct spin_scorer *scorer,
                                 struct spin_forward_graph_stats *out)
{
    spin_forward_get_graph_stats(scorer->forward, out);
}

struct spin_page_lists spin_scorer_pages(struct spin_scorer *scorer, uint32_t layer)
{
    SPIN_ASSERT(scorer->open);
    SPIN_ASSERT_GE(scorer->tokens, 1);
    SPIN_ASSERT(spin_device_is_host(scorer->stream));
    const struct spin_kv_view *view = spin_kv_get_view(scorer->kv);
    const uint32_t sequence = spin_kv_get_host_batch(scorer->kv, layer).sequence[0];
    SPIN_ASSERT_EQ(view->residency[sequence], SPIN_KV_RESIDENT);
    const uint32_t pages = (scorer->tokens - 1) / view->page_tokens + 1;
    for (uint32_t head = 0; head < view->layout.kv_heads; head++) {
        const uint64_t table_row = spin_kv_table_row(view, sequence, layer, head);
        scorer->row_offset[head] = (uint64_t)head * pages_max(scorer);
        scorer->visible[head] = scorer->tokens;
        for (uint32_t page = 0; page < pages; page++) {
            scorer->slots[scorer->row_offset[head] + page] =
                spin_kv_pool_slot(view, table_row, page);
        }
    }
    return (struct spin_page_lists){.layout = view->layout,
                                    .pool = view->pool,
                                    .slots = scorer->slots,
                                    .row_offset = scorer->row_offset,
                                    .visible = scorer->visible,
                                    .page_tokens = view->page_tokens};
}
