#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "net/http_internal.h"

#include <uv.h>

#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 1024
/* So little, that what waits for a slow client waits here, where it is counted and bounded. */
#define SEND_BUFFER_BYTES (256 * 1024)
/* A client that vanished without a word while its request waits: found after about two minutes. */
#define KEEPALIVE_IDLE_S 60
#define KEEPALIVE_INTERVAL_S 10
#define KEEPALIVE_PROBES 6
/* How exact the timeouts are: one timer for all connections, not one for each. */
#define SWEEP_MS 100

struct spin_http_server_config spin_http_server_config_default(void)
{
    return (struct spin_http_server_config){
        .listen_flag = "--listen",
        .header_bytes_max = 32u << 10,
        .body_bytes_max = 16u << 20,
        .bodies_bytes_max = 256u << 20,
        .write_bytes_max = 1u << 20,
        .connections_max = 10000,
        .idle_timeout_ns = 120 * SPIN_NS_PER_S, /* longer than what proxies keep by default */
        .request_timeout_ns = 60 * SPIN_NS_PER_S,
        .write_timeout_ns = 30 * SPIN_NS_PER_S,
    };
}

/* --- the end --- */

static void server_release(struct spin_http_server *server)
{
    if (server->is_abandoned) {
        free(server);
    } else if (server->closed != NULL) {
        server->closed(server->closed_context); /* may destroy the server */
    }
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct spin_http_server *server = handle->data;
    server->handles--;
    spin_http_server_forget(server);
}

static void close_handle(uv_handle_t *handle)
{
    if (!uv_is_closing(handle)) {
        uv_close(handle, on_handle_closed);
    }
}

void spin_http_server_forget(struct spin_http_server *server)
{
    if (!server->is_closing || server->connections.count != 0) {
        return;
    }
    if (server->handles == 0) {
        server_release(server);
    } else if (!server->is_finishing) {
        server->is_finishing = true;
        close_handle((uv_handle_t *)&server->listener);
        close_handle((uv_handle_t *)&server->prepare);
        close_handle((uv_handle_t *)&server->check);
        close_handle((uv_handle_t *)&server->sweep);
        close_handle((uv_handle_t *)&server->grace);
    }
}

static void cut_all(struct spin_http_server *server)
{
    SPIN_LIST_FOREACH (&server->connections, link) {
        spin_http_connection_cut(
            SPIN_CONTAINER_OF(link, struct spin_http_connection, link)); /* leaves the list later */
    }
}

static void on_grace(uv_timer_t *timer)
{
    cut_all(timer->data);
}

void spin_http_server_close(struct spin_http_server *server, uint64_t grace_ns,
                            void (*closed)(void *context), void *context)
{
    spin_loop_assert_thread(server->loop);
    SPIN_ASSERT(!server->is_closing);
    server->is_closing = true;
    server->closed = closed;
    server->closed_context = context;
    close_handle((uv_handle_t *)&server->listener);
    SPIN_LIST_FOREACH (&server->connections, link) {
        spin_http_connection_retire(SPIN_CONTAINER_OF(link, struct spin_http_connection, link));
    }
    /* A year is as good as never. */
    const uint64_t grace_ms = SPIN_MIN(grace_ns / SPIN_NS_PER_MS, UINT64_C(31536000000));
    uv_update_time(server->grace.loop);
    SPIN_ASSERT_EQ(uv_timer_start(&server->grace, on_grace, grace_ms, 0), 0);
    spin_http_server_forget(server);
}

void spin_http_server_destroy(struct spin_http_server *server)
{
    if (server == NULL) {
        return;
    }
    spin_loop_release(server->loop);
    SPIN_ASSERT_EQ(server->stats.exchanges_open, 0);
    server->is_abandoned = true;
    if (server->handles == 0) {
        server_release(server);
        return;
    }
    server->is_closing = true;
    cut_all(server);
    spin_http_server_forget(server);
}

/* --- turns --- */

