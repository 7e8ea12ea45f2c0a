/* rig: what every benchmark of a whole model sets up: a device, a model on it, tiers of KV.
 *
 * Why        The programs differ in what they measure, not in how a device is opened or a manager
 *            configured; and each must run on the CPU, where it is tested before a GPU is used.
 * Ownership  A rig owns its stream and its model; a manager made for it is the caller's.
 * Threading  One thread; filling memory uses the threads that it was opened with.
 * Units      Bytes, tokens, milliseconds.
 * Errors     UNSUPPORTED: --device cuda where there is none. Others: what was called. */
#pragma once

#include "bench/gpu/model/put.h"
#include "kvstore/manager/kv.h"
#include "model/weights/model.h"
#include "worker/engine/forward.h"

SPIN_BEGIN_DECLS

#define SPIN_RIG_DEVICES "auto,cuda,cpu" /* the choices of --device, in this order */
enum spin_rig_device { SPIN_RIG_AUTO, SPIN_RIG_CUDA, SPIN_RIG_CPU };
#define SPIN_RIG_WAIT_NS (60 * SPIN_NS_PER_S) /* of one pass */

struct spin_rig {
    struct spin_stream *stream;
    struct spin_stream *host; /* threads of the host, for filling memory */
    struct spin_model *model; /* where the stream's operations read it */
    struct spin_ops ops;      /* a copy, so that a program may replace entries */
    const struct spin_ops *all_ops;
    spin_put_fn put;
    bool is_cuda;
};

SPIN_MUST_USE spin_status spin_rig_open(struct spin_rig *rig, enum spin_rig_device device,
                                        const char *model, uint32_t threads,
                                        struct spin_error *err);
void spin_rig_close(struct spin_rig *rig); /* all NULL is allowed */

/* The stream's work so far; counts as what was waited for: DEVICE_LOST after a minute. */
SPIN_MUST_USE spin_status spin_rig_sync(const struct spin_rig *rig);

/* From here on a row gets what the product gives it before it knows its working set. */
#define SPIN_RIG_SLOTS_PRODUCT 6.0

struct spin_rig_kv {
    const struct spin_sparse_options *sparse;
    uint32_t sequences;
    uint32_t tokens_max;
    /* Slots of a row, in multiples of what a step reads, at least 1; 0: every page, so that
     * sequences are RESIDENT. */
    double slots_factor;
    uint64_t frame_bytes; /* of the host tier at most; above, blocks share frames; 0: all */
};

/* A configuration for it, which `kv` and what it points to must outlive. */
struct spin_kv_config spin_rig_kv_config(const struct spin_rig *rig, const struct spin_rig_kv *kv);
/* Device bytes that a manager of it takes: pool, summaries, tables. */
uint64_t spin_rig_kv_bytes(const struct spin_kv_config *config);
/* Every frame and every summary: BF16 numbers from 0.5 to 2 of either sign, by `seed`. */
SPIN_MUST_USE spin_status spin_rig_fill_kv(const struct spin_rig *rig,
                                           const struct spin_kv_config *config, struct spin_kv *kv,
                                           uint64_t seed, struct spin_error *err);

/* Milliseconds on the real clock. */
double spin_rig_now_ms(void);

SPIN_END_DECLS
