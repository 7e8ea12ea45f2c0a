/* http_server_tool: an HTTP server for the tests that talk to it over real sockets.
 *
 *   http_server_tool [LIMIT=NUMBER]...     limits of struct spin_http_server_config; times in ms
 *
 * Prints its port. What the paths do:
 *
 *   /echo         the request as text: method, path, query, Host, X-Test, body
 *   /big?N        N bytes
 *   /status?N     an empty reply of that status
 *   /late?N       "late" after N ms
 *   /hold         a stream that says "held" and then nothing
 *   /hold-quiet   nothing at all
 *   /stream?N     N chunks of "chunk I;", one in each turn
 *   /burst?N      the same in one turn
 *   /flood        chunks of 64 KiB for as long as somebody takes them
 *   /torn         a stream that ends without being complete
 *   /inject       a header whose value has a line break
 *   /stats        the server's counters and ours
 *   /close?N      closes the server with a grace of N ms; the process ends when it is closed */
#include "base/clock.h"
#include "base/list.h"
#include "net/http_server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tool {
    struct spin_loop *loop;
    struct spin_http_server *server;
    struct spin_list tasks;
    uint64_t gone;
};

/* An exchange that goes on after its request. */
struct task {
    struct spin_loop_message message;
    struct spin_link link;
    struct tool *tool;
    struct spin_http_exchange *exchange;
    struct spin_timer *timer;
    uint64_t left;
    uint64_t index;
    bool floods;
    bool is_stream;
};

static void check(bool good, const char *what)
{
    if (!good) {
        (void)fprintf(stderr, "http_server_tool: %s\n", what);
        exit(1);
    }
}

static void respond_text(struct spin_http_exchange *exchange, const char *text, uint64_t count)
{
    const struct spin_http_reply reply = {
        .status = 200,
        .content_type = "text/plain",
        .body = text,
        .body_bytes = count,
    };
    spin_http_respond(exchange, &reply);
}

static void begin_stream(struct spin_http_exchange *exchange)
{
    static const struct spin_http_header_field no_store = {.name = "Cache-Control",
                                                           .value = "no-store"};
    const struct spin_http_reply reply = {
        .status = 200,
        .content_type = "text/event-stream",
        .headers = &no_store,
        .header_count = 1,
    };
    spin_http_stream_begin(exchange, &reply);
}

static struct task *make_task(struct tool *tool, struct spin_http_exchange *exchange)
{
    struct task *task = calloc(1, sizeof *task);
    check(task != NULL, "out of memory");
    task->tool = tool;
    task->exchange = exchange;
    spin_list_push_back(&tool->tasks, &task->link);
    spin_http_set_state(exchange, task);
    return task;
}

static void free_task(struct task *task)
{
    spin_timer_destroy(task->timer);
    spin_list_remove(&task->tool->tasks, &task->link);
    free(task);
}

/* --- paths --- */

static void echo(struct spin_http_exchange *exchange, const struct spin_http_request *request)
{
    const char *host = spin_http_header(exchange, "hOST");
    const char *test = spin_http_header(exchange, "x-test");
    char head[4096];
    const int head_bytes =
        snprintf(head, sizeof head, "%s|%s|%s|%s|%s|", request->method, request->path,
                 request->query, host == NULL ? "-" : host, test == NULL ? "-" : test);
    check(head_bytes >= 0 && (size_t)head_bytes < sizeof head, "echo: head too long");
    check(request->body[request->body_bytes] == '\0', "echo: no NUL behind the body");
    char *text = malloc((size_t)head_bytes + request->body_bytes);
    check(text != NULL, "out of memory");
    memcpy(text, head, (size_t)head_bytes);
    memcpy(text + head_bytes, request->body, request->body_bytes);
    respond_text(exchange, text, (uint64_t)head_bytes + request->body_bytes);
    free(text);
}

static void big(struct spin_http_exchange *exchange, uint64_t count)
{
    char *text = malloc(count + 1);
    check(text != NULL, "out of memory");
    memset(text, 'b', count);
    respond_text(exchange, text, count);
    free(text);
}

static void end_late(void *context)
{
    struct task *task = context;
    struct spin_http_exchange *exchange = task->exchange;
    free_task(task);
    respond_text(exchange, "late", 4);
}