static void turn(struct spin_http_server *server)
{
    struct spin_link *link;
    while ((link = spin_list_first(&server->dirty)) != NULL) {
        spin_list_remove(&server->dirty, link);
        spin_http_connection_turn(SPIN_CONTAINER_OF(link, struct spin_http_connection, dirty_link));
    }
}

/* Before the loop sleeps: what timers and idle handlers left to do. */
static void on_prepare(uv_prepare_t *prepare)
{
    turn(prepare->data);
}

/* After all sockets and messages of this turn. */
static void on_check(uv_check_t *check)
{
    turn(check->data);
}

static void on_sweep(uv_timer_t *sweep)
{
    struct spin_http_server *server = sweep->data;
    const uint64_t now_ns = spin_loop_now_ns(server->loop);
    SPIN_LIST_FOREACH (&server->connections, link) {
        spin_http_connection_sweep(SPIN_CONTAINER_OF(link, struct spin_http_connection, link),
                                   now_ns);
    }
    if (server->accept_waits && !server->is_closing) {
        spin_http_connection_open(server);
    }
    if (server->connections.count == 0 && !server->accept_waits) {
        (void)uv_timer_stop(sweep);
    }
}

/* Out of descriptors, mostly: once a second is enough to know. */
static void warn_refused(struct spin_http_server *server, int status)
{
    const uint64_t now_ns = spin_loop_now_ns(server->loop);
    server->accepts_failed++;
    if (now_ns >= server->warn_at_ns) {
        SPIN_WARN("connections not taken: reason=%s count=%llu", uv_strerror(status),
                  (unsigned long long)server->accepts_failed);
        server->warn_at_ns = now_ns + SPIN_NS_PER_S;
    }
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct spin_http_server *server = listener->data;
    if (status != 0) {
        warn_refused(server, status);
        return;
    }
    spin_http_connection_open(server);
    if (uv_is_active((uv_handle_t *)&server->sweep) == 0) {
        (void)uv_timer_start(&server->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
    }
}

/* --- the start --- */

/* Thousands of streams are thousands of descriptors; the soft limit is often 1,024. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof value); /* without it we are slower */
}

/* Accepted sockets inherit all of these. */
static void set_options(int fd)
{
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
}

/* A listening socket, or -1 with errno. */
static int listen_on(const struct addrinfo *address)
{
    const int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return -1;
    }
    set_options(fd);
    if (bind(fd, address->ai_addr, address->ai_addrlen) != 0 || listen(fd, BACKLOG) != 0) {
        const int saved_errno = errno;
        (void)close(fd);
        errno = saved_errno;
        return -1;
    }
    return fd;
}

static spin_status open_listener(const struct spin_http_server_config *config, int *out,
                                 struct spin_error *err)
{
    struct spin_address target;
    SPIN_TRY(spin_address_split(config->listen, &target, err));
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    const int failure = getaddrinfo(target.host, target.port, &hints, &found);
    if (failure != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "cannot listen on %.128s: %s; change %s",
                         config->listen, gai_strerror(failure), config->listen_flag);
    }
    int fd = -1;
    for (const struct addrinfo *info = found; info != NULL && fd < 0; info = info->ai_next) {
        fd = listen_on(info);
    }
    char buffer[96];
    const char *reason = strerror_r(errno, buffer, sizeof buffer);
    freeaddrinfo(found);
    if (fd < 0) {
        return spin_fail(err, SPIN_ERR_IO, "cannot listen on %.128s: %s; choose another with %s",
                         config->listen, reason, config->listen_flag);
    }
    *out = fd;
    return SPIN_OK;
}

