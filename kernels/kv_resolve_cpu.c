/* The fast resolve: one pass over a row's stamps, sixteen at a time; more only where pages miss.
 *
 * slot_lru   selected pages are bits; of every slot the pass asks whether its page's bit is set. As
 *            many bits as lie before it, as many entries lie before the page on the list.
 * bucketed   hits are found through directory and leaves; the pass turns stamps into ages.
 *
 * Both leave one byte per slot behind, and what follows is the same for both:
 *
 *   0 selected, never taken | 1 .. 254 held, the older the larger | 255 free
 *
 * Taking slots is then a histogram, a threshold, and a second pass in the order of slots. */
#include "kernels/kv_resolve.h"
#include "kernels/kv_row.h"
#include "kernels/simd_cpu.h"

#include <string.h>

#define RANK_SELECTED 0u
#define RANK_FREE 255u

struct job {
    const struct spin_kv_resolve_args *args;
    struct spin_stream *stream;
    enum spin_kv_replacement replacement;
};

/* Of the row at hand, in the thread's scratch. */
struct marks {
    uint8_t rank[SPIN_ROW_SLOTS_MAX] __attribute__((aligned(64)));
    uint16_t taken[SPIN_ROW_SLOTS_MAX];                  /* slots, ascending */
    uint32_t page_bits[(SPIN_ROW_PAGES_MAX + 1) / 32];   /* slot_lru: what is selected */
    uint16_t first_entry[(SPIN_ROW_PAGES_MAX + 1) / 32]; /* slot_lru: on the list, of each word */
    uint16_t slot_page[SPIN_ROW_SLOTS_MAX];              /* bucketed: the leaves, the other way */
};

_Static_assert(sizeof(struct marks) <= SPIN_SCRATCH_BYTES, "fits the stream's scratch");
_Static_assert(SPIN_SLAB_SLOTS == 16, "a vector of stamps is a slab");

/* What the first pass counts. */
struct tally {
    uint32_t hits;
    uint32_t free;
    uint32_t working_set;
};

static uint32_t bits_of(__m128i lanes)
{
    return (uint32_t)_mm_movemask_epi8(lanes);
}

/* Unsigned a <= b. */
static __m128i at_most(__m128i a, __m128i b)
{
    return _mm_cmpeq_epi8(_mm_min_epu8(a, b), a);
}

static __m128i all8(uint32_t value)
{
    return _mm_set1_epi8((char)value);
}

/* --- slot_lru: stamps are ages --- */

static void mark_pages(struct marks *marks, const struct spin_kv_row_list *list)
{
    /* The word behind the newest page's stays clear: it stands for pages that nobody selects. */
    const uint32_t words = SPIN_MIN(list->newest / 32 + 2, SPIN_ARRAY_COUNT(marks->page_bits));
    memset(marks->page_bits, 0, words * sizeof marks->page_bits[0]);
    for (uint32_t i = 0; i < list->count; i++) {
        const uint32_t word = list->pages[i] / 32;
        if (marks->page_bits[word] == 0) {
            marks->first_entry[word] = (uint16_t)i;
        }
        marks->page_bits[word] |= 1u << list->pages[i] % 32;
    }
}

static uint32_t entry_of(const struct marks *marks, uint32_t page)
{
    const uint32_t before = marks->page_bits[page / 32] & ((1u << page % 32) - 1);
    return marks->first_entry[page / 32] + (uint32_t)__builtin_popcount(before);
}

/* Lane i: is bit page[i] set? */
static uint32_t test8(const uint32_t *bits, __m256i page)
{
    const __m256i word =
        _mm256_i32gather_epi32((const int *)bits, _mm256_srli_epi32(page, 5), sizeof *bits);
    const __m256i bit = _mm256_srlv_epi32(word, _mm256_and_si256(page, _mm256_set1_epi32(31)));
    return (uint32_t)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_slli_epi32(bit, 31)));
}

