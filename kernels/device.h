/* device: where operations run and where their memory is.
 *
 * Why        The engine is written once against this and the op table; a backend is one file.
 * Ownership  A stream owns its compute threads (CPU) or its CUDA stream; memory from
 *            spin_device_alloc belongs to the caller and is freed with the same stream.
 * Threading  One thread (the engine's) per stream. Operations run in submission order; on the CPU
 *            they are complete when the call returns.
 * Units      Bytes; alignment is 64 bytes on the host, 256 on a device. Fresh memory is zeroed.
 * Errors     NO_MEMORY, DEVICE_LOST, UNSUPPORTED (no such backend in this build). */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_stream; /* private to the backend */

/* `threads` 1..64 compute threads, the calling one included. Barriers between an op's phases spin
 * for at most 20 us and then sleep (D18). */
SPIN_MUST_USE spin_status spin_stream_create_cpu(uint32_t threads, struct spin_stream **out,
                                                 struct spin_error *err);
void spin_stream_destroy(struct spin_stream *stream); /* NULL is allowed */
uint32_t spin_stream_threads(const struct spin_stream *stream);

SPIN_MUST_USE spin_status spin_device_alloc(struct spin_stream *stream, uint64_t bytes, void **out,
                                            struct spin_error *err);
void spin_device_free(struct spin_stream *stream, void *memory); /* NULL is allowed */

/* For the CPU ops themselves: runs fn(context, thread, threads) once on every compute thread of the
 * stream and returns when all are done. fn may cut work in M and N only (D6). */
typedef void (*spin_parallel_fn)(void *context, uint32_t thread, uint32_t threads);
void spin_stream_parallel(struct spin_stream *stream, spin_parallel_fn fn, void *context);
/* Inside fn: wait until all threads of this parallel call have arrived. */
void spin_stream_barrier(struct spin_stream *stream);

SPIN_END_DECLS