static void write_chunk(struct task *task)
{
    char text[64];
    const int count = snprintf(text, sizeof text, "chunk %" PRIu64 ";", task->index++);
    spin_http_stream_write(task->exchange, text, (uint64_t)count);
}

static void flood_chunk(struct task *task)
{
    static const char zeros[64 * 1024];
    spin_http_stream_write(task->exchange, zeros, sizeof zeros);
}

static void stream_more(struct spin_loop_message *message)
{
    struct task *task = SPIN_CONTAINER_OF(message, struct task, message);
    if (task->left != 0 && !spin_http_is_gone(task->exchange)) {
        task->left--;
        if (task->floods) {
            flood_chunk(task);
        } else {
            write_chunk(task);
        }
        spin_loop_post(task->tool->loop, message);
        return;
    }
    spin_http_stream_end(task->exchange, true);
    free_task(task);
}

static void start_stream(struct tool *tool, struct spin_http_exchange *exchange, uint64_t count,
                         bool floods)
{
    struct task *task = make_task(tool, exchange);
    task->left = count;
    task->floods = floods;
    task->message.run = stream_more;
    begin_stream(exchange);
    spin_loop_post(tool->loop, &task->message);
}

static void burst(struct tool *tool, struct spin_http_exchange *exchange, uint64_t count)
{
    struct task *task = make_task(tool, exchange);
    begin_stream(exchange);
    for (uint64_t i = 0; i < count; i++) {
        write_chunk(task);
    }
    spin_http_stream_end(exchange, true);
    free_task(task);
}

static void respond_stats(struct tool *tool, struct spin_http_exchange *exchange)
{
    struct spin_http_server_stats stats;
    spin_http_server_get_stats(tool->server, &stats);
    char text[512];
    const int count = snprintf(
        text, sizeof text,
        "{\"connections\":%" PRIu64 ",\"connections_open\":%" PRIu64 ",\"exchanges_open\":%" PRIu64
        ",\"requests\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"gone\":%" PRIu64
        ",\"slow_clients\":%" PRIu64 ",\"bytes_in\":%" PRIu64 ",\"bytes_out\":%" PRIu64
        ",\"gone_calls\":%" PRIu64 "}",
        stats.connections, stats.connections_open, stats.exchanges_open, stats.requests,
        stats.refused, stats.gone, stats.slow_clients, stats.bytes_in, stats.bytes_out, tool->gone);
    respond_text(exchange, text, (uint64_t)count);
}

static void on_server_closed(void *context)
{
    struct tool *tool = context;
    spin_http_server_destroy(tool->server);
    tool->server = NULL;
    spin_loop_stop(tool->loop);
}

static void inject(struct spin_http_exchange *exchange)
{
    static const struct spin_http_header_field field = {.name = "X-Quoted",
                                                        .value = "a\r\nX-Injected: b"};
    const struct spin_http_reply reply = {.status = 200, .headers = &field, .header_count = 1};
    spin_http_respond(exchange, &reply);
}

static bool hold(struct tool *tool, struct spin_http_exchange *exchange, const char *path,
                 uint64_t number)
{
    if (strcmp(path, "/hold") == 0) {
        make_task(tool, exchange)->is_stream = true;
        begin_stream(exchange);
        spin_http_stream_write(exchange, "held", 4);
    } else if (strcmp(path, "/hold-quiet") == 0) {
        (void)make_task(tool, exchange);
    } else if (strcmp(path, "/late") == 0) {
        struct task *task = make_task(tool, exchange);
        check(spin_timer_create(tool->loop, end_late, task, &task->timer) == SPIN_OK, "timer");
        spin_timer_start(task->timer, number * SPIN_NS_PER_MS, false);
    } else if (strcmp(path, "/stream") == 0) {
        start_stream(tool, exchange, number, false);
    } else if (strcmp(path, "/flood") == 0) {
        start_stream(tool, exchange, UINT64_MAX, true);
    } else {
        return false;
    }
    return true;
}

