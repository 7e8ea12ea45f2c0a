/* model_check: the whole model on a device, beside the reference operations on the same machine.
 *
 * Reference  Real text, teacher-forced: at every position both see the same tokens. Of the logits:
 *            how often the likeliest token is the same, how far the reference itself is from a tie
 *            where it is not, the distance of the rows, the perplexity of the text. Once with the
 *            file's weights, which is judged, and once with weights rounded to BF16 as a GPU has
 *            them, which shows how much of the distance is theirs.
 *            BF16 cannot agree everywhere: near a tie of the reference a rounding decides. Choices
 *            that are clear count apart.
 * Same bits  Decode steps of the device are compared with each other, bit for bit: replayed and
 *            submitted one by one; dense, and what quest and shadowkv make of it when they choose
 *            everything (verify); and, for each, a pool of a few percent that pages come to and
 *            leave, with one that holds all of them, the same pages chosen.
 * Counters   A comparison says nothing about a path that was not taken: steps that were sparse,
 *            pages that were retrieved and evicted, steps that were replayed are checked, too. */
#include "base/assert.h"
#include "base/config.h"
#include "base/file.h"
#include "bench/gpu/model/numbers.h"
#include "bench/gpu/model/rig.h"
#include "model/text/tokenizer.h"
#include "model/weights/place.h"
#include "worker/engine/score.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES_MAX (UINT64_C(1) << 20)
#define PATH_BYTES 1024u
#define GRAPHS_MAX 16u
#define CLEAR_SHARE 0.995 /* of the clear choices that must agree */

struct options {
    uint32_t device;
    const char *model;
    const char *text;
    uint32_t positions;
    uint32_t steps;
    uint32_t long_tokens;
    uint32_t long_steps;
    uint32_t budget;
    uint32_t chunk;
    double pool;
    double agreement;
    double margin;
    bool rounded;
    uint32_t threads;
};

#define OPTION(n, t, f, d) \
    .name = (n), .type = (t), .offset = offsetof(struct options, f), .default_value = (d)
static const struct spin_option option_table[] = {
    {OPTION("device", SPIN_OPTION_CHOICE, device, "auto"), .choices = SPIN_RIG_DEVICES,
     .help = "Where the model runs."},
    {OPTION("model", SPIN_OPTION_STRING, model, ".cache/model/SmolLM2-135M-Instruct.Q4_1.gguf"),
     .help = "The model."},
    {OPTION("text", SPIN_OPTION_STRING, text,
            "deploy/demo/document.txt,ARCHITECTURE.md,docs/kv-layout.md,docs/http-api.md"),
     .help = "Files of text, one after another."},
    {OPTION("positions", SPIN_OPTION_U32, positions, "1280"), .min = 2, .max = 1 << 14,
     .unit = "tokens", .help = "Compared with the reference."},
    {OPTION("steps", SPIN_OPTION_U32, steps, "128"), .min = 1, .max = 1 << 12,
     .help = "Decode steps at their end."},
    {OPTION("long-tokens", SPIN_OPTION_U32, long_tokens, "4096"), .min = 2, .max = 1 << 14,
     .unit = "tokens", .help = "The text of the comparison of pools, its steps included."},
    {OPTION("long-steps", SPIN_OPTION_U32, long_steps, "64"), .min = 1, .max = 1 << 12,
     .help = "Decode steps of it."},
    {OPTION("budget", SPIN_OPTION_U32, budget, "64"), .min = 16, .max = 1 << 14, .unit = "tokens",
     .help = "What those steps choose."},
    {OPTION("chunk", SPIN_OPTION_U32, chunk, "128"), .min = 1, .max = 1 << 13, .unit = "tokens",
     .help = "A unit of prefill."},
    {OPTION("pool", SPIN_OPTION_DOUBLE, pool, "15"), .min = 1, .max = 100, .unit = "%",
     .help = "Of the pages, what the small pool holds."},
    {OPTION("agreement", SPIN_OPTION_DOUBLE, agreement, "98"), .min = 0, .max = 100, .unit = "%",
     .help = "Positions at which the likeliest token must be the reference's."},
    {OPTION("margin", SPIN_OPTION_DOUBLE, margin, "0.1"), .min = 0, .max = 100,
     .help = "Largest distance of the reference's logits at the first other choice."},
    {OPTION("rounded", SPIN_OPTION_BOOL, rounded, "true"),
     .help = "Compares with a reference of BF16 weights, too."},
    {OPTION("threads", SPIN_OPTION_U32, threads, "16"), .min = 1, .max = 64,
     .help = "Threads of the host."},
};