/* Which of 16 slots hold a selected page; those of free slots may be any number. */
static uint32_t test16(const uint32_t *bits, const uint16_t *slot_page, __m256i page_max)
{
    const __m256i page =
        _mm256_min_epu16(_mm256_loadu_si256((const __m256i *)(const void *)slot_page), page_max);
    const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(page));
    const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(page, 1));
    return test8(bits, low) | test8(bits, high) << 8;
}

static struct tally pass_slot_lru(struct marks *marks, const struct spin_kv_row *row,
                                  const struct spin_kv_row_list *list)
{
    const __m128i free = all8(SPIN_STAMP_FREE);
    const uint32_t behind = SPIN_MIN((list->newest | 31u) + 1, SPIN_ROW_PAGES_MAX);
    const __m256i page_max = _mm256_set1_epi16((short)behind);
    struct tally tally = {0, 0, 0};
    mark_pages(marks, list);
    memset(list->slots, 0xff, list->count * sizeof *list->slots);
    for (uint32_t s = 0; s < row->slots; s += SPIN_SLAB_SLOTS) {
        const uint32_t place = spin_kv_row_place(row, s);
        const uint16_t *slot_page = row->view->slot_page + place;
        uint8_t *stamp = row->view->stamp + place;
        const __m128i before = _mm_loadu_si128((const __m128i *)(const void *)stamp);
        const __m128i is_free = _mm_cmpeq_epi8(before, free);
        const __m128i older = _mm_min_epu8(_mm_adds_epu8(before, all8(1)), all8(SPIN_LRU_AGE_MAX));
        const __m128i after = _mm_or_si128(older, is_free);
        _mm_storeu_si128((__m128i *)(void *)stamp, after);
        uint32_t hits = test16(marks->page_bits, slot_page, page_max) & ~bits_of(is_free);
        const uint32_t recent = bits_of(at_most(after, all8(SPIN_WORKING_SET_STEPS - 1)));
        tally.hits += (uint32_t)__builtin_popcount(hits);
        tally.free += (uint32_t)__builtin_popcount(bits_of(is_free));
        tally.working_set += (uint32_t)__builtin_popcount(recent | hits);
        for (; hits != 0; hits &= hits - 1) {
            const uint32_t lane = (uint32_t)__builtin_ctz(hits);
            stamp[lane] = 0;
            list->slots[entry_of(marks, slot_page[lane])] = place + lane;
        }
        memcpy(marks->rank + s, stamp, SPIN_SLAB_SLOTS); /* a stamp is a rank */
    }
    return tally;
}

_Static_assert(SPIN_STAMP_FREE == RANK_FREE && SPIN_LRU_AGE_MAX < RANK_FREE, "stamps are ranks");

/* --- bucketed: stamps are buckets, a rank is an age + 1 --- */

static void find_in_leaves(struct marks *marks, const struct spin_kv_row *row,
                           const struct spin_kv_row_list *list)
{
    memset(marks->rank, 1, row->slots);
    for (uint32_t i = 0; i < list->count; i++) {
        const uint32_t slot = spin_kv_leaf_find(row, list->pages[i]);
        list->slots[i] = UINT32_MAX;
        if (slot != SPIN_PAGE_NONE) {
            list->slots[i] = spin_kv_row_place(row, slot);
            marks->rank[slot] = RANK_SELECTED;
        }
    }
}

