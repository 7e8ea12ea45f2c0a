#include "base/clock.h"
#include "net/http_internal.h"

#include <uv.h>

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* What a client may send before the reply to what it sent before has left. While the reply is being
 * made, more than that is discarded and the connection closes after the reply: to stop reading
 * would hide from us that the client has gone. */
#define AHEAD_BYTES_MAX SPIN_HTTP_READ_BYTES
/* An idle connection keeps an output buffer so small. */
#define OUT_KEEP_BYTES 2048u
/* After our last byte: how long without one from the client, and how many of its bytes we discard.
 * A client that sends a refused body of any length we have seen gets to read why. */
#define DRAIN_IDLE_NS (1 * SPIN_NS_PER_S)
#define DRAIN_BYTES_MAX (UINT64_C(256) << 20)
/* Above connections_max, so many at once are told so; more are closed without a word. */
#define CONNECTIONS_REFUSED_MAX 256u

/* --- life --- */

static struct spin_http_connection *connection_create(struct spin_http_server *server)
{
    struct spin_http_connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        return NULL;
    }
    SPIN_ASSERT_EQ(uv_tcp_init(server->listener.loop, &connection->tcp), 0);
    connection->tcp.data = connection;
    connection->server = server;
    connection->exchange.connection = connection;
    spin_http_parser_init(&connection->parser, &server->limits);
    spin_list_push_back(&server->connections, &connection->link);
    server->stats.connections++;
    server->stats.connections_open++;
    return connection;
}

static void connection_destroy(struct spin_http_connection *connection)
{
    struct spin_http_server *server = connection->server;
    if (connection->dirty_link.next != NULL) {
        spin_list_remove(&server->dirty, &connection->dirty_link);
    }
    spin_list_remove(&server->connections, &connection->link);
    spin_http_parser_deinit(&connection->parser);
    spin_http_buffer_release(&connection->ahead);
    spin_http_buffer_release(&connection->out);
    spin_http_buffer_release(&connection->flight);
    free(connection);
    spin_http_server_forget(server);
}

static void on_closed(uv_handle_t *handle)
{
    struct spin_http_connection *connection = handle->data;
    connection->is_closed = true;
    if (!connection->exchange.is_open) {
        connection_destroy(connection);
    }
}

/* The reply is not whole, and its end may be the connection's: a reset is how the client can tell.
 * What the kernel holds for it is given back. */
static void tear(struct spin_http_connection *connection)
{
    const struct linger none = {.l_onoff = 1};
    int fd = -1;
    if (uv_fileno((uv_handle_t *)&connection->tcp, &fd) == 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    }
}

void spin_http_connection_cut(struct spin_http_connection *connection)
{
    struct spin_http_server *server = connection->server;
    if (connection->phase == SPIN_HTTP_CLOSED) {
        return;
    }
    const bool has_rest = connection->flight.count != 0 || connection->out.count != 0;
    const bool ends_by_close = connection->exchange.is_stream && !connection->exchange.is_chunked;
    if (has_rest || (connection->exchange.is_open && ends_by_close)) {
        tear(connection);
    }
    connection->phase = SPIN_HTTP_CLOSED;
    connection->is_lost = true;
    connection->is_reading = false;
    server->stats.connections_open--;
    uv_close((uv_handle_t *)&connection->tcp, on_closed);
    if (connection->exchange.is_open) {
        server->stats.gone++;
        if (server->config.gone != NULL) {
            server->config.gone(server->config.context, &connection->exchange);
        }
    }
}

void spin_http_connection_mark(struct spin_http_connection *connection)
{
    if (connection->dirty_link.next == NULL && connection->phase != SPIN_HTTP_CLOSED) {
        spin_list_push_back(&connection->server->dirty, &connection->dirty_link);
    }
}

void spin_http_connection_lose(struct spin_http_connection *connection)
{
    connection->is_lost = true;
    spin_http_connection_mark(connection);
}

static uint64_t now_ns(const struct spin_http_connection *connection)
{
    return spin_loop_now_ns(connection->server->loop);
}

static void enter(struct spin_http_connection *connection, enum spin_http_phase phase)
{
    connection->phase = phase;
    connection->in_request = false;
    connection->since_ns = now_ns(connection);
    spin_http_connection_mark(connection);
}

/* --- writing --- */

static void on_written(uv_write_t *write, int status)
{
    struct spin_http_connection *connection = write->data;
    connection->server->stats.bytes_out += status == 0 ? connection->flight.count : 0;
    spin_http_buffer_release(&connection->flight);
    if (status != 0) {
        spin_http_connection_lose(connection);
    }
    spin_http_connection_mark(connection);
}

/* What the socket did not take stays ours in `flight`, and what comes meanwhile collects in `out`:
 * one write at a time. */
