/* fake_device: a device that is not the host, and late: what a GPU does to its host, without a GPU.
 *
 * Why        On the CPU an operation is over when its call returns and its memory is the host's, so
 *            nothing there shows that the host looked too early, wrote what operations still read,
 *            or forgot to send a change. Here all of that turns a test red.
 * Memory     Device memory cannot be touched but by what was submitted while it runs: the host that
 *            reads or writes it dies of SIGSEGV. Operations are given device memory, or memory of
 *            spin_host_alloc, in every pointer (asserted).
 * Time       What is submitted runs at spin_stream_sync, and at what waits by contract: copies of
 *            memory that is not from spin_host_alloc, frees. What a background copy is to send must
 *            be the same when it runs (asserted); what it is to bring is garbage until then. The
 *            side lane runs when it is joined.
 * Recordings Operations and background copies are noted; a launch submits them. Anything that waits
 *            or allocates fails the test.
 * Operations Those of spin_ops_ref. A test may copy the table and put its own around them.
 * Ownership  As of any stream. Everything is to be freed before the stream is destroyed (asserted).
 * Threading  The thread that uses the stream.
 * Units      Bytes; submissions: operations, copies, launches.
 * Errors     NO_MEMORY above the device's size; DEVICE_LOST as told by spin_fake_fail_after. */
#pragma once

#include "kernels/ops.h"

SPIN_BEGIN_DECLS

extern const struct spin_ops spin_ops_fake;

struct spin_stream *spin_fake_stream_create(uint64_t device_bytes);
bool spin_fake_is(const struct spin_stream *stream);

/* Runs fn(a copy of context) in the stream's order, when device memory may be touched; on any other
 * stream at once. What a test wants to put there or look at. OK unless the device is lost. */
typedef void (*spin_fake_fn)(const void *context);
spin_status spin_fake_submit(struct spin_stream *stream, spin_fake_fn fn, const void *context,
                             uint64_t bytes);

/* The `submissions` next ones go well, then the device is lost. */
void spin_fake_fail_after(struct spin_stream *stream, uint64_t submissions);
/* Since create; those of a launched recording count one by one. */
uint64_t spin_fake_submissions(const struct spin_stream *stream);
/* That have not run yet. */
uint64_t spin_fake_waiting(const struct spin_stream *stream);

SPIN_END_DECLS
