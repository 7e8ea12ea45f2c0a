#include "proto/rpc_outbox.h"

#include "base/assert.h"

#include <protobuf-c/protobuf-c.h>

#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES ((uint64_t)sizeof(uint32_t))

spin_status spin_rpc_outbox_init(struct spin_rpc_outbox *outbox, uint64_t capacity)
{
    SPIN_ASSERT_GT(capacity, LENGTH_BYTES);
    SPIN_ASSERT_LE(capacity, SPIN_RPC_OUTBOX_BYTES_MAX);
    /* Not zeroed: pages that are never written to cost nothing. */
    uint8_t *bytes = malloc(capacity);
    if (bytes == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    *outbox = (struct spin_rpc_outbox){.bytes = bytes, .capacity = capacity};
    return SPIN_OK;
}

void spin_rpc_outbox_deinit(struct spin_rpc_outbox *outbox)
{
    free(outbox->bytes);
    *outbox = (struct spin_rpc_outbox){0};
}

static uint64_t length_at(const struct spin_rpc_outbox *outbox, uint64_t offset)
{
    uint32_t length;
    SPIN_ASSERT_LE(offset + LENGTH_BYTES, outbox->write_offset);
    memcpy(&length, outbox->bytes + offset, sizeof length);
    return length;
}

/* Slides what waits to the front, so that a reader who never quite catches up costs no room. */
static void compact(struct spin_rpc_outbox *outbox)
{
    const uint64_t waiting = outbox->write_offset - outbox->read_offset;
    memmove(outbox->bytes, outbox->bytes + outbox->read_offset, waiting);
    outbox->read_offset = 0;
    outbox->write_offset = waiting;
}

spin_status spin_rpc_outbox_push(struct spin_rpc_outbox *outbox,
                                 const struct ProtobufCMessage *message, uint64_t reserve)
{
    const uint64_t bytes = protobuf_c_message_get_packed_size(message);
    const uint64_t waiting = outbox->write_offset - outbox->read_offset;
    const uint64_t room = outbox->capacity - waiting;
    if (room < LENGTH_BYTES + reserve || bytes > room - LENGTH_BYTES - reserve) {
        return SPIN_ERR_EXHAUSTED;
    }
    if (outbox->write_offset + LENGTH_BYTES + bytes > outbox->capacity) {
        compact(outbox);
    }
    const uint32_t length = (uint32_t)bytes; /* capacity is below 4 GiB */
    memcpy(outbox->bytes + outbox->write_offset, &length, sizeof length);
    const uint64_t packed =
        protobuf_c_message_pack(message, outbox->bytes + outbox->write_offset + LENGTH_BYTES);
    SPIN_ASSERT_EQ(packed, bytes);
    outbox->write_offset += LENGTH_BYTES + bytes;
    outbox->count++;
    return SPIN_OK;
}

uint64_t spin_rpc_outbox_next_bytes(const struct spin_rpc_outbox *outbox, bool merge)
{
    if (outbox->count == 0) {
        return 0;
    }
    return merge ? outbox->write_offset - outbox->read_offset - outbox->count * LENGTH_BYTES
                 : length_at(outbox, outbox->read_offset);
}

void spin_rpc_outbox_take(struct spin_rpc_outbox *outbox, bool merge, uint8_t *target)
{
    SPIN_ASSERT_GT(outbox->count, 0);
    do {
        const uint64_t length = length_at(outbox, outbox->read_offset);
        const uint64_t start = outbox->read_offset + LENGTH_BYTES;
        SPIN_ASSERT_LE(start + length, outbox->write_offset);
        memcpy(target, outbox->bytes + start, length);
        target += length;
        outbox->read_offset = start + length;
        outbox->count--;
    } while (merge && outbox->count > 0);
    if (outbox->count == 0) {
        SPIN_ASSERT_EQ(outbox->read_offset, outbox->write_offset);
        spin_rpc_outbox_clear(outbox);
    }
}

void spin_rpc_outbox_clear(struct spin_rpc_outbox *outbox)
{
    outbox->read_offset = 0;
    outbox->write_offset = 0;
    outbox->count = 0;
}