struct bench {
    struct options options;
    struct spin_rig rig;
    struct spin_model *host; /* for the reference */
    int32_t *tokens;
    uint32_t count;
    uint32_t vocab;
    float *reference; /* [positions][vocab] */
    float *rounded;   /* the same with BF16 weights; NULL: not asked for */
    uint32_t checks;
    uint32_t failed;
};

static void check(struct bench *bench, bool ok, const char *subject, const char *what)
{
    bench->checks++;
    bench->failed += ok ? 0 : 1;
    printf("CHECK %-16s %-4s %s\n", subject, ok ? "ok" : "BAD", what);
    (void)fflush(stdout);
}

/* --- text --- */

static spin_status append_text(struct bench *bench, const struct spin_tokenizer *tokenizer,
                               const char *path, struct spin_error *err)
{
    char *text = NULL;
    uint64_t bytes = 0;
    SPIN_TRY(spin_file_read(path, TEXT_BYTES_MAX, &text, &bytes, err));
    const uint64_t wanted = SPIN_MAX(bench->options.positions, bench->options.long_tokens);
    int32_t *all = calloc(bytes + 2, sizeof *all); /* a token has a byte at least; BOS */
    uint64_t count = 0;
    const uint32_t flags = bench->count == 0 ? SPIN_ENCODE_ADD_BOS : SPIN_ENCODE_PLAIN;
    const spin_status status =
        all == NULL
            ? spin_fail(err, SPIN_ERR_NO_MEMORY, "%s: %" PRIu64 " tokens", path, bytes)
            : spin_tokenizer_encode(tokenizer, text, bytes, flags, all, bytes + 2, &count, err);
    if (status == SPIN_OK) {
        const uint32_t taken = (uint32_t)SPIN_MIN(count, wanted - bench->count);
        memcpy(bench->tokens + bench->count, all, taken * sizeof *all);
        bench->count += taken;
    }
    free(all);
    free(text);
    return status;
}

static spin_status read_text(struct bench *bench, struct spin_error *err)
{
    const uint32_t wanted = SPIN_MAX(bench->options.positions, bench->options.long_tokens);
    bench->tokens = calloc(wanted, sizeof *bench->tokens);
    if (bench->tokens == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "%u tokens", wanted);
    }
    struct spin_tokenizer *tokenizer = NULL;
    SPIN_TRY(spin_tokenizer_open(bench->options.model, &tokenizer, err));
    spin_status status = SPIN_OK;
    for (const char *at = bench->options.text; *at != '\0' && status == SPIN_OK;) {
        char path[PATH_BYTES];
        const size_t length = strcspn(at, ",");
        (void)snprintf(path, sizeof path, "%.*s", (int)SPIN_MIN(length, sizeof path - 1), at);
        at += length + (at[length] == ',' ? 1 : 0);
        status = append_text(bench, tokenizer, path, err);
    }
    spin_tokenizer_close(tokenizer);
    if (status == SPIN_OK && bench->count < wanted) {
        status = spin_fail(err, SPIN_ERR_INVALID, "--text: %u tokens, %u are needed", bench->count,
                           wanted);
    }
    return status;
}

/* --- a run: a prompt, and steps behind it --- */

struct run {
    const char *name;
    const struct spin_ops *ops;
    struct spin_stream *stream;
    const struct spin_model *model;
    struct spin_sparse_options sparse;
    uint64_t pool_bytes; /* 0: every page */
    uint32_t graphs_max;
    uint32_t tokens; /* steps included */
    uint32_t steps;
};

/* What came of it. */
struct outcome {
    float *rows; /* [tokens - first][vocab]: logits of positions from `first` on */
    uint32_t first;
    struct spin_kv_stats kv;
    struct spin_sparse_stats sparse;
    struct spin_forward_graph_stats graphs;
};

struct rows {
    struct outcome *outcome;
    uint32_t vocab;
};

static void take_row(void *context, uint32_t position, const float *logits)
{
    const struct rows *rows = context;
    const uint64_t at = position - rows->outcome->first;
    memcpy(rows->outcome->rows + at * rows->vocab, logits, rows->vocab * sizeof *logits);
}