static void on_request(void *context, struct spin_http_exchange *exchange,
                       const struct spin_http_request *request)
{
    struct tool *tool = context;
    const char *path = request->path;
    const uint64_t number = strtoull(request->query, NULL, 10);
    if (hold(tool, exchange, path, number)) {
        return;
    }
    if (strcmp(path, "/echo") == 0 || strcmp(path, "*") == 0) {
        echo(exchange, request);
    } else if (strcmp(path, "/big") == 0) {
        big(exchange, number);
    } else if (strcmp(path, "/burst") == 0) {
        burst(tool, exchange, number);
    } else if (strcmp(path, "/torn") == 0) {
        begin_stream(exchange);
        spin_http_stream_write(exchange, "part", 4);
        spin_http_stream_end(exchange, false);
    } else if (strcmp(path, "/inject") == 0) {
        inject(exchange);
    } else if (strcmp(path, "/stats") == 0) {
        respond_stats(tool, exchange);
    } else if (strcmp(path, "/close") == 0) {
        respond_text(exchange, "closing", 7);
        spin_http_server_close(tool->server, number * SPIN_NS_PER_MS, on_server_closed, tool);
    } else {
        const bool given = strcmp(path, "/status") == 0 && number >= 200 && number <= 599;
        const struct spin_http_reply reply = {.status = given ? (int)number : 404};
        spin_http_respond(exchange, &reply);
    }
}

/* A stream in progress ends itself at its next message; the others wait for nothing. */
static void on_gone(void *context, struct spin_http_exchange *exchange)
{
    struct tool *tool = context;
    struct task *task = spin_http_state(exchange);
    tool->gone++;
    check(spin_http_is_gone(exchange), "gone and yet there");
    if (task->message.run == NULL) {
        const bool is_stream = task->is_stream;
        free_task(task);
        if (is_stream) {
            spin_http_stream_end(exchange, true);
        } else {
            respond_text(exchange, "", 0);
        }
    }
}

static uint64_t format_error(void *context, int status, const char *text, char *out,
                             uint64_t capacity)
{
    (void)context;
    return (uint64_t)snprintf(out, capacity, "{\"error\":{\"code\":%d,\"message\":\"%s\"}}", status,
                              text);
}

/* --- options --- */

struct limit {
    const char *name;
    uint64_t *value;
    uint64_t unit;
};

static void set_limit(struct spin_http_server_config *config, const char *argument)
{
    uint64_t connections_max = config->connections_max;
    const struct limit limits[] = {
        {"header_bytes_max", &config->header_bytes_max, 1},
        {"body_bytes_max", &config->body_bytes_max, 1},
        {"bodies_bytes_max", &config->bodies_bytes_max, 1},
        {"write_bytes_max", &config->write_bytes_max, 1},
        {"connections_max", &connections_max, 1},
        {"idle_timeout", &config->idle_timeout_ns, SPIN_NS_PER_MS},
        {"request_timeout", &config->request_timeout_ns, SPIN_NS_PER_MS},
        {"write_timeout", &config->write_timeout_ns, SPIN_NS_PER_MS},
    };
    const char *equals = strchr(argument, '=');
    check(equals != NULL, "LIMIT=NUMBER");
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(limits); i++) {
        if (strncmp(limits[i].name, argument, (size_t)(equals - argument)) == 0) {
            *limits[i].value = strtoull(equals + 1, NULL, 10) * limits[i].unit;
            config->connections_max = (uint32_t)connections_max;
            return;
        }
    }
    check(false, "no such limit");
}

int main(int argc, char **argv)
{
    struct tool tool = {0};
    struct spin_error err;
    struct spin_http_server_config config = spin_http_server_config_default();
    config.listen = "127.0.0.1:0";
    config.context = &tool;
    config.request = on_request;
    config.gone = on_gone;
    config.format_error = format_error;
    config.error_content_type = "application/json";
    for (int i = 1; i < argc; i++) {
        set_limit(&config, argv[i]);
    }
    spin_list_init(&tool.tasks);
    check(spin_loop_create(&tool.loop, &err) == SPIN_OK, err.text);
    if (spin_http_server_create(tool.loop, &config, &tool.server, &err) != SPIN_OK) {
        check(false, err.text);
    }
    (void)printf("%u\n", spin_http_server_port(tool.server));
    (void)fflush(stdout);
    spin_loop_run(tool.loop);
    check(tool.server == NULL, "the loop ended before the server");
    check(tool.tasks.count == 0, "exchanges left over");
    spin_loop_destroy(tool.loop);
    return 0;
}