static struct tally pass_bucketed(struct marks *marks, const struct spin_kv_row *row,
                                  const struct spin_kv_row_list *list)
{
    const __m128i bucket_mask = all8(SPIN_BUCKETS - 1);
    const __m128i now = all8(spin_kv_bucket(row->view, list->step));
    const __m128i recent_max = all8(spin_kv_working_buckets(row->view, list->step));
    struct tally tally = {0, 0, 0};
    find_in_leaves(marks, row, list);
    for (uint32_t s = 0; s < row->slots; s += SPIN_SLAB_SLOTS) {
        __m128i *stamp = (__m128i *)(void *)(row->view->stamp + spin_kv_row_place(row, s));
        __m128i *rank = (__m128i *)(void *)(marks->rank + s);
        const __m128i before = _mm_loadu_si128(stamp);
        const __m128i is_free = _mm_cmpeq_epi8(before, all8(SPIN_STAMP_FREE));
        const __m128i selected = _mm_cmpeq_epi8(_mm_load_si128(rank), all8(RANK_SELECTED));
        const __m128i passed = _mm_and_si128(_mm_sub_epi8(now, before), bucket_mask);
        const __m128i capped = _mm_min_epu8(passed, all8(SPIN_BUCKET_AGE_MAX));
        const __m128i age = _mm_andnot_si128(selected, capped);
        const __m128i after = _mm_and_si128(_mm_sub_epi8(now, age), bucket_mask);
        _mm_storeu_si128(stamp, _mm_or_si128(after, is_free));
        const __m128i held_rank = _mm_andnot_si128(selected, _mm_add_epi8(age, all8(1)));
        _mm_store_si128(rank, _mm_or_si128(held_rank, is_free));
        const __m128i recent = _mm_andnot_si128(is_free, at_most(age, recent_max));
        tally.hits += (uint32_t)__builtin_popcount(bits_of(selected));
        tally.free += (uint32_t)__builtin_popcount(bits_of(is_free));
        tally.working_set += (uint32_t)__builtin_popcount(bits_of(recent));
    }
    return tally;
}

/* --- taking slots --- */

/* The lowest rank that is taken; *equal: how many of it are, the first ones. */
static uint32_t find_threshold(const struct marks *marks, uint32_t slots, uint32_t count,
                               uint32_t *equal)
{
    uint32_t histogram[RANK_FREE + 1] = {0};
    for (uint32_t s = 0; s < slots; s++) {
        histogram[marks->rank[s]]++;
    }
    uint32_t rank = RANK_FREE;
    for (; histogram[rank] < count; rank--) {
        count -= histogram[rank];
        SPIN_ASSERT_GT(rank - 1, RANK_SELECTED); /* a row has as many slots as selected pages */
    }
    *equal = count;
    return rank;
}

static void take_slots(struct marks *marks, uint32_t slots, uint32_t free, uint32_t count)
{
    uint32_t equal = count;
    uint32_t threshold = RANK_FREE;
    if (free < count) {
        threshold = find_threshold(marks, slots, count, &equal);
    }
    const __m128i lowest = all8(threshold);
    uint32_t found = 0;
    for (uint32_t s = 0; found < count; s += SPIN_SLAB_SLOTS) {
        SPIN_ASSERT_LT(s, slots);
        const __m128i rank = _mm_load_si128((const __m128i *)(const void *)(marks->rank + s));
        for (uint32_t lanes = bits_of(at_most(lowest, rank)); lanes != 0; lanes &= lanes - 1) {
            const uint32_t slot = s + (uint32_t)__builtin_ctz(lanes);
            if (marks->rank[slot] == threshold) {
                if (equal == 0) {
                    continue;
                }
                equal--;
            }
            marks->taken[found++] = (uint16_t)slot;
        }
    }
}

/* Pages of taken slots leave their leaves; which pages they are, only the leaves say. */
static void leave_leaves(struct marks *marks, const struct spin_kv_row *row, uint32_t count)
{
    for (uint32_t d = 0; d < row->view->directory_max; d++) {
        if (spin_kv_row_directory(row)[d] == SPIN_LEAF_NONE) {
            continue;
        }
        const uint16_t *entries = spin_kv_row_leaf(row, spin_kv_row_directory(row)[d]);
        for (uint32_t i = 0; i < SPIN_LEAF_PAGES; i++) {
            if (entries[i] != SPIN_PAGE_NONE) {
                marks->slot_page[entries[i]] = (uint16_t)(d * SPIN_LEAF_PAGES + i);
            }
        }
    }
    for (uint32_t i = 0; i < count; i++) {
        if (marks->rank[marks->taken[i]] != RANK_FREE) {
            spin_kv_leaf_remove(row, marks->slot_page[marks->taken[i]]);
        }
    }
}