static spin_status feed(struct bench *bench, const struct run *run, struct spin_scorer *scorer,
                        struct outcome *out, struct spin_error *err)
{
    const uint32_t prompt = run->tokens - run->steps;
    struct rows context = {.outcome = out, .vocab = bench->vocab};
    const struct spin_score_rows rows = {.first = out->first, .row = take_row, .context = &context};
    SPIN_TRY(spin_scorer_prefill(scorer, bench->tokens, prompt, &rows, err));
    for (uint32_t i = prompt; i < run->tokens; i++) {
        const float *logits = NULL;
        SPIN_TRY(spin_scorer_decode(scorer, bench->tokens[i], &logits, err));
        take_row(&context, i, logits);
    }
    spin_scorer_get_kv_stats(scorer, &out->kv);
    spin_scorer_get_sparse_stats(scorer, &out->sparse);
    spin_scorer_get_graph_stats(scorer, &out->graphs);
    return SPIN_OK;
}

/* Logits from position `first` on; the caller frees out->rows. */
static spin_status run_model(struct bench *bench, const struct run *run, uint32_t first,
                             struct outcome *out, struct spin_error *err)
{
    *out = (struct outcome){.first = first};
    out->rows = malloc((uint64_t)(run->tokens - first) * bench->vocab * sizeof *out->rows);
    if (out->rows == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "logits of %u positions", run->tokens - first);
    }
    struct spin_scorer_config config = spin_scorer_config_default(run->model);
    config.ops = run->ops;
    config.stream = run->stream;
    config.tokens_max = run->tokens;
    config.chunk_tokens = bench->options.chunk;
    config.sparse = run->sparse;
    config.kv_hbm_bytes = run->pool_bytes;
    config.graphs_max = run->graphs_max;
    struct spin_scorer *scorer = NULL;
    const double begun_ms = spin_rig_now_ms();
    spin_status status = spin_scorer_create(&config, run->model, &scorer, err);
    if (status == SPIN_OK) {
        status = feed(bench, run, scorer, out, err);
    }
    spin_scorer_destroy(scorer);
    printf("%-16s %u tokens, %u steps: %.1f s\n", run->name, run->tokens, run->steps,
           (spin_rig_now_ms() - begun_ms) / 1e3);
    (void)fflush(stdout);
    return status;
}

static struct run device_run(const struct bench *bench, const char *name, uint32_t tokens,
                             uint32_t steps)
{
    return (struct run){.name = name,
                        .ops = &bench->rig.ops,
                        .stream = bench->rig.stream,
                        .model = bench->rig.model,
                        .sparse = {.algorithm = &spin_sparse_dense, .min_context = 1},
                        .graphs_max = GRAPHS_MAX,
                        .tokens = tokens,
                        .steps = steps};
}

/* --- against the reference --- */

struct comparison {
    uint32_t positions;
    uint32_t agreed;
    uint32_t clear; /* where the reference's second choice is further behind than --margin */
    uint32_t clear_agreed;
    int64_t first_other; /* position; -1: none */
    double first_margin;
    double margin;     /* the largest of all positions that differ */
    double difference; /* sums of squares */
    double norm;
    double surprise[2]; /* sums of -log p of the next token: reference, device */
    uint32_t predicted;
};

static double distance(const float *a, const float *b, uint32_t count, double *norm)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++) {
        const double difference = (double)a[i] - (double)b[i];
        sum += difference * difference;
        *norm += (double)a[i] * (double)a[i];
    }
    return sum;
}

/* How far the likeliest token is ahead of the next one. */
static double lead(const float *row, int32_t likeliest, uint32_t count)
{
    double behind = HUGE_VAL;
    for (uint32_t i = 0; i < count; i++) {
        if ((int32_t)i != likeliest) {
            behind = SPIN_MIN(behind, (double)row[likeliest] - (double)row[i]);
        }
    }
    return behind;
}

/* One position: the reference's row and the device's. */
static void compare_row(const struct bench *bench, uint32_t position, const float *expected,
                        const float *row, struct comparison *out)
{
    const int32_t wanted = spin_argmax(expected, bench->vocab);
    const int32_t got = spin_argmax(row, bench->vocab);
    out->positions++;
    if (wanted < 0) { /* no number at all: nothing can be like it */
        out->difference = HUGE_VAL;
        return;
    }
    out->agreed += got == wanted ? 1 : 0;
    if (lead(expected, wanted, bench->vocab) > bench->options.margin) {
        out->clear++;
        out->clear_agreed += got == wanted ? 1 : 0;
    }
    if (got != wanted) {
        const double margin = got < 0 ? HUGE_VAL : (double)expected[wanted] - (double)expected[got];
        out->first_margin = out->first_other < 0 ? margin : out->first_margin;
        out->first_other = out->first_other < 0 ? position : out->first_other;
        out->margin = SPIN_MAX(out->margin, margin);
    }
    out->difference += distance(expected, row, bench->vocab, &out->norm);
    if (position + 1 < bench->options.positions) {
        const int32_t next = bench->tokens[position + 1];
        out->surprise[0] += spin_log_sum_exp(expected, bench->vocab) - (double)expected[next];
        out->surprise[1] += spin_log_sum_exp(row, bench->vocab) - (double)row[next];
        out->predicted++;
    }
}

