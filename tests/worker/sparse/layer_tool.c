/* layer_tool: one layer of sparse attention over given queries, keys and values, through two pipes.
 *
 * Why        The oracle is NumPy; what it is compared with is the whole way of a decode step: Index
 *            as tokens come, Select, Retrieve out of a pool that holds little, attention.
 * Protocol   Little-endian u32 and float. stdin, until it ends:
 *              request  algorithm (order of spin_sparse_algorithms), cpu (0: ref), budget_tokens,
 *                       q_heads, kv_heads, head_dim, tokens, prefilled (1..tokens)
 *              k, v     float [tokens][kv_heads * head_dim] each, k rotated
 *              q        float [tokens - prefilled][q_heads * head_dim], rotated
 *            The first `prefilled` tokens come by prefill, the others by decode steps. stdout, for
 *            each step:
 *              pages    for each kv head: count, u32 [count]
 *              out      float [q_heads * head_dim]
 *            and after the last: pages retrieved, evictions.
 * Errors     A sentence on stderr, exit code 1. */
#include "base/assert.h"
#include "worker/sparse/sparse.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* The last of them answers: Quest's first two are dense. */
#define LAYERS 3u
#define SUPER_CHUNK_TOKENS 256u
#define CHUNK_TOKENS 64u
#define THREADS 2u

struct request {
    uint32_t algorithm;
    uint32_t cpu;
    uint32_t budget_tokens;
    uint32_t q_heads;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t tokens;
    uint32_t prefilled;
};

struct layer {
    struct request request;
    struct spin_sparse_options options;
    const struct spin_ops *ops;
    struct spin_stream *stream;
    struct spin_kv *kv;
    struct spin_sparse *sparse;
    spin_kv_seq seq;
    float *k;
    float *v;
    float *q;
    float *out;
    void *workspace;
};

static bool write_words(const void *words, uint64_t count)
{
    return fwrite(words, 4, count, stdout) == count;
}

/* Called after Select. */
static void write_pages(void *context, uint32_t first, const struct spin_kv_batch *batch,
                        const struct spin_kv_lists *lists)
{
    (void)first; /* one wave: all */
    const struct layer *layer = context;
    if (batch->layer + 1 < LAYERS) {
        return;
    }
    for (uint32_t head = 0; head < layer->request.kv_heads; head++) {
        const uint32_t count = lists->page_count[head];
        bool written = write_words(&count, 1);
        for (uint32_t i = 0; i < count; i++) {
            const uint32_t page = lists->pages[(uint64_t)head * lists->stride + i];
            written = written && write_words(&page, 1);
        }
        SPIN_ASSERT(written);
    }
}

static struct spin_matrix rows_of(float *data, uint32_t first, uint32_t rows, uint32_t cols)
{
    return (struct spin_matrix){.data = data + (uint64_t)first * cols,
                                .dtype = SPIN_DTYPE_F32,
                                .rows = rows,
                                .cols = cols,
                                .stride = cols};
}

/* Tokens [begin, end) into their pages. */
static spin_status append(struct layer *layer, uint32_t begin, uint32_t end,
                          const struct spin_page_lists *pages)
{
    const uint32_t first[2] = {0, end - begin};
    const uint32_t cols = layer->request.kv_heads * layer->request.head_dim;
    const struct spin_kv_append_args args = {.k = rows_of(layer->k, begin, end - begin, cols),
                                             .v = rows_of(layer->v, begin, end - begin, cols),
                                             .spans = {.first = first, .count = 1},
                                             .pages = *pages};
    return layer->ops->kv_append(&args, layer->stream);
}

static spin_status prefill_layer(struct layer *layer, uint32_t number, uint32_t super_begin,
                                 uint32_t super_end)
{
    struct spin_page_lists pages;
    for (uint32_t begin = super_begin; begin < super_end; begin += CHUNK_TOKENS) {
        const uint32_t end = SPIN_MIN(begin + CHUNK_TOKENS, super_end);
        SPIN_TRY(spin_kv_prefill_begin(layer->kv, layer->seq, number, begin, end,
                                       begin == super_begin, &pages));
        SPIN_TRY(append(layer, begin, end, &pages));
        SPIN_TRY(spin_sparse_seal(layer->sparse, number));
    }
    return SPIN_OK;
}

