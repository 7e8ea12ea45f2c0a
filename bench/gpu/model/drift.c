#include "bench/gpu/model/drift.h"

#include "base/assert.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BITS 64u
#define LEFT_CHOICES 4u /* how many choices' worth of those that left are remembered */
#define TRIES 32u       /* draws before the next free candidate is taken instead */

struct spin_drift {
    struct spin_drift_config config;
    struct spin_kv_window window; /* of the last step */
    struct spin_rng rng;
    uint32_t words;    /* of a row's set */
    uint32_t left_max; /* of a row */
    uint64_t *set;     /* [rows][words] */
    uint16_t *member;  /* [rows][chosen_max], in no order */
    uint32_t *members; /* [rows] */
    uint16_t *left;    /* [rows][left_max]: a ring of partitions that left */
    uint32_t *lefts;   /* [rows]: how many have ever left */
};

static bool is_share(double value)
{
    return value >= 0 && value <= 1;
}

static spin_status check(const struct spin_drift_config *config, struct spin_error *err)
{
    if (!is_share(config->overlap) || !is_share(config->returns)) {
        return spin_fail(err, SPIN_ERR_INVALID, "overlap %g, returns %g: must be 0 to 1",
                         config->overlap, config->returns);
    }
    if (config->partitions_max > SPIN_ROW_PAGES_MAX || config->rows == 0 ||
        config->chosen_max == 0) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "%u rows that choose %u of %u partitions: at least 1, at most %u",
                         config->rows, config->chosen_max, config->partitions_max,
                         SPIN_ROW_PAGES_MAX);
    }
    return SPIN_OK;
}

spin_status spin_drift_create(const struct spin_drift_config *config, struct spin_drift **out,
                              struct spin_error *err)
{
    SPIN_TRY(check(config, err));
    struct spin_drift *drift = calloc(1, sizeof *drift);
    if (drift == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "drifting choices: %zu bytes", sizeof *drift);
    }
    drift->config = *config;
    drift->rng = (struct spin_rng){.seed = config->seed};
    drift->words = (config->partitions_max + WORD_BITS - 1) / WORD_BITS;
    drift->left_max = LEFT_CHOICES * config->chosen_max;
    const uint64_t rows = config->rows;
    drift->set = calloc(rows * drift->words, sizeof *drift->set);
    drift->member = calloc(rows * config->chosen_max, sizeof *drift->member);
    drift->members = calloc(rows, sizeof *drift->members);
    drift->left = calloc(rows * drift->left_max, sizeof *drift->left);
    drift->lefts = calloc(rows, sizeof *drift->lefts);
    if (drift->set == NULL || drift->member == NULL || drift->members == NULL ||
        drift->left == NULL || drift->lefts == NULL) {
        spin_drift_destroy(drift);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "drifting choices of %u rows", config->rows);
    }
    *out = drift;
    return SPIN_OK;
}

void spin_drift_destroy(struct spin_drift *drift)
{
    if (drift == NULL) {
        return;
    }
    free(drift->set);
    free(drift->member);
    free(drift->members);
    free(drift->left);
    free(drift->lefts);
    free(drift);
}

bool spin_drift_chose(const struct spin_drift *drift, uint32_t row, uint32_t partition)
{
    const uint64_t *set = drift->set + (uint64_t)row * drift->words;
    return (set[partition / WORD_BITS] >> (partition % WORD_BITS) & 1) != 0;
}

static void put(struct spin_drift *drift, uint32_t row, uint32_t partition, bool in)
{
    uint64_t *word = &drift->set[(uint64_t)row * drift->words + partition / WORD_BITS];
    const uint64_t bit = UINT64_C(1) << (partition % WORD_BITS);
    *word = in ? *word | bit : *word & ~bit;
}

/* The first candidate from `from` on, around the window, that is not in the set; there is one. */
static uint32_t next_free(const struct spin_drift *drift, uint32_t row, uint32_t from)
{
    const struct spin_kv_window *window = &drift->window;
    uint32_t at = from;
    while (spin_drift_chose(drift, row, at)) {
        at = at + 1 < window->local_begin ? at + 1 : window->sink_end;
        SPIN_ASSERT_NE(at, from);
    }
    return at;
}

static uint32_t draw_any(struct spin_drift *drift, uint32_t row)
{
    const struct spin_kv_window *window = &drift->window;
    const uint32_t candidates = window->local_begin - window->sink_end;
    uint32_t at = 0;
    for (uint32_t i = 0; i < TRIES; i++) {
        at = window->sink_end + spin_rng_below(&drift->rng, candidates);
        if (!spin_drift_chose(drift, row, at)) {
            return at;
        }
    }
    return next_free(drift, row, at);
}

