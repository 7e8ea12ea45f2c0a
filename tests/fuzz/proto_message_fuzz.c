/* The first byte picks a message that a stranger may send us, the rest is it: what parses stays
 * under its cap of memory, and packs to bytes that stay the same when parsed again. */
#include "base/arena.h"
#include "base/assert.h"
#include "proto/rpc_message.h"
#include "proto/spin/v1/cluster.pb-c.h"
#include "proto/spin/v1/health.pb-c.h"
#include "proto/spin/v1/inference.pb-c.h"
#include "proto/spin/v1/worker.pb-c.h"
#include "tests/fuzz/fuzz.h"

#include <string.h>

#define CHUNK_BYTES 4096u
#define CAP_BYTES (UINT64_C(256) << 10)
#define MESSAGE_BYTES_MAX 65536u

static const ProtobufCMessageDescriptor *const types[] = {
    &spin__v1__generate_request__descriptor,
    &spin__v1__generate_response__descriptor,
    &spin__v1__prefill_request__descriptor,
    &spin__v1__describe_response__descriptor,
    &spin__v1__member_message__descriptor,
    &spin__v1__router_message__descriptor,
    &spin__v1__inference_request__descriptor,
    &spin__v1__detokenize_request__descriptor,
    &grpc__health__v1__health_check_request__descriptor,
};

/* Packs `message` into `arena`; NULL: the arena is full. */
static uint8_t *pack(struct spin_arena *arena, const ProtobufCMessage *message, uint64_t *out_count)
{
    *out_count = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = spin_arena_take(arena, *out_count);
    if (bytes != NULL) {
        SPIN_ASSERT_EQ(protobuf_c_message_pack(message, bytes), *out_count);
    }
    return bytes;
}

static void check_again(const struct spin_rpc_unpack_args *args, const ProtobufCMessage *message)
{
    uint64_t count = 0;
    const uint8_t *bytes = pack(args->arena, message, &count);
    struct spin_rpc_unpack_args again = *args;
    again.source = (struct spin_rpc_bytes){.bytes = bytes, .count = count};
    ProtobufCMessage *second = NULL;
    /* An unknown field numbered 0 is read in a long spelling, written in the short one, and then
     * refused: that is the library's way, and nothing of ours sends on what it does not know. */
    if (bytes == NULL || spin_rpc_message_unpack(&again, &second, NULL) != SPIN_OK) {
        return;
    }
    uint64_t second_count = 0;
    const uint8_t *second_bytes = pack(args->arena, second, &second_count);
    if (second_bytes != NULL) {
        SPIN_ASSERT_EQ(second_count, count);
        SPIN_ASSERT(memcmp(second_bytes, bytes, count) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count)
{
    if (count == 0) {
        return 0;
    }
    struct spin_arena *arena = NULL;
    SPIN_ASSERT_EQ(spin_arena_create(CHUNK_BYTES, 2 * CAP_BYTES, &arena, NULL), SPIN_OK);
    const struct spin_rpc_unpack_args args = {
        .type = types[bytes[0] % SPIN_ARRAY_COUNT(types)],
        .source = {.bytes = bytes + 1, .count = count - 1},
        .bytes_max = MESSAGE_BYTES_MAX,
        .arena = arena,
        .arena_bytes_max = CAP_BYTES,
    };
    ProtobufCMessage *message = NULL;
    struct spin_error err = {.status = SPIN_OK};
    const spin_status status = spin_rpc_message_unpack(&args, &message, &err);
    SPIN_ASSERT_EQ(err.status, status);
    if (status == SPIN_OK) {
        SPIN_ASSERT_LE(spin_arena_used_bytes(arena), CAP_BYTES);
        check_again(&args, message);
    } else {
        SPIN_ASSERT(status == SPIN_ERR_INVALID || status == SPIN_ERR_LIMIT ||
                    status == SPIN_ERR_NO_MEMORY);
    }
    spin_arena_destroy(arena);
    return 0;
}
