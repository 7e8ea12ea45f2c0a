#include "kernels/kv_resolve.h"

#include "kernels/kv_row.h"

#include <string.h>

/* What a replacement policy knows about a row. */
struct policy {
    enum spin_kv_replacement name;
    /* The slot that holds `page`, or SPIN_PAGE_NONE. */
    uint32_t (*find)(const struct spin_kv_row *row, uint32_t page);
    /* The stamp of a page that is selected now, and what another's becomes. */
    uint8_t (*now)(const struct spin_kv_row *row, uint32_t step);
    uint8_t (*passed)(uint8_t now, uint8_t stamp);
    /* In the policy's own unit, and the largest of a page in the working set. */
    uint32_t (*age)(uint8_t now, uint8_t stamp);
    uint32_t (*working_age)(const struct spin_kv_row *row, uint32_t step);
    void (*leave)(const struct spin_kv_row *row, uint32_t slot);
    void (*enter)(const struct spin_kv_row *row, uint32_t page, uint32_t slot);
};

/* --- slot_lru: a stamp is an age --- */

static uint32_t lru_find(const struct spin_kv_row *row, uint32_t page)
{
    for (uint32_t s = 0; s < row->slots; s++) {
        if (*spin_kv_row_stamp(row, s) != SPIN_STAMP_FREE &&
            row->view->slot_page[spin_kv_row_place(row, s)] == page) {
            return s;
        }
    }
    return SPIN_PAGE_NONE;
}

static uint8_t lru_now(const struct spin_kv_row *row, uint32_t step)
{
    (void)row;
    (void)step;
    return 0;
}

static uint8_t lru_passed(uint8_t now, uint8_t stamp)
{
    (void)now;
    return (uint8_t)SPIN_MIN(stamp + 1u, SPIN_LRU_AGE_MAX);
}

static uint32_t lru_age(uint8_t now, uint8_t stamp)
{
    (void)now;
    return stamp;
}

static uint32_t lru_working_age(const struct spin_kv_row *row, uint32_t step)
{
    (void)row;
    (void)step;
    return SPIN_WORKING_SET_STEPS - 1;
}

static void lru_leave(const struct spin_kv_row *row, uint32_t slot)
{
    (void)row;
    (void)slot; /* the next page's number takes the place of this one's */
}

static void lru_enter(const struct spin_kv_row *row, uint32_t page, uint32_t slot)
{
    row->view->slot_page[spin_kv_row_place(row, slot)] = (uint16_t)page;
}

static const struct policy slot_lru = {
    SPIN_KV_SLOT_LRU, lru_find, lru_now, lru_passed, lru_age, lru_working_age, lru_leave, lru_enter,
};

/* --- bucketed: a stamp is a bucket --- */

static uint32_t bucketed_find(const struct spin_kv_row *row, uint32_t page)
{
    return spin_kv_leaf_find(row, page);
}

static uint8_t bucketed_now(const struct spin_kv_row *row, uint32_t step)
{
    return spin_kv_bucket(row->view, step);
}

static uint8_t bucketed_passed(uint8_t now, uint8_t stamp)
{
    const uint32_t age = SPIN_MIN(spin_kv_bucket_age(now, stamp), SPIN_BUCKET_AGE_MAX);
    return (uint8_t)((now - age) % SPIN_BUCKETS);
}

static void bucketed_leave(const struct spin_kv_row *row, uint32_t slot)
{
    uint32_t page = 0;
    while (spin_kv_leaf_find(row, page) != slot) {
        page++;
        SPIN_ASSERT_LT(page, row->view->directory_max * SPIN_LEAF_PAGES);
    }
    spin_kv_leaf_remove(row, page);
}

static uint32_t bucketed_working_age(const struct spin_kv_row *row, uint32_t step)
{
    return spin_kv_working_buckets(row->view, step);
}

static const struct policy bucketed = {
    SPIN_KV_BUCKETED,   bucketed_find,        bucketed_now,   bucketed_passed,
    spin_kv_bucket_age, bucketed_working_age, bucketed_leave, spin_kv_leaf_insert,
};

/* --- the four steps --- */

/* Of the row at hand, in the thread's scratch. */
struct marks {
    bool selected[SPIN_ROW_SLOTS_MAX];
    bool taken[SPIN_ROW_SLOTS_MAX];
};

_Static_assert(sizeof(struct marks) <= SPIN_SCRATCH_BYTES, "fits the stream's scratch");

struct job {
    const struct spin_kv_resolve_args *args;
    struct spin_stream *stream;
    const struct policy *policy;
};

/* The next slot to take: a free one, else the oldest; the first of equals. */
static uint32_t oldest(const struct policy *policy, const struct spin_kv_row *row, uint8_t now,
                       const struct marks *marks)
{
    uint32_t best = SPIN_PAGE_NONE;
    uint32_t best_age = 0;
    for (uint32_t s = 0; s < row->slots; s++) {
        const uint8_t stamp = *spin_kv_row_stamp(row, s);
        const uint32_t age = stamp == SPIN_STAMP_FREE ? UINT32_MAX : policy->age(now, stamp);
        if (!marks->selected[s] && !marks->taken[s] && (best == SPIN_PAGE_NONE || age > best_age)) {
            best = s;
            best_age = age;
        }
    }
    SPIN_ASSERT_NE(best, SPIN_PAGE_NONE);
    return best;
}

