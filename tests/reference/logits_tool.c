/* logits_tool: answers "what does the model say here?" for many token sequences, over two pipes.
 *
 *   logits_tool MODEL ref|cpu THREADS TOKENS_MAX
 *
 * Why        The comparisons are written in Python. One process serves a whole test, so weights are
 *            opened once, and what is compared is the forward pass that serves.
 * Protocol   Little-endian u32 and float. stdin, until it ends:
 *              request  tokens, first_row, decode_from, generate,
 *                       chunk_tokens, super_chunk_tokens, kv
 *              ids      i32 [tokens]
 *            Tokens before decode_from (1..tokens) are prefilled, the others fed by decode steps;
 *            then `generate` tokens are chosen greedily, each but the last fed by a decode step.
 *            stdout, for each request:
 *              reply    rows, vocab, generated, layers, kv_heads, head_dim, kv_tokens
 *              logits   float [rows][vocab], of positions first_row and up, generated ones too
 *              ids      i32 [generated]
 *              kv       u16 [layers][kv_heads][kv_tokens][2][head_dim], K then V; none at 0 tokens
 * Errors     A sentence on stderr, exit code 1. */
#include "base/assert.h"
#include "worker/engine/score.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct request {
    uint32_t tokens;
    uint32_t first_row;
    uint32_t decode_from;
    uint32_t generate;
    uint32_t chunk_tokens;
    uint32_t super_chunk_tokens;
    uint32_t kv;
};

struct reply {
    uint32_t rows;
    uint32_t vocab;
    uint32_t generated;
    uint32_t layers;
    uint32_t kv_heads;
    uint32_t head_dim;
    uint32_t kv_tokens;
};

struct tool {
    struct spin_model *model;
    struct spin_scorer_config config;
    struct spin_scorer *scorer; /* made for config; NULL before the first request */
    int32_t *ids;               /* [config.tokens_max] */
    uint32_t first_row;
    int32_t best; /* the most likely token after the last position so far */
};

static spin_status write_all(const void *bytes, uint64_t count, struct spin_error *err)
{
    if (fwrite(bytes, 1, count, stdout) != count) {
        return spin_fail_errno(err, SPIN_ERR_IO, "write of %llu bytes", (unsigned long long)count);
    }
    return SPIN_OK;
}

static int32_t argmax(const float *logits, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < count; i++) {
        if (logits[i] > logits[best]) {
            best = i;
        }
    }
    return (int32_t)best;
}

/* A spin_score_fn. A short write shows as a failed flush at the end of the request. */
static void row_done(void *context, uint32_t position, const float *logits)
{
    struct tool *tool = context;
    const uint32_t vocab = tool->model->config.vocab;
    if (position >= tool->first_row) {
        (void)fwrite(logits, sizeof *logits, vocab, stdout);
    }
    tool->best = argmax(logits, vocab);
}

static spin_status feed(struct tool *tool, int32_t token, uint32_t position, struct spin_error *err)
{
    const float *logits = NULL;
    SPIN_TRY(spin_scorer_decode(tool->scorer, token, &logits, err));
    row_done(tool, position, logits);
    return SPIN_OK;
}

static spin_status score(struct tool *tool, const struct request *request, struct spin_error *err)
{
    tool->first_row = request->first_row;
    const struct spin_score_rows rows = {
        .first = SPIN_MIN(request->first_row, request->decode_from - 1),
        .row = row_done,
        .context = tool,
    };
    SPIN_TRY(spin_scorer_prefill(tool->scorer, tool->ids, request->decode_from, &rows, err));
    for (uint32_t i = request->decode_from; i < request->tokens; i++) {
        SPIN_TRY(feed(tool, tool->ids[i], i, err));
    }
    for (uint32_t i = 0; i < request->generate; i++) {
        const uint32_t position = request->tokens + i;
        tool->ids[position] = tool->best;
        if (i + 1 < request->generate) {
            SPIN_TRY(feed(tool, tool->best, position, err));
        }
    }
    return SPIN_OK;
}

static spin_status write_kv(const struct tool *tool, uint32_t tokens, struct spin_error *err)
{
    for (uint32_t layer = 0; layer < tool->model->config.layers; layer++) {
        const struct spin_page_lists lists = spin_scorer_pages(tool->scorer, layer);
        SPIN_ASSERT_EQ(lists.layout.swizzle, SPIN_SWIZZLE_NONE);
        const uint64_t page_bytes = spin_page_bytes(&lists.layout, lists.page_tokens);
        const uint64_t part_bytes =
            (uint64_t)lists.layout.head_dim * spin_kv_element_bytes(&lists.layout);
        for (uint64_t at = 0; at < (uint64_t)lists.layout.kv_heads * tokens; at++) {
            const uint32_t token = (uint32_t)(at % tokens);
            const uint32_t *slots = lists.slots + lists.row_offset[at / tokens];
            const uint8_t *page = lists.pool + slots[token / lists.page_tokens] * page_bytes;
            const uint32_t in_page = token % lists.page_tokens;
            SPIN_TRY(write_all(page + spin_page_k_offset(&lists.layout, in_page), part_bytes, err));
            SPIN_TRY(write_all(page + spin_page_v_offset(&lists.layout, in_page), part_bytes, err));
        }
    }
    return SPIN_OK;
}