static void write_rest(struct spin_http_connection *connection, uint64_t taken)
{
    connection->flight = connection->out;
    connection->out = (struct spin_http_buffer){0};
    connection->flight.count -= taken;
    connection->flight_left = connection->flight.count;
    connection->write_since_ns = now_ns(connection);
    const uv_buf_t rest = {.base = connection->flight.bytes + taken,
                           .len = connection->flight.count};
    connection->write.data = connection;
    if (uv_write(&connection->write, (uv_stream_t *)&connection->tcp, &rest, 1, on_written) != 0) {
        spin_http_buffer_release(&connection->flight);
        spin_http_connection_lose(connection);
    }
}

void spin_http_connection_flush(struct spin_http_connection *connection)
{
    struct spin_http_buffer *out = &connection->out;
    if (connection->is_lost || connection->flight.bytes != NULL || out->count == 0) {
        return;
    }
    const uv_buf_t all = {.base = out->bytes, .len = out->count};
    const int written = uv_try_write((uv_stream_t *)&connection->tcp, &all, 1);
    if (written < 0 && written != UV_EAGAIN) {
        spin_http_connection_lose(connection);
        return;
    }
    const uint64_t taken = written < 0 ? 0 : (uint64_t)written;
    connection->server->stats.bytes_out += taken;
    if (taken < out->count) {
        write_rest(connection, taken);
        return;
    }
    out->count = 0;
    if (out->capacity > OUT_KEEP_BYTES) {
        spin_http_buffer_release(out);
    }
}

bool spin_http_connection_is_blocked(const struct spin_http_connection *connection)
{
    return connection->flight.bytes != NULL;
}

/* --- requests --- */

void spin_http_connection_refuse(struct spin_http_connection *connection, int status,
                                 const char *text)
{
    struct spin_http_server *server = connection->server;
    const struct spin_http_server_config *config = &server->config;
    char body[1024];
    struct spin_http_reply reply = {
        .status = status,
        .content_type = "text/plain",
        .body = text,
        .body_bytes = strlen(text),
    };
    const uint64_t wanted =
        config->format_error == NULL
            ? UINT64_MAX
            : config->format_error(config->context, status, text, body, sizeof body);
    if (wanted <= sizeof body) {
        reply.content_type = config->error_content_type;
        reply.body = body;
        reply.body_bytes = wanted;
    }
    const struct spin_http_header_field later = {.name = "Retry-After", .value = "1"};
    reply.headers = &later;
    reply.header_count = status == 503 ? 1 : 0;
    const struct spin_http_reply_frame frame = {.wall_ns = spin_wall_ns()};
    const bool is_head = spin_http_parser_is_head_request(&connection->parser);
    server->stats.refused++;
    server->stats.refused_5xx += status >= 500;
    if (!spin_http_append_head(&connection->out, &reply, &frame) ||
        (!is_head && !spin_http_buffer_append(&connection->out, reply.body, reply.body_bytes))) {
        spin_http_connection_lose(connection);
    }
    spin_http_parser_reset(&connection->parser);
    enter(connection, SPIN_HTTP_DRAIN);
}

static void begin_exchange(struct spin_http_connection *connection)
{
    struct spin_http_server *server = connection->server;
    struct spin_http_request request;
    spin_http_parser_request(&connection->parser, &request);
    request.peer = connection->peer;
    connection->exchange = (struct spin_http_exchange){
        .connection = connection,
        .is_open = true,
        .is_head = spin_http_parser_is_head_request(&connection->parser),
        .keep_alive = connection->parser.keep_alive,
    };
    server->stats.requests++;
    server->stats.exchanges_open++;
    connection->phase = SPIN_HTTP_REPLY;
    server->config.request(server->config.context, &connection->exchange, &request);
}

void spin_http_connection_end_exchange(struct spin_http_connection *connection, bool keep_alive)
{
    struct spin_http_server *server = connection->server;
    connection->exchange.is_open = false;
    server->stats.exchanges_open--;
    spin_http_parser_reset(&connection->parser);
    if (connection->phase != SPIN_HTTP_CLOSED) {
        const bool stays = keep_alive && !server->is_closing;
        enter(connection, stays ? SPIN_HTTP_READ : SPIN_HTTP_DRAIN);
    } else if (connection->is_closed) {
        connection_destroy(connection);
    }
}

static void on_head(struct spin_http_connection *connection, uint64_t bytes_behind)
{
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!connection->parser.wants_continue || bytes_behind != 0) {
        return; /* it did not wait */
    }
    if (!spin_http_buffer_append(&connection->out, go_on, sizeof go_on - 1)) {
        spin_http_connection_lose(connection);
    }
    spin_http_connection_mark(connection);
}

