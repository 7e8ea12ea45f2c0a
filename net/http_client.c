#include "net/http_client.h"

#include "base/address.h"
#include "base/list.h"
#include "net/http_internal.h"

#include <uv.h>

#include <llhttp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_BYTES (64u << 10)

/* A connection and, one at a time, its call:
 *
 *     DIALLING --> BUSY --> KEPT --> BUSY ...      any --> CLOSING --> freed
 *
 * What ends a call in the middle closes its connection, and `finished` comes from there. */
enum phase { DIALLING, BUSY, KEPT, CLOSING };

struct spin_http_call { /* in its connection */
    bool is_open;
    bool is_cancelled;
    struct spin_http_call_request handlers; /* its texts are not kept */
    struct spin_http_outcome outcome;
    char text[160];
};

struct connection {
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    bool is_writing;
    struct spin_link link; /* all of the client's */
    struct spin_link kept_link;
    struct spin_http_client *client;
    enum phase phase;
    struct spin_http_buffer out; /* the request, until it is with the kernel */
    struct llhttp__internal_s llhttp;
    uint64_t head_bytes;
    bool is_whole;   /* the answer's end was seen in what is being parsed */
    bool keep_alive; /* so said the answer's end */
    struct spin_http_call call;
};

struct spin_http_client {
    struct spin_loop *loop;
    struct sockaddr_storage address;
    char host[SPIN_ADDRESS_TEXT_BYTES];
    uint32_t connections_max;
    uint64_t head_bytes_max;
    struct spin_list connections;
    struct spin_list kept;
    bool is_abandoned; /* destroyed; freed with its last connection */
    struct spin_http_client_stats stats;
    uint64_t read_ns; /* when the bytes in hand came */
    char bytes[READ_BYTES];
};

/* --- the end of calls and connections --- */

/* The connection may have another call when this returns. */
static void end_call(struct connection *connection)
{
    struct spin_http_call *call = &connection->call;
    const struct spin_http_call_request handlers = call->handlers;
    struct spin_http_outcome outcome = call->outcome;
    char text[sizeof call->text];
    (void)snprintf(text, sizeof text, "%s", call->text);
    outcome.text = text;
    call->is_open = false;
    connection->client->stats.calls_open--;
    handlers.finished(handlers.context, &outcome);
}

static void client_release(struct spin_http_client *client)
{
    if (client->is_abandoned && client->connections.count == 0) {
        free(client);
    }
}

static void connection_destroy(struct connection *connection)
{
    struct spin_http_client *client = connection->client;
    spin_list_remove(&client->connections, &connection->link);
    spin_http_buffer_release(&connection->out);
    free(connection);
}

static void on_closed(uv_handle_t *handle)
{
    struct connection *connection = handle->data;
    struct spin_http_client *client = connection->client;
    client->stats.connections_open--;
    if (connection->call.is_open) {
        end_call(connection);
    }
    connection_destroy(connection);
    client_release(client);
}

static void close_connection(struct connection *connection)
{
    if (connection->phase == KEPT) {
        spin_list_remove(&connection->client->kept, &connection->kept_link);
    }
    if (connection->phase != CLOSING) {
        connection->phase = CLOSING;
        uv_close((uv_handle_t *)&connection->tcp, on_closed);
    }
}

/* The first reason is the one that is told. */
static void fail_call(struct connection *connection, spin_status status, const char *text)
{
    struct spin_http_call *call = &connection->call;
    if (connection->phase != CLOSING && call->is_open) {
        call->outcome.status = status;
        (void)snprintf(call->text, sizeof call->text, "%s", text);
    }
    close_connection(connection);
}

void spin_http_call_cancel(struct spin_http_call *call)
{
    struct connection *connection = SPIN_CONTAINER_OF(call, struct connection, call);
    spin_loop_assert_thread(connection->client->loop);
    SPIN_ASSERT(call->is_open);
    call->is_cancelled = true;
    fail_call(connection, SPIN_ERR_CANCELLED, "cancelled");
}

/* --- what an answer says --- */

static int on_headers_complete(llhttp_t *llhttp)
{
    struct connection *connection = llhttp->data;
    struct spin_http_call *call = &connection->call;
    if (llhttp->status_code >= 100 && llhttp->status_code < 200) {
        return llhttp->status_code == HTTP_STATUS_SWITCHING_PROTOCOLS ? HPE_USER : 0;
    }
    call->outcome.stage = SPIN_HTTP_STAGE_BODY;
    call->outcome.code = llhttp->status_code;
    if (call->handlers.head != NULL) {
        call->handlers.head(call->handlers.context, call->outcome.code);
    }
    return call->is_cancelled ? HPE_USER : 0;
}