static spin_status check(const struct tool *tool, const struct request *request,
                         struct spin_error *err)
{
    const uint64_t total = (uint64_t)request->tokens + request->generate;
    if (request->tokens < 1 || total > tool->config.tokens_max) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%u tokens and %u to generate: 1 to %u together",
                         request->tokens, request->generate, tool->config.tokens_max);
    }
    if (request->decode_from < 1 || request->decode_from > request->tokens ||
        request->first_row >= request->tokens) {
        return spin_fail(err, SPIN_ERR_INVALID, "decode_from %u, first_row %u of %u tokens",
                         request->decode_from, request->first_row, request->tokens);
    }
    return SPIN_OK;
}

/* Another chunking is another grid, which a scorer is made with. */
static spin_status prepare(struct tool *tool, const struct request *request, struct spin_error *err)
{
    SPIN_TRY(check(tool, request, err));
    if (tool->scorer != NULL && tool->config.chunk_tokens == request->chunk_tokens &&
        tool->config.super_chunk_tokens == request->super_chunk_tokens) {
        return SPIN_OK;
    }
    spin_scorer_destroy(tool->scorer);
    tool->scorer = NULL;
    tool->config.chunk_tokens = request->chunk_tokens;
    tool->config.super_chunk_tokens = request->super_chunk_tokens;
    return spin_scorer_create(&tool->config, tool->model, &tool->scorer, err);
}

static spin_status answer(struct tool *tool, const struct request *request, struct spin_error *err)
{
    SPIN_TRY(prepare(tool, request, err));
    if (fread(tool->ids, sizeof *tool->ids, request->tokens, stdin) != request->tokens) {
        return spin_fail(err, SPIN_ERR_IO, "fewer than %u token ids on stdin", request->tokens);
    }
    const struct spin_model_config *shape = &tool->model->config;
    const uint32_t fed = request->tokens + SPIN_MAX(request->generate, 1u) - 1;
    const struct reply reply = {
        .rows = fed - request->first_row,
        .vocab = shape->vocab,
        .generated = request->generate,
        .layers = shape->layers,
        .kv_heads = shape->kv_heads,
        .head_dim = shape->head_dim,
        .kv_tokens = request->kv != 0 ? fed : 0,
    };
    SPIN_TRY(write_all(&reply, sizeof reply, err));
    SPIN_TRY(score(tool, request, err));
    SPIN_TRY(write_all(tool->ids + request->tokens, request->generate * sizeof *tool->ids, err));
    if (request->kv != 0) {
        SPIN_TRY(write_kv(tool, fed, err));
    }
    if (fflush(stdout) != 0 || ferror(stdout) != 0) {
        return spin_fail_errno(err, SPIN_ERR_IO, "stdout");
    }
    return SPIN_OK;
}

static spin_status parse_u32(const char *name, const char *text, uint32_t *out,
                             struct spin_error *err)
{
    char *end = NULL;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < 1 || value > UINT32_MAX) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s %s: must be 1 to %u", name, text, UINT32_MAX);
    }
    *out = (uint32_t)value;
    return SPIN_OK;
}

static spin_status start(struct tool *tool, char **arguments, struct spin_error *err)
{
    SPIN_TRY(spin_model_open(arguments[0], &tool->model, err));
    tool->config = spin_scorer_config_default(tool->model);
    if (strcmp(arguments[1], "ref") != 0 && strcmp(arguments[1], "cpu") != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "operations %s: ref or cpu", arguments[1]);
    }
    tool->config.ops = strcmp(arguments[1], "ref") == 0 ? &spin_ops_ref : &spin_ops_cpu;
    SPIN_TRY(parse_u32("THREADS", arguments[2], &tool->config.threads, err));
    SPIN_TRY(parse_u32("TOKENS_MAX", arguments[3], &tool->config.tokens_max, err));
    tool->ids = calloc(tool->config.tokens_max, sizeof *tool->ids);
    if (tool->ids == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%u token ids", tool->config.tokens_max);
    }
    return SPIN_OK;
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        (void)fprintf(stderr, "usage: logits_tool MODEL ref|cpu THREADS TOKENS_MAX\n");
        return 2;
    }
    struct tool tool = {.model = NULL};
    struct spin_error err = {.status = SPIN_OK};
    spin_status status = start(&tool, argv + 1, &err);
    struct request request;
    while (status == SPIN_OK && fread(&request, sizeof request, 1, stdin) == 1) {
        status = answer(&tool, &request, &err);
    }
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "logits_tool: %s: %s\n", spin_status_name(status), err.text);
    }
    spin_scorer_destroy(tool.scorer);
    spin_model_close(tool.model);
    free(tool.ids);
    return status == SPIN_OK ? 0 : 1;
}
