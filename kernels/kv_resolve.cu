/* One block of threads resolves a row; a batch is one launch.
 *
 * Both policies leave one byte per slot in shared memory,
 *
 *   0 selected, never taken | 1 .. 254 held, the older the larger | 255 free
 *
 * and taking slots is then a histogram of these ranks, a threshold, and a scan in the order of
 * slots. Misses are numbered by a scan in the order of the list; the i-th of them gets the i-th
 * slot taken, all at once.
 *
 * slot_lru   selected pages are bits; of every slot one asks whether its page's bit is set. As many
 *            bits as lie before it, as many entries lie before the page on the list.
 * bucketed   hits are found through directory and leaves. A leaf whose pages all go is emptied by
 *            the one in the highest slot, so the leaves given back, in the order of those slots,
 *            are what the stack gains; a page whose leaf nobody has pops one, in the order of
 *            pages. So leaves that go back and forth cancel, and only what the stack truly loses
 *            is walked: 32 leaves at a time as long as they are neighbours, one by one where not.
 *            misses[].slot holds, until the end, the leaves given back and then those popped.
 *
 * Limits     Those of the header: a row of SPIN_ROW_SLOTS_MAX slots, all of them selected, takes
 *            213 KiB of shared memory. */
#include "kernels/kv_resolve.h"
#include "kernels/kv_row.cuh"

#define RANK_SELECTED 0u
#define RANK_TAKEN 254u /* bucketed: no page is as old; marks what goes */
#define RANK_FREE 255u
#define RANKS 256u
#define ALL_HELD 0x01010101u /* four ranks: held, not selected */

static constexpr uint32_t THREADS = 512;
static constexpr uint32_t LEAVES_AT_ONCE = 8; /* loads in flight of a thread that searches them */

static_assert(SPIN_STAMP_FREE == RANK_FREE && SPIN_LRU_AGE_MAX < RANK_FREE, "stamps are ranks");
static_assert(SPIN_BUCKET_AGE_MAX + 1 < RANK_TAKEN, "no page is as old");

struct job {
    struct spin_kv_view view;
    struct spin_kv_batch batch;
    struct spin_kv_lists lists;
    /* Bytes in shared memory: ranks at 0, slots taken, found, page bits, first entries. */
    uint32_t taken_at;
    uint32_t found_at;
    uint32_t page_bits_at;
    uint32_t first_entry_at;
    uint32_t bytes;
};

struct shared {
    uint32_t histogram[RANKS];
    struct spin_scan_sums<THREADS> sums;
    uint32_t hits;
    uint32_t working_set;
    uint32_t evictions;
    uint32_t recent_taken; /* pages of the working set that give their slot */
    uint32_t threshold;    /* the lowest rank that is taken */
    uint32_t equal;        /* how many of it are */
    uint32_t leaves_taken; /* bucketed */
};

/* The row at hand, as every thread sees it. */
struct row {
    const struct spin_kv_view *view;
    struct shared *shared;
    /* Shared memory. */
    uint8_t *rank;         /* [slots] */
    uint16_t *taken;       /* [misses]: slots, ascending */
    uint32_t *found;       /* bits of list entries */
    uint32_t *page_bits;   /* slot_lru: what is selected */
    uint16_t *first_entry; /* slot_lru: on the list, of each word of page_bits */
    /* The tables. */
    const uint32_t *groups;
    uint16_t *directory;
    uint16_t *leaf_free;
    struct spin_kv_counters *counters;
    uint32_t head;
    uint32_t slots;
    /* The lists. */
    const uint16_t *pages;
    uint32_t *list_slots;
    struct spin_kv_miss *misses;
    uint32_t count;
    uint32_t newest;
    bool newest_is_fresh;
    uint32_t step;
    uint32_t turn; /* of scans */
};

static __device__ __forceinline__ uint32_t place_of(const struct row *row, uint32_t slot)
{
    return spin_kv_group_slot(row->view, row->groups, row->head, slot);
}

