#include "base/address.h"
#include "base/assert.h"
#include "base/log.h"
#include "proto/rpc_internal.h"

#include <grpc/byte_buffer.h>
#include <grpc/byte_buffer_reader.h>
#include <grpc/slice.h>
#include <grpc/support/log.h>
#include <protobuf-c/protobuf-c.h>

#include <errno.h>
#include <netdb.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define ARENA_CHUNK_BYTES (UINT64_C(16) << 10) /* most messages are smaller than one chunk */
#define ARENA_KEPT_BYTES (UINT64_C(256) << 10) /* what one large message took goes back at once */
#define ARENA_BYTES_MAX (UINT64_C(1) << 30)    /* each reader of messages has a lower limit */

/* gRPC core logs as errors what callers get as a status as well (a refused connection, a taken
 * port); we report those once, where they are handled. Its failed assertions are its last words. */
static void forward_log(gpr_log_func_args *args)
{
    if (strstr(args->message, "assertion failed") != NULL) {
        SPIN_ERROR("grpc: %s (%s:%d)", args->message, args->file, args->line);
    } else {
        SPIN_DEBUG_LOG("grpc: %s", args->message);
    }
}

void spin_rpc_core_acquire(void)
{
    gpr_set_log_function(forward_log);
    grpc_init();
}

void spin_rpc_core_release(void)
{
    grpc_shutdown_blocking();
}

spin_status spin_rpc_address_explain(const char *address, const char *flag, struct spin_error *err)
{
    struct spin_address parts;
    SPIN_TRY(spin_address_split(address, &parts, err));
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    const int failure = getaddrinfo(parts.host, parts.port, &hints, &found);
    if (failure != 0) {
        return spin_fail(err, SPIN_ERR_IO, "cannot listen on %.128s: %s; choose another with %s",
                         address, gai_strerror(failure), flag);
    }
    const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    const bool bound = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0 &&
                       bind(fd, found->ai_addr, found->ai_addrlen) == 0;
    char buffer[96];
    const char *reason =
        bound ? "refused by the gRPC library" : strerror_r(errno, buffer, sizeof buffer);
    (void)spin_fail(err, SPIN_ERR_IO, "cannot listen on %.128s: %s; choose another with %s",
                    address, reason, flag);
    if (fd >= 0) {
        (void)close(fd);
    }
    freeaddrinfo(found);
    return SPIN_ERR_IO;
}

grpc_byte_buffer *spin_rpc_buffer_from_message(const struct ProtobufCMessage *message)
{
    grpc_slice slice = grpc_slice_malloc(protobuf_c_message_get_packed_size(message));
    (void)protobuf_c_message_pack(message, GRPC_SLICE_START_PTR(slice));
    grpc_byte_buffer *buffer = grpc_raw_byte_buffer_create(&slice, 1);
    grpc_slice_unref(slice);
    return buffer;
}

/* In several pieces: they are put together first. */
static spin_status read_slices(grpc_byte_buffer *buffer, const struct spin_rpc_unpack_args *args,
                               struct ProtobufCMessage **out, struct spin_error *err)
{
    grpc_byte_buffer_reader reader;
    if (grpc_byte_buffer_reader_init(&reader, buffer) == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "%s: unreadable message", args->type->name);
    }
    grpc_slice slice = grpc_byte_buffer_reader_readall(&reader);
    struct spin_rpc_unpack_args own = *args;
    own.source.bytes = GRPC_SLICE_START_PTR(slice);
    own.source.count = GRPC_SLICE_LENGTH(slice);
    const spin_status status = spin_rpc_message_unpack(&own, out, err);
    grpc_slice_unref(slice);
    grpc_byte_buffer_reader_destroy(&reader);
    return status;
}

spin_status spin_rpc_parser_read(struct spin_rpc_parser *parser, grpc_byte_buffer *buffer,
                                 const struct spin_rpc_unpack_args *args,
                                 struct ProtobufCMessage **out, struct spin_error *err)
{
    if (parser->arena == NULL) {
        SPIN_TRY(spin_arena_create(ARENA_CHUNK_BYTES, ARENA_BYTES_MAX, &parser->arena, err));
    }
    struct spin_rpc_unpack_args own = *args;
    own.arena = parser->arena;
    own.source = (struct spin_rpc_bytes){.count = grpc_byte_buffer_length(buffer)};
    if (own.source.count > own.bytes_max) {
        return spin_rpc_message_unpack(&own, out, err); /* refuses it before anything is copied */
    }
    const grpc_slice_buffer *slices = &buffer->data.raw.slice_buffer;
    if (slices->count > 1 || buffer->data.raw.compression != GRPC_COMPRESS_NONE) {
        return read_slices(buffer, &own, out, err);
    }
    own.source.bytes = slices->count == 0 ? NULL : GRPC_SLICE_START_PTR(slices->slices[0]);
    return spin_rpc_message_unpack(&own, out, err);
}

void spin_rpc_parser_forget(struct spin_rpc_parser *parser)
{
    if (parser->arena != NULL && spin_arena_used_bytes(parser->arena) > ARENA_KEPT_BYTES) {
        spin_rpc_parser_deinit(parser);
    } else if (parser->arena != NULL) {
        spin_arena_reset(parser->arena);
    }
}

void spin_rpc_parser_deinit(struct spin_rpc_parser *parser)
{
    spin_arena_destroy(parser->arena);
    parser->arena = NULL;
}

void spin_rpc_queue_run(grpc_completion_queue *queue)
{
    for (;;) {
        const grpc_event event =
            grpc_completion_queue_next(queue, gpr_inf_future(GPR_CLOCK_MONOTONIC), NULL);
        if (event.type == GRPC_QUEUE_SHUTDOWN) {
            return;
        }
        SPIN_ASSERT_EQ(event.type, GRPC_OP_COMPLETE);
        const struct spin_rpc_tag *tag = event.tag;
        tag->fire(tag->self, event.success != 0);
    }
}

grpc_arg spin_rpc_integer_arg(const char *key, int value)
{
    grpc_arg arg = {.type = GRPC_ARG_INTEGER, .value.integer = value};
    memcpy(&arg.key, &key, sizeof key); /* gRPC's key is not const, but is not written to */
    return arg;
}

grpc_arg spin_rpc_string_arg(const char *key, const char *value)
{
    grpc_arg arg = {.type = GRPC_ARG_STRING};
    memcpy(&arg.key, &key, sizeof key); /* as above, and so is the value */
    memcpy(&arg.value.string, &value, sizeof value);
    return arg;
}

void spin_rpc_start_batch(grpc_call *call, const grpc_op *ops, size_t count,
                          struct spin_rpc_tag *tag)
{
    /* Errors here are wrong combinations of operations: ours. A dead call fires its tag instead. */
    const grpc_call_error error = grpc_call_start_batch(call, ops, count, tag, NULL);
    SPIN_ASSERT_EQ(error, GRPC_CALL_OK);
}
