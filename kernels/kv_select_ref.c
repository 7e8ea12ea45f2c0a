#include "kernels/dtype.h"
#include "kernels/kv_select_internal.h"

#include <math.h>

struct job {
    const struct spin_kv_select_args *args;
};

/* One row whose candidates are scored. */
struct row {
    const struct spin_kv_select_args *args;
    const struct spin_kv_window *window;
    uint32_t sequence; /* of the batch */
    uint32_t head;
    double *score; /* [candidates] */
};

/* l of query head `h` and a candidate. */
static double logit(const struct row *row, uint32_t h, uint32_t candidate)
{
    const struct spin_kv_select_args *args = row->args;
    const uint32_t head_dim = args->view->layout.head_dim;
    const float *q = spin_matrix_row(&args->q, row->sequence) + (uint64_t)h * head_dim;
    const uint16_t *summary = (const uint16_t *)(const void *)spin_kv_summary(
        args->view, args->batch.sequence[row->sequence], args->batch.layer, row->head,
        row->window->sink_end + candidate);
    double sum = 0;
    for (uint32_t d = 0; d < head_dim; d++) {
        const double first = (double)q[d] * (double)spin_f32_from_bf16(summary[d]);
        if (args->summary == SPIN_SUMMARY_MEAN) {
            sum += first;
        } else {
            sum += fmax(first, (double)q[d] * (double)spin_f32_from_bf16(summary[head_dim + d]));
        }
    }
    return (double)args->scale * sum;
}

/* score[c] = max of itself and the logarithm of softmax_c(l[h]): it orders candidates as the
 * softmax does, and the far ones do not all become zero. */
static void merge_head(const struct row *row, uint32_t h, bool first)
{
    const uint32_t candidates = spin_window_candidates(row->window);
    double m = -INFINITY;
    for (uint32_t c = 0; c < candidates; c++) {
        m = fmax(m, logit(row, h, c));
    }
    double z = 0;
    for (uint32_t c = 0; c < candidates; c++) {
        z += exp(logit(row, h, c) - m);
    }
    for (uint32_t c = 0; c < candidates; c++) {
        const double score = logit(row, h, c) - m - log(z);
        SPIN_ASSERT(!isnan(score));
        row->score[c] = first ? score : fmax(row->score[c], score);
    }
}

/* k times the best of what is left, the first of equals. What was taken is marked with a NaN, which
 * is greater than nothing. */
static void take_best(const struct row *row, uint32_t k)
{
    const uint32_t candidates = spin_window_candidates(row->window);
    for (uint32_t taken = 0; taken < k; taken++) {
        uint32_t best = candidates;
        for (uint32_t c = 0; c < candidates; c++) {
            if (!isnan(row->score[c]) && (best == candidates || row->score[c] > row->score[best])) {
                best = c;
            }
        }
        row->score[best] = (double)NAN;
    }
}

static void select_row(const struct row *row, uint64_t index)
{
    const struct spin_kv_select_args *args = row->args;
    const struct spin_kv_window *window = row->window;
    const uint32_t group = args->q_heads / args->view->layout.kv_heads;
    const uint32_t candidates = spin_window_candidates(window);
    for (uint32_t g = 0; g < group; g++) {
        merge_head(row, row->head * group + g, g == 0);
    }
    take_best(row, SPIN_MIN(window->k, candidates));
    struct spin_select_list list = spin_select_list_begin(args, row->sequence, index);
    spin_select_list_add(&list, 0, window->sink_end);
    for (uint32_t c = 0; c < candidates; c++) {
        if (isnan(row->score[c])) {
            spin_select_list_add(&list, window->sink_end + c, window->sink_end + c + 1);
        }
    }
    spin_select_list_add(&list, window->local_begin, list.end_partitions);
    args->lists.page_count[index] = list.count;
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct job *job = context;
    const struct spin_kv_select_args *args = job->args;
    const uint32_t kv_heads = args->view->layout.kv_heads;
    const uint64_t rows = (uint64_t)args->batch.count * kv_heads;
    for (uint64_t r = thread; r < rows; r += threads) {
        const uint32_t sequence = (uint32_t)(r / kv_heads);
        if (!spin_window_is_scored(args, sequence)) {
            spin_select_without_scores(args, sequence, r);
            continue;
        }
        uint8_t *memory = (uint8_t *)args->workspace + r * spin_kv_select_row_bytes(args);
        const struct row row = {.args = args,
                                .window = &args->windows[sequence],
                                .sequence = sequence,
                                .head = (uint32_t)(r % kv_heads),
                                .score = (double *)(void *)memory};
        select_row(&row, r);
    }
}

spin_status spin_kv_select_ref(const struct spin_kv_select_args *args, struct spin_stream *stream)
{
    spin_kv_select_check(args);
    struct job job = {args};
    spin_stream_parallel(stream, run, &job);
    return SPIN_OK;
}