static __device__ __forceinline__ uint2 *leaf_at(const struct row *row, uint32_t leaf)
{
    return spin_leaf_at(row->view, row->groups, row->head, leaf);
}

static __device__ __forceinline__ uint32_t scan(struct row *row, uint32_t value, uint32_t *total)
{
    return spin_block_scan(&row->shared->sums, &row->turn, value, total);
}

static __device__ __forceinline__ bool is_found(const struct row *row, uint32_t entry)
{
    return (row->found[entry / 32] >> entry % 32 & 1) != 0;
}

static __device__ __forceinline__ uint32_t bucket_of(const struct spin_kv_view *view, uint32_t step)
{
    return (step >> view->bucket_shift) % SPIN_BUCKETS;
}

/* The largest rank of a page in the working set. */
template <enum spin_kv_replacement REPLACEMENT>
static __device__ __forceinline__ uint32_t working_rank(const struct row *row)
{
    if (REPLACEMENT == SPIN_KV_SLOT_LRU) {
        return SPIN_WORKING_SET_STEPS - 1;
    }
    const uint32_t first = bucket_of(row->view, row->step - (SPIN_WORKING_SET_STEPS - 1));
    return (bucket_of(row->view, row->step) - first) % SPIN_BUCKETS + 1;
}

/* Four ranks, those of slots [s, s + 4): kept for taking slots, and counted. */
static __device__ __forceinline__ void put_ranks(const struct row *row, uint32_t s, uint32_t ranks,
                                                 uint32_t recent_max, uint32_t *working_set)
{
    *(uint32_t *)(row->rank + s) = ranks;
#pragma unroll
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t rank = ranks >> i * 8 & 0xffu;
        *working_set += rank <= recent_max;
        if (rank != RANK_SELECTED) {
            atomicAdd(&row->shared->histogram[rank], 1);
        }
    }
}

/* --- slot_lru: stamps are ages, and ranks --- */

static __device__ void mark_pages(const struct row *row)
{
    for (uint32_t word = threadIdx.x; word <= row->newest / 32; word += THREADS) {
        row->page_bits[word] = 0;
    }
    for (uint32_t word = threadIdx.x; word * 32 < row->count; word += THREADS) {
        row->found[word] = 0;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < row->count; i += THREADS) {
        const uint32_t word = row->pages[i] / 32u;
        if (i == 0 || row->pages[i - 1] / 32u != word) {
            row->first_entry[word] = (uint16_t)i;
        }
        atomicOr(&row->page_bits[word], 1u << row->pages[i] % 32u);
    }
    __syncthreads();
}

/* If `page`, which slot `place` of the pool holds, is selected: its entry is found. */
static __device__ __forceinline__ bool hit(const struct row *row, uint32_t page, uint32_t place)
{
    const uint32_t word = page / 32;
    if (page > row->newest || (row->page_bits[word] >> page % 32 & 1) == 0) {
        return false;
    }
    const uint32_t before = row->page_bits[word] & ((1u << page % 32) - 1);
    const uint32_t entry = row->first_entry[word] + __popc(before);
    row->list_slots[entry] = place;
    atomicOr(&row->found[entry / 32], 1u << entry % 32);
    return true;
}

static __device__ void pass_slot_lru(const struct row *row)
{
    uint32_t hits = 0;
    uint32_t working_set = 0;
    mark_pages(row);
    for (uint32_t s = threadIdx.x * 4; s < row->slots; s += THREADS * 4) {
        const uint32_t place = place_of(row, s);
        uint32_t *stamp = (uint32_t *)(row->view->stamp + place);
        const uint32_t before = *stamp;
        const uint2 held = *(const uint2 *)(row->view->slot_page + place);
        uint32_t after = 0;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t age = before >> i * 8 & 0xffu;
            uint32_t rank = age;
            if (age != SPIN_STAMP_FREE) {
                const bool selected = hit(row, spin_leaf_entry(held, i), place + i);
                rank = selected ? RANK_SELECTED : min(age + 1, SPIN_LRU_AGE_MAX);
                hits += selected;
            }
            after |= rank << i * 8;
        }
        *stamp = after;
        put_ranks(row, s, after, SPIN_WORKING_SET_STEPS - 1, &working_set);
    }
    spin_warp_add(&row->shared->hits, hits);
    spin_warp_add(&row->shared->working_set, working_set);
}

