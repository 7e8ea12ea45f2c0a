#include "worker/engine/sampler.h"

#include "base/assert.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Draws of tokens are stream 1 of a request's seed; other streams are free for other uses. */
#define DRAW_STREAM UINT64_C(1)

/* Radix selection: three digits of a 32-bit key, from the top. */
#define DIGITS 3
#define BUCKETS 2048u
static const uint32_t digit_shift[DIGITS] = {21, 10, 0};
static const uint32_t digit_mask[DIGITS] = {0x7FF, 0x7FF, 0x3FF};

struct bucket {
    double mass;
    uint32_t count;
};

struct spin_sampler_scratch {
    uint32_t vocab;
    float *logits;    /* [vocab], when the row's own must be changed */
    double *weights;  /* [vocab]; 0: not a candidate */
    uint32_t *counts; /* [vocab], zero between draws */
    struct bucket buckets[BUCKETS];
};

spin_status spin_sampler_scratch_create(uint32_t vocab, struct spin_sampler_scratch **out,
                                        struct spin_error *err)
{
    struct spin_sampler_scratch *scratch = calloc(1, sizeof *scratch);
    if (scratch == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "sampler: %zu bytes", sizeof *scratch);
    }
    scratch->vocab = vocab;
    scratch->logits = calloc(vocab, sizeof *scratch->logits);
    scratch->weights = calloc(vocab, sizeof *scratch->weights);
    scratch->counts = calloc(vocab, sizeof *scratch->counts);
    if (scratch->logits == NULL || scratch->weights == NULL || scratch->counts == NULL) {
        spin_sampler_scratch_destroy(scratch);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "sampler: vocabulary of %u", vocab);
    }
    *out = scratch;
    return SPIN_OK;
}

void spin_sampler_scratch_destroy(struct spin_sampler_scratch *scratch)
{
    if (scratch == NULL) {
        return;
    }
    free(scratch->logits);
    free(scratch->weights);
    free(scratch->counts);
    free(scratch);
}

static uint32_t token_index(const struct spin_sampler_row *row, int32_t token)
{
    SPIN_ASSERT_GE(token, 0);
    SPIN_ASSERT_LT((uint32_t)token, row->vocab);
    return (uint32_t)token;
}

static void add_bias(const struct spin_sampler_row *row, float *logits)
{
    for (uint32_t i = 0; i < row->sampling->logit_bias_count; i++) {
        const struct spin_logit_bias *bias = &row->sampling->logit_bias[i];
        logits[token_index(row, bias->token)] += bias->bias;
    }
}

static void penalise_repetition(const struct spin_sampler_row *row, float *logits, uint32_t *counts)
{
    const float penalty = row->sampling->repetition_penalty;
    const uint32_t tokens = row->prompt_count + row->generated_count;
    for (uint32_t i = 0; i < tokens; i++) {
        const uint32_t id = token_index(row, row->tokens[i]);
        if (counts[id]++ == 0) {
            logits[id] = logits[id] > 0 ? logits[id] / penalty : logits[id] * penalty;
        }
    }
    for (uint32_t i = 0; i < tokens; i++) {
        counts[row->tokens[i]] = 0;
    }
}

static void penalise_output(const struct spin_sampler_row *row, float *logits, uint32_t *counts)
{
    const int32_t *generated = row->tokens + row->prompt_count;
    for (uint32_t i = 0; i < row->generated_count; i++) {
        counts[token_index(row, generated[i])]++;
    }
    for (uint32_t i = 0; i < row->generated_count; i++) {
        const int32_t id = generated[i];
        if (counts[id] != 0) {
            logits[id] -= row->sampling->presence_penalty +
                          row->sampling->frequency_penalty * (float)counts[id];
            counts[id] = 0; /* once per token, and clean for the next draw */
        }
    }
}

static bool penalises_repetition(const struct spin_sampling *sampling)
{
    return sampling->repetition_penalty != 1;
}

