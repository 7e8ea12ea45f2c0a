/* put: an operation for benchmarks: lists of pages that are ready take the place of Select's.
 *
 * Why        A stream operation, so that it can be part of a recorded step: its arguments stay the
 *            same from step to step, what it copies is written before the step.
 * Ownership  Borrowed; all memory is the device's.
 * Threading  The stream's.
 * Units      Pages, rows.
 * Execution  Asynchronous on `stream`; no allocation.
 * Errors     DEVICE_LOST. */
#pragma once

#include "kernels/device.h"
#include "kernels/kv_tables.h"

SPIN_BEGIN_DECLS

struct spin_put_args {
    struct spin_kv_lists lists; /* out: pages, page_count */
    const uint16_t *pages;      /* [rows][stride], stride <= lists.stride */
    const uint32_t *page_count; /* [rows] */
    uint32_t stride;
    uint32_t rows;
};

typedef spin_status (*spin_put_fn)(const struct spin_put_args *args, struct spin_stream *stream);
/* Where device memory is the host's. */
SPIN_MUST_USE spin_status spin_put_host(const struct spin_put_args *args,
                                        struct spin_stream *stream);
SPIN_MUST_USE spin_status spin_put_cuda(const struct spin_put_args *args,
                                        struct spin_stream *stream);

SPIN_END_DECLS