/* --- bucketed: stamps are buckets, a rank is an age + 1 --- */

static __device__ void find_in_leaves(const struct row *row)
{
    for (uint32_t s = threadIdx.x * 4; s < row->slots; s += THREADS * 4) {
        *(uint32_t *)(row->rank + s) = ALL_HELD;
    }
    __syncthreads();
    for (uint32_t base = 0; base < row->count; base += THREADS) {
        const uint32_t i = base + threadIdx.x;
        uint32_t slot = SPIN_PAGE_NONE;
        if (i < row->count) {
            const uint32_t page = row->pages[i];
            const uint32_t leaf = row->directory[page / SPIN_LEAF_PAGES];
            if (leaf != SPIN_LEAF_NONE) {
                slot = spin_leaf_entry(*leaf_at(row, leaf), page % SPIN_LEAF_PAGES);
            }
        }
        const uint32_t found = __ballot_sync(~0u, slot != SPIN_PAGE_NONE);
        if (threadIdx.x % 32 == 0 && i < row->count) {
            row->found[i / 32] = found;
            atomicAdd(&row->shared->hits, __popc(found));
        }
        if (slot != SPIN_PAGE_NONE) {
            SPIN_DEVICE_DASSERT(slot < row->slots);
            row->rank[slot] = RANK_SELECTED;
            row->list_slots[i] = place_of(row, slot);
        }
    }
    __syncthreads();
}

static __device__ void pass_bucketed(const struct row *row)
{
    const uint32_t now = bucket_of(row->view, row->step);
    const uint32_t recent_max = working_rank<SPIN_KV_BUCKETED>(row);
    uint32_t working_set = 0;
    find_in_leaves(row);
    for (uint32_t s = threadIdx.x * 4; s < row->slots; s += THREADS * 4) {
        uint32_t *stamp = (uint32_t *)(row->view->stamp + place_of(row, s));
        const uint32_t before = *stamp;
        const uint32_t marked = *(const uint32_t *)(row->rank + s);
        uint32_t after = 0;
        uint32_t ranks = 0;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t bucket = before >> i * 8 & 0xffu;
            uint32_t rank = RANK_FREE;
            if (bucket != SPIN_STAMP_FREE) {
                const bool selected = (marked >> i * 8 & 0xffu) == RANK_SELECTED;
                const uint32_t passed = min((now - bucket) % SPIN_BUCKETS, SPIN_BUCKET_AGE_MAX);
                const uint32_t age = selected ? 0 : passed;
                rank = selected ? RANK_SELECTED : age + 1;
                bucket = (now - age) % SPIN_BUCKETS;
            }
            after |= bucket << i * 8;
            ranks |= rank << i * 8;
        }
        *stamp = after;
        put_ranks(row, s, ranks, recent_max, &working_set);
    }
    spin_warp_add(&row->shared->working_set, working_set);
}

/* --- taking slots --- */

/* The first warp; all threads see the threshold. */
static __device__ void find_threshold(const struct row *row, uint32_t misses)
{
    if (threadIdx.x < 32) {
        const uint32_t highest = RANKS - 1 - threadIdx.x * 8;
        uint32_t counts[8];
        uint32_t sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            counts[i] = row->shared->histogram[highest - i];
            sum += counts[i];
        }
        uint32_t before = sum;
#pragma unroll
        for (uint32_t distance = 1; distance < 32; distance *= 2) {
            const uint32_t other = __shfl_up_sync(~0u, before, distance);
            before += threadIdx.x >= distance ? other : 0;
        }
        before -= sum;
#pragma unroll
        for (uint32_t i = 0; i < 8; i++) {
            if (before < misses && before + counts[i] >= misses) {
                row->shared->threshold = highest - i;
                row->shared->equal = misses - before;
            }
            before += counts[i];
        }
    }
    __syncthreads();
}