static bool penalises_output(const struct spin_sampling *sampling)
{
    return sampling->presence_penalty != 0 || sampling->frequency_penalty != 0;
}

bool spin_sampler_is_plain(const struct spin_sampling *sampling)
{
    return sampling->logit_bias_count == 0 && !penalises_repetition(sampling) &&
           !penalises_output(sampling);
}

/* The row's logits with everything before temperature applied: the row itself when nothing asks for
 * a change, which is the common case. */
static const float *process(const struct spin_sampler_row *row,
                            struct spin_sampler_scratch *scratch)
{
    const struct spin_sampling *sampling = row->sampling;
    if (spin_sampler_is_plain(sampling) && row->masked_count == 0) {
        return row->logits;
    }
    float *logits = scratch->logits;
    memcpy(logits, row->logits, row->vocab * sizeof *logits);
    add_bias(row, logits);
    if (penalises_repetition(sampling)) {
        penalise_repetition(row, logits, scratch->counts);
    }
    if (penalises_output(sampling)) {
        penalise_output(row, logits, scratch->counts);
    }
    for (uint32_t i = 0; i < row->masked_count; i++) {
        logits[token_index(row, row->masked[i])] = -INFINITY;
    }
    return logits;
}

/* The lowest id of the largest finite logit; vocab when there is none. */
static uint32_t find_largest(const float *logits, uint32_t vocab)
{
    uint32_t best = vocab;
    for (uint32_t i = 0; i < vocab; i++) {
        if (isfinite(logits[i]) && (best == vocab || logits[i] > logits[best])) {
            best = i;
        }
    }
    return best;
}

/* Ascending keys are ascending floats; -0 and 0 are one key. */
static uint32_t sort_key(float value)
{
    const float positive_zero = value + 0.0F;
    uint32_t bits = 0;
    memcpy(&bits, &positive_zero, sizeof bits);
    return (bits & UINT32_C(0x80000000)) != 0 ? ~bits : bits | UINT32_C(0x80000000);
}

/* What stays: candidates with a larger key, and the first `ties` (by id) with this key. */
struct cutoff {
    uint32_t key;
    uint32_t ties;
};

struct selection {
    const float *logits;
    double *weights;
    uint32_t vocab;
    bool by_count; /* a candidate's mass is 1, else its weight */
};

/* Adds up the candidates whose key begins like `prefix`, by their next digit. */
static void fill_buckets(const struct selection *selection, struct bucket *buckets, int digit,
                         uint32_t prefix)
{
    memset(buckets, 0, BUCKETS * sizeof *buckets);
    const uint32_t above =
        digit == 0 ? 0 : ~((UINT32_C(1) << digit_shift[digit - 1]) - UINT32_C(1));
    for (uint32_t i = 0; i < selection->vocab; i++) {
        const double weight = selection->weights[i];
        if (weight <= 0) {
            continue;
        }
        const uint32_t key = sort_key(selection->logits[i]);
        if ((key & above) == prefix) {
            struct bucket *bucket = &buckets[key >> digit_shift[digit] & digit_mask[digit]];
            bucket->mass += selection->by_count ? 1 : weight;
            bucket->count++;
        }
    }
}

/* The shortest run of candidates, largest first, whose mass reaches `target` > 0: all of them when
 * rounding keeps the sum below it. O(vocab), whatever the values are: no sort, no unlucky pivot. */
