/* fake_device_internal: what the fake's operations need of its stream.
 *
 * Why        fake_device.c has memory and time, fake_ops.c the operations.
 * Ownership  A task is copied when it is submitted.
 * Threading  The thread that uses the stream.
 * Units      Bytes. */
#pragma once

#include "tests/kernels/fake_device.h"

SPIN_BEGIN_DECLS

/* Runs on a copy of the context; `cpu` is for operations. */
typedef spin_status (*spin_fake_task_fn)(void *context, struct spin_stream *cpu);
spin_status spin_fake_submit_task(struct spin_stream *stream, spin_fake_task_fn fn,
                                  const void *context, uint64_t bytes);
/* An operation of `stream` may be given this pointer: NULL, device memory, or spin_host_alloc's. */
void spin_fake_expect_device(const struct spin_stream *stream, const void *memory);

SPIN_END_DECLS