/* Fills row->taken. */
template <enum spin_kv_replacement REPLACEMENT>
static __device__ void take_slots(struct row *row, uint32_t misses)
{
    find_threshold(row, misses);
    const uint32_t threshold = row->shared->threshold;
    const uint32_t equal_max = row->shared->equal;
    const uint32_t recent_max = working_rank<REPLACEMENT>(row);
    uint32_t above = 0; /* of all slots before the thread's */
    uint32_t equal = 0;
    uint32_t evictions = 0;
    uint32_t recent = 0;
    for (uint32_t base = 0; base < row->slots && above + min(equal, equal_max) < misses;
         base += THREADS * 4) {
        const uint32_t s = base + threadIdx.x * 4;
        uint32_t ranks = s < row->slots ? *(const uint32_t *)(row->rank + s) : 0;
        uint32_t mine = 0;
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t rank = ranks >> i * 8 & 0xffu;
            mine += (rank > threshold) + ((uint32_t)(rank == threshold) << 16);
        }
        uint32_t total;
        const uint32_t before = scan(row, mine, &total);
        uint32_t my_above = above + (before & 0xffffu);
        uint32_t my_equal = equal + (before >> 16);
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t rank = ranks >> i * 8 & 0xffu;
            if (rank > threshold || (rank == threshold && my_equal < equal_max)) {
                row->taken[my_above + min(my_equal, equal_max)] = (uint16_t)(s + i);
                evictions += rank != RANK_FREE;
                recent += rank <= recent_max;
                if (REPLACEMENT == SPIN_KV_BUCKETED) {
                    row->rank[s + i] = RANK_TAKEN;
                }
            }
            my_above += rank > threshold;
            my_equal += rank == threshold;
        }
        above += total & 0xffffu;
        equal += total >> 16;
    }
    SPIN_DEVICE_DASSERT(above + min(equal, equal_max) >= misses);
    spin_warp_add(&row->shared->evictions, evictions);
    spin_warp_add(&row->shared->recent_taken, recent);
    __syncthreads();
}

/* --- misses --- */

static __device__ __forceinline__ bool is_missing(const struct row *row, uint32_t entry)
{
    return entry < row->count && !is_found(row, entry);
}

/* What the lists say of miss `index`; not yet its slot. */
static __device__ __forceinline__ void put_miss(const struct row *row, uint32_t index,
                                                uint32_t entry, uint32_t place)
{
    const uint32_t page = row->pages[entry];
    row->misses[index].page = (uint16_t)page;
    row->misses[index].fresh = page == row->newest && row->newest_is_fresh;
    row->list_slots[entry] = place;
}

static __device__ void place_misses_slot_lru(struct row *row, uint32_t misses)
{
    uint32_t placed = 0;
    for (uint32_t base = 0; base < row->count && placed < misses; base += THREADS) {
        const uint32_t entry = base + threadIdx.x;
        const bool missing = is_missing(row, entry);
        uint32_t total;
        const uint32_t index = placed + scan(row, missing, &total);
        if (missing) {
            const uint32_t place = place_of(row, row->taken[index]);
            put_miss(row, index, entry, place);
            row->misses[index].slot = place;
            row->view->slot_page[place] = row->pages[entry];
            row->view->stamp[place] = 0;
        }
        placed += total;
    }
}

/* --- bucketed: leaves given back --- */

/* Which of the slots taken is `slot`. */
static __device__ uint32_t index_of_taken(const struct row *row, uint32_t misses, uint32_t slot)
{
    uint32_t begin = 0;
    uint32_t end = misses;
    while (end - begin > 1) {
        const uint32_t middle = (begin + end) / 2;
        if (row->taken[middle] <= slot) {
            begin = middle;
        } else {
            end = middle;
        }
    }
    return begin;
}

