/* What every backend has, by the table that its streams begin with. */
#include "kernels/device.h"

#include "base/assert.h"
#include "kernels/backend.h"

void spin_stream_destroy(struct spin_stream *stream)
{
    if (stream != NULL) {
        stream->backend->destroy(stream);
    }
}

spin_status spin_stream_sync(struct spin_stream *stream, uint64_t timeout_ns)
{
    return stream->backend->sync(stream, timeout_ns);
}

spin_status spin_device_alloc(struct spin_stream *stream, uint64_t bytes, void **out,
                              struct spin_error *err)
{
    return stream->backend->device_alloc(stream, bytes, out, err);
}

void spin_device_free(struct spin_stream *stream, void *memory)
{
    if (memory != NULL) {
        stream->backend->device_free(stream, memory);
    }
}

spin_status spin_host_alloc(struct spin_stream *stream, uint64_t bytes, void **out,
                            struct spin_error *err)
{
    return stream->backend->host_alloc(stream, bytes, out, err);
}

void spin_host_free(struct spin_stream *stream, void *memory)
{
    if (memory != NULL) {
        stream->backend->host_free(stream, memory);
    }
}

spin_status spin_device_write(struct spin_stream *stream, void *device, const void *host,
                              uint64_t bytes)
{
    if (bytes == 0) {
        return SPIN_OK;
    }
    SPIN_ASSERT(device != NULL && host != NULL);
    return stream->backend->write(stream, device, host, bytes);
}

spin_status spin_device_read(struct spin_stream *stream, void *host, const void *device,
                             uint64_t bytes)
{
    if (bytes == 0) {
        return SPIN_OK;
    }
    SPIN_ASSERT(device != NULL && host != NULL);
    return stream->backend->read(stream, host, device, bytes);
}

const char *spin_device_name(const struct spin_stream *stream)
{
    return stream->name;
}

bool spin_device_is_host(const struct spin_stream *stream)
{
    return stream->backend->device_is_host;
}

uint64_t spin_device_memory(struct spin_stream *stream, uint64_t *out_total)
{
    return stream->backend->memory(stream, out_total);
}

bool spin_stream_has_lanes(const struct spin_stream *stream)
{
    return stream->backend->side_begin != NULL;
}

spin_status spin_stream_side_begin(struct spin_stream *stream, enum spin_lane lane)
{
    return spin_stream_has_lanes(stream) ? stream->backend->side_begin(stream, lane) : SPIN_OK;
}

spin_status spin_stream_side_end(struct spin_stream *stream)
{
    return spin_stream_has_lanes(stream) ? stream->backend->side_end(stream) : SPIN_OK;
}

spin_status spin_stream_side_join(struct spin_stream *stream, enum spin_lane lane)
{
    return spin_stream_has_lanes(stream) ? stream->backend->side_join(stream, lane) : SPIN_OK;
}

bool spin_stream_records(const struct spin_stream *stream)
{
    return stream->backend->graph_begin != NULL;
}

spin_status spin_graph_begin(struct spin_stream *stream)
{
    SPIN_ASSERT(spin_stream_records(stream));
    return stream->backend->graph_begin(stream);
}

spin_status spin_graph_end(struct spin_stream *stream, struct spin_graph **out,
                           struct spin_error *err)
{
    SPIN_ASSERT(spin_stream_records(stream));
    return stream->backend->graph_end(stream, out, err);
}

spin_status spin_graph_launch(struct spin_stream *stream, const struct spin_graph *graph)
{
    SPIN_ASSERT(spin_stream_records(stream) && graph != NULL);
    return stream->backend->graph_launch(stream, graph);
}

void spin_graph_destroy(struct spin_stream *stream, struct spin_graph *graph)
{
    if (graph != NULL) {
        stream->backend->graph_destroy(stream, graph);
    }
}
