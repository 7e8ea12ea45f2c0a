/* rpc_message: protobuf bytes into messages, inside an arena with a cap.
 *
 * Why        What a peer sends decides how much memory parsing takes: a few bytes can announce
 *            millions of elements. The message and everything in it come from one arena, so a
 *            hostile message is a refusal and a good one is freed at once.
 * Ownership  The message lives in the arena: valid until its reset or destroy; never freed by
 *            itself.
 * Threading  One thread at a time per arena.
 * Units      Bytes.
 * Errors     INVALID: not a message of this type. LIMIT: over bytes_max. NO_MEMORY: over the
 *            arena's cap. Strings are as the peer sent them: not checked to be UTF-8. */
#pragma once

#include "base/arena.h"

SPIN_BEGIN_DECLS

struct ProtobufCMessage;
struct ProtobufCMessageDescriptor;

struct spin_rpc_bytes { /* borrowed */
    const uint8_t *bytes;
    uint64_t count;
};

struct spin_rpc_unpack_args {
    const struct ProtobufCMessageDescriptor *type;
    struct spin_rpc_bytes source;
    uint64_t bytes_max;
    struct spin_arena *arena;
    uint64_t arena_bytes_max; /* of the arena, in all; 0: its own cap is enough */
};

SPIN_MUST_USE spin_status spin_rpc_message_unpack(const struct spin_rpc_unpack_args *args,
                                                  struct ProtobufCMessage **out,
                                                  struct spin_error *err);

SPIN_END_DECLS