/* Entries of slots that are taken go; an empty leaf is noted at the last of them. */
static __device__ __forceinline__ void leave_leaf(const struct row *row, uint32_t misses,
                                                  uint32_t d, uint32_t leaf, uint2 entries)
{
    uint2 left = entries;
    uint32_t last = 0;
#pragma unroll
    for (uint32_t i = 0; i < SPIN_LEAF_PAGES; i++) {
        const uint32_t slot = spin_leaf_entry(entries, i);
        if (slot != SPIN_PAGE_NONE && row->rank[slot] == RANK_TAKEN) {
            left = spin_leaf_with(left, i, SPIN_PAGE_NONE);
            last = max(last, slot);
        }
    }
    if (left.x == entries.x && left.y == entries.y) {
        return;
    }
    *leaf_at(row, leaf) = left;
    if ((left.x & left.y) == ~0u) {
        row->directory[d] = SPIN_LEAF_NONE;
        row->misses[index_of_taken(row, misses, last)].slot = leaf;
    }
}

/* Which pages the slots hold that are taken only the leaves say. Returns how many leaves were given
 * back: those of misses[0 ..].slot, the last one on top. */
static __device__ uint32_t leave_leaves(struct row *row, uint32_t misses)
{
    for (uint32_t i = threadIdx.x; i < misses; i += THREADS) {
        row->misses[i].slot = SPIN_LEAF_NONE;
    }
    __syncthreads();
    const uint32_t directory_max = row->view->directory_max;
    for (uint32_t base = threadIdx.x; base < directory_max; base += THREADS * LEAVES_AT_ONCE) {
        uint32_t leaf[LEAVES_AT_ONCE];
        uint2 entries[LEAVES_AT_ONCE];
#pragma unroll
        for (uint32_t i = 0; i < LEAVES_AT_ONCE; i++) {
            const uint32_t d = base + i * THREADS;
            leaf[i] = d < directory_max ? row->directory[d] : SPIN_LEAF_NONE;
        }
#pragma unroll
        for (uint32_t i = 0; i < LEAVES_AT_ONCE; i++) {
            entries[i] = leaf[i] == SPIN_LEAF_NONE ? spin_leaf_empty() : *leaf_at(row, leaf[i]);
        }
#pragma unroll
        for (uint32_t i = 0; i < LEAVES_AT_ONCE; i++) {
            leave_leaf(row, misses, base + i * THREADS, leaf[i], entries[i]);
        }
    }
    __syncthreads();
    uint32_t given = 0;
    for (uint32_t base = 0; base < misses; base += THREADS) {
        const uint32_t i = base + threadIdx.x;
        const uint32_t leaf = i < misses ? row->misses[i].slot : SPIN_LEAF_NONE;
        uint32_t total;
        const uint32_t before = scan(row, leaf != SPIN_LEAF_NONE, &total);
        if (leaf != SPIN_LEAF_NONE) {
            row->misses[given + before].slot = leaf; /* everybody has read as far as here */
        }
        given += total;
    }
    __syncthreads();
    return given;
}

/* --- bucketed: leaves popped --- */

/* The entry is the first of its leaf, and the page has none; *leaf: what the directory says. */
static __device__ __forceinline__ bool needs_leaf(const struct row *row, uint32_t entry,
                                                  uint32_t *leaf)
{
    const uint32_t d = row->pages[entry] / SPIN_LEAF_PAGES;
    *leaf = row->directory[d];
    return *leaf == SPIN_LEAF_NONE && (entry == 0 || row->pages[entry - 1] / SPIN_LEAF_PAGES != d);
}