static spin_status prefill(struct layer *layer)
{
    const uint32_t tokens = layer->request.prefilled;
    SPIN_TRY(spin_kv_open(layer->kv, &layer->seq));
    SPIN_TRY(spin_kv_reserve(layer->kv, layer->seq, layer->request.tokens));
    SPIN_TRY(spin_kv_activate(layer->kv, layer->seq, tokens, 0));
    for (uint32_t begin = 0; begin < tokens; begin += SUPER_CHUNK_TOKENS) {
        const uint32_t end = SPIN_MIN(begin + SUPER_CHUNK_TOKENS, tokens);
        for (uint32_t number = 0; number < LAYERS; number++) {
            SPIN_TRY(prefill_layer(layer, number, begin, end));
        }
    }
    return SPIN_OK;
}

static struct spin_attention_args attention_args(struct layer *layer, uint32_t token)
{
    static const uint32_t first[2] = {0, 1};
    const struct request *request = &layer->request;
    const uint32_t cols = request->q_heads * request->head_dim;
    return (struct spin_attention_args){.out = rows_of(layer->out, 0, 1, cols),
                                        .q = rows_of(layer->q, token - request->prefilled, 1, cols),
                                        .q_heads = request->q_heads,
                                        .scale = (float)(1 / sqrt(request->head_dim)),
                                        .spans = {.first = first, .count = 1},
                                        .visible_max = token + 1,
                                        .workspace = layer->workspace};
}

static spin_status step(struct layer *layer, uint32_t token)
{
    const struct spin_kv_step one = {.seq = layer->seq, .tokens = token + 1};
    const struct spin_kv_wave wave = {.first = 0, .count = 1};
    SPIN_TRY(spin_kv_step_begin(layer->kv, &one, 1));
    SPIN_TRY(spin_sparse_step_begin(layer->sparse));
    for (uint32_t number = 0; number < LAYERS; number++) {
        struct spin_attention_args args = attention_args(layer, token);
        SPIN_TRY(spin_sparse_select(layer->sparse, number, wave, args.q, &args.pages));
        SPIN_TRY(spin_kv_gather(layer->kv, number, wave));
        SPIN_TRY(append(layer, token, token + 1, &args.pages));
        SPIN_TRY(layer->ops->attention(&args, layer->stream));
        SPIN_TRY(spin_sparse_seal(layer->sparse, number));
    }
    return spin_kv_step_end(layer->kv);
}

static spin_status create_kv(struct layer *layer, struct spin_error *err)
{
    const struct request *request = &layer->request;
    struct spin_kv_config config = {.layout = {.layers = LAYERS,
                                               .kv_heads = request->kv_heads,
                                               .head_dim = request->head_dim,
                                               .dtype = SPIN_KV_BF16,
                                               .swizzle = layer->ops->swizzle},
                                    .ops = layer->ops,
                                    .sequences_max = 1,
                                    .tokens_max = request->tokens};
    spin_sparse_fill_kv_config(&layer->options, &config);
    config.buffered = true;
    const struct spin_kv_budget budget = {.layers = LAYERS,
                                          .kv_heads = request->kv_heads,
                                          .page_tokens = config.page_tokens,
                                          .demand = config.demand};
    config.hbm_bytes = spin_kv_claim_slabs(&budget, request->tokens) * spin_kv_slab_bytes(&config);
    config.host_bytes = spin_kv_blocks_for(request->tokens) * spin_block_bytes(&config.layout);
    SPIN_TRY(spin_kv_create(&config, layer->stream, &layer->kv, err));
    spin_kv_set_poison(layer->kv, true);
    return SPIN_OK;
}