/* list->slots: slots of the row, SPIN_PAGE_NONE for what is not there. */
static void find_hits(const struct policy *policy, const struct spin_kv_row *row,
                      const struct spin_kv_row_list *list, bool *selected)
{
    memset(selected, 0, row->slots * sizeof *selected);
    row->counters->hits = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        list->slots[i] = policy->find(row, list->pages[i]);
        if (list->slots[i] != SPIN_PAGE_NONE) {
            selected[list->slots[i]] = true;
            row->counters->hits++;
        }
    }
}

static void pass_time(const struct policy *policy, const struct spin_kv_row *row, uint8_t now,
                      const bool *selected)
{
    for (uint32_t s = 0; s < row->slots; s++) {
        uint8_t *stamp = spin_kv_row_stamp(row, s);
        if (*stamp != SPIN_STAMP_FREE) {
            *stamp = selected[s] ? now : policy->passed(now, *stamp);
        }
    }
}

static void take_slots(const struct policy *policy, const struct spin_kv_row *row, uint8_t now,
                       struct marks *marks, uint32_t count)
{
    memset(marks->taken, 0, row->slots * sizeof *marks->taken);
    for (uint32_t i = 0; i < count; i++) {
        marks->taken[oldest(policy, row, now, marks)] = true;
    }
    row->counters->evictions = 0;
    for (uint32_t s = 0; s < row->slots; s++) {
        if (marks->taken[s] && *spin_kv_row_stamp(row, s) != SPIN_STAMP_FREE) {
            policy->leave(row, s);
            row->counters->evictions++;
        }
    }
}

static void place_misses(const struct policy *policy, const struct spin_kv_row *row,
                         const struct spin_kv_row_list *list, const bool *taken)
{
    uint32_t slot = 0;
    row->counters->misses = 0;
    for (uint32_t i = 0; i < list->count; i++) {
        if (list->slots[i] != SPIN_PAGE_NONE) {
            list->slots[i] = spin_kv_row_place(row, list->slots[i]);
            continue;
        }
        while (!taken[slot]) {
            slot++;
        }
        policy->enter(row, list->pages[i], slot);
        *spin_kv_row_stamp(row, slot) = policy->now(row, list->step);
        row->counters->misses += !spin_kv_miss_put(row, list, i, slot);
        slot++;
    }
}

static uint32_t working_set(const struct policy *policy, const struct spin_kv_row *row,
                            uint32_t step)
{
    const uint8_t now = policy->now(row, step);
    const uint32_t age_max = policy->working_age(row, step);
    uint32_t count = 0;
    for (uint32_t s = 0; s < row->slots; s++) {
        const uint8_t stamp = *spin_kv_row_stamp(row, s);
        count += stamp != SPIN_STAMP_FREE && policy->age(now, stamp) <= age_max;
    }
    return count;
}

static void resolve_row(const struct job *job, uint64_t index, struct marks *marks)
{
    struct spin_kv_row row;
    const struct spin_kv_row_list list = spin_kv_resolve_begin(job->args, index, &row);
    if (spin_kv_is_resident(job->args, index)) {
        spin_kv_resolve_resident(&row, &list);
        return;
    }
    const uint8_t now = job->policy->now(&row, list.step);
    find_hits(job->policy, &row, &list, marks->selected);
    pass_time(job->policy, &row, now, marks->selected);
    take_slots(job->policy, &row, now, marks, list.count - row.counters->hits);
    place_misses(job->policy, &row, &list, marks->taken);
    row.counters->working_set = working_set(job->policy, &row, list.step);
    SPIN_DASSERT(spin_kv_resolve_holds(&row, &list, job->policy->name));
}

static void run(void *context, uint32_t thread, uint32_t threads)
{
    const struct job *job = context;
    const uint64_t rows = (uint64_t)job->args->batch.count * job->args->view->layout.kv_heads;
    const struct spin_range share = spin_cut(rows, 1, thread, threads);
    for (uint64_t index = share.begin; index < share.end; index++) {
        resolve_row(job, index, spin_stream_scratch(job->stream, thread));
    }
}

static spin_status resolve(const struct spin_kv_resolve_args *args, struct spin_stream *stream,
                           const struct policy *policy)
{
    spin_kv_view_check(args->view, policy->name);
    struct job job = {args, stream, policy};
    spin_stream_parallel(stream, run, &job);
    return SPIN_OK;
}

spin_status spin_kv_resolve_slot_lru_ref(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream)
{
    return resolve(args, stream, &slot_lru);
}

spin_status spin_kv_resolve_bucketed_ref(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream)
{
    return resolve(args, stream, &bucketed);
}