/* The first warp walks the stack: misses[begin .. end).slot. Returns the new top. */
static __device__ uint32_t walk_stack(const struct row *row, uint32_t top, uint32_t begin,
                                      uint32_t end)
{
    while (begin < end) {
        /* As if leaves were neighbours; what lies behind the first that is not is no news. */
        const uint32_t leaf = top + threadIdx.x;
        const uint32_t next =
            leaf < row->slots ? spin_leaf_entry(*leaf_at(row, leaf), 0) : SPIN_LEAF_NONE;
        const uint32_t other = __ballot_sync(~0u, next != leaf + 1);
        const uint32_t known = other == 0 ? 32 : __ffs(other);
        const uint32_t count = min(known, end - begin);
        SPIN_DEVICE_DASSERT(top < row->slots);
        if (threadIdx.x < count) {
            row->misses[begin + threadIdx.x].slot = leaf;
        }
        top = __shfl_sync(~0u, next, count - 1);
        begin += count;
    }
    return top;
}

/* `given` leaves were given back, `popped` will be. Writes the stack; no popped leaf yet. */
static __device__ void move_stack(const struct row *row, uint32_t given, uint32_t popped)
{
    const uint32_t top = *row->leaf_free;
    const uint32_t left = given - min(given, popped); /* on top of what was there */
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < left; i += THREADS) {
        const uint32_t below = i == 0 ? top : row->misses[i - 1].slot;
        *leaf_at(row, row->misses[i].slot) = spin_leaf_free(below);
    }
    if (threadIdx.x < 32) {
        const uint32_t walked = walk_stack(row, top, given, popped);
        if (threadIdx.x == 0) {
            *row->leaf_free = (uint16_t)(left == 0 ? walked : row->misses[left - 1].slot);
        }
    }
    __syncthreads();
}

/* The leaf of the entry and of those after it that share it, whole. */
static __device__ void enter_leaf(const struct row *row, uint32_t entry, uint32_t index,
                                  uint32_t leaf)
{
    const uint32_t d = row->pages[entry] / SPIN_LEAF_PAGES;
    uint2 entries = spin_leaf_empty();
    for (uint32_t i = 0; entry + i < row->count; i++) {
        const uint32_t page = row->pages[entry + i];
        if (page / SPIN_LEAF_PAGES != d) {
            break;
        }
        entries = spin_leaf_with(entries, page % SPIN_LEAF_PAGES, row->taken[index + i]);
    }
    *leaf_at(row, leaf) = entries;
    row->directory[d] = (uint16_t)leaf;
}

static __device__ void place_misses_bucketed(struct row *row, uint32_t misses, uint32_t given)
{
    const uint32_t now = bucket_of(row->view, row->step);
    uint32_t leaf;
    uint32_t popped = 0;
    for (uint32_t entry = threadIdx.x; entry < row->count; entry += THREADS) {
        popped += is_missing(row, entry) && needs_leaf(row, entry, &leaf);
    }
    spin_warp_add(&row->shared->leaves_taken, popped);
    __syncthreads();
    move_stack(row, given, row->shared->leaves_taken);
    uint32_t placed = 0;
    popped = 0;
    for (uint32_t base = 0; base < row->count && placed < misses; base += THREADS) {
        const uint32_t entry = base + threadIdx.x;
        const bool missing = is_missing(row, entry);
        const bool pops = missing && needs_leaf(row, entry, &leaf);
        uint32_t total;
        const uint32_t before = scan(row, missing + ((uint32_t)pops << 16), &total);
        const uint32_t index = placed + (before & 0xffffu);
        const uint32_t pop = popped + (before >> 16);
        if (missing) {
            const uint32_t slot = row->taken[index];
            const uint32_t place = place_of(row, slot);
            put_miss(row, index, entry, place);
            row->view->stamp[place] = (uint8_t)now;
            if (pops) {
                leaf = row->misses[pop < given ? given - 1 - pop : pop].slot;
                enter_leaf(row, entry, index, leaf);
            } else if (leaf != SPIN_LEAF_NONE) { /* else an entry before this one writes the leaf */
                uint16_t *entries = (uint16_t *)leaf_at(row, leaf);
                entries[row->pages[entry] % SPIN_LEAF_PAGES] = (uint16_t)slot;
            }
        }
        placed += total & 0xffffu;
        popped += total >> 16;
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < misses; i += THREADS) {
        row->misses[i].slot = place_of(row, row->taken[i]);
    }
}

/* --- rows --- */