static void init_handles(struct spin_http_server *server)
{
    uv_loop_t *uv = spin_loop_uv(server->loop);
    uv_handle_t *handles[] = {
        (uv_handle_t *)&server->listener, (uv_handle_t *)&server->prepare,
        (uv_handle_t *)&server->check,    (uv_handle_t *)&server->sweep,
        (uv_handle_t *)&server->grace,
    };
    SPIN_ASSERT_EQ(uv_tcp_init(uv, &server->listener), 0);
    SPIN_ASSERT_EQ(uv_prepare_init(uv, &server->prepare), 0);
    SPIN_ASSERT_EQ(uv_check_init(uv, &server->check), 0);
    SPIN_ASSERT_EQ(uv_timer_init(uv, &server->sweep), 0);
    SPIN_ASSERT_EQ(uv_timer_init(uv, &server->grace), 0);
    SPIN_ASSERT_EQ(uv_prepare_start(&server->prepare, on_prepare), 0);
    SPIN_ASSERT_EQ(uv_check_start(&server->check, on_check), 0);
    server->handles = SPIN_ARRAY_COUNT(handles);
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(handles); i++) {
        handles[i]->data = server;
    }
    /* The listener and the connections are what the loop waits for; these only help. */
    uv_unref((uv_handle_t *)&server->prepare);
    uv_unref((uv_handle_t *)&server->check);
    uv_unref((uv_handle_t *)&server->sweep);
}

static struct spin_http_server *server_create(struct spin_loop *loop,
                                              const struct spin_http_server_config *config)
{
    struct spin_http_server *server = calloc(1, sizeof *server);
    if (server == NULL) {
        return NULL;
    }
    server->loop = loop;
    server->config = *config;
    server->bodies.max = config->bodies_bytes_max;
    server->limits = (struct spin_http_limits){
        .header_bytes_max = config->header_bytes_max,
        .body_bytes_max = config->body_bytes_max,
        .bodies = &server->bodies,
    };
    spin_list_init(&server->connections);
    spin_list_init(&server->dirty);
    init_handles(server);
    spin_loop_hold(loop);
    return server;
}

static uint32_t port_of(uv_tcp_t *listener)
{
    struct sockaddr_storage address = {0};
    int bytes = sizeof address;
    SPIN_ASSERT_EQ(uv_tcp_getsockname(listener, (struct sockaddr *)&address, &bytes), 0);
    return address.ss_family == AF_INET6
               ? ntohs(((const struct sockaddr_in6 *)(const void *)&address)->sin6_port)
               : ntohs(((const struct sockaddr_in *)(const void *)&address)->sin_port);
}

spin_status spin_http_server_create(struct spin_loop *loop,
                                    const struct spin_http_server_config *config,
                                    struct spin_http_server **out, struct spin_error *err)
{
    SPIN_ASSERT(config->request != NULL);
    SPIN_ASSERT_GE(config->header_bytes_max, 64);
    SPIN_ASSERT_LT(config->body_bytes_max, UINT64_MAX / 4);
    SPIN_ASSERT_NE(config->connections_max, 0);
    spin_loop_assert_thread(loop);
    int fd = -1;
    SPIN_TRY(open_listener(config, &fd, err));
    struct spin_http_server *server = server_create(loop, config);
    if (server == NULL) {
        (void)close(fd);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "HTTP server: %zu bytes", sizeof *server);
    }
    int failure = uv_tcp_open(&server->listener, fd);
    if (failure != 0) {
        (void)close(fd);
    } else {
        failure = uv_listen((uv_stream_t *)&server->listener, BACKLOG, on_connection);
    }
    if (failure != 0) {
        spin_http_server_destroy(server);
        return spin_fail(err, spin_net_status(failure), "cannot listen on %.128s: %s",
                         config->listen, uv_strerror(failure));
    }
    raise_descriptor_limit();
    (void)signal(SIGPIPE, SIG_IGN); /* libuv's writes to a client that left would end the process */
    server->port = port_of(&server->listener);
    server->config.listen = NULL; /* borrowed for the call alone */
    server->config.listen_flag = NULL;
    *out = server;
    return SPIN_OK;
}

uint32_t spin_http_server_port(const struct spin_http_server *server)
{
    return server->port;
}

void spin_http_server_get_stats(const struct spin_http_server *server,
                                struct spin_http_server_stats *out)
{
    *out = server->stats;
}