/* One step of the parser; false when it needs more bytes. */
static bool parse_step(struct spin_http_connection *connection, const char *bytes, uint64_t count,
                       uint64_t *used)
{
    if (!connection->in_request) {
        connection->in_request = true;
        connection->since_ns = now_ns(connection);
    }
    switch (spin_http_parse(&connection->parser, bytes, count, used)) {
    case SPIN_HTTP_MORE:
        return false;
    case SPIN_HTTP_HEAD:
        on_head(connection, count - *used);
        return true;
    case SPIN_HTTP_WHOLE:
        begin_exchange(connection);
        return connection->phase == SPIN_HTTP_READ;
    case SPIN_HTTP_FAILED:
        spin_http_connection_refuse(connection, connection->parser.status, connection->parser.text);
        return false;
    }
    return false;
}

/* At most one read buffer is kept: see on_alloc. */
static void keep_ahead(struct spin_http_connection *connection, const char *bytes, uint64_t count)
{
    if (connection->is_overrun) {
        connection->drain_bytes += count;
        return;
    }
    if (!spin_http_buffer_append(&connection->ahead, bytes, count)) {
        spin_http_connection_lose(connection);
    }
    if (connection->ahead.count >= AHEAD_BYTES_MAX && connection->phase == SPIN_HTTP_REPLY) {
        connection->is_overrun = true;
        connection->exchange.keep_alive = false;
        spin_http_buffer_release(&connection->ahead);
    }
}

/* Parses until a request waits for its reply, or for its client to read the one before. */
static void consume(struct spin_http_connection *connection, const char *bytes, uint64_t count)
{
    uint64_t at = 0;
    /* Behind what was kept before, its turn has yet to come. */
    bool goes_on = connection->phase == SPIN_HTTP_READ && connection->ahead.count == 0;
    while (goes_on && !connection->is_lost && (at < count || connection->parser.has_head) &&
           (connection->in_request || !spin_http_connection_is_blocked(connection))) {
        uint64_t used = 0;
        goes_on = parse_step(connection, bytes + at, count - at, &used);
        at += used;
        if (connection->out.count > SPIN_HTTP_OUT_BYTES_EARLY) {
            spin_http_connection_flush(connection);
        }
    }
    if (connection->phase != SPIN_HTTP_READ && connection->phase != SPIN_HTTP_REPLY) {
        connection->drain_bytes += count - at;
    } else {
        keep_ahead(connection, bytes + at, count - at);
    }
    spin_http_connection_mark(connection);
}

/* --- reading --- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    (void)suggested;
    struct spin_http_connection *connection = handle->data;
    out->base = connection->server->read_buffer;
    out->len = SPIN_HTTP_READ_BYTES;
    if (connection->phase == SPIN_HTTP_READ || connection->phase == SPIN_HTTP_REPLY) {
        out->len -= connection->ahead.count; /* so that what is kept has a bound */
    }
}

static void on_eof(struct spin_http_connection *connection)
{
    connection->has_eof = true;
    connection->is_reading = false;
    if (connection->phase == SPIN_HTTP_REPLY || connection->is_lost ||
        (connection->out.count == 0 && !spin_http_connection_is_blocked(connection))) {
        spin_http_connection_cut(connection);
    } else { /* it may still read what is on its way */
        connection->phase = SPIN_HTTP_DRAIN;
        spin_http_connection_mark(connection);
    }
}

static void stop_reading(struct spin_http_connection *connection)
{
    connection->is_reading = false;
    SPIN_ASSERT_EQ(uv_read_stop((uv_stream_t *)&connection->tcp), 0);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct spin_http_connection *connection = stream->data;
    if (count == UV_EOF) {
        on_eof(connection);
    } else if (count < 0) {
        spin_http_connection_cut(connection);
    } else if (count > 0) {
        connection->server->stats.bytes_in += (uint64_t)count;
        if (connection->phase == SPIN_HTTP_DRAIN) {
            connection->since_ns = now_ns(connection);
        }
        consume(connection, buffer->base, (uint64_t)count);
        if (connection->ahead.count >= AHEAD_BYTES_MAX && connection->is_reading) {
            stop_reading(connection);
        }
        if (connection->drain_bytes > DRAIN_BYTES_MAX) {
            spin_http_connection_lose(connection);
        }
    }
}

static void start_reading(struct spin_http_connection *connection)
{
    if (!connection->is_reading && !connection->has_eof &&
        connection->ahead.count < AHEAD_BYTES_MAX) {
        connection->is_reading = true;
        if (uv_read_start((uv_stream_t *)&connection->tcp, on_alloc, on_read) != 0) {
            spin_http_connection_lose(connection);
        }
    }
}