/* The identity map. */
static __device__ void resolve_resident(const struct row *row)
{
    for (uint32_t i = threadIdx.x; i < row->count; i += THREADS) {
        SPIN_DEVICE_DASSERT(row->pages[i] < row->slots);
        row->list_slots[i] = place_of(row, row->pages[i]);
    }
    if (threadIdx.x == 0) {
        row->counters->hits = row->count;
        row->counters->misses = 0;
        row->counters->evictions = 0;
        row->counters->working_set = 0;
    }
}

static __device__ void count(const struct row *row, uint32_t misses)
{
    const bool fresh = row->newest_is_fresh && !is_found(row, row->count - 1);
    row->counters->hits = row->shared->hits;
    row->counters->misses = misses - fresh;
    row->counters->evictions = row->shared->evictions;
    row->counters->working_set = row->shared->working_set + misses - row->shared->recent_taken;
}

template <enum spin_kv_replacement REPLACEMENT>
static __device__ uint32_t resolve_buffered(struct row *row)
{
    for (uint32_t i = threadIdx.x; i < RANKS; i += THREADS) {
        row->shared->histogram[i] = 0;
    }
    if (threadIdx.x == 0) {
        row->shared->hits = 0;
        row->shared->working_set = 0;
        row->shared->evictions = 0;
        row->shared->recent_taken = 0;
        row->shared->leaves_taken = 0;
    }
    /* The first barrier of a pass is before anybody counts. */
    if (REPLACEMENT == SPIN_KV_SLOT_LRU) {
        pass_slot_lru(row);
    } else {
        pass_bucketed(row);
    }
    __syncthreads();
    const uint32_t misses = row->count - row->shared->hits;
    if (misses > 0) {
        take_slots<REPLACEMENT>(row, misses);
        if (REPLACEMENT == SPIN_KV_SLOT_LRU) {
            place_misses_slot_lru(row, misses);
        } else {
            const uint32_t given = row->shared->evictions == 0 ? 0 : leave_leaves(row, misses);
            place_misses_bucketed(row, misses, given);
        }
    }
    if (threadIdx.x == 0) {
        count(row, misses);
    }
    return misses;
}

/* Row `index` of the batch: its list and its table row. */
static __device__ __forceinline__ struct row row_of(const struct job *job, uint32_t index,
                                                    uint8_t *memory, struct shared *shared)
{
    const struct spin_kv_view *view = &job->view;
    const struct spin_kv_lists *lists = &job->lists;
    const uint32_t i = index / view->layout.kv_heads;
    const uint32_t sequence = job->batch.sequence[i];
    const uint32_t tokens = job->batch.tokens[i];
    struct row row;
    row.view = view;
    row.shared = shared;
    row.rank = memory;
    row.taken = (uint16_t *)(memory + job->taken_at);
    row.found = (uint32_t *)(memory + job->found_at);
    row.page_bits = (uint32_t *)(memory + job->page_bits_at);
    row.first_entry = (uint16_t *)(memory + job->first_entry_at);
    row.head = index % view->layout.kv_heads;
    const uint64_t number = spin_kv_table_row(view, sequence, job->batch.layer, row.head);
    row.groups = spin_kv_slab_groups(view, number);
    row.directory = view->directory + number * view->directory_max;
    row.leaf_free = view->leaf_free + number;
    row.counters = view->counters + number;
    row.slots = view->slab_count[(uint64_t)sequence * view->layout.layers + job->batch.layer] *
                SPIN_SLAB_SLOTS;
    row.pages = lists->pages + (uint64_t)index * lists->stride;
    row.list_slots = lists->slots + (uint64_t)index * lists->stride;
    row.misses = lists->misses + (uint64_t)index * lists->stride;
    row.count = lists->page_count[index];
    row.newest = (tokens - 1) / view->page_tokens;
    row.newest_is_fresh = (tokens - 1) % view->page_tokens == 0;
    row.step = job->batch.step[i];
    row.turn = 0;
    SPIN_DEVICE_DASSERT(tokens > 0 && row.count > 0 && row.count <= lists->stride);
    SPIN_DEVICE_DASSERT(row.slots <= view->slabs_max * SPIN_SLAB_SLOTS && row.count <= row.slots);
    SPIN_DEVICE_DASSERT(row.pages[row.count - 1] == row.newest);
    if (threadIdx.x == 0) {
        lists->visible[index] =
            (row.count - 1) * view->page_tokens + (tokens - 1) % view->page_tokens + 1;
    }
    return row;
}