static struct cutoff select_cutoff(const struct selection *selection, struct bucket *buckets,
                                   double target)
{
    uint32_t prefix = 0;
    uint32_t last_count = 0;
    double last_mass = 0;
    double above = 0; /* mass of all keys larger than the digit at hand admits */
    for (int digit = 0; digit < DIGITS; digit++) {
        fill_buckets(selection, buckets, digit, prefix);
        uint32_t chosen = BUCKETS;
        for (uint32_t b = BUCKETS; b-- > 0;) {
            if (buckets[b].count == 0) {
                continue;
            }
            if (chosen != BUCKETS) {
                above += buckets[chosen].mass;
            }
            chosen = b;
            if (above + buckets[b].mass >= target) {
                break;
            }
        }
        SPIN_ASSERT_LT(chosen, BUCKETS);
        prefix |= chosen << digit_shift[digit];
        last_count = buckets[chosen].count;
        last_mass = buckets[chosen].mass;
    }
    /* Equal keys are equal logits, so each has the same share of the last bucket. */
    const double each = last_mass / last_count;
    const double ties = ceil((target - above) / each);
    return (struct cutoff){.key = prefix,
                           .ties = ties < 1            ? 1
                                   : ties > last_count ? last_count
                                                       : (uint32_t)ties};
}

static void drop_below(const struct selection *selection, struct cutoff cutoff)
{
    for (uint32_t i = 0; i < selection->vocab; i++) {
        if (selection->weights[i] <= 0) {
            continue;
        }
        const uint32_t key = sort_key(selection->logits[i]);
        if (key < cutoff.key || (key == cutoff.key && cutoff.ties == 0)) {
            selection->weights[i] = 0;
        } else if (key == cutoff.key) {
            cutoff.ties--;
        }
    }
}

static double sum_weights(const double *weights, uint32_t vocab)
{
    double total = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        total += weights[i];
    }
    return total;
}

static void make_weights(const struct spin_sampler_row *row, const float *logits, uint32_t largest,
                         double *weights)
{
    const double temperature = (double)row->sampling->temperature;
    for (uint32_t i = 0; i < row->vocab; i++) {
        const double distance = (double)logits[i] - (double)logits[largest];
        weights[i] = isfinite(logits[i]) ? exp(distance / temperature) : 0;
    }
}

/* Where the running sum passes u * total. */
static uint32_t walk(const double *weights, uint32_t vocab, double u)
{
    const double target = u * sum_weights(weights, vocab);
    double sum = 0;
    uint32_t last = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (weights[i] > 0) {
            sum += weights[i];
            last = i;
            if (sum > target) {
                return i;
            }
        }
    }
    return last; /* rounding kept the sum at the target */
}

spin_status spin_sampler_draw(const struct spin_sampler_row *row,
                              struct spin_sampler_scratch *scratch, int32_t *out_token)
{
    SPIN_ASSERT_EQ(row->vocab, scratch->vocab);
    const struct spin_sampling *sampling = row->sampling;
    const float *logits = process(row, scratch);
    const uint32_t largest = find_largest(logits, row->vocab);
    if (largest == row->vocab) {
        return SPIN_ERR_CORRUPT;
    }
    if (sampling->temperature <= 0) {
        *out_token = (int32_t)largest;
        return SPIN_OK;
    }
    double *weights = scratch->weights;
    make_weights(row, logits, largest, weights);
    struct selection selection = {logits, weights, row->vocab, true};
    if (sampling->top_k != 0 && sampling->top_k < row->vocab) {
        drop_below(&selection, select_cutoff(&selection, scratch->buckets, sampling->top_k));
    }
    if (sampling->top_p < 1) {
        const double target = (double)sampling->top_p * sum_weights(weights, row->vocab);
        selection.by_count = false;
        drop_below(&selection, select_cutoff(&selection, scratch->buckets, target));
    }
    for (uint32_t i = 0; i < row->vocab && sampling->min_p > 0; i++) {
        weights[i] = weights[i] < (double)sampling->min_p ? 0 : weights[i];
    }
    const double u = spin_sampler_uniform(sampling, row->generated_count);
    *out_token = (int32_t)walk(weights, row->vocab, u);
    return SPIN_OK;
}

double spin_sampler_uniform(const struct spin_sampling *sampling, uint32_t generated_count)
{
    return spin_philox_uniform(sampling->seed, DRAW_STREAM, generated_count);
}

