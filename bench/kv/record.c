/* usage: kv_record MODEL ALGORITHM TRACE PROMPT STEPS THREADS TEXT...
 *
 * Forces the model along real texts and writes down which pages every row chose. A text's first
 * PROMPT tokens are prefilled, the next STEPS are fed one by one by decode steps, as if the model
 * had said them. The observer sees what the serving path selects, after Select and before Retrieve;
 * HBM holds everything, as it changes no choice. A trace appears whole or not at all. */
#include "base/assert.h"
#include "base/clock.h"
#include "base/file.h"
#include "bench/kv/trace.h"
#include "model/text/tokenizer.h"
#include "worker/engine/score.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES_MAX (UINT64_C(1) << 20)
#define PATH_BYTES 4096u
#define FIRST_TEXT 7

struct recorder {
    struct spin_model *model;
    struct spin_tokenizer *tokenizer;
    struct spin_scorer *scorer;
    struct spin_sparse_options sparse;
    uint32_t prompt;
    uint32_t steps;
    uint32_t threads;
    const char *const *texts;
    uint32_t text_count;
    struct spin_trace_writer writer;
    int32_t *tokens;      /* [texts][prompt + steps] */
    uint32_t layers_seen; /* of the step at hand */
    uint64_t pages;
};

/* A spin_sparse_observer. */
static void selected(void *context, uint32_t first, const struct spin_kv_batch *batch,
                     const struct spin_kv_lists *lists)
{
    struct recorder *recorder = context;
    const struct spin_sparse_algorithm *algorithm = recorder->sparse.algorithm;
    SPIN_ASSERT_EQ(first, 0);
    SPIN_ASSERT_EQ(batch->count, 1);
    SPIN_ASSERT_EQ(batch->layer, recorder->layers_seen);
    recorder->layers_seen++;
    if (batch->layer < algorithm->dense_layers) {
        return;
    }
    if (batch->layer == algorithm->dense_layers) {
        const struct spin_kv_window window = algorithm->window(&recorder->sparse, batch->tokens[0]);
        const uint32_t pages = algorithm->partition_tokens / algorithm->page_tokens;
        spin_trace_put_window(&recorder->writer, (struct spin_trace_window){
                                                     .sink_end = window.sink_end * pages,
                                                     .local_begin = window.local_begin * pages});
    }
    for (uint32_t head = 0; head < recorder->model->config.kv_heads; head++) {
        spin_trace_put_list(&recorder->writer,
                            (struct spin_trace_list){
                                .pages = lists->pages + (uint64_t)head * lists->stride,
                                .count = lists->page_count[head],
                            });
        recorder->pages += lists->page_count[head];
    }
}

static spin_status encode(struct recorder *recorder, uint32_t index, struct spin_error *err)
{
    const char *path = recorder->texts[index];
    const uint64_t wanted = (uint64_t)recorder->prompt + recorder->steps;
    char *text = NULL;
    uint64_t bytes = 0;
    SPIN_TRY(spin_file_read(path, TEXT_BYTES_MAX, &text, &bytes, err));
    int32_t *all = calloc(bytes + 1, sizeof *all); /* a token has a byte at least */
    uint64_t count = 0;
    spin_status status =
        all == NULL ? spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: %" PRIu64 " tokens", path, bytes)
                    : spin_tokenizer_encode(recorder->tokenizer, text, bytes, SPIN_ENCODE_PLAIN,
                                            all, bytes + 1, &count, err);
    if (status == SPIN_OK && count < wanted) {
        status = spin_fail(err, SPIN_ERR_INVALID, "%s: %" PRIu64 " tokens; %" PRIu64 " are needed",
                           path, count, wanted);
    }
    if (status == SPIN_OK) {
        memcpy(recorder->tokens + index * wanted, all, wanted * sizeof *all);
    }
    free(all);
    free(text);
    return status;
}

static spin_status record_text(struct recorder *recorder, uint32_t index, struct spin_error *err)
{
    const int32_t *tokens =
        recorder->tokens + (uint64_t)index * (recorder->prompt + recorder->steps);
    const struct spin_score_rows none = {.first = recorder->prompt};
    const uint64_t begun_ns = spin_now_ns(spin_clock_real());
    SPIN_TRY(spin_scorer_prefill(recorder->scorer, tokens, recorder->prompt, &none, err));
    const uint64_t prefilled_ns = spin_now_ns(spin_clock_real());
    recorder->pages = 0;
    for (uint32_t step = 0; step < recorder->steps; step++) {
        const float *logits = NULL;
        recorder->layers_seen = 0;
        SPIN_TRY(
            spin_scorer_decode(recorder->scorer, tokens[recorder->prompt + step], &logits, err));
        if (recorder->layers_seen != recorder->model->config.layers) {
            return spin_fail(err, SPIN_ERR_INTERNAL, "step %u showed %u layers of %u", step,
                             recorder->layers_seen, recorder->model->config.layers);
        }
    }
    const uint64_t ended_ns = spin_now_ns(spin_clock_real());
    const uint32_t rows =
        (recorder->model->config.layers - recorder->sparse.algorithm->dense_layers) *
        recorder->model->config.kv_heads;
    printf("recorded %s: prefill %.1f s, %.1f ms a step, %.1f pages of a row\n",
           recorder->texts[index], (double)(prefilled_ns - begun_ns) / SPIN_NS_PER_S,
           (double)(ended_ns - prefilled_ns) / SPIN_NS_PER_MS / recorder->steps,
           (double)recorder->pages / rows / recorder->steps);
    (void)fflush(stdout);
    return SPIN_OK;
}