/* One that left, the square of a uniform value back in time; any where that finds none. */
static uint32_t draw_left(struct spin_drift *drift, uint32_t row)
{
    const uint32_t held = SPIN_MIN(drift->lefts[row], drift->left_max);
    const uint16_t *left = drift->left + (uint64_t)row * drift->left_max;
    for (uint32_t i = 0; i < TRIES && held > 0; i++) {
        const double u = spin_rng_uniform(&drift->rng);
        const uint32_t back = 1 + (uint32_t)(u * u * held);
        const uint32_t at = left[(drift->lefts[row] - back) % drift->left_max];
        if (!spin_drift_chose(drift, row, at)) {
            return at;
        }
    }
    return draw_any(drift, row);
}

/* Moves `count` random members to the end of the list, or all but `count` of them where those are
 * fewer. Either way the last `count` are a random choice. */
static void shuffle_out(struct spin_drift *drift, uint32_t row, uint32_t count)
{
    uint16_t *member = drift->member + (uint64_t)row * drift->config.chosen_max;
    const uint32_t members = drift->members[row];
    const bool from_end = count <= members / 2;
    const uint32_t turns = from_end ? count : members - count;
    for (uint32_t i = 0; i < turns; i++) {
        const uint32_t other = spin_rng_below(&drift->rng, members - i);
        const uint32_t a = from_end ? members - 1 - i : i;
        const uint32_t b = from_end ? other : i + other;
        const uint16_t swap = member[a];
        member[a] = member[b];
        member[b] = swap;
    }
}

static void leave(struct spin_drift *drift, uint32_t row, const uint16_t *gone, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        put(drift, row, gone[i], false);
        drift->left[(uint64_t)row * drift->left_max + drift->lefts[row] % drift->left_max] =
            gone[i];
        drift->lefts[row]++;
    }
}

/* Who leaves is in the set until the new ones are drawn, so that nobody comes back at once. */
static void step_row(struct spin_drift *drift, uint32_t row, uint16_t *gone)
{
    const struct spin_kv_window *window = &drift->window;
    const uint32_t candidates = window->local_begin - window->sink_end;
    const uint32_t k = SPIN_MIN(window->k, candidates);
    const uint32_t before = drift->members[row];
    uint32_t kept = SPIN_MIN(before, (uint32_t)lround(drift->config.overlap * k));
    kept = SPIN_MAX(kept, k - SPIN_MIN(k, candidates - before));
    SPIN_ASSERT_LE(kept, before);
    uint16_t *member = drift->member + (uint64_t)row * drift->config.chosen_max;
    shuffle_out(drift, row, before - kept);
    memcpy(gone, member + kept, (before - kept) * sizeof *gone);
    for (uint32_t i = kept; i < k; i++) {
        const bool returns =
            drift->config.returns > 0 && spin_rng_uniform(&drift->rng) < drift->config.returns;
        const uint32_t at = returns ? draw_left(drift, row) : draw_any(drift, row);
        put(drift, row, at, true);
        member[i] = (uint16_t)at;
    }
    drift->members[row] = k;
    leave(drift, row, gone, before - kept);
}

void spin_drift_step(struct spin_drift *drift, struct spin_kv_window window)
{
    SPIN_ASSERT_LE(window.k, drift->config.chosen_max);
    SPIN_ASSERT_LE(window.local_begin, drift->config.partitions_max);
    SPIN_ASSERT_LE(window.sink_end, window.local_begin);
    SPIN_ASSERT_LE(drift->window.local_begin, window.local_begin);
    SPIN_ASSERT(drift->window.local_begin == 0 || drift->window.sink_end == window.sink_end);
    drift->window = window;
    uint16_t *gone = calloc(drift->config.chosen_max, sizeof *gone);
    SPIN_ASSERT(gone != NULL);
    for (uint32_t row = 0; row < drift->config.rows; row++) {
        step_row(drift, row, gone);
    }
    free(gone);
}

uint32_t spin_drift_entries(struct spin_kv_window window, const struct spin_drift_list *list)
{
    const uint32_t chosen = SPIN_MIN(window.k, window.local_begin - window.sink_end);
    return (window.sink_end + chosen) * list->pages + list->newest_page + 1 -
           window.local_begin * list->pages;
}

/* Writes pages [begin, end) and returns what comes behind them. */
static uint16_t *put_pages(uint16_t *out, uint32_t begin, uint32_t end)
{
    for (uint32_t page = begin; page < end; page++) {
        *out++ = (uint16_t)page;
    }
    return out;
}

uint32_t spin_drift_write(const struct spin_drift *drift, uint32_t row,
                          const struct spin_drift_list *list, uint16_t *out)
{
    const uint64_t *set = drift->set + (uint64_t)row * drift->words;
    uint16_t *end = put_pages(out, 0, drift->window.sink_end * list->pages);
    for (uint32_t word = 0; word < drift->words; word++) {
        for (uint64_t bits = set[word]; bits != 0; bits &= bits - 1) {
            const uint32_t at = word * WORD_BITS + (uint32_t)__builtin_ctzll(bits);
            end = put_pages(end, at * list->pages, (at + 1) * list->pages);
        }
    }
    end = put_pages(end, drift->window.local_begin * list->pages, list->newest_page + 1);
    return (uint32_t)(end - out);
}
