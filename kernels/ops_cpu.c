#include "base/log.h"
#include "kernels/kernels_internal.h"
#include "kernels/ops.h"

const struct spin_ops spin_ops_cpu = {
    .name = "cpu",
    .activation_dtype = SPIN_DTYPE_F32,
    .swizzle = SPIN_SWIZZLE_NONE,
    .prefill_is_decode = true,
    .decode_rows_max = UINT32_MAX,
    .embed = spin_embed_cpu,
    .rms_norm = spin_rms_norm_cpu,
    .matmul = spin_matmul_cpu,
    .rope = spin_rope_cpu,
    .kv_append = spin_kv_append_cpu,
    .attention = spin_attention_cpu,
    .swiglu = spin_swiglu_cpu,
    .kv_index = spin_kv_index_cpu,
    .kv_select = spin_kv_select_cpu,
    .kv_gather = spin_kv_gather_cpu,
    .kv_offload = spin_kv_offload_cpu,
    .kv_resolve = {[SPIN_KV_SLOT_LRU] = spin_kv_resolve_slot_lru_cpu,
                   [SPIN_KV_BUCKETED] = spin_kv_resolve_bucketed_cpu},
    .kv_resize = {[SPIN_KV_SLOT_LRU] = spin_kv_resize_slot_lru_cpu,
                  [SPIN_KV_BUCKETED] = spin_kv_resize_bucketed_cpu},
    .kv_list = spin_kv_list_cpu,
    .matmul_workspace_bytes = spin_matmul_workspace_bytes,
    .attention_workspace_bytes = spin_attention_workspace_bytes,
    .kv_select_workspace_bytes = spin_kv_select_workspace_bytes,
};

const struct spin_ops *spin_ops_best_cpu(void)
{
    if (spin_isa_detect() >= SPIN_ISA_AVX2) {
        return &spin_ops_cpu;
    }
    SPIN_WARN("processor without AVX2, FMA or F16C: using the reference operations");
    return &spin_ops_ref;
}
