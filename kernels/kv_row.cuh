/* kv_row: what the CUDA operations on tables share: scans over a block, leaves as one value.
 *
 * Why        A row belongs to one block of threads. What the contracts order (by slots, by pages,
 *            by the directory) becomes a scan; all else is done by all threads at once.
 * Threading  Inside a kernel: every thread of the block calls the scans.
 * Units      Slots and leaves of the row, entries of a leaf. */
#pragma once

#include "kernels/kv_row.h"
#include "kernels/ops_cuda.cuh"

#ifdef SPIN_DEBUG
#define SPIN_DEVICE_DASSERT(expr) ((expr) ? (void)0 : __trap())
#else
#define SPIN_DEVICE_DASSERT(expr) ((void)0)
#endif

/* For scans: two sets of sums, used in turn, so that one barrier a scan is enough. */
template <uint32_t THREADS> struct spin_scan_sums {
    uint32_t of[2][THREADS / 32];
};

/* The sum of the values of lower threads, and of all threads. `turn` counts the scans of the
 * kernel; it is the same in every thread. */
template <uint32_t THREADS>
static __device__ __forceinline__ uint32_t spin_block_scan(struct spin_scan_sums<THREADS> *sums,
                                                           uint32_t *turn, uint32_t value,
                                                           uint32_t *total)
{
    uint32_t *of = sums->of[(*turn)++ % 2];
    const uint32_t lane = threadIdx.x % 32;
    uint32_t sum = value;
#pragma unroll
    for (uint32_t distance = 1; distance < 32; distance *= 2) {
        const uint32_t other = __shfl_up_sync(~0u, sum, distance);
        sum += lane >= distance ? other : 0;
    }
    if (lane == 31) {
        of[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    uint32_t before = 0;
    uint32_t all = 0;
#pragma unroll
    for (uint32_t warp = 0; warp < THREADS / 32; warp++) {
        before += warp < threadIdx.x / 32 ? of[warp] : 0;
        all += of[warp];
    }
    *total = all;
    return before + sum - value;
}

/* The warp's sum, added to a counter in shared or global memory. */
static __device__ __forceinline__ void spin_warp_add(uint32_t *counter, uint32_t value)
{
    const uint32_t sum = __reduce_add_sync(~0u, value);
    if (threadIdx.x % 32 == 0 && sum != 0) {
        atomicAdd(counter, sum);
    }
}

/* --- leaves: four entries of 16 bits, read and written at once --- */

static_assert(SPIN_LEAF_PAGES == 4, "a leaf is a uint2");

static __device__ __forceinline__ uint2 *spin_leaf_at(const struct spin_kv_view *view,
                                                      const uint32_t *groups, uint32_t head,
                                                      uint32_t leaf)
{
    return (uint2 *)(view->leaf +
                     (uint64_t)spin_kv_group_slot(view, groups, head, leaf) * SPIN_LEAF_PAGES);
}

static __device__ __forceinline__ uint32_t spin_leaf_entry(uint2 leaf, uint32_t i)
{
    return (i < 2 ? leaf.x : leaf.y) >> i % 2 * 16 & 0xffffu;
}

static __device__ __forceinline__ uint2 spin_leaf_with(uint2 leaf, uint32_t i, uint32_t entry)
{
    const uint32_t shift = i % 2 * 16;
    const uint32_t kept = ~(0xffffu << shift);
    if (i < 2) {
        leaf.x = (leaf.x & kept) | entry << shift;
    } else {
        leaf.y = (leaf.y & kept) | entry << shift;
    }
    return leaf;
}

/* A leaf on the stack: `next` is the one below. */
static __device__ __forceinline__ uint2 spin_leaf_free(uint32_t next)
{
    return make_uint2(0xffff0000u | next, ~0u);
}

static __device__ __forceinline__ uint2 spin_leaf_empty(void)
{
    return make_uint2(~0u, ~0u);
}
