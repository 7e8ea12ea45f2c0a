/* warpgroup_cuda: products that four warps compute together out of shared memory, and barriers.
 *
 * Why        A warpgroup multiplies twice as fast as its warps would by themselves.
 * Layout     An operand in shared memory lies in rows of 128 bytes, eight of them at a multiple of
 *            1024; the 16-byte unit u of row r is at place u ^ (r & 7). Sums of 64 x N are N / 2
 *            registers a thread: of warp w the rows 16 w + l / 4 and the eighth below, of every
 *            eight columns l % 4 * 2 and the next; four registers for eight columns.
 * Threading  All threads of a warpgroup together; barriers: any thread.
 * Units      Addresses are those of shared memory, in bytes.
 * Limits     sm_90a. */
#pragma once

#include "kernels/tensor_cuda.cuh"

/* --- barriers --- */

static __device__ inline void spin_barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals)
                 : "memory");
}

static __device__ inline void spin_barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Until the phase of that parity is over; the one before the first has parity 1. */
static __device__ inline void spin_barrier_wait(uint32_t barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred over;\n"
                 "AGAIN:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
                 "@!over bra AGAIN;\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

/* What this thread wrote to shared memory is there for products. */
static __device__ inline void spin_show_to_products()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* --- products --- */

/* Names an operand of 64 values a row; `address` may lie some units into its first row. */
static __device__ inline uint64_t spin_operand(uint32_t address)
{
    return (uint64_t)(address >> 4 & 0x3fff) | UINT64_C(1) << 16 | UINT64_C(1024 / 16) << 32 |
           UINT64_C(1) << 62;
}

static __device__ inline void spin_begin_products()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ inline void spin_commit_products()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Nothing reads `c`, the sums of all products so far, before. */
template <uint32_t COUNT> static __device__ inline void spin_wait_products(float (&c)[COUNT])
{
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (uint32_t i = 0; i < COUNT; i++) {
        asm volatile("" : "+f"(c[i])::"memory");
    }
}

#define SPIN_SUMS_8(c, i) \
    "+f"(c[i]), "+f"(c[(i) + 1]), "+f"(c[(i) + 2]), "+f"(c[(i) + 3]), "+f"(c[(i) + 4]), \
        "+f"(c[(i) + 5]), "+f"(c[(i) + 6]), "+f"(c[(i) + 7])
#define SPIN_SUMS_32(c, i) \
    SPIN_SUMS_8(c, i), SPIN_SUMS_8(c, (i) + 8), SPIN_SUMS_8(c, (i) + 16), SPIN_SUMS_8(c, (i) + 24)

/* c[64][128] = a[64][16] b[128][16]^T, added to what c is if `adds`. */
static __device__ inline void spin_group_multiply(float (&c)[64], uint64_t a, uint64_t b,
                                                  uint32_t adds)
{
    asm volatile("{\n"
                 ".reg .pred adds;\n"
                 "setp.ne.b32 adds, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,"
                 "%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,"
                 "%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,"
                 "%62,%63}, %64, %65, adds, 1, 1, 0, 0;\n"
                 "}"
                 : SPIN_SUMS_32(c, 0), SPIN_SUMS_32(c, 32)
                 : "l"(a), "l"(b), "r"(adds));
}

/* c[64][64] = a[64][16] b[16][64], a in registers as that of a warp is. */
static __device__ inline void spin_group_multiply(float (&c)[32], const uint32_t (&a)[4],
                                                  uint64_t b, uint32_t adds)
{
    asm volatile("{\n"
                 ".reg .pred adds;\n"
                 "setp.ne.b32 adds, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,"
                 "%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, {%32,%33,%34,%35}, %36, adds, 1, 1, "
                 "1;\n"
                 "}"
                 : SPIN_SUMS_32(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(adds));
}