static double agreement_of(const struct comparison *found)
{
    return 100.0 * found->agreed / found->positions;
}

static void print_comparison(const char *name, const char *reference,
                             const struct comparison *found)
{
    const double apart = sqrt(found->difference / found->norm);
    const uint32_t predicted = SPIN_MAX(found->predicted, 1);
    const double perplexity[2] = {exp(found->surprise[0] / predicted),
                                  exp(found->surprise[1] / predicted)};
    printf("%s beside %s: top-1 %.2f %% of %u, first other at %" PRId64
           " with a margin of %.4f (largest %.4f), logits %.4f apart, perplexity %.4f for %.4f\n",
           name, reference, agreement_of(found), found->positions, found->first_other,
           found->first_margin, found->margin, apart, perplexity[1], perplexity[0]);
    printf("RESULT model_check run=%s reference=%s positions=%u top1=%.3f clear=%u "
           "clear_agreed=%u first_other=%" PRId64
           " first_margin=%.5f largest_margin=%.5f relative_l2=%.6f perplexity_reference=%.5f "
           "perplexity=%.5f\n",
           name, reference, found->positions, agreement_of(found), found->clear,
           found->clear_agreed, found->first_other, found->first_margin, found->margin, apart,
           perplexity[0], perplexity[1]);
}

static struct comparison compare(const struct bench *bench, const float *reference,
                                 const struct outcome *outcome, uint32_t tokens)
{
    struct comparison found = {.first_other = -1};
    for (uint32_t position = outcome->first; position < tokens; position++) {
        compare_row(bench, position, reference + (uint64_t)position * bench->vocab,
                    outcome->rows + (uint64_t)(position - outcome->first) * bench->vocab, &found);
    }
    return found;
}

/* Beside both references; the one of the file's weights judges. */
static void judge(struct bench *bench, const struct run *run, const struct outcome *outcome)
{
    const struct comparison found = compare(bench, bench->reference, outcome, run->tokens);
    print_comparison(run->name, "float32", &found);
    if (bench->rounded != NULL) {
        const struct comparison other = compare(bench, bench->rounded, outcome, run->tokens);
        print_comparison(run->name, "rounded", &other);
    }
    check(bench, agreement_of(&found) >= bench->options.agreement, run->name,
          "likeliest tokens agree");
    check(bench, found.clear_agreed >= CLEAR_SHARE * found.clear, run->name,
          "clear choices of the reference agree");
    check(bench, found.first_other < 0 || found.first_margin <= bench->options.margin, run->name,
          "the first other choice is a near tie of the reference");
    check(bench, isfinite(found.difference), run->name, "logits are finite");
}

static spin_status run_reference(struct bench *bench, const struct spin_model *model,
                                 const char *name, float **out, struct spin_error *err)
{
    struct run run = device_run(bench, name, bench->options.positions, 0);
    run.ops = &spin_ops_ref;
    run.stream = bench->rig.host;
    run.model = model;
    run.graphs_max = 0;
    struct outcome outcome;
    const spin_status status = run_model(bench, &run, 0, &outcome, err);
    *out = outcome.rows;
    return status;
}

static spin_status run_references(struct bench *bench, struct spin_error *err)
{
    SPIN_TRY(spin_model_open(bench->options.model, &bench->host, err));
    SPIN_TRY(run_reference(bench, bench->host, "reference", &bench->reference, err));
    if (!bench->options.rounded) {
        return SPIN_OK;
    }
    struct spin_model *rounded = NULL;
    SPIN_TRY(spin_model_place(bench->host, bench->rig.host, &rounded, err));
    const spin_status status = run_reference(bench, rounded, "rounded", &bench->rounded, err);
    spin_model_close(rounded);
    return status;
}

static spin_status check_prefill(struct bench *bench, struct spin_error *err)
{
    const struct run run = device_run(bench, "prefill", bench->options.positions, 0);
    struct outcome outcome;
    const spin_status status = run_model(bench, &run, 0, &outcome, err);
    if (status == SPIN_OK) {
        judge(bench, &run, &outcome);
    }
    free(outcome.rows);
    return status;
}