static void fill_document(struct spin_trace_document *document, const char *path, uint32_t prompt)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    const char *dot = strrchr(name, '.');
    const size_t length = dot == NULL ? strlen(name) : (size_t)(dot - name);
    (void)snprintf(document->name, sizeof document->name, "%.*s", (int)SPIN_MIN(length, 31), name);
    document->prompt_tokens = prompt;
}

static spin_status record(struct recorder *recorder, const char *path, struct spin_error *err)
{
    const struct spin_model_config *model = &recorder->model->config;
    const struct spin_sparse_algorithm *algorithm = recorder->sparse.algorithm;
    struct spin_trace_shape shape = {
        .page_tokens = algorithm->page_tokens,
        .first_layer = algorithm->dense_layers,
        .layers = model->layers - algorithm->dense_layers,
        .kv_heads = model->kv_heads,
        .documents = recorder->text_count,
        .steps = recorder->steps,
    };
    (void)snprintf(shape.algorithm, sizeof shape.algorithm, "%s", algorithm->name);
    struct spin_trace_document documents[SPIN_TRACE_DOCUMENTS_MAX] = {0};
    for (uint32_t i = 0; i < recorder->text_count; i++) {
        fill_document(&documents[i], recorder->texts[i], recorder->prompt);
        SPIN_TRY(encode(recorder, i, err));
    }
    SPIN_TRY(spin_trace_create(path, &shape, documents, &recorder->writer, err));
    spin_status status = SPIN_OK;
    for (uint32_t i = 0; i < recorder->text_count && status == SPIN_OK; i++) {
        status = record_text(recorder, i, err);
    }
    const spin_status finished =
        spin_trace_finish(&recorder->writer, status == SPIN_OK ? err : NULL);
    return status != SPIN_OK ? status : finished;
}

static spin_status open_all(struct recorder *recorder, const char *model, struct spin_error *err)
{
    SPIN_TRY(spin_model_open(model, &recorder->model, err));
    SPIN_TRY(spin_tokenizer_open(model, &recorder->tokenizer, err));
    const uint64_t tokens = (uint64_t)recorder->prompt + recorder->steps;
    const struct spin_sparse_options *sparse = &recorder->sparse;
    if (recorder->prompt < sparse->min_context || tokens > recorder->model->config.context_max) {
        return spin_fail(err, SPIN_ERR_LIMIT,
                         "PROMPT %u, STEPS %u: at least %u, together at most %u", recorder->prompt,
                         recorder->steps, sparse->min_context, recorder->model->config.context_max);
    }
    recorder->tokens = calloc(tokens * recorder->text_count, sizeof *recorder->tokens);
    if (recorder->tokens == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%u texts", recorder->text_count);
    }
    struct spin_scorer_config config = spin_scorer_config_default(recorder->model);
    config.threads = recorder->threads;
    config.tokens_max = (uint32_t)tokens;
    config.sparse = recorder->sparse;
    config.observer = (struct spin_sparse_observer){.context = recorder, .selected = selected};
    return spin_scorer_create(&config, recorder->model, &recorder->scorer, err);
}

static bool parse(struct recorder *recorder, int argc, char **argv)
{
    if (argc <= FIRST_TEXT || argc - FIRST_TEXT > (int)SPIN_TRACE_DOCUMENTS_MAX) {
        return false;
    }
    recorder->sparse = spin_sparse_options_default();
    recorder->sparse.algorithm = spin_sparse_find(argv[2]);
    recorder->prompt = (uint32_t)strtoul(argv[4], NULL, 10);
    recorder->steps = (uint32_t)strtoul(argv[5], NULL, 10);
    recorder->threads = (uint32_t)strtoul(argv[6], NULL, 10);
    recorder->texts = (const char *const *)argv + FIRST_TEXT;
    recorder->text_count = (uint32_t)(argc - FIRST_TEXT);
    return recorder->sparse.algorithm != NULL &&
           recorder->sparse.algorithm->summary != SPIN_SUMMARY_NONE && recorder->prompt >= 1 &&
           recorder->steps >= 1 && recorder->steps <= SPIN_TRACE_STEPS_MAX;
}

int main(int argc, char **argv)
{
    struct recorder recorder = {0};
    struct spin_error err;
    if (!parse(&recorder, argc, argv)) {
        (void)fputs("usage: kv_record MODEL ALGORITHM TRACE PROMPT STEPS THREADS TEXT...\n",
                    stderr);
        return 2;
    }
    char part[PATH_BYTES];
    const char *path = argv[3];
    spin_status status = SPIN_OK;
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part) {
        status = spin_fail(&err, SPIN_ERR_LIMIT, "TRACE: more than %u bytes", PATH_BYTES - 6);
    }
    if (status == SPIN_OK) {
        status = open_all(&recorder, argv[1], &err);
    }
    if (status == SPIN_OK) {
        status = record(&recorder, part, &err);
    }
    if (status == SPIN_OK && rename(part, path) != 0) {
        status = spin_fail_errno(&err, SPIN_ERR_IO, "%s", path);
    }
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "kv_record: %s\n", err.text);
    }
    spin_scorer_destroy(recorder.scorer);
    spin_tokenizer_close(recorder.tokenizer);
    spin_model_close(recorder.model);
    free(recorder.tokens);
    return status == SPIN_OK ? 0 : 1;
}
