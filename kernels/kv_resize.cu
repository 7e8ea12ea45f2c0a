/* slot_lru   every slot by itself: as many blocks as there are slots to visit.
 *
 * bucketed   One block of threads has a row. A row that had no slots is written down as it will be:
 *            its stack is 0, 1, 2, ..., and pages that the identity map held take leaves off it in
 *            their order. Else leaves in use are bits; the i-th leaf that moves, in the order of
 *            the directory (a scan), goes to the i-th leaf that has no bit; and the stack is every
 *            leaf without a bit behind those. */
#include "kernels/kv_resize.h"
#include "kernels/kv_row.cuh"

static constexpr uint32_t SLOT_THREADS = 256;
static constexpr uint32_t SLOT_BLOCKS_MAX = 64; /* of a row */
static constexpr uint32_t THREADS = 1024;
static constexpr uint32_t WORDS = (SPIN_ROW_SLOTS_MAX + 31) / 32;
static constexpr uint32_t THREAD_WORDS = (WORDS + THREADS - 1) / THREADS;

struct job {
    struct spin_kv_view view;
    uint64_t first_row; /* table row of head 0 */
    uint32_t before;
    uint32_t after;
    uint32_t first_page;
    uint32_t held;
    uint8_t held_stamp;
};

/* --- slot_lru --- */

static __global__ void __launch_bounds__(SLOT_THREADS)
    resize_slots(const __grid_constant__ struct job job)
{
    const uint32_t head = blockIdx.x;
    const uint32_t *groups = spin_kv_slab_groups(&job.view, job.first_row);
    const uint32_t begin = min(job.before, job.after);
    const uint32_t end = max(job.before, job.after);
    uint32_t dropped = 0;
    for (uint32_t s = begin + blockIdx.y * SLOT_THREADS + threadIdx.x; s < end;
         s += gridDim.y * SLOT_THREADS) {
        const uint32_t place = spin_kv_group_slot(&job.view, groups, head, s);
        if (job.after < job.before) {
            dropped += job.view.stamp[place] != SPIN_STAMP_FREE;
        }
        if (s < job.held) {
            job.view.slot_page[place] = (uint16_t)(job.first_page + s);
        }
        job.view.stamp[place] = s < job.held ? job.held_stamp : SPIN_STAMP_FREE;
    }
    spin_warp_add(&job.view.counters[job.first_row + head].dropped, dropped);
}

/* --- bucketed --- */

struct shared {
    uint32_t used[WORDS];        /* bits of leaves */
    uint32_t free_before[WORDS]; /* leaves of lower words that are not in use */
    struct spin_scan_sums<THREADS> sums;
    uint32_t dropped;
};

struct row {
    const struct job *job;
    struct shared *shared;
    const uint32_t *groups;
    uint16_t *directory;
    uint16_t *leaf_free;
    uint32_t head;
    uint32_t turn; /* of scans */
};

static __device__ __forceinline__ uint2 *leaf_at(const struct row *row, uint32_t leaf)
{
    return spin_leaf_at(&row->job->view, row->groups, row->head, leaf);
}

static __device__ __forceinline__ void put_stamp(const struct row *row, uint32_t slot,
                                                 uint8_t stamp)
{
    row->job->view.stamp[spin_kv_group_slot(&row->job->view, row->groups, row->head, slot)] = stamp;
}

/* The row had no slots. */
static __device__ void be_born(const struct row *row)
{
    const struct job *job = row->job;
    const uint32_t first = job->first_page / SPIN_LEAF_PAGES; /* of the directory */
    const uint32_t last_page = job->first_page + job->held - 1;
    const uint32_t leaves = job->held == 0 ? 0 : last_page / SPIN_LEAF_PAGES - first + 1;
    for (uint32_t d = threadIdx.x; d < job->view.directory_max; d += THREADS) {
        row->directory[d] = (uint16_t)(d - first < leaves ? d - first : SPIN_LEAF_NONE);
    }
    for (uint32_t s = threadIdx.x; s < job->after; s += THREADS) {
        uint2 leaf = spin_leaf_free(s + 1 < job->after ? s + 1 : SPIN_LEAF_NONE);
        if (s < leaves) {
            leaf = spin_leaf_empty();
            for (uint32_t i = 0; i < SPIN_LEAF_PAGES; i++) {
                /* Below the first page this wraps, and is no slot, either. */
                const uint32_t slot = (first + s) * SPIN_LEAF_PAGES + i - job->first_page;
                if (slot < job->held) {
                    leaf = spin_leaf_with(leaf, i, slot);
                }
            }
        }
        *leaf_at(row, s) = leaf;
        put_stamp(row, s, s < job->held ? job->held_stamp : SPIN_STAMP_FREE);
    }
    if (threadIdx.x == 0) {
        *row->leaf_free = (uint16_t)(leaves < job->after ? leaves : SPIN_LEAF_NONE);
    }
}

