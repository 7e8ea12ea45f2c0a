/* device: where operations run and where their memory is.
 *
 * Why        The engine is written once against this and the op table; a backend is one file, and a
 *            program may hold streams of several.
 * Ownership  A stream owns its compute threads (CPU) or its CUDA stream; memory from
 *            spin_device_alloc and spin_host_alloc belongs to the caller and is freed with the same
 *            stream, before it is destroyed. So are graphs.
 * Threading  One thread (the engine's) per stream. Operations and copies run in submission order;
 *            on the CPU they are complete when the call returns.
 * Units      Bytes; alignment is 64 bytes on the host, 256 on a device. Fresh memory is zeroed, as
 *            the stream's later operations and copies see it.
 * Errors     NO_MEMORY, DEVICE_LOST, UNSUPPORTED (no such backend in this build, no such device in
 *            this machine). No wait for a device is without limit. A stream that was lost once
 *            answers DEVICE_LOST from then on, and its memory stays with the driver until the
 *            process ends: the device may still be writing to it. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

struct spin_stream; /* private to the backend */
struct spin_graph;  /* a recording; private to the backend */

/* `threads` 1..64 compute threads, the calling one included. Barriers between an op's phases spin
 * for at most 20 us and then sleep (D18). */
SPIN_MUST_USE spin_status spin_stream_create_cpu(uint32_t threads, struct spin_stream **out,
                                                 struct spin_error *err);
/* GPU `ordinal` of this process. UNSUPPORTED: the build has no CUDA, the machine no driver or no
 * GPU, or the GPU is older than sm_90 or none this build has code for. INVALID: no such ordinal. */
SPIN_MUST_USE spin_status spin_stream_create_cuda(uint32_t ordinal, struct spin_stream **out,
                                                  struct spin_error *err);
/* Waits for what was submitted, for at most ten seconds. NULL is allowed. */
void spin_stream_destroy(struct spin_stream *stream);
/* Until everything submitted so far is done; DEVICE_LOST, with a log line, when that takes longer
 * than timeout_ns or the device failed. */
SPIN_MUST_USE spin_status spin_stream_sync(struct spin_stream *stream, uint64_t timeout_ns);

/* Memory that operations work on; on CUDA the host cannot read it. */
SPIN_MUST_USE spin_status spin_device_alloc(struct spin_stream *stream, uint64_t bytes, void **out,
                                            struct spin_error *err);
/* Waits for what was submitted, for at most ten seconds. NULL is allowed. */
void spin_device_free(struct spin_stream *stream, void *memory);

/* Host memory that operations read and write at the same address: on the CPU the same as device
 * memory, on CUDA pinned and mapped. What operations wrote is there after spin_stream_sync. Memory
 * of 2 MiB and more lies on huge pages where there are any; pinning it touches every page. */
SPIN_MUST_USE spin_status spin_host_alloc(struct spin_stream *stream, uint64_t bytes, void **out,
                                          struct spin_error *err);
void spin_host_free(struct spin_stream *stream, void *memory); /* as spin_device_free */

/* Copies in stream order. The host's side may be any host memory and is left alone until
 * spin_stream_sync has returned; memory from spin_host_alloc is copied in the background, other
 * memory makes the call wait for the stream, for at most ten seconds. Errors: DEVICE_LOST. */
SPIN_MUST_USE spin_status spin_device_write(struct spin_stream *stream, void *device,
                                            const void *host, uint64_t bytes);
SPIN_MUST_USE spin_status spin_device_read(struct spin_stream *stream, void *host,
                                           const void *device, uint64_t bytes);

#define SPIN_DEVICE_NAME_BYTES 64u

/* What people call it: "CPU", "NVIDIA H200"; as long as the stream lives. */
const char *spin_device_name(const struct spin_stream *stream);
/* The host may read and write device memory in place, between operations: so on the CPU. */
bool spin_device_is_host(const struct spin_stream *stream);
/* Bytes of device memory that nobody holds, of `*out_total` there are; other processes' share
 * counts as held. On the CPU: physical memory. 0 of 0 for a stream that was lost. */
uint64_t spin_device_memory(struct spin_stream *stream, uint64_t *out_total);

/* --- side lanes ---
 *
 * What is submitted between side_begin and side_end runs after what was submitted before, and
 * beside what is submitted behind side_end, until side_join: what comes then waits for it. A lane
 * may be begun again before it is joined; it keeps its own order, and has none with other side
 * lanes. One is begun at a time (asserted). spin_stream_sync joins them all. Where a backend has
 * one lane (the CPU), all runs in the order of submission. Errors: DEVICE_LOST. */

enum spin_lane {
    SPIN_LANE_LATE, /* somebody waits for it a good while later */
    SPIN_LANE_SOON  /* somebody waits for it next: it gets processors before the other lanes */
};
#define SPIN_SIDE_LANES 2u

bool spin_stream_has_lanes(const struct spin_stream *stream);
SPIN_MUST_USE spin_status spin_stream_side_begin(struct spin_stream *stream, enum spin_lane lane);
SPIN_MUST_USE spin_status spin_stream_side_end(struct spin_stream *stream);
SPIN_MUST_USE spin_status spin_stream_side_join(struct spin_stream *stream, enum spin_lane lane);

/* --- recordings ---
 *
 * Between graph_begin and graph_end operations and copies are noted instead of run, with their
 * arguments as they are then; a launch runs them all, at the cost of one submission, on what the
 * memory that they name holds by then. Only operations, copies from and to memory of
 * spin_host_alloc, and side lanes, joined before the end, may stand in a recording: it neither
 * waits nor allocates. */

/* Whether the backend has recordings; the CPU runs operations at once. */
bool spin_stream_records(const struct spin_stream *stream);
SPIN_MUST_USE spin_status spin_graph_begin(struct spin_stream *stream);
/* Ends a recording in any case. Errors: NO_MEMORY; DEVICE_LOST, also when something was submitted
 * that cannot be recorded. */
SPIN_MUST_USE spin_status spin_graph_end(struct spin_stream *stream, struct spin_graph **out,
                                         struct spin_error *err);
SPIN_MUST_USE spin_status spin_graph_launch(struct spin_stream *stream,
                                            const struct spin_graph *graph);
/* One that is still running finishes first. NULL is allowed. */
void spin_graph_destroy(struct spin_stream *stream, struct spin_graph *graph);

/* The rest is for the CPU ops themselves; the stream is a CPU stream (asserted). */
uint32_t spin_stream_threads(const struct spin_stream *stream);
/* Runs fn(context, thread, threads) once on every compute thread of the stream and returns when all
 * are done. fn may cut work in M and N only (D6). */
typedef void (*spin_parallel_fn)(void *context, uint32_t thread, uint32_t threads);
void spin_stream_parallel(struct spin_stream *stream, spin_parallel_fn fn, void *context);
/* Inside fn: wait until all threads of this parallel call have arrived. */
void spin_stream_barrier(struct spin_stream *stream);

SPIN_END_DECLS
