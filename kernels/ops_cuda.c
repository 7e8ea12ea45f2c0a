#include "kernels/ops.h"

const struct spin_ops spin_ops_cuda = {
    .name = "cuda",
    .activation_dtype = SPIN_DTYPE_BF16,
    .swizzle = SPIN_SWIZZLE_NONE,
    .prefill_is_decode = false,
    .decode_rows_max = 64, /* matmul.cu: the first class of products */
    .head_dims = {64, 128},
    .group_max = 16, /* kv_select.cu: two products of eight heads */
    .vocab_step = 4,
    .embed = spin_embed_cuda,
    .rms_norm = spin_rms_norm_cuda,
    .matmul = spin_matmul_cuda,
    .rope = spin_rope_cuda,
    .kv_append = spin_kv_append_cuda,
    .attention = spin_attention_cuda,
    .swiglu = spin_swiglu_cuda,
    .draw = spin_draw_cuda,
    .kv_index = spin_kv_index_cuda,
    .kv_select = spin_kv_select_cuda,
    .kv_gather = spin_kv_gather_cuda,
    .kv_offload = spin_kv_offload_cuda,
    .kv_resolve = {[SPIN_KV_SLOT_LRU] = spin_kv_resolve_slot_lru_cuda,
                   [SPIN_KV_BUCKETED] = spin_kv_resolve_bucketed_cuda},
    .kv_resize = {[SPIN_KV_SLOT_LRU] = spin_kv_resize_slot_lru_cuda,
                  [SPIN_KV_BUCKETED] = spin_kv_resize_bucketed_cuda},
    .kv_list = spin_kv_list_cuda,
    .matmul_workspace_bytes = spin_matmul_workspace_bytes_cuda,
    .attention_workspace_bytes = spin_attention_workspace_bytes_cuda,
    .kv_select_workspace_bytes = spin_kv_select_workspace_bytes,
};
