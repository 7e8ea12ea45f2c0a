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