/* Pages in slots that go away lose them; leaves that stay where they are get their bits. */
static __device__ void drop(const struct row *row)
{
    const uint32_t after = row->job->after;
    uint32_t dropped = 0;
    for (uint32_t d = threadIdx.x; d < row->job->view.directory_max; d += THREADS) {
        const uint32_t leaf = row->directory[d];
        if (leaf == SPIN_LEAF_NONE) {
            continue;
        }
        const uint2 entries = *leaf_at(row, leaf);
        uint2 left = entries;
        for (uint32_t i = 0; i < SPIN_LEAF_PAGES; i++) {
            const uint32_t slot = spin_leaf_entry(entries, i);
            if (slot != SPIN_PAGE_NONE && slot >= after) {
                left = spin_leaf_with(left, i, SPIN_PAGE_NONE);
                dropped++;
            }
        }
        if (left.x != entries.x || left.y != entries.y) {
            *leaf_at(row, leaf) = left;
        }
        if ((left.x & left.y) == ~0u) {
            row->directory[d] = SPIN_LEAF_NONE;
        } else if (leaf < after) {
            atomicOr(&row->shared->used[leaf / 32], 1u << leaf % 32);
        }
    }
    spin_warp_add(&row->shared->dropped, dropped);
    __syncthreads();
}

/* Bits of leaves [0, after) of a word that are not in use. */
static __device__ __forceinline__ uint32_t free_bits(const struct row *row, uint32_t word)
{
    const uint32_t after = row->job->after;
    if (word * 32 >= after) {
        return 0;
    }
    const uint32_t there = after - word * 32 < 32 ? (1u << (after - word * 32)) - 1 : ~0u;
    return ~row->shared->used[word] & there;
}

/* Returns how many leaves of [0, after) are not in use. */
static __device__ uint32_t number_free(struct row *row)
{
    uint32_t mine = 0;
    for (uint32_t i = 0; i < THREAD_WORDS; i++) {
        const uint32_t word = threadIdx.x * THREAD_WORDS + i;
        mine += word < WORDS ? __popc(free_bits(row, word)) : 0;
    }
    uint32_t total;
    uint32_t before = spin_block_scan(&row->shared->sums, &row->turn, mine, &total);
    for (uint32_t i = 0; i < THREAD_WORDS; i++) {
        const uint32_t word = threadIdx.x * THREAD_WORDS + i;
        if (word < WORDS) {
            row->shared->free_before[word] = before;
            before += __popc(free_bits(row, word));
        }
    }
    __syncthreads();
    return total;
}

/* The leaf that has `rank` free ones below it. */
static __device__ uint32_t free_leaf(const struct row *row, uint32_t rank)
{
    uint32_t begin = 0;
    uint32_t end = WORDS;
    while (end - begin > 1) {
        const uint32_t middle = (begin + end) / 2;
        if (row->shared->free_before[middle] <= rank) {
            begin = middle;
        } else {
            end = middle;
        }
    }
    uint32_t bits = free_bits(row, begin);
    for (uint32_t i = row->shared->free_before[begin]; i < rank; i++) {
        bits &= bits - 1;
    }
    return begin * 32 + __ffs(bits) - 1;
}

/* Leaves in slots that go away. Returns how many moved: to the lowest free ones. */
static __device__ uint32_t move_leaves(struct row *row)
{
    const uint32_t directory_max = row->job->view.directory_max;
    uint32_t moved = 0;
    for (uint32_t base = 0; base < directory_max; base += THREADS) {
        const uint32_t d = base + threadIdx.x;
        const uint32_t leaf = d < directory_max ? row->directory[d] : SPIN_LEAF_NONE;
        const bool moves = leaf != SPIN_LEAF_NONE && leaf >= row->job->after;
        uint32_t total;
        const uint32_t rank =
            moved + spin_block_scan(&row->shared->sums, &row->turn, moves, &total);
        if (moves) {
            const uint32_t to = free_leaf(row, rank);
            *leaf_at(row, to) = *leaf_at(row, leaf);
            row->directory[d] = (uint16_t)to;
        }
        moved += total;
    }
    __syncthreads();
    return moved;
}