static int on_body(llhttp_t *llhttp, const char *at, size_t count)
{
    struct connection *connection = llhttp->data;
    struct spin_http_call *call = &connection->call;
    if (call->handlers.body_received != NULL) {
        call->handlers.body_received(call->handlers.context, connection->client->read_ns, at,
                                     count);
    }
    return call->is_cancelled ? HPE_USER : 0;
}

static int on_message_complete(llhttp_t *llhttp)
{
    struct connection *connection = llhttp->data;
    if (connection->call.outcome.stage != SPIN_HTTP_STAGE_BODY) {
        connection->head_bytes = 0; /* "100 Continue": the answer is still to come */
        return 0;
    }
    connection->is_whole = true;
    connection->keep_alive = llhttp_should_keep_alive(llhttp) != 0;
    return HPE_PAUSED;
}

static const llhttp_settings_t settings = {
    .on_headers_complete = on_headers_complete,
    .on_body = on_body,
    .on_message_complete = on_message_complete,
};

static bool is_busy(const struct connection *connection)
{
    return connection->phase == BUSY;
}

/* The answer is whole; `rest` bytes came behind it, which nobody asked for. */
static void take_whole(struct connection *connection, uint64_t rest)
{
    struct spin_http_client *client = connection->client;
    struct spin_http_call *call = &connection->call;
    call->outcome.stage = SPIN_HTTP_STAGE_WHOLE;
    call->outcome.status = SPIN_OK;
    call->text[0] = '\0';
    if (!connection->keep_alive || rest != 0 || connection->is_writing) {
        close_connection(connection);
        return;
    }
    connection->phase = KEPT;
    spin_list_push_front(&client->kept, &connection->kept_link);
    end_call(connection);
}

static void parse(struct connection *connection, const char *bytes, uint64_t count)
{
    const bool in_head = connection->call.outcome.stage != SPIN_HTTP_STAGE_BODY;
    const llhttp_errno_t error = llhttp_execute(&connection->llhttp, bytes, count);
    if (!is_busy(connection)) {
        return; /* cancelled from a callback */
    }
    if (connection->is_whole) {
        const char *end = llhttp_get_error_pos(&connection->llhttp);
        take_whole(connection, end == NULL ? 0 : count - (uint64_t)(end - bytes));
        return;
    }
    if (error != HPE_OK) {
        char text[128];
        (void)snprintf(text, sizeof text, "not HTTP/1.1: %s", llhttp_errno_name(error));
        fail_call(connection, SPIN_ERR_CORRUPT, text);
        return;
    }
    connection->head_bytes += in_head ? count : 0;
    if (in_head && connection->call.outcome.stage != SPIN_HTTP_STAGE_BODY &&
        connection->head_bytes > connection->client->head_bytes_max) {
        fail_call(connection, SPIN_ERR_LIMIT, "the head of the answer does not end");
    }
}

/* --- reading --- */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct connection *connection = handle->data;
    (void)suggested;
    *out = uv_buf_init(connection->client->bytes, READ_BYTES);
}

static void on_end(struct connection *connection, ssize_t failure)
{
    if (failure == UV_EOF && is_busy(connection) &&
        connection->call.outcome.stage == SPIN_HTTP_STAGE_BODY) {
        /* An answer without a length ends with its connection: is_whole says whether it was one. */
        (void)llhttp_finish(&connection->llhttp);
    }
    if (is_busy(connection) && connection->is_whole) {
        connection->keep_alive = false;
        take_whole(connection, 0);
        return;
    }
    char text[128];
    (void)snprintf(text, sizeof text, "the connection ended %s: %s",
                   connection->call.outcome.stage == SPIN_HTTP_STAGE_BODY ? "in the answer"
                                                                          : "before an answer",
                   failure == UV_EOF ? "closed by the peer" : uv_strerror((int)failure));
    fail_call(connection, SPIN_ERR_PEER_LOST, text);
}