double spin_sampler_log_sum(const float *logits, uint32_t vocab)
{
    double largest = -INFINITY;
    for (uint32_t i = 0; i < vocab; i++) {
        largest = fmax(largest, (double)logits[i]);
    }
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        sum += exp((double)logits[i] - largest);
    }
    return largest + log(sum);
}

uint32_t spin_sampler_top(const float *logits, uint32_t vocab, uint32_t count,
                          struct spin_top_logprob *out)
{
    SPIN_ASSERT_LE(count, SPIN_TOP_LOGPROBS_MAX);
    uint32_t held = 0; /* out[0..held) are logits, the largest first */
    for (uint32_t i = 0; i < vocab && count > 0; i++) {
        if (isnan(logits[i]) || (held == count && !(logits[i] > out[held - 1].logprob))) {
            continue;
        }
        uint32_t at = held < count ? held++ : held - 1;
        while (at > 0 && logits[i] > out[at - 1].logprob) {
            out[at] = out[at - 1];
            at--;
        }
        out[at] = (struct spin_top_logprob){.token = (int32_t)i, .logprob = logits[i]};
    }
    const double log_sum = held == 0 ? 0 : spin_sampler_log_sum(logits, vocab);
    for (uint32_t i = 0; i < held; i++) {
        out[i].logprob = (float)((double)out[i].logprob - log_sum);
    }
    return held;
}

struct range {
    const char *name;
    double value;
    double min;
    double max;
    bool open; /* min itself is not allowed */
};

static spin_status check_range(const struct range *range, struct spin_error *err)
{
    const bool inside =
        range->open ? range->value > range->min : range->value >= range->min; /* false for NaN */
    if (inside && range->value <= range->max) {
        return SPIN_OK;
    }
    return spin_fail(err, SPIN_ERR_INVALID, "%s %g: must be %s%g, %g]", range->name, range->value,
                     range->open ? "in (" : "in [", range->min, range->max);
}

spin_status spin_sampling_check(const struct spin_sampling *sampling, uint32_t vocab,
                                struct spin_error *err)
{
    const struct range ranges[] = {
        {"temperature", (double)sampling->temperature, 0, SPIN_TEMPERATURE_MAX, false},
        {"top_p", (double)sampling->top_p, 0, 1, true},
        {"min_p", (double)sampling->min_p, 0, 1, false},
        {"presence_penalty", (double)sampling->presence_penalty, -SPIN_PENALTY_ABS_MAX,
         SPIN_PENALTY_ABS_MAX, false},
        {"frequency_penalty", (double)sampling->frequency_penalty, -SPIN_PENALTY_ABS_MAX,
         SPIN_PENALTY_ABS_MAX, false},
        {"repetition_penalty", (double)sampling->repetition_penalty, 0, SPIN_REPETITION_PENALTY_MAX,
         true},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(ranges); i++) {
        SPIN_TRY(check_range(&ranges[i], err));
    }
    if (sampling->logit_bias_count > SPIN_LOGIT_BIAS_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "logit_bias: %u tokens; at most %u",
                         sampling->logit_bias_count, SPIN_LOGIT_BIAS_MAX);
    }
    for (uint32_t i = 0; i < sampling->logit_bias_count; i++) {
        const struct spin_logit_bias *bias = &sampling->logit_bias[i];
        if (bias->token < 0 || (uint32_t)bias->token >= vocab) {
            return spin_fail(err, SPIN_ERR_INVALID, "logit_bias token %d: must be 0 to %u",
                             bias->token, vocab - 1);
        }
        const struct range range = {"logit_bias", (double)bias->bias, -SPIN_LOGIT_BIAS_ABS_MAX,
                                    SPIN_LOGIT_BIAS_ABS_MAX, false};
        SPIN_TRY(check_range(&range, err));
    }
    return SPIN_OK;
}