/* Of `count` free leaves all but the lowest `moved`: lowest on top. */
static __device__ void stack_leaves(const struct row *row, uint32_t count, uint32_t moved)
{
    for (uint32_t leaf = threadIdx.x; leaf < row->job->after; leaf += THREADS) {
        const uint32_t bits = free_bits(row, leaf / 32);
        if ((bits >> leaf % 32 & 1) == 0) {
            continue;
        }
        const uint32_t lower = bits & ((1u << leaf % 32) - 1);
        const uint32_t rank = row->shared->free_before[leaf / 32] + __popc(lower);
        if (rank >= moved) {
            const bool last = rank + 1 == count;
            *leaf_at(row, leaf) = spin_leaf_free(last ? SPIN_LEAF_NONE : free_leaf(row, rank + 1));
        }
    }
    if (threadIdx.x == 0) {
        *row->leaf_free = (uint16_t)(moved < count ? free_leaf(row, moved) : SPIN_LEAF_NONE);
    }
}

static __device__ void change(struct row *row)
{
    const struct job *job = row->job;
    for (uint32_t word = threadIdx.x; word < WORDS; word += THREADS) {
        row->shared->used[word] = 0;
    }
    if (threadIdx.x == 0) {
        row->shared->dropped = 0;
    }
    __syncthreads();
    drop(row);
    const uint32_t count = number_free(row);
    const uint32_t moved = job->after < job->before ? move_leaves(row) : 0;
    stack_leaves(row, count, moved);
    for (uint32_t s = job->after + threadIdx.x; s < job->before; s += THREADS) {
        *leaf_at(row, s) = spin_leaf_empty();
    }
    for (uint32_t s = min(job->before, job->after) + threadIdx.x; s < max(job->before, job->after);
         s += THREADS) {
        put_stamp(row, s, SPIN_STAMP_FREE);
    }
    if (threadIdx.x == 0) {
        job->view.counters[job->first_row + row->head].dropped += row->shared->dropped;
    }
}

static __global__ void __launch_bounds__(THREADS)
    resize_rows(const __grid_constant__ struct job job)
{
    __shared__ struct shared shared;
    const uint64_t number = job.first_row + blockIdx.x;
    struct row row;
    row.job = &job;
    row.shared = &shared;
    row.groups = spin_kv_slab_groups(&job.view, number);
    row.directory = job.view.directory + number * job.view.directory_max;
    row.leaf_free = job.view.leaf_free + number;
    row.head = blockIdx.x;
    row.turn = 0;
    if (job.before == 0) {
        be_born(&row);
    } else {
        change(&row);
    }
}

/* --- on the host --- */

static struct job job_of(const struct spin_kv_resize_args *args)
{
    struct job job;
    job.view = *args->view;
    job.first_row = spin_kv_table_row(args->view, args->sequence, args->layer, 0);
    job.before = args->before;
    job.after = args->after;
    job.first_page = args->first_page;
    job.held = args->held;
    job.held_stamp = 0;
    return job;
}

extern "C" spin_status spin_kv_resize_slot_lru_cuda(const struct spin_kv_resize_args *args,
                                                    struct spin_stream *stream)
{
    spin_kv_resize_check(args, SPIN_KV_SLOT_LRU);
    const struct job job = job_of(args);
    const uint32_t slots =
        SPIN_MAX(args->before, args->after) - SPIN_MIN(args->before, args->after);
    if (slots == 0) {
        return SPIN_OK;
    }
    const uint32_t blocks = (slots + SLOT_THREADS - 1) / SLOT_THREADS;
    const dim3 grid(args->view->layout.kv_heads, SPIN_MIN(blocks, SLOT_BLOCKS_MAX));
    resize_slots<<<grid, SLOT_THREADS, 0, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched("kv_resize slot_lru");
}

extern "C" spin_status spin_kv_resize_bucketed_cuda(const struct spin_kv_resize_args *args,
                                                    struct spin_stream *stream)
{
    spin_kv_resize_check(args, SPIN_KV_BUCKETED);
    struct job job = job_of(args);
    job.held_stamp = spin_kv_bucket(args->view, args->step - 1);
    resize_rows<<<args->view->layout.kv_heads, THREADS, 0, spin_stream_cuda(stream)>>>(job);
    return spin_cuda_launched("kv_resize bucketed");
}