template <enum spin_kv_replacement REPLACEMENT>
static __global__ void __launch_bounds__(THREADS)
    resolve_rows(const __grid_constant__ struct job job)
{
    extern __shared__ __align__(16) uint8_t memory[];
    __shared__ struct shared shared;
    const uint32_t sequence = job.batch.sequence[blockIdx.x / job.view.layout.kv_heads];
    struct row row = row_of(&job, blockIdx.x, memory, &shared);
    uint32_t misses = 0;
    if (job.view.residency[sequence] == SPIN_KV_RESIDENT) {
        resolve_resident(&row);
    } else {
        misses = resolve_buffered<REPLACEMENT>(&row);
    }
    if (threadIdx.x == 0) {
        job.lists.miss_count[blockIdx.x] = misses;
    }
}

/* --- on the host --- */

static uint32_t aligned(uint64_t bytes)
{
    return (uint32_t)((bytes + 15) / 16 * 16);
}

/* Where things lie in shared memory: as much as the longest row of the view needs. */
static void lay_out(struct job *job, enum spin_kv_replacement replacement)
{
    const struct spin_kv_view *view = &job->view;
    const uint64_t slots = (uint64_t)view->slabs_max * SPIN_SLAB_SLOTS;
    const uint64_t entries = SPIN_MIN(job->lists.stride, slots);
    const uint64_t block_pages = SPIN_BLOCK_TOKENS / view->page_tokens;
    const uint64_t pages = SPIN_MIN(view->blocks_max * block_pages, SPIN_ROW_PAGES_MAX);
    const uint64_t words = replacement == SPIN_KV_SLOT_LRU ? (pages + 31) / 32 : 0;
    job->taken_at = aligned(slots);
    job->found_at = job->taken_at + aligned(entries * sizeof(uint16_t));
    job->page_bits_at = job->found_at + aligned((entries + 31) / 32 * sizeof(uint32_t));
    job->first_entry_at = job->page_bits_at + aligned(words * sizeof(uint32_t));
    job->bytes = job->first_entry_at + aligned(words * sizeof(uint16_t));
}

template <enum spin_kv_replacement REPLACEMENT>
static spin_status resolve(const struct spin_kv_resolve_args *args, struct spin_stream *stream,
                           const char *name)
{
    spin_kv_view_check(args->view, REPLACEMENT);
    struct job job;
    job.view = *args->view;
    job.batch = args->batch;
    job.lists = args->lists;
    lay_out(&job, REPLACEMENT);
    const uint32_t rows = args->batch.count * args->view->layout.kv_heads;
    if (rows == 0) {
        return SPIN_OK;
    }
    if (job.bytes > 40960) { /* more than 48 KiB, all in all, are there for who asks */
        (void)cudaFuncSetAttribute(resolve_rows<REPLACEMENT>,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, (int)job.bytes);
    }
    resolve_rows<REPLACEMENT><<<rows, THREADS, job.bytes, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched(name);
}

extern "C" spin_status spin_kv_resolve_slot_lru_cuda(const struct spin_kv_resolve_args *args,
                                                     struct spin_stream *stream)
{
    return resolve<SPIN_KV_SLOT_LRU>(args, stream, "kv_resolve slot_lru");
}

extern "C" spin_status spin_kv_resolve_bucketed_cuda(const struct spin_kv_resolve_args *args,
                                                     struct spin_stream *stream)
{
    return resolve<SPIN_KV_BUCKETED>(args, stream, "kv_resolve bucketed");
}
