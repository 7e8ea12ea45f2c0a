#include "base/clock.h"
#include "net/http_internal.h"

#include <string.h>

const char *spin_http_header(const struct spin_http_exchange *exchange, const char *name)
{
    SPIN_ASSERT(exchange->is_open);
    return spin_http_parser_header(&exchange->connection->parser, name);
}

void spin_http_set_state(struct spin_http_exchange *exchange, void *state)
{
    exchange->state = state;
}

void *spin_http_state(const struct spin_http_exchange *exchange)
{
    return exchange->state;
}

bool spin_http_is_gone(const struct spin_http_exchange *exchange)
{
    return exchange->connection->is_lost;
}

/* What the end of this turn sends. */
static void queue(struct spin_http_connection *connection, bool appended)
{
    if (appended) {
        spin_http_connection_mark(connection);
    } else {
        spin_http_connection_lose(connection); /* out of memory */
    }
}

void spin_http_respond(struct spin_http_exchange *exchange, const struct spin_http_reply *reply)
{
    struct spin_http_connection *connection = exchange->connection;
    spin_loop_assert_thread(connection->server->loop);
    SPIN_ASSERT(exchange->is_open);
    SPIN_ASSERT(!exchange->is_stream);
    const bool keep_alive = exchange->keep_alive && !connection->server->is_closing;
    if (!connection->is_lost) {
        const struct spin_http_reply_frame frame = {
            .body = SPIN_HTTP_BODY_KNOWN,
            .keep_alive = keep_alive,
            .wall_ns = spin_wall_ns(),
        };
        const bool has_body = !exchange->is_head && spin_http_status_has_body(reply->status);
        queue(connection, spin_http_append_head(&connection->out, reply, &frame) &&
                              (!has_body || spin_http_buffer_append(&connection->out, reply->body,
                                                                    reply->body_bytes)));
    }
    spin_http_connection_end_exchange(connection, keep_alive);
}

void spin_http_stream_begin(struct spin_http_exchange *exchange,
                            const struct spin_http_reply *reply)
{
    struct spin_http_connection *connection = exchange->connection;
    spin_loop_assert_thread(connection->server->loop);
    SPIN_ASSERT(exchange->is_open);
    SPIN_ASSERT(!exchange->is_stream);
    SPIN_ASSERT(spin_http_status_has_body(reply->status));
    exchange->is_stream = true;
    exchange->is_chunked = !connection->parser.is_http_1_0;
    exchange->keep_alive =
        exchange->keep_alive && exchange->is_chunked && !connection->server->is_closing;
    if (!connection->is_lost) {
        const struct spin_http_reply_frame frame = {
            .body = exchange->is_chunked ? SPIN_HTTP_BODY_CHUNKED : SPIN_HTTP_BODY_TO_CLOSE,
            .keep_alive = exchange->keep_alive,
            .wall_ns = spin_wall_ns(),
        };
        queue(connection, spin_http_append_head(&connection->out, reply, &frame));
    }
}

/* A client that does not read makes us keep its bytes: only so many. */
static void limit_waiting(struct spin_http_connection *connection)
{
    if (connection->out.count > SPIN_HTTP_OUT_BYTES_EARLY) {
        spin_http_connection_flush(connection);
    }
    if (!connection->is_lost && spin_http_connection_is_blocked(connection)) {
        const uint64_t waiting =
            connection->out.count + uv_stream_get_write_queue_size((uv_stream_t *)&connection->tcp);
        if (waiting > connection->server->config.write_bytes_max) {
            connection->server->stats.slow_clients++;
            spin_http_connection_lose(connection);
        }
    }
}

void spin_http_stream_write(struct spin_http_exchange *exchange, const char *bytes, uint64_t count)
{
    struct spin_http_connection *connection = exchange->connection;
    spin_loop_assert_thread(connection->server->loop);
    SPIN_ASSERT(exchange->is_open);
    SPIN_ASSERT(exchange->is_stream);
    /* A chunk of nothing would be the last. */
    if (count == 0 || exchange->is_head || connection->is_lost) {
        return;
    }
    queue(connection, exchange->is_chunked
                          ? spin_http_append_chunk(&connection->out, bytes, count)
                          : spin_http_buffer_append(&connection->out, bytes, count));
    limit_waiting(connection);
}

void spin_http_stream_end(struct spin_http_exchange *exchange, bool complete)
{
    static const char last_chunk[] = "0\r\n\r\n";
    struct spin_http_connection *connection = exchange->connection;
    spin_loop_assert_thread(connection->server->loop);
    SPIN_ASSERT(exchange->is_open);
    SPIN_ASSERT(exchange->is_stream);
    if (!connection->is_lost && !exchange->is_head && complete && exchange->is_chunked) {
        queue(connection,
              spin_http_buffer_append(&connection->out, last_chunk, sizeof last_chunk - 1));
    }
    connection->is_torn = !complete && !exchange->is_chunked;
    spin_http_connection_end_exchange(connection, complete && exchange->keep_alive);
}