/* --- the same bits --- */

static void same_bits(struct bench *bench, const char *name, const struct outcome *a,
                      const struct outcome *b, uint32_t rows)
{
    const uint64_t bytes = (uint64_t)rows * bench->vocab * sizeof *a->rows;
    check(bench, memcmp(a->rows, b->rows, bytes) == 0, name, "bits of all logits are the same");
}

static spin_status check_verify(struct bench *bench, const struct outcome *dense,
                                const struct spin_sparse_algorithm *algorithm,
                                struct spin_error *err)
{
    const struct options *options = &bench->options;
    char name[32];
    (void)snprintf(name, sizeof name, "verify_%s", algorithm->name);
    struct run run = device_run(bench, name, options->positions, options->steps);
    run.sparse =
        (struct spin_sparse_options){.algorithm = algorithm, .min_context = 1, .verify = true};
    struct outcome outcome;
    const spin_status status =
        run_model(bench, &run, options->positions - options->steps, &outcome, err);
    if (status == SPIN_OK) {
        same_bits(bench, name, dense, &outcome, options->steps);
        check(bench, outcome.sparse.steps == options->steps, name, "every step chose");
        check(bench, outcome.sparse.dense_fallbacks == 0, name, "no step fell back to dense");
        check(bench, outcome.kv.misses > 0 && outcome.kv.pages_retrieved > 0, name,
              "pages were retrieved");
        printf("RESULT model_check run=%s steps=%u hits=%" PRIu64 " misses=%" PRIu64
               " retrieved=%" PRIu64 "\n",
               name, options->steps, outcome.kv.hits, outcome.kv.misses,
               outcome.kv.pages_retrieved);
    }
    free(outcome.rows);
    return status;
}

static spin_status check_eager(struct bench *bench, const struct outcome *dense,
                               struct spin_error *err)
{
    const struct options *options = &bench->options;
    struct run run = device_run(bench, "eager", options->positions, options->steps);
    run.graphs_max = 0;
    struct outcome outcome;
    const spin_status status =
        run_model(bench, &run, options->positions - options->steps, &outcome, err);
    if (status == SPIN_OK) {
        same_bits(bench, run.name, dense, &outcome, options->steps);
        check(bench, outcome.graphs.replayed == 0, run.name, "no step was a replay");
    }
    free(outcome.rows);
    return status;
}

/* Dense steps, what all others are compared with. */
static spin_status check_steps(struct bench *bench, struct spin_error *err)
{
    const struct options *options = &bench->options;
    const struct run run = device_run(bench, "decode", options->positions, options->steps);
    struct outcome dense;
    spin_status status = run_model(bench, &run, options->positions - options->steps, &dense, err);
    if (status == SPIN_OK) {
        judge(bench, &run, &dense);
        check(bench, !spin_stream_records(bench->rig.stream) || dense.graphs.replayed > 0, run.name,
              "steps were replayed where the device can");
        printf("RESULT model_check run=decode steps=%u recorded=%" PRIu64 " replayed=%" PRIu64 "\n",
               options->steps, (uint64_t)dense.graphs.recorded, (uint64_t)dense.graphs.replayed);
        status = check_eager(bench, &dense, err);
    }
    for (uint32_t i = 0; i < spin_sparse_algorithm_count && status == SPIN_OK; i++) {
        if (spin_sparse_algorithms[i]->summary != SPIN_SUMMARY_NONE) {
            status = check_verify(bench, &dense, spin_sparse_algorithms[i], err);
        }
    }
    free(dense.rows);
    return status;
}

/* --- a small pool --- */

static uint64_t pool_bytes(const struct bench *bench, const struct run *run)
{
    const struct spin_rig_kv shape = {
        .sparse = &run->sparse, .sequences = 1, .tokens_max = run->tokens};
    const struct spin_kv_config config = spin_rig_kv_config(&bench->rig, &shape);
    return (uint64_t)((double)config.hbm_bytes * bench->options.pool / 100);
}

