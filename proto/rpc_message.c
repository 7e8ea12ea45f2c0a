#include "proto/rpc_message.h"

#include <protobuf-c/protobuf-c.h>

#include <inttypes.h>

struct arena_source {
    struct spin_arena *arena;
    uint64_t bytes_max;
    bool refused; /* the cap was hit: the message is too large, not malformed */
};

static void *take(void *data, size_t bytes)
{
    struct arena_source *source = data;
    const uint64_t used = spin_arena_used_bytes(source->arena);
    const bool fits = used <= source->bytes_max && bytes <= source->bytes_max - used;
    void *piece = fits ? spin_arena_take(source->arena, bytes) : NULL;
    source->refused |= piece == NULL;
    return piece;
}

static void leave(void *data, void *piece)
{
    (void)data; /* the arena gives everything back at once */
    (void)piece;
}

spin_status spin_rpc_message_unpack(const struct spin_rpc_unpack_args *args,
                                    struct ProtobufCMessage **out, struct spin_error *err)
{
    const char *name = args->type->name;
    if (args->source.count > args->bytes_max) {
        return spin_fail(err, SPIN_ERR_LIMIT, "%s: %" PRIu64 " bytes, at most %" PRIu64, name,
                         args->source.count, args->bytes_max);
    }
    struct arena_source source = {.arena = args->arena,
                                  .bytes_max = args->arena_bytes_max > 0 ? args->arena_bytes_max
                                                                         : UINT64_MAX};
    ProtobufCAllocator allocator = {.alloc = take, .free = leave, .allocator_data = &source};
    ProtobufCMessage *message =
        protobuf_c_message_unpack(args->type, &allocator, args->source.count, args->source.bytes);
    if (message == NULL) {
        return source.refused ? spin_fail(err, SPIN_ERR_NO_MEMORY,
                                          "%s: too many elements for its memory", name)
                              : spin_fail(err, SPIN_ERR_INVALID, "%s: malformed message", name);
    }
    *out = message;
    return SPIN_OK;
}