void spin_http_connection_open(struct spin_http_server *server)
{
    const uint64_t open = server->stats.connections_open;
    struct spin_http_connection *connection = connection_create(server);
    server->accept_waits = connection == NULL;
    if (connection == NULL) {
        return; /* libuv keeps the socket until we take it; the sweep tries again */
    }
    if (uv_accept((uv_stream_t *)&server->listener, (uv_stream_t *)&connection->tcp) != 0) {
        spin_http_connection_cut(connection);
        return;
    }
    if (open >= server->config.connections_max + CONNECTIONS_REFUSED_MAX) {
        server->stats.refused++; /* as the 503 for which there is no place */
        server->stats.refused_5xx++;
        spin_http_connection_cut(connection);
        return;
    }
    struct sockaddr_storage peer;
    int peer_bytes = sizeof peer;
    if (uv_tcp_getpeername(&connection->tcp, (struct sockaddr *)&peer, &peer_bytes) != 0) {
        peer.ss_family = AF_UNSPEC;
    }
    spin_net_format((const struct sockaddr *)&peer, connection->peer);
    enter(connection, SPIN_HTTP_READ);
    start_reading(connection);
    if (open >= server->config.connections_max) {
        spin_http_connection_refuse(connection, 503, "too many connections");
    }
}

/* --- turns --- */

static void shut(struct spin_http_connection *connection)
{
    int fd = -1;
    connection->is_shut = true;
    connection->since_ns = now_ns(connection);
    connection->write_since_ns = connection->since_ns;
    if (connection->is_torn) {
        tear(connection);
    }
    if (connection->has_eof || connection->is_torn ||
        uv_fileno((uv_handle_t *)&connection->tcp, &fd) != 0 || shutdown(fd, SHUT_WR) != 0) {
        spin_http_connection_cut(connection);
    }
}

void spin_http_connection_turn(struct spin_http_connection *connection)
{
    spin_http_connection_flush(connection);
    if (connection->is_lost) {
        spin_http_connection_cut(connection); /* nothing when it is cut already */
        return;
    }
    if (connection->phase == SPIN_HTTP_READ && connection->ahead.count != 0 &&
        !spin_http_connection_is_blocked(connection)) {
        struct spin_http_buffer ahead = connection->ahead;
        connection->ahead = (struct spin_http_buffer){0};
        consume(connection, ahead.bytes, ahead.count);
        spin_http_buffer_release(&ahead);
        spin_http_connection_mark(connection);
        return;
    }
    if (connection->phase == SPIN_HTTP_DRAIN) {
        spin_http_buffer_release(&connection->ahead);
        if (!connection->is_shut && !spin_http_connection_is_blocked(connection)) {
            shut(connection);
        }
    }
    if (connection->phase != SPIN_HTTP_CLOSED) {
        start_reading(connection);
    }
}

static void cut_slow(struct spin_http_connection *connection)
{
    connection->server->stats.slow_clients++;
    spin_http_connection_cut(connection);
}

static bool is_stalled(struct spin_http_connection *connection, uint64_t now)
{
    const uint64_t left = uv_stream_get_write_queue_size((uv_stream_t *)&connection->tcp);
    if (left != connection->flight_left) {
        connection->flight_left = left;
        connection->write_since_ns = now;
    }
    return now > connection->write_since_ns &&
           now - connection->write_since_ns > connection->server->config.write_timeout_ns;
}

void spin_http_connection_sweep(struct spin_http_connection *connection, uint64_t now)
{
    const struct spin_http_server_config *config = &connection->server->config;
    const uint64_t quiet_ns = now > connection->since_ns ? now - connection->since_ns : 0;
    if (connection->phase == SPIN_HTTP_CLOSED) {
        return;
    }
    if (spin_http_connection_is_blocked(connection)) {
        if (is_stalled(connection, now)) {
            cut_slow(connection);
        }
        return;
    }
    switch (connection->phase) {
    case SPIN_HTTP_READ:
        if (connection->in_request && quiet_ns > config->request_timeout_ns) {
            spin_http_connection_refuse(connection, 408, "the request took too long to arrive");
        } else if (!connection->in_request && quiet_ns > config->idle_timeout_ns) {
            spin_http_connection_cut(connection);
        }
        break;
    case SPIN_HTTP_DRAIN:
        if (connection->is_shut &&
            (quiet_ns > DRAIN_IDLE_NS ||
             now > connection->write_since_ns + config->request_timeout_ns)) {
            spin_http_connection_cut(connection);
        }
        break;
    case SPIN_HTTP_REPLY: /* takes as long as the handler wants */
    case SPIN_HTTP_CLOSED:
        break;
    }
}

void spin_http_connection_retire(struct spin_http_connection *connection)
{
    if (connection->phase != SPIN_HTTP_READ) {
        return;
    }
    if (connection->in_request) {
        spin_http_connection_refuse(connection, 503, "the server is shutting down");
    } else if (connection->out.count == 0 && !spin_http_connection_is_blocked(connection)) {
        spin_http_connection_cut(connection);
    } else {
        enter(connection, SPIN_HTTP_DRAIN);
    }
}