static void judge_pool(struct bench *bench, const struct run *run, const struct outcome *all,
                       const struct outcome *small)
{
    const struct options *options = &bench->options;
    same_bits(bench, run->name, all, small, options->long_steps);
    check(bench, small->sparse.steps == options->long_steps, run->name, "every step chose");
    check(bench, small->sparse.dense_fallbacks == 0, run->name, "no step fell back to dense");
    check(bench, small->kv.pages_retrieved > 0 && small->kv.misses > 0, run->name,
          "pages were retrieved");
    check(bench, small->kv.evictions > 0, run->name, "pages were evicted");
    check(bench, all->kv.misses == 0, run->name, "the large pool missed nothing");
    check(bench, small->kv.hbm_bytes * 100 <= (uint64_t)((double)all->kv.hbm_bytes * options->pool),
          run->name, "the small pool is as small as it is to be");
    printf("RESULT model_check run=%s tokens=%u steps=%u hits=%" PRIu64 " misses=%" PRIu64
           " retrieved=%" PRIu64 " evictions=%" PRIu64 " pool_share=%.4f\n",
           run->name, run->tokens, run->steps, small->kv.hits, small->kv.misses,
           small->kv.pages_retrieved, small->kv.evictions,
           (double)small->kv.hbm_bytes / (double)all->kv.hbm_bytes);
}

static spin_status check_pool(struct bench *bench, const struct spin_sparse_algorithm *algorithm,
                              struct spin_error *err)
{
    const struct options *options = &bench->options;
    char name[32];
    (void)snprintf(name, sizeof name, "pool_%s", algorithm->name);
    struct run run = device_run(bench, name, options->long_tokens, options->long_steps);
    run.sparse = (struct spin_sparse_options){
        .algorithm = algorithm, .budget_tokens = options->budget, .min_context = 1};
    const uint32_t first = options->long_tokens - options->long_steps;
    struct outcome all;
    struct outcome small = {.rows = NULL};
    spin_status status = run_model(bench, &run, first, &all, err);
    if (status == SPIN_OK) {
        run.pool_bytes = pool_bytes(bench, &run);
        status = run_model(bench, &run, first, &small, err);
    }
    if (status == SPIN_OK) {
        judge_pool(bench, &run, &all, &small);
    }
    free(all.rows);
    free(small.rows);
    return status;
}

/* --- the program --- */

static spin_status check_shape(const struct options *options, struct spin_error *err)
{
    if (options->steps >= options->positions || options->long_steps >= options->long_tokens) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--steps %u of --positions %u, --long-steps %u of --long-tokens %u: "
                         "must be fewer",
                         options->steps, options->positions, options->long_steps,
                         options->long_tokens);
    }
    return SPIN_OK;
}

static spin_status run_checks(struct bench *bench, struct spin_error *err)
{
    SPIN_TRY(check_shape(&bench->options, err));
    SPIN_TRY(read_text(bench, err));
    SPIN_TRY(spin_rig_open(&bench->rig, bench->options.device, bench->options.model,
                           bench->options.threads, err));
    bench->vocab = bench->rig.model->config.vocab;
    printf("device %s, %u tokens of text\n", spin_device_name(bench->rig.stream), bench->count);
    (void)fflush(stdout);
    SPIN_TRY(run_references(bench, err));
    SPIN_TRY(check_prefill(bench, err));
    SPIN_TRY(check_steps(bench, err));
    for (uint32_t i = 0; i < spin_sparse_algorithm_count; i++) {
        if (spin_sparse_algorithms[i]->summary != SPIN_SUMMARY_NONE) {
            SPIN_TRY(check_pool(bench, spin_sparse_algorithms[i], err));
        }
    }
    return SPIN_OK;
}

static void close_bench(struct bench *bench)
{
    spin_rig_close(&bench->rig);
    spin_model_close(bench->host);
    free(bench->reference);
    free(bench->rounded);
    free(bench->tokens);
}

int main(int argc, char **argv)
{
    static struct bench bench;
    static const struct spin_config_spec spec = {
        .program = "model_check",
        .synopsis = "",
        .about = "Compares a whole model on a device with the reference and with itself.",
        .options = option_table,
        .option_count = SPIN_ARRAY_COUNT(option_table),
    };
    char *const no_environment[] = {NULL};
    struct spin_config_values *values = NULL;
    struct spin_error err = {.status = SPIN_OK};
    bool is_done = false;
    spin_status status = spin_config_load(&spec, argc, argv, no_environment, &bench.options,
                                          &values, &is_done, &err);
    if (status == SPIN_OK && !is_done) {
        status = run_checks(&bench, &err);
        printf("RESULT model_check checks=%u failed=%u\n", bench.checks, bench.failed);
        close_bench(&bench);
    }
    spin_config_values_destroy(values);
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "model_check: %s: %s\n", spin_status_name(status), err.text);
        return 1;
    }
    return bench.failed == 0 ? 0 : 1;
}
