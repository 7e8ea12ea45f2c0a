/* What the two matmuls share: the limits and the workspace. */
#include "kernels/matmul.h"

#include "kernels/kernels_internal.h"

static void check_part(const struct spin_matmul_args *args, const struct spin_matmul_part *part)
{
    spin_matrix_check(&part->y);
    SPIN_ASSERT_EQ(part->y.rows, args->x.rows);
    SPIN_ASSERT_EQ(part->y.cols, part->weight.rows);
    SPIN_ASSERT_EQ(part->weight.cols, args->x.cols);
    SPIN_ASSERT_EQ(part->weight.cols % spin_dtype_block_values(part->weight.dtype), 0);
    SPIN_ASSERT(part->y.data != args->x.data || args->x.rows == 0);
}

void spin_matmul_check(const struct spin_matmul_args *args)
{
    spin_matrix_check(&args->x);
    SPIN_ASSERT_GE(args->part_count, 1);
    SPIN_ASSERT_LE(args->part_count, SPIN_MATMUL_PARTS_MAX);
    SPIN_ASSERT_EQ(args->x.cols % 32, 0);
    for (uint32_t p = 0; p < args->part_count; p++) {
        check_part(args, &args->parts[p]);
    }
}

/* x as int8 and one spin_x_group per group of 32, row after row. */
uint64_t spin_matmul_workspace_bytes(const struct spin_matmul_args *args)
{
    const uint64_t groups = (uint64_t)args->x.rows * (args->x.cols / 32);
    return groups * 32 + groups * sizeof(struct spin_x_group) + 64;
}