static void on_read(uv_stream_t *stream, ssize_t count, const uv_buf_t *buffer)
{
    struct connection *connection = stream->data;
    struct spin_http_client *client = connection->client;
    if (count == 0 || connection->phase == CLOSING) {
        return;
    }
    if (count < 0) {
        on_end(connection, count);
        return;
    }
    client->stats.bytes_in += (uint64_t)count;
    if (!is_busy(connection)) {
        close_connection(connection); /* an answer to no question */
        return;
    }
    client->read_ns = spin_loop_now_ns(client->loop);
    parse(connection, buffer->base, (uint64_t)count);
}

/* --- asking --- */

static void on_written(uv_write_t *write, int failure)
{
    struct connection *connection = write->data;
    connection->is_writing = false;
    spin_http_buffer_release(&connection->out);
    if (failure != 0 && connection->phase != CLOSING) {
        char text[128];
        (void)snprintf(text, sizeof text, "the request could not be sent: %s",
                       uv_strerror(failure));
        fail_call(connection, SPIN_ERR_PEER_LOST, text);
    }
}

static void send_request(struct connection *connection)
{
    struct spin_http_buffer *out = &connection->out;
    uv_stream_t *stream = (uv_stream_t *)&connection->tcp;
    connection->phase = BUSY;
    connection->call.outcome.stage = SPIN_HTTP_STAGE_SENT;
    connection->client->stats.bytes_out += out->count;
    const uv_buf_t all = uv_buf_init(out->bytes, (unsigned int)out->count);
    const int written = uv_try_write(stream, &all, 1);
    if (written >= 0 && (uint64_t)written == out->count) {
        spin_http_buffer_release(out);
        return;
    }
    /* A failure of the first try comes again from the second, to where failures belong. */
    const uint64_t taken = written < 0 ? 0 : (uint64_t)written;
    const uv_buf_t rest = uv_buf_init(out->bytes + taken, (unsigned int)(out->count - taken));
    connection->write.data = connection;
    connection->is_writing = true;
    const int failure = uv_write(&connection->write, stream, &rest, 1, on_written);
    if (failure != 0) {
        on_written(&connection->write, failure);
    }
}

static void on_connected(uv_connect_t *connect, int failure)
{
    struct connection *connection = connect->data;
    if (connection->phase == CLOSING) {
        return;
    }
    if (failure == 0) {
        (void)uv_tcp_nodelay(&connection->tcp, 1);
        failure = uv_read_start((uv_stream_t *)&connection->tcp, on_alloc, on_read);
    }
    if (failure != 0) {
        char text[128];
        (void)snprintf(text, sizeof text, "no connection: %s", uv_strerror(failure));
        fail_call(connection, SPIN_ERR_PEER_LOST, text);
        return;
    }
    send_request(connection);
}

static spin_status connection_create(struct spin_http_client *client, struct connection **out,
                                     struct spin_error *err)
{
    if (client->connections.count >= client->connections_max) {
        return spin_fail(err, SPIN_ERR_EXHAUSTED, "%u connections are open already",
                         client->connections_max);
    }
    struct connection *connection = calloc(1, sizeof *connection);
    if (connection == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a connection: %zu bytes", sizeof *connection);
    }
    /* With the family given, the socket is made here: running out of them is an error of submit. */
    const int failure =
        uv_tcp_init_ex(spin_loop_uv(client->loop), &connection->tcp, client->address.ss_family);
    if (failure != 0) {
        free(connection);
        return spin_fail(err, spin_net_status(failure), "a socket: %s", uv_strerror(failure));
    }
    connection->tcp.data = connection;
    connection->client = client;
    connection->phase = DIALLING;
    spin_list_push_back(&client->connections, &connection->link);
    client->stats.dialled++;
    client->stats.connections_open++;
    *out = connection;
    return SPIN_OK;
}

static bool write_request(const struct spin_http_client *client,
                          const struct spin_http_call_request *request,
                          struct spin_http_buffer *out)
{
    const char *fields = request->fields == NULL ? "" : request->fields;
    const uint64_t head_bytes = strlen(request->method) + strlen(request->path) +
                                strlen(client->host) + strlen(fields) + 128;
    if (!spin_http_buffer_grow(out, head_bytes + request->body_bytes)) {
        return false;
    }
    const int head =
        snprintf(out->bytes, head_bytes,
                 "%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %llu\r\n\r\n", request->method,
                 request->path, client->host, fields, (unsigned long long)request->body_bytes);
    SPIN_ASSERT(head > 0 && (uint64_t)head < head_bytes);
    out->count = (uint64_t)head;
    return spin_http_buffer_append(out, request->body, request->body_bytes);
}

