#include "bench/load/result.h"

#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(struct spin_bench_request) == 64, "a million of them are 64 MB");

#define OUTCOME_NAME(name, key, text) [SPIN_BENCH_##name] = #key,
static const char *const outcome_names[SPIN_BENCH_OUTCOMES] = {
    SPIN_BENCH_OUTCOME_MAP(OUTCOME_NAME)};
#define OUTCOME_TEXT(name, key, text) [SPIN_BENCH_##name] = (text),
static const char *const outcome_texts[SPIN_BENCH_OUTCOMES] = {
    SPIN_BENCH_OUTCOME_MAP(OUTCOME_TEXT)};

const char *spin_bench_outcome_name(enum spin_bench_outcome outcome)
{
    SPIN_ASSERT((uint32_t)outcome < SPIN_BENCH_OUTCOMES);
    return outcome_names[outcome];
}

const char *spin_bench_outcome_text(enum spin_bench_outcome outcome)
{
    SPIN_ASSERT((uint32_t)outcome < SPIN_BENCH_OUTCOMES);
    return outcome_texts[outcome];
}

static spin_status grow_requests(struct spin_bench_result *result, uint32_t capacity,
                                 struct spin_error *err)
{
    struct spin_bench_request *requests =
        realloc(result->requests, (uint64_t)capacity * sizeof *requests);
    if (requests == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "records of %u requests", capacity);
    }
    result->requests = requests;
    result->requests_capacity = capacity;
    return SPIN_OK;
}

spin_status spin_bench_result_create(uint32_t requests, struct spin_bench_result **out,
                                     struct spin_error *err)
{
    if (requests > SPIN_BENCH_REQUESTS_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%u requests: a run keeps at most %u", requests,
                         SPIN_BENCH_REQUESTS_MAX);
    }
    struct spin_bench_result *result = calloc(1, sizeof *result);
    if (result == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a result: %zu bytes", sizeof *result);
    }
    result->timeline.step_ns = SPIN_BENCH_TIMELINE_STEP_NS;
    const spin_status status = grow_requests(result, SPIN_MAX(requests, 64u), err);
    if (status != SPIN_OK) {
        spin_bench_result_destroy(result);
        return status;
    }
    *out = result;
    return SPIN_OK;
}

void spin_bench_result_destroy(struct spin_bench_result *result)
{
    if (result == NULL) {
        return;
    }
    free(result->requests);
    free(result->metrics);
    free(result);
}

static spin_status make_room(struct spin_bench_result *result, uint64_t count,
                             struct spin_error *err)
{
    const uint64_t wanted = result->requests_count + count;
    if (wanted <= result->requests_capacity) {
        return SPIN_OK;
    }
    if (wanted > SPIN_BENCH_REQUESTS_MAX) {
        return spin_fail(err, SPIN_ERR_LIMIT, "a run keeps at most %u requests",
                         SPIN_BENCH_REQUESTS_MAX);
    }
    const uint64_t doubled = 2 * (uint64_t)result->requests_capacity;
    const uint64_t capacity = SPIN_MIN(SPIN_MAX(wanted, doubled), SPIN_BENCH_REQUESTS_MAX);
    return grow_requests(result, (uint32_t)capacity, err);
}

spin_status spin_bench_result_add(struct spin_bench_result *result,
                                  const struct spin_bench_request *request, const char *error,
                                  struct spin_error *err)
{
    SPIN_ASSERT(request->outcome < SPIN_BENCH_OUTCOMES);
    SPIN_ASSERT(request->sent_ns >= request->intended_ns);
    SPIN_ASSERT(request->end_ns >= request->sent_ns);
    SPIN_ASSERT(request->last_ns >= request->first_ns);
    SPIN_TRY(make_room(result, 1, err));
    result->requests[result->requests_count++] = *request;
    if (request->outcome != SPIN_BENCH_OK) {
        struct spin_bench_error *kind = &result->errors[request->outcome];
        if (kind->count == 0 && error != NULL) {
            (void)snprintf(kind->first, sizeof kind->first, "%s", error);
        }
        kind->count++;
    }
    return SPIN_OK;
}

/* Two points become one, so that a run of any length fits and looks alike. */
static void fold_timeline(struct spin_bench_timeline *timeline)
{
    for (uint32_t i = 0; i < SPIN_BENCH_TIMELINE_POINTS / 2; i++) {
        timeline->tokens[i] =
            timeline->tokens[UINT64_C(2) * i] + timeline->tokens[UINT64_C(2) * i + 1];
    }
    memset(&timeline->tokens[SPIN_BENCH_TIMELINE_POINTS / 2], 0,
           sizeof timeline->tokens - sizeof timeline->tokens / 2);
    timeline->count = (timeline->count + 1) / 2;
    timeline->step_ns *= 2;
}

void spin_bench_result_tokens(struct spin_bench_result *result, uint64_t at_ns, uint64_t tokens)
{
    struct spin_bench_timeline *timeline = &result->timeline;
    /* At most 37 times: then a step times the points covers 64 bits. */
    while (at_ns / timeline->step_ns >= SPIN_BENCH_TIMELINE_POINTS) {
        fold_timeline(timeline);
    }
    const uint32_t point = (uint32_t)(at_ns / timeline->step_ns);
    timeline->tokens[point] += tokens;
    timeline->count = SPIN_MAX(timeline->count, point + 1);
}

static void merge_timeline(struct spin_bench_timeline *into, const struct spin_bench_timeline *from)
{
    while (into->step_ns < from->step_ns) {
        fold_timeline(into);
    }
    /* Steps are one step doubled, so a point of the finer one lies in one of the coarser. */
    const uint64_t finer = into->step_ns / from->step_ns;
    for (uint32_t i = 0; i < from->count; i++) {
        into->tokens[i / finer] += from->tokens[i];
    }
    const uint32_t count = (uint32_t)((from->count + finer - 1) / finer);
    into->count = SPIN_MAX(into->count, count);
}

spin_status spin_bench_result_merge(struct spin_bench_result *into,
                                    const struct spin_bench_result *from, struct spin_error *err)
{
    SPIN_TRY(make_room(into, from->requests_count, err));
    memcpy(&into->requests[into->requests_count], from->requests,
           (uint64_t)from->requests_count * sizeof *from->requests);
    into->requests_count += from->requests_count;
    spin_histogram_merge(&into->itl, &from->itl);
    merge_timeline(&into->timeline, &from->timeline);
    for (uint32_t i = 0; i < SPIN_BENCH_OUTCOMES; i++) {
        struct spin_bench_error *kind = &into->errors[i];
        if (kind->count == 0) {
            memcpy(kind->first, from->errors[i].first, sizeof kind->first);
        }
        kind->count += from->errors[i].count;
    }
    into->end_ns = SPIN_MAX(into->end_ns, from->end_ns);
    into->interrupted |= from->interrupted;
    return SPIN_OK;
}
