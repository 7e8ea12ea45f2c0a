/* tensor_cuda: copies in the background, and small matrices in the registers of a warp.
 *
 * Why        What a warp multiplies comes to shared memory while it multiplies what came before.
 * Layout     A matrix of 8 x 8 BF16 values is a register a lane: lane l has (l / 4, l % 4 * 2)
 *            and the next in its row. One of 16 x 16 is four of them: above left, below left, above
 *            right, below right; one of 16 x 8 (rows are what is summed over) the transposed upper
 *            and lower halves. A sum of 16 x 8 F32 values is four registers a lane: (l / 4,
 *            l % 4 * 2), the next, and the two that lie eight rows below.
 * Threading  All lanes of a warp together, except for spin_copy_unit.
 * Units      Addresses are those of shared memory, in bytes. */
#pragma once

#include "kernels/ops_cuda.cuh"

static __device__ inline uint32_t spin_shared_address(const void *shared)
{
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* 16 bytes, or zeros instead of them. */
static __device__ inline void spin_copy_unit(uint32_t target, const void *source, bool is_read)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target),
                 "l"(__cvta_generic_to_global(source)), "r"(is_read ? 16 : 0)
                 : "memory");
}

static __device__ inline void spin_commit_copies()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <uint32_t PENDING> static __device__ inline void spin_wait_copies()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

static __device__ inline void spin_load_matrices(uint32_t (&out)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

static __device__ inline void spin_load_transposed(uint32_t (&out)[4], uint32_t address)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

static __device__ inline uint32_t spin_transpose_matrix(uint32_t matrix)
{
    uint32_t out;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(matrix));
    return out;
}

/* c[16][8] += a[16][16] b[16][8] */
static __device__ inline void spin_multiply_matrices(float (&c)[4], const uint32_t (&a)[4],
                                                     const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