static void open_call(struct connection *connection, const struct spin_http_call_request *request)
{
    connection->call = (struct spin_http_call){.is_open = true, .handlers = *request};
    connection->is_whole = false;
    connection->head_bytes = 0;
    llhttp_init(&connection->llhttp, HTTP_RESPONSE, &settings);
    connection->llhttp.data = connection;
    connection->client->stats.calls_open++;
}

static void dial(struct connection *connection)
{
    connection->connect.data = connection;
    const int failure =
        uv_tcp_connect(&connection->connect, &connection->tcp,
                       (const struct sockaddr *)&connection->client->address, on_connected);
    if (failure != 0) {
        on_connected(&connection->connect, failure); /* `finished` comes when it is closed */
    }
}

/* The one that was put back last; NULL: none. */
static struct connection *take_kept(struct spin_http_client *client)
{
    struct spin_link *kept = spin_list_first(&client->kept);
    if (kept == NULL) {
        return NULL;
    }
    spin_list_remove(&client->kept, kept);
    return SPIN_CONTAINER_OF(kept, struct connection, kept_link);
}

spin_status spin_http_client_submit(struct spin_http_client *client,
                                    const struct spin_http_call_request *request,
                                    struct spin_http_call **out, struct spin_error *err)
{
    spin_loop_assert_thread(client->loop);
    SPIN_ASSERT(request->finished != NULL);
    struct spin_http_buffer bytes = {0};
    if (!write_request(client, request, &bytes)) {
        spin_http_buffer_release(&bytes);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a request of %llu bytes",
                         (unsigned long long)request->body_bytes);
    }
    struct connection *connection = take_kept(client);
    const bool is_kept = connection != NULL;
    if (!is_kept) {
        const spin_status status = connection_create(client, &connection, err);
        if (status != SPIN_OK) {
            spin_http_buffer_release(&bytes);
            return status;
        }
    }
    SPIN_ASSERT(connection != NULL);
    open_call(connection, request);
    connection->out = bytes;
    if (is_kept) {
        send_request(connection);
    } else {
        dial(connection);
    }
    *out = &connection->call;
    return SPIN_OK;
}

/* --- life --- */

static spin_status read_address(const char *text, struct sockaddr_storage *out,
                                struct spin_error *err)
{
    struct spin_address parts;
    SPIN_TRY(spin_address_split(text, &parts, err));
    const int port = (int)strtoul(parts.port, NULL, 10);
    if (uv_ip4_addr(parts.host, port, (struct sockaddr_in *)out) != 0 &&
        uv_ip6_addr(parts.host, port, (struct sockaddr_in6 *)out) != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "\"%.128s\": not a numeric address", text);
    }
    return SPIN_OK;
}

spin_status spin_http_client_create(struct spin_loop *loop,
                                    const struct spin_http_client_config *config,
                                    struct spin_http_client **out, struct spin_error *err)
{
    SPIN_ASSERT_NE(config->connections_max, 0);
    struct sockaddr_storage address = {0};
    SPIN_TRY(read_address(config->address, &address, err));
    const char *host = config->host == NULL ? config->address : config->host;
    struct spin_http_client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "an HTTP client: %zu bytes", sizeof *client);
    }
    if (strlen(host) >= sizeof client->host) {
        free(client);
        return spin_fail(err, SPIN_ERR_INVALID, "\"%.128s\": longer than %zu bytes", host,
                         sizeof client->host - 1);
    }
    (void)snprintf(client->host, sizeof client->host, "%s", host);
    client->loop = loop;
    client->address = address;
    client->connections_max = config->connections_max;
    client->head_bytes_max = config->head_bytes_max;
    spin_list_init(&client->connections);
    spin_list_init(&client->kept);
    (void)signal(SIGPIPE, SIG_IGN);
    spin_loop_hold(loop);
    *out = client;
    return SPIN_OK;
}

void spin_http_client_destroy(struct spin_http_client *client)
{
    if (client == NULL) {
        return;
    }
    spin_loop_release(client->loop);
    SPIN_ASSERT_EQ(client->stats.calls_open, 0);
    client->is_abandoned = true;
    SPIN_LIST_FOREACH (&client->connections, link) {
        close_connection(SPIN_CONTAINER_OF(link, struct connection, link)); /* leaves it later */
    }
    client_release(client);
}

void spin_http_client_get_stats(const struct spin_http_client *client,
                                struct spin_http_client_stats *out)
{
    *out = client->stats;
}
