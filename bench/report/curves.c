#include "bench/report/curves.h"

#include "base/assert.h"
#include "base/clock.h"

#include <stdlib.h>
#include <string.h>

/* A step of the time axis, and the sums over each: sums of open time are taken as differences (one
 * more of whole steps here, one less there), so that a long stream costs no more than a short. */
struct axis {
    uint64_t step_ns;
    uint32_t count;
};

struct sums {
    double part[SPIN_BENCH_TIMELINE_POINTS + 1]; /* of a step, at a stream's both ends */
    double whole[SPIN_BENCH_TIMELINE_POINTS + 1];
};

static uint32_t point_of(const struct axis *axis, uint64_t at_ns)
{
    return (uint32_t)SPIN_MIN(at_ns / axis->step_ns, axis->count - 1);
}

static void add_open(const struct axis *axis, struct sums *sums, uint64_t from_ns, uint64_t to_ns)
{
    const uint32_t first = point_of(axis, from_ns);
    const uint32_t last = point_of(axis, to_ns);
    const double step = (double)axis->step_ns;
    if (first == last) {
        sums->part[first] += (double)(to_ns - from_ns) / step;
        return;
    }
    sums->part[first] += (double)((first + 1) * axis->step_ns - from_ns) / step;
    sums->part[last] += (double)(to_ns - last * axis->step_ns) / step;
    sums->whole[first + 1] += 1;
    sums->whole[last] -= 1;
}

static struct axis make_axis(const struct spin_bench_result *result)
{
    uint64_t end_ns = result->end_ns;
    for (uint32_t i = 0; i < result->requests_count; i++) {
        end_ns = SPIN_MAX(end_ns, result->requests[i].end_ns);
    }
    const struct spin_bench_timeline *timeline = &result->timeline;
    end_ns = SPIN_MAX(end_ns, (uint64_t)timeline->count * timeline->step_ns);
    struct axis axis = {.step_ns = timeline->step_ns};
    while ((end_ns - 1) / axis.step_ns >= SPIN_BENCH_TIMELINE_POINTS && end_ns > 0) {
        axis.step_ns *= 2;
    }
    axis.count = end_ns == 0 ? 0 : (uint32_t)((end_ns - 1) / axis.step_ns) + 1;
    return axis;
}

static void take_requests(struct spin_bench_summary *summary, const struct axis *axis,
                          const struct spin_bench_result *result, struct sums *sums)
{
    struct sums *running = &sums[0];
    struct sums *waiting = &sums[1];
    for (uint32_t i = 0; i < result->requests_count; i++) {
        const struct spin_bench_request *request = &result->requests[i];
        struct spin_bench_point *end = &summary->points[point_of(axis, request->end_ns)];
        if (request->outcome == SPIN_BENCH_OK) {
            end->finished_per_s += 1;
        } else {
            end->failed_per_s += 1;
        }
        if (request->outcome == SPIN_BENCH_UNSENT) {
            continue;
        }
        add_open(axis, running, request->sent_ns, request->end_ns);
        const bool has_token = request->first_ns >= request->sent_ns && request->first_ns > 0;
        add_open(axis, waiting, request->sent_ns, has_token ? request->first_ns : request->end_ns);
    }
}

static void finish_points(struct spin_bench_summary *summary, const struct axis *axis,
                          const struct spin_bench_result *result, const struct sums *sums)
{
    const double step_s = (double)axis->step_ns / (double)SPIN_NS_PER_S;
    const struct spin_bench_timeline *timeline = &result->timeline;
    const uint32_t finer = (uint32_t)(axis->step_ns / timeline->step_ns);
    for (uint32_t i = 0; i < timeline->count; i++) {
        summary->points[i / finer].output_tokens_per_s += (double)timeline->tokens[i] / step_s;
    }
    double running = 0;
    double waiting = 0;
    for (uint32_t i = 0; i < axis->count; i++) {
        struct spin_bench_point *point = &summary->points[i];
        running += sums[0].whole[i];
        waiting += sums[1].whole[i];
        point->running = running + sums[0].part[i];
        point->waiting = waiting + sums[1].part[i];
        point->finished_per_s /= step_s;
        point->failed_per_s /= step_s;
    }
    summary->points_count = axis->count;
    summary->step_ms = (double)axis->step_ns / (double)SPIN_NS_PER_MS;
}

static int compare_moments(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The most streams of measured requests that were open at one moment. */
static spin_status find_peak(struct spin_bench_summary *summary,
                             const struct spin_bench_result *result, struct spin_error *err)
{
    uint64_t *moments = malloc(2 * (uint64_t)SPIN_MAX(result->requests_count, 1u) * 8);
    if (moments == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "moments of %u requests", result->requests_count);
    }
    uint64_t *sent = moments;
    uint64_t *ended = moments + result->requests_count;
    uint32_t count = 0;
    for (uint32_t i = 0; i < result->requests_count; i++) {
        const struct spin_bench_request *request = &result->requests[i];
        if (!request->warm_up && request->outcome != SPIN_BENCH_UNSENT) {
            sent[count] = request->sent_ns;
            ended[count++] = request->end_ns;
        }
    }
    qsort(sent, count, sizeof *sent, compare_moments);
    qsort(ended, count, sizeof *ended, compare_moments);
    uint32_t gone = 0;
    uint32_t peak = 0;
    for (uint32_t i = 0; i < count; i++) {
        while (ended[gone] <= sent[i] && gone < i) {
            gone++;
        }
        peak = SPIN_MAX(peak, i + 1 - gone);
    }
    free(moments);
    summary->rates.concurrency_max = peak;
    return SPIN_OK;
}

spin_status spin_bench_curves(struct spin_bench_summary *summary,
                              const struct spin_bench_result *result, struct spin_error *err)
{
    SPIN_TRY(find_peak(summary, result, err));
    const struct axis axis = make_axis(result);
    if (axis.count == 0) {
        summary->step_ms = (double)axis.step_ns / (double)SPIN_NS_PER_MS;
        return SPIN_OK;
    }
    struct sums *sums = calloc(2, sizeof *sums);
    if (sums == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "sums over time");
    }
    take_requests(summary, &axis, result, sums);
    finish_points(summary, &axis, result, sums);
    free(sums);
    return SPIN_OK;
}