static void enter(const struct job *job, const struct spin_kv_row *row,
                  const struct spin_kv_row_list *list, uint32_t page, uint32_t slot)
{
    const uint32_t place = spin_kv_row_place(row, slot);
    if (job->replacement == SPIN_KV_BUCKETED) {
        spin_kv_leaf_insert(row, page, slot);
        row->view->stamp[place] = spin_kv_bucket(row->view, list->step);
    } else {
        row->view->slot_page[place] = (uint16_t)page;
        row->view->stamp[place] = 0;
    }
}

/* The misses get marks->taken, in order. */
static void place_misses(const struct job *job, const struct marks *marks,
                         const struct spin_kv_row *row, const struct spin_kv_row_list *list)
{
    for (uint32_t i = 0; i < list->count; i++) {
        if (list->slots[i] == UINT32_MAX) {
            const uint32_t slot = marks->taken[*list->miss_count];
            enter(job, row, list, list->pages[i], slot);
            row->counters->misses += !spin_kv_miss_put(row, list, i, slot);
        }
    }
}

/* The largest rank of a page in the working set. */
static uint32_t working_rank(const struct job *job, const struct spin_kv_row *row, uint32_t step)
{
    return job->replacement == SPIN_KV_BUCKETED ? spin_kv_working_buckets(row->view, step) + 1
                                                : SPIN_WORKING_SET_STEPS - 1;
}

static void replace(const struct job *job, struct marks *marks, const struct spin_kv_row *row,
                    const struct spin_kv_row_list *list, const struct tally *tally)
{
    struct spin_kv_counters *counters = row->counters;
    const uint32_t count = list->count - tally->hits;
    const uint32_t recent_max = working_rank(job, row, list->step);
    take_slots(marks, row->slots, tally->free, count);
    counters->working_set += count;
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t rank = marks->rank[marks->taken[i]];
        counters->evictions += rank != RANK_FREE;
        counters->working_set -= rank <= recent_max;
    }
    if (counters->evictions > 0 && job->replacement == SPIN_KV_BUCKETED) {
        leave_leaves(marks, row, count);
    }
    place_misses(job, marks, row, list);
}

/* --- rows --- */

static void resolve_row(const struct job *job, uint64_t index, struct marks *marks)
{
    struct spin_kv_row row;
    const struct spin_kv_row_list list = spin_kv_resolve_begin(job->args, index, &row);
    if (spin_kv_is_resident(job->args, index)) {
        spin_kv_resolve_resident(&row, &list);
        return;
    }
    const struct tally tally = job->replacement == SPIN_KV_BUCKETED
                                   ? pass_bucketed(marks, &row, &list)
                                   : pass_slot_lru(marks, &row, &list);
    row.counters->hits = tally.hits;
    row.counters->misses = 0;
    row.counters->evictions = 0;
    row.counters->working_set = tally.working_set;
    if (tally.hits < list.count) {
        replace(job, marks, &row, &list, &tally);
    }
    SPIN_DASSERT(spin_kv_resolve_holds(&row, &list, job->replacement));
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
                           enum spin_kv_replacement replacement)
{
    spin_kv_view_check(args->view, replacement);
    struct job job = {args, stream, replacement};
    /* A selected page costs about as much as a few values do elsewhere, its share of the stamps
     * included. */
    uint64_t values = 0;
    for (uint64_t row = 0; row < (uint64_t)args->batch.count * args->view->layout.kv_heads; row++) {
        values += (uint64_t)4 * args->lists.page_count[row];
    }
    spin_run_rows(stream, run, &job, values);
    return SPIN_OK;
}

spin_status spin_kv_resolve_slot_lru_cpu(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream)
{
    return resolve(args, stream, SPIN_KV_SLOT_LRU);
}

spin_status spin_kv_resolve_bucketed_cpu(const struct spin_kv_resolve_args *args,
                                         struct spin_stream *stream)
{
    return resolve(args, stream, SPIN_KV_BUCKETED);
}
