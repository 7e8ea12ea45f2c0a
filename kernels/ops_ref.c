#include "kernels/ops.h"

const struct spin_ops spin_ops_ref = {
    .name = "ref",
    .activation_dtype = SPIN_DTYPE_F32,
    .swizzle = SPIN_SWIZZLE_NONE,
    .embed = spin_embed_ref,
    .rms_norm = spin_rms_norm_ref,
    .matmul = spin_matmul_ref,
    .rope = spin_rope_ref,
    .kv_append = spin_kv_append_ref,
    .attention = spin_attention_ref,
    .swiglu = spin_swiglu_ref,
    .matmul_workspace_bytes = spin_matmul_workspace_bytes,
    .attention_workspace_bytes = spin_attention_workspace_bytes,
};
