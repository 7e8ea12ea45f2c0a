#include "kernels/attention.h"

#include "kernels/kernels_internal.h"

#include <math.h>
#include <string.h>

struct job {
    const struct spin_attention_args *args;
};

/* One query head: its row of q and out, and the list tokens it sees. */
struct query {
    const float *q;
    float *out;
    uint64_t row;
    uint32_t visible;
};

static double score(const struct spin_attention_args *args, const struct query *query,
                    uint32_t token)
{
    const uint16_t *k = spin_list_k(&args->pages, query->row, token);
    const uint32_t head_dim = args->pages.layout.head_dim;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (uint32_t d = 0; d < head_dim; d++) {
        sum += (double)query->q[d] * (double)spin_f32_from_bf16(k[d]);
    }
    return (double)args->scale * sum;
}

/* Two passes, so that no score has to be kept: the list may hold half a million tokens. */
static void attend(const struct spin_attention_args *args, const struct query *query)
{
    const uint32_t head_dim = args->pages.layout.head_dim;
    double m = -INFINITY;
    for (uint32_t t = 0; t < query->visible; t++) {
        m = fmax(m, score(args, query, t));
    }
    double z = 0;
    double o[SPIN_HEAD_DIM_MAX] = {0};
    for (uint32_t t = 0; t < query->visible; t++) {
        const uint16_t *v = spin_list_v(&args->pages, query->row, t);
        const double p = exp(score(args, query, t) - m);
        z += p;
        for (uint32_t d = 0; d < head_dim; d++) {
            o[d] += p * (double)spin_f32_from_bf16(v[d]);
        }
    }
    for (uint32_t d = 0; d < head_dim; d++) {
        query->out[d] = (float)(o[d] / z);
    }
}

static void attend_token(const struct spin_attention_args *args, uint32_t sequence, uint32_t m)
{
    const uint32_t head_dim = args->pages.layout.head_dim;
    const uint32_t kv_heads = args->pages.layout.kv_heads;
    const uint32_t places_before_last = args->spans.first[sequence + 1] - 1 - m;
    for (uint32_t h = 0; h < args->q_heads; h++) {
        const uint64_t row = (uint64_t)sequence * kv_heads + h / (args->q_heads / kv_heads);
        SPIN_ASSERT_LT(places_before_last, args->pages.visible[row]);
        const struct query query = {spin_matrix_row(&args->q, m) + (uint64_t)h * head_dim,
                                    spin_matrix_row(&args->out, m) + (uint64_t)h * head_dim, row,
                                    args->pages.visible[row] - places_before_last};
        attend(args, &query);
    }
}

/* Later tokens see more: dealing them out one by one gives each thread the same work. */
static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct job *job = context;
    const struct spin_spans *spans = &job->args->spans;
    for (uint32_t s = 0; s < spans->count; s++) {
        for (uint32_t m = spans->first[s]; m < spans->first[s + 1]; m++) {
            if (m % threads == thread) {
                attend_token(job->args, s, m);
            }
        }
    }
}

spin_status spin_attention_ref(const struct spin_attention_args *args, struct spin_stream *stream)
{
    spin_attention_check(args);
    struct job job = {args};
    spin_stream_parallel(stream, run, &job);
    return SPIN_OK;
}
