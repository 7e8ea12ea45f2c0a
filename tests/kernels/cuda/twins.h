/* twins: one program that compares every CUDA operation with its reference twin, and times it.
 *
 * Why        A machine with a GPU is rare: one run says everything. Each area is a file here, with
 *            a function of its own; `twins AREA...` runs some of them.
 * Output     "CHECK name ok|BAD value" for each comparison, "RESULT name=value unit=unit" for each
 *            figure; exits with 1 if any check was BAD or an area compared nothing.
 * Threading  The main thread. */
#pragma once

#include "base/rng.h"
#include "kernels/ops.h"

SPIN_BEGIN_DECLS

struct spin_twins {
    struct spin_stream *cpu; /* of the reference: one thread */
    struct spin_stream *cuda;
    uint64_t seed; /* printed at start; the areas' random numbers come from it */
    bool timing;   /* false under compute-sanitizer: small shapes, no figures */
    uint32_t checks;
    uint32_t bad;
};

/* One file each. */
void spin_twins_device(struct spin_twins *twins);    /* memory, copies, waits, errors */
void spin_twins_tables(struct spin_twins *twins);    /* kv_resolve, kv_resize, kv_copy, kv_append */
void spin_twins_select(struct spin_twins *twins);    /* kv_select, kv_index */
void spin_twins_attention(struct spin_twins *twins); /* attention */
void spin_twins_rows(struct spin_twins *twins);      /* embed, rms_norm, rope, swiglu */
void spin_twins_matmul(struct spin_twins *twins);    /* matmul */
void spin_twins_draw(struct spin_twins *twins);      /* draw */

void spin_twin_check(struct spin_twins *twins, const char *name, bool ok, double value);
void spin_twin_result(const char *name, double value, const char *unit);

SPIN_END_DECLS
