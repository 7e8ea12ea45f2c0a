/* rpc_outbox: packed messages that wait for the wire, in one fixed buffer.
 *
 * Why        A producer is faster than a reader for a while, never for ever: what waits has a
 *            limit, and adding to it neither allocates nor blocks. Messages that may be merged
 *            leave together: protobuf defines the concatenation of two encodings as their merge
 *            (repeated fields append, a later scalar wins), so many small messages cost one send.
 * Layout     [u32 length][bytes] ... from read_offset to write_offset; both return to 0 when empty.
 * Ownership  The outbox owns its buffer.
 * Threading  One thread at a time (a call guards its outbox with its mutex).
 * Units      Bytes. A message may be as large as the capacity less its length field.
 * Errors     EXHAUSTED: no room; the message is not queued. */
#pragma once

#include "base/status.h"

SPIN_BEGIN_DECLS

#define SPIN_RPC_OUTBOX_BYTES_MAX (UINT64_C(1) << 30)

struct ProtobufCMessage;

struct spin_rpc_outbox {
    uint8_t *bytes;
    uint64_t capacity;
    uint64_t read_offset;
    uint64_t write_offset;
    uint32_t count; /* messages */
};

SPIN_MUST_USE spin_status spin_rpc_outbox_init(struct spin_rpc_outbox *outbox, uint64_t capacity);
void spin_rpc_outbox_deinit(struct spin_rpc_outbox *outbox); /* zeroed storage is allowed */

/* `reserve` bytes stay free, for a later message that must find room; 0: all may be used. */
SPIN_MUST_USE spin_status spin_rpc_outbox_push(struct spin_rpc_outbox *outbox,
                                               const struct ProtobufCMessage *message,
                                               uint64_t reserve);
/* How many bytes the next take will write: of one message, or of all when `merge`. 0 when empty
 * or when the messages are empty: see `count`. */
uint64_t spin_rpc_outbox_next_bytes(const struct spin_rpc_outbox *outbox, bool merge);
/* Moves the next message, or all of them merged, to `target`, which has room for next_bytes. */
void spin_rpc_outbox_take(struct spin_rpc_outbox *outbox, bool merge, uint8_t *target);
void spin_rpc_outbox_clear(struct spin_rpc_outbox *outbox);

SPIN_END_DECLS
