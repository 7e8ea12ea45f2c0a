#include "worker/engine/score.h"

#include "base/assert.h"
#include "worker/engine/forward.h"

#include <stdlib.h>

/* Rows of one lm_head product: enough to read the weights seldom, few enough for a large
 * vocabulary. */
#define LOGITS_ROWS 16u

struct spin_scorer {
    struct spin_scorer_config config;
    const struct spin_model *model;
    struct spin_stream *stream;
    struct spin_kv *kv;
    struct spin_forward *forward;
    struct spin_grid grid;
    float *hidden; /* [super_chunk_tokens][hidden] */
    spin_kv_seq seq;
    bool open;
    uint32_t tokens; /* in the sequence */
};

struct spin_scorer_config spin_scorer_config_default(const struct spin_model *model)
{
    return (struct spin_scorer_config){.ops = NULL,
                                       .threads = 1,
                                       .tokens_max = model->config.context_max,
                                       .chunk_tokens = 128,
                                       .super_chunk_tokens = 2048};
}

static spin_status create_parts(struct spin_scorer *scorer, struct spin_error *err)
{
    const struct spin_scorer_config *config = &scorer->config;
    const struct spin_model_config *shape = &scorer->model->config;
    SPIN_TRY(spin_stream_create_cpu(config->threads, &scorer->stream, err));
    struct spin_kv_config kv = {
        .layout = {.layers = shape->layers,
                   .kv_heads = shape->kv_heads,
                   .head_dim = shape->head_dim,
                   .dtype = SPIN_KV_BF16,
                   .swizzle = config->ops->swizzle},
        .sequences_max = 1,
        .tokens_max = config->tokens_max,
        .page_tokens = SPIN_DENSE_PAGE_TOKENS,
    };
    kv.pool_bytes = spin_kv_blocks_for(config->tokens_max) * spin_block_bytes(&kv.layout);
    SPIN_TRY(spin_kv_create(&kv, scorer->stream, &scorer->kv, err));
    const struct spin_forward_config forward = {.model = scorer->model,
                                                .ops = config->ops,
                                                .stream = scorer->stream,
                                                .kv = scorer->kv,
                                                .grid = scorer->grid,
                                                .sequences_max = 1,
                                                .tokens_max = config->tokens_max,
                                                .logits_rows_max = LOGITS_ROWS};
    SPIN_TRY(spin_forward_create(&forward, &scorer->forward, err));
    void *hidden = NULL;
    SPIN_TRY(spin_device_alloc(scorer->stream,
                               (uint64_t)config->super_chunk_tokens * shape->hidden * sizeof(float),
                               &hidden, err));
    scorer->hidden = hidden;
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
    }
    spin_stream_destroy(scorer->stream);
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

static spin_status grow(struct spin_scorer *scorer, uint32_t tokens, struct spin_error *err)
{
    if (tokens > scorer->config.tokens_max) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%u tokens: tokens_max is %u", tokens,
                         scorer->config.tokens_max);
    }
    const spin_status status = spin_kv_reserve(scorer->kv, scorer->seq, tokens);
    SPIN_ASSERT_EQ(status, SPIN_OK); /* the pool holds tokens_max tokens of the only sequence */
    return SPIN_OK;
}

/* Hands over the rows of one chunk after its last layer. */
static spin_status emit_rows(struct spin_scorer *scorer, const struct spin_unit *unit,
                             const struct spin_score_rows *rows)
{
    const struct spin_model_config *shape = &scorer->model->config;
    for (uint32_t at = SPIN_MAX(unit->begin, rows->first); at < unit->end;) {
        const uint32_t count = SPIN_MIN(LOGITS_ROWS, unit->end - at);
        const float *logits = NULL;
        SPIN_TRY(spin_forward_logits(
            scorer->forward, scorer->hidden + (uint64_t)(at - unit->super_begin) * shape->hidden,
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
    if (scorer->open) {
        spin_kv_close(scorer->kv, scorer->seq);
        scorer->open = false;
        scorer->tokens = 0;
    }
    SPIN_TRY(spin_kv_open(scorer->kv, &scorer->seq));
    scorer->open = true;
    SPIN_TRY(grow(scorer, count, err));
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
    if (!scorer->open) {
        SPIN_TRY(spin_kv_open(scorer->kv, &scorer->seq));
        scorer->open = true;
    }
    SPIN_TRY(grow(scorer, scorer->tokens + 1, err));
    const struct spin_forward_step step = {
        .seq = scorer->seq, .token = token, .position = scorer->tokens};
    float *hidden = NULL;
    spin_status status = spin_forward_decode(scorer->forward, &step, 1, &hidden);
    if (status == SPIN_OK) {
        status = spin_forward_logits(scorer->forward, hidden, 1, out_logits);
    }
    if (status != SPIN_OK) {
        return spin_fail(err, status, "decode step at position %u failed", scorer->tokens);
    }
    scorer->tokens++;
    return SPIN_OK;
}

struct spin_page_lists spin_scorer_pages(struct spin_scorer *scorer, uint32_t layer)
{
    SPIN_ASSERT(scorer->open);
    spin_kv_plan(scorer->kv, &scorer->seq, &scorer->tokens, 1);
    return spin_kv_layer(scorer->kv, layer);
}
