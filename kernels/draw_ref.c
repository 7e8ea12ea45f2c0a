#include "kernels/draw.h"

#include "kernels/draw_weight.h"
#include "kernels/kernels_internal.h"

_Static_assert(SPIN_DRAW_VOCAB_MAX * sizeof(uint64_t) <= SPIN_SCRATCH_BYTES,
               "the weights of a row fit the scratch");

/* A row and, of each of its logits, the weight; 0: not a candidate. */
struct draw {
    const struct spin_draw_row *row;
    const float *logits;
    uint64_t *weights;
    uint32_t vocab;
};

static bool is_masked(const struct spin_draw_row *row, uint32_t id)
{
    for (uint32_t i = 0; i < row->masked_count; i++) {
        if (row->masked[i] == (int32_t)id) {
            return true;
        }
    }
    return false;
}

/* The lowest id of the largest; vocab when there is none. */
static uint32_t find_largest(const struct draw *draw)
{
    uint32_t best = draw->vocab;
    for (uint32_t i = 0; i < draw->vocab; i++) {
        const bool larger = best == draw->vocab || draw->logits[i] > draw->logits[best];
        if (isfinite(draw->logits[i]) && larger && !is_masked(draw->row, i)) {
            best = i;
        }
    }
    return best;
}

static void make_weights(const struct draw *draw, float largest)
{
    const double scale = SPIN_DRAW_LOG2_E / (double)draw->row->temperature;
    for (uint32_t i = 0; i < draw->vocab; i++) {
        const double t = spin_draw_log2(draw->logits[i], largest, scale);
        draw->weights[i] = isfinite(draw->logits[i]) ? spin_draw_weight(t) : 0;
    }
    for (uint32_t i = 0; i < draw->row->masked_count; i++) {
        draw->weights[draw->row->masked[i]] = 0;
    }
}

/* Of candidates from `key` on: how many there are, or their weights. */
static uint64_t sum_from(const struct draw *draw, uint32_t key, bool by_count)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < draw->vocab; i++) {
        if (draw->weights[i] > 0 && spin_draw_key(draw->logits[i]) >= key) {
            sum += by_count ? 1 : draw->weights[i];
        }
    }
    return sum;
}

/* Keeps the shortest run of candidates, largest first, whose sum reaches `target`, which is at most
 * the sum of all. */
static void cut(const struct draw *draw, uint64_t target, bool by_count)
{
    uint32_t key = 0; /* the largest from which on the sum reaches the target, bit for bit */
    for (uint32_t bit = UINT32_C(1) << 31; bit > 0; bit >>= 1) {
        if (sum_from(draw, key | bit, by_count) >= target) {
            key |= bit;
        }
    }
    /* No number has the largest key. */
    uint64_t sum = sum_from(draw, key + 1, by_count);
    for (uint32_t i = 0; i < draw->vocab; i++) {
        const uint32_t at = spin_draw_key(draw->logits[i]);
        if (at < key || (at == key && sum >= target)) {
            draw->weights[i] = 0;
        } else if (at == key) {
            sum += draw->weights[i] == 0 ? 0 : by_count ? 1 : draw->weights[i];
        }
    }
}

static uint32_t pick(const struct draw *draw)
{
    const uint64_t least = spin_draw_share(draw->row->min_p, SPIN_DRAW_ONE);
    uint64_t total = 0;
    for (uint32_t i = 0; i < draw->vocab; i++) {
        draw->weights[i] = draw->weights[i] < least ? 0 : draw->weights[i];
        total += draw->weights[i];
    }
    const uint64_t passed = spin_draw_passed(draw->row->u, total);
    uint64_t sum = 0;
    uint32_t id = 0;
    while ((sum += draw->weights[id]) <= passed) {
        id++;
    }
    return id;
}

static double log_sum(const struct draw *draw)
{
    double largest = -INFINITY;
    for (uint32_t i = 0; i < draw->vocab; i++) {
        largest = fmax(largest, (double)draw->logits[i]);
    }
    double sum = 0;
    for (uint32_t i = 0; i < draw->vocab; i++) {
        sum += exp((double)draw->logits[i] - largest);
    }
    return largest + log(sum);
}

static struct spin_drawn draw_row(const struct draw *draw)
{
    struct spin_drawn drawn = {-1, NAN, draw->row->log_sum != 0 ? log_sum(draw) : (double)NAN};
    uint32_t id = find_largest(draw);
    if (id == draw->vocab) {
        return drawn;
    }
    if (draw->row->temperature > 0) {
        make_weights(draw, draw->logits[id]);
        if (draw->row->top_k != 0) {
            cut(draw, SPIN_MIN(draw->row->top_k, sum_from(draw, 0, true)), true);
        }
        if (draw->row->top_p < 1) {
            cut(draw, spin_draw_share(draw->row->top_p, sum_from(draw, 0, false)), false);
        }
        id = pick(draw);
    }
    drawn.token = (int32_t)id;
    drawn.logit = draw->logits[id];
    return drawn;
}

static void check_row(const struct spin_draw_args *args, const struct spin_draw_row *row)
{
    SPIN_ASSERT_LT(row->logits_row, args->logits.rows);
    SPIN_ASSERT(row->u >= 0 && row->u < 1);
    SPIN_ASSERT(row->temperature >= 0 && row->top_p > 0 && row->top_p <= 1);
    SPIN_ASSERT(row->min_p >= 0 && row->min_p <= 1);
    SPIN_ASSERT_LE(row->masked_count, SPIN_DRAW_MASKED_MAX);
    for (uint32_t i = 0; i < row->masked_count; i++) {
        SPIN_ASSERT_GE(row->masked[i], 0);
        SPIN_ASSERT_LT((uint32_t)row->masked[i], args->logits.cols);
    }
}

spin_status spin_draw_ref(const struct spin_draw_args *args, struct spin_stream *stream)
{
    spin_matrix_check(&args->logits);
    SPIN_ASSERT_GE(args->logits.cols, 1);
    SPIN_ASSERT_LE(args->logits.cols, SPIN_DRAW_VOCAB_MAX);
    for (uint32_t i = 0; i < args->count; i++) {
        check_row(args, &args->rows[i]);
        const struct draw draw = {&args->rows[i],
                                  spin_matrix_row(&args->logits, args->rows[i].logits_row),
                                  spin_stream_scratch(stream, 0), args->logits.cols};
        args->out[i] = draw_row(&draw);
    }
    return SPIN_OK;
}