static spin_status create_parts(struct layer *layer, struct spin_error *err)
{
    const struct request *request = &layer->request;
    SPIN_TRY(spin_stream_create_cpu(THREADS, &layer->stream, err));
    SPIN_TRY(create_kv(layer, err));
    const struct spin_sparse_config config = {.options = layer->options,
                                              .ops = layer->ops,
                                              .stream = layer->stream,
                                              .kv = layer->kv,
                                              .q_heads = request->q_heads,
                                              .scale = (float)(1 / sqrt(request->head_dim)),
                                              .sequences_max = 1,
                                              .observer = {layer, write_pages}};
    SPIN_TRY(spin_sparse_create(&config, &layer->sparse, err));
    struct spin_attention_args largest = attention_args(layer, request->prefilled);
    largest.visible_max = request->tokens;
    largest.pages.layout = spin_kv_get_view(layer->kv)->layout;
    largest.pages.page_tokens = spin_kv_get_view(layer->kv)->page_tokens;
    return spin_device_alloc(layer->stream, layer->ops->attention_workspace_bytes(&largest),
                             &layer->workspace, err);
}

static spin_status run(struct layer *layer, struct spin_error *err)
{
    SPIN_TRY(create_parts(layer, err));
    SPIN_TRY(prefill(layer));
    for (uint32_t token = layer->request.prefilled; token < layer->request.tokens; token++) {
        SPIN_TRY(step(layer, token));
        if (!write_words(layer->out, (uint64_t)layer->request.q_heads * layer->request.head_dim)) {
            return spin_fail_errno(err, SPIN_ERR_IO, "write of step %u", token);
        }
    }
    struct spin_kv_stats stats;
    spin_kv_get_stats(layer->kv, &stats);
    const uint32_t counts[2] = {(uint32_t)stats.pages_retrieved, (uint32_t)stats.evictions};
    if (!write_words(counts, 2) || fflush(stdout) != 0) {
        return spin_fail_errno(err, SPIN_ERR_IO, "write of counts");
    }
    spin_kv_close(layer->kv, layer->seq);
    return SPIN_OK;
}

static bool read_floats(float **out, uint64_t count)
{
    *out = calloc(count + 1, sizeof **out);
    return *out != NULL && fread(*out, sizeof **out, count, stdin) == count;
}

/* Its input is a test of ours: asserted. */
static spin_status answer(const struct request *request, struct spin_error *err)
{
    SPIN_ASSERT_LT(request->algorithm, spin_sparse_algorithm_count);
    SPIN_ASSERT_LE(request->prefilled, request->tokens);
    struct layer layer = {.request = *request,
                          .options = spin_sparse_options_default(),
                          .ops = request->cpu != 0 ? spin_ops_best_cpu() : &spin_ops_ref};
    layer.options.algorithm = spin_sparse_algorithms[request->algorithm];
    layer.options.budget_tokens = request->budget_tokens;
    layer.options.min_context = 1;
    const uint64_t kv_floats = (uint64_t)request->tokens * request->kv_heads * request->head_dim;
    const uint64_t q_cols = (uint64_t)request->q_heads * request->head_dim;
    layer.out = calloc(q_cols, sizeof *layer.out);
    SPIN_ASSERT(layer.out != NULL);
    SPIN_ASSERT(read_floats(&layer.k, kv_floats));
    SPIN_ASSERT(read_floats(&layer.v, kv_floats));
    SPIN_ASSERT(read_floats(&layer.q, (request->tokens - request->prefilled) * q_cols));
    const spin_status status = run(&layer, err);
    if (status == SPIN_OK) {
        spin_sparse_destroy(layer.sparse);
        spin_kv_destroy(layer.kv);
        spin_device_free(layer.stream, layer.workspace);
        spin_stream_destroy(layer.stream);
    }
    free(layer.k);
    free(layer.v);
    free(layer.q);
    free(layer.out);
    return status;
}

int main(void)
{
    struct request request;
    struct spin_error err = {.status = SPIN_OK};
    spin_status status = SPIN_OK;
    while (status == SPIN_OK && fread(&request, sizeof request, 1, stdin) == 1) {
        status = answer(&request, &err);
    }
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "layer_tool: %s: %s\n", spin_status_name(status), err.text);
    }
    return status == SPIN_OK ? 0 : 1;
}
