/* floor: how long a decode step takes at least: bytes over the rates of the memory and the bus.
 *
 * Why        A time says little; its distance from what the machine allows says what is left.
 * Model      A step reads every weight once, all summaries of its candidates, and the pages of its
 *            lists; pages that are not in HBM cross PCIe first. HBM at 4263 GB/s (a copy, read and
 *            write, of an H200), PCIe at 51.2 GB/s (pages of 2 KiB and more, gathered from pinned
 *            memory): docs/results/h200-probe.md. Activations, tables and launches are left out.
 * Threading  Any thread; pure.
 * Units      Bytes, GB/s of 10^9, milliseconds. */
#pragma once

#include "model/weights/model.h"
#include "worker/sparse/sparse.h"

SPIN_BEGIN_DECLS

#define SPIN_FLOOR_HBM_GBPS 4263.0
#define SPIN_FLOOR_PCIE_GBPS 51.2

struct spin_floor_bytes {
    double weights;
    double summaries;
    double pages;
    double misses;
};

struct spin_floor {
    double hbm_ms;
    double pcie_ms;
    double overlapped_ms; /* the larger of both */
    double serial_ms;     /* their sum */
};

/* BF16 weights that a step multiplies with: all layers and lm_head; of the embedding a row. */
double spin_floor_weight_bytes(const struct spin_model_config *model);
/* One KV page of one row. */
double spin_floor_page_bytes(const struct spin_model_config *model, uint32_t page_tokens);
/* Of a step of `batch` sequences with `tokens` visible tokens each; misses: 0. */
struct spin_floor_bytes spin_floor_step(const struct spin_model_config *model,
                                        const struct spin_sparse_options *sparse, uint32_t tokens,
                                        uint32_t batch);
struct spin_floor spin_floor_of(const struct spin_floor_bytes *bytes);

/* Operations of a prompt: 2 for each weight and token, 4 * head_dim for each query head and visible
 * pair; the logits of one token. */
double spin_floor_prefill_linear(const struct spin_model_config *model, uint32_t tokens);
double spin_floor_prefill_attention(const struct spin_model_config *model, uint32_t tokens);

SPIN_END_DECLS
