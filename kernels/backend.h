/* backend: what a kind of stream does; private to this directory.
 *
 * Why        Streams of several backends live in one program, and their owner does not ask which.
 * Ownership  A backend's stream begins with a struct spin_stream; create returns its address.
 * Threading  As device.h says of the function of the same name.
 * Units      Bytes.
 * Errors     As device.h says. */
#pragma once

#include "kernels/device.h"

SPIN_BEGIN_DECLS

struct spin_backend {
    void (*destroy)(struct spin_stream *stream); /* never NULL here, nor in the frees */
    spin_status (*sync)(struct spin_stream *stream, uint64_t timeout_ns);
    spin_status (*device_alloc)(struct spin_stream *stream, uint64_t bytes, void **out,
                                struct spin_error *err);
    void (*device_free)(struct spin_stream *stream, void *memory);
    spin_status (*host_alloc)(struct spin_stream *stream, uint64_t bytes, void **out,
                              struct spin_error *err);
    void (*host_free)(struct spin_stream *stream, void *memory);
    spin_status (*write)(struct spin_stream *stream, void *device, const void *host,
                         uint64_t bytes);
    spin_status (*read)(struct spin_stream *stream, void *host, const void *device, uint64_t bytes);
    uint64_t (*memory)(struct spin_stream *stream, uint64_t *out_total);
    bool device_is_host;

    /* All NULL: one lane, in order. */
    spin_status (*side_begin)(struct spin_stream *stream, enum spin_lane lane);
    spin_status (*side_end)(struct spin_stream *stream);
    spin_status (*side_join)(struct spin_stream *stream, enum spin_lane lane);

    /* All NULL: nothing is recorded. */
    spin_status (*graph_begin)(struct spin_stream *stream);
    spin_status (*graph_end)(struct spin_stream *stream, struct spin_graph **out,
                             struct spin_error *err);
    spin_status (*graph_launch)(struct spin_stream *stream, const struct spin_graph *graph);
    void (*graph_destroy)(struct spin_stream *stream, struct spin_graph *graph); /* never NULL */
};

struct spin_stream {
    const struct spin_backend *backend;
    char name[SPIN_DEVICE_NAME_BYTES]; /* NUL-terminated */
};

/* Zeroed memory of the process: `alignment` is a power of two of at least 64, raised to a huge page
 * for 2 MiB and more. */
SPIN_MUST_USE spin_status spin_memory_alloc(uint64_t bytes, uint64_t alignment, void **out,
                                            struct spin_error *err);
void spin_memory_free(void *memory); /* NULL is allowed */

SPIN_END_DECLS
