/* spin-stream-client: opens many streaming completions, checks every token, times its way.
 *
 * One thread, one epoll. A token's latency is the moment at which its bytes were read less the
 * moment at which the stub worker sent it (stub_tokens.h); both processes are on one machine.
 * Every connection asks again when its answer has ended: requests are part of the picture. */
#include "base/clock.h"
#include "base/config.h"
#include "base/rng.h"
#include "bench/router/stub_tokens.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES (256 << 10)
#define LINE_BYTES 16384u /* of one event, where many tokens may come in one; more is lost */
#define EVENTS_MAX 256
#define PROMPT_TOKENS_MAX 4096u
#define REQUEST_BYTES (PROMPT_TOKENS_MAX * 5 + 1024)

struct options {
    const char *router;
    const char *model;
    const char *times;
    uint32_t streams;
    uint32_t tokens;
    uint32_t prompt_tokens;
    uint32_t router_pid;
    uint64_t warmup_ns;
    uint64_t measure_ns;
};

#define FIELD(name) .offset = offsetof(struct options, name)
#define NO_RANGE .min = 0, .max = -1

static const struct spin_option option_table[] = {
    {.name = "router",
     .type = SPIN_OPTION_STRING,
     FIELD(router),
     .required = true,
     NO_RANGE,
     .help = "address:port of the router's HTTP, an IPv4 address."},
    {.name = "model",
     .type = SPIN_OPTION_STRING,
     FIELD(model),
     .required = true,
     NO_RANGE,
     .help = "The model's name."},
    {.name = "times",
     .type = SPIN_OPTION_STRING,
     FIELD(times),
     .required = true,
     NO_RANGE,
     .help = "The file in which the stub workers keep the moments of sending."},
    {.name = "streams",
     .type = SPIN_OPTION_U32,
     FIELD(streams),
     .default_value = "100",
     .min = 1,
     .max = SPIN_STUB_STREAMS_MAX,
     .help = "Open at once."},
    {.name = "tokens",
     .type = SPIN_OPTION_U32,
     FIELD(tokens),
     .default_value = "256",
     .min = 1,
     .max = SPIN_STUB_TOKENS_MAX,
     .unit = "tokens",
     .help = "Of one answer."},
    {.name = "prompt-tokens",
     .type = SPIN_OPTION_U32,
     FIELD(prompt_tokens),
     .default_value = "128",
     .min = 2,
     .max = PROMPT_TOKENS_MAX,
     .unit = "tokens",
     .help = "Of one prompt, sent as ids."},
    {.name = "router-pid",
     .type = SPIN_OPTION_U32,
     FIELD(router_pid),
     .default_value = "0",
     .min = 0,
     .max = UINT32_MAX,
     .help = "The process whose processor time is read; 0: none."},
    {.name = "warmup",
     .type = SPIN_OPTION_DURATION,
     FIELD(warmup_ns),
     .default_value = "2s",
     NO_RANGE,
     .help = "Until measuring starts; in its first half the streams are opened, one by one."},
    {.name = "measure",
     .type = SPIN_OPTION_DURATION,
     FIELD(measure_ns),
     .default_value = "10s",
     NO_RANGE,
     .help = "How long is measured."},
};

static const struct spin_config_spec spec = {
    .program = "spin-stream-client",
    .synopsis = "",
    .about = "Streams completions through a router and prints rates and latencies as JSON.",
    .options = option_table,
    .option_count = SPIN_ARRAY_COUNT(option_table),
};

/* Where in a reply a connection is. Bodies are chunked:
 *
 *   HEADERS --empty line--> SIZE --> DATA --> DATA_END --> SIZE ... size 0 --> LAST_LINE */
enum place { HEADERS, SIZE, DATA, DATA_END, LAST_LINE };

struct line {
    uint32_t bytes;
    char text[LINE_BYTES];
};

struct stream {
    int socket;
    uint32_t index;
    uint32_t round;
    uint64_t key;
    uint32_t tokens; /* that have come */
    uint32_t tokens_max;
    bool done; /* the event [DONE] has come */
    enum place place;
    uint64_t chunk_left;
    struct line frame; /* a header, the size of a chunk */
    struct line event; /* goes on over the ends of chunks */
};

struct counts {
    uint64_t tokens;
    uint64_t events; /* that carried text */
    uint64_t answers;
    uint64_t wrong; /* tokens that are not what the stub draws */
    uint64_t untimed;
};

struct client {
    struct options options;
    struct sockaddr_in router;
    struct spin_stub_times *times;
    struct stream *streams;
    uint32_t opened;
    int epoll;
    struct spin_rng rng;
    bool measuring;
    struct counts counts;
    uint64_t *latencies_ns;
    uint64_t latency_count;
    uint64_t latency_capacity;
    uint64_t read_ns; /* when `bytes` were read */
    char bytes[READ_BYTES];
};

static uint64_t now_ns(void)
{
    return spin_now_ns(spin_clock_real());
}

/* --- asking --- */

static spin_status ask(struct client *client, struct stream *stream, struct spin_error *err)
{
    int32_t prompt[PROMPT_TOKENS_MAX];
    char body[REQUEST_BYTES];
    char request[REQUEST_BYTES + 512];
    const struct options *options = &client->options;
    const uint32_t seed = stream->round + 1;
    uint32_t bytes =
        (uint32_t)snprintf(body, sizeof body, "{\"model\":\"%s\",\"prompt\":[", options->model);
    for (uint32_t i = 0; i < options->prompt_tokens; i++) {
        prompt[i] =
            i == 0 ? (int32_t)(stream->index / 256) : (int32_t)((stream->index + i - 1) % 256);
        bytes += (uint32_t)snprintf(body + bytes, sizeof body - bytes, "%s%d", i == 0 ? "" : ",",
                                    prompt[i]);
    }
    /* The first answers are of different lengths, so that they do not all end together. */
    stream->tokens_max =
        stream->round == 0 ? 1 + spin_rng_below(&client->rng, options->tokens) : options->tokens;
    bytes += (uint32_t)snprintf(body + bytes, sizeof body - bytes,
                                "],\"max_tokens\":%u,\"seed\":%u,\"temperature\":1,"
                                "\"ignore_eos\":true,\"stream\":true}",
                                stream->tokens_max, seed);
    const int sent = snprintf(request, sizeof request,
                              "POST /v1/completions HTTP/1.1\r\nHost: router\r\n"
                              "Content-Type: application/json\r\nContent-Length: %u\r\n\r\n%s",
                              bytes, body);
    stream->key = spin_stub_key(prompt, options->prompt_tokens, seed);
    stream->round++;
    stream->tokens = 0;
    stream->done = false;
    stream->place = HEADERS;
    stream->frame.bytes = 0;
    stream->event.bytes = 0;
    if (send(stream->socket, request, (size_t)sent, MSG_NOSIGNAL) != sent) {
        return spin_fail_errno(err, SPIN_ERR_IO, "stream %u: request not sent", stream->index);
    }
    return SPIN_OK;
}

static spin_status open_stream(struct client *client, struct spin_error *err)
{
    struct stream *stream = &client->streams[client->opened];
    const int yes = 1;
    stream->index = client->opened++;
    stream->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (stream->socket < 0 ||
        connect(stream->socket, (struct sockaddr *)&client->router, sizeof client->router) != 0) {
        return spin_fail_errno(err, SPIN_ERR_IO, "%s", client->options.router);
    }
    (void)setsockopt(stream->socket, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    (void)fcntl(stream->socket, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data = {.ptr = stream}};
    if (epoll_ctl(client->epoll, EPOLL_CTL_ADD, stream->socket, &event) != 0) {
        return spin_fail_errno(err, SPIN_ERR_IO, "epoll");
    }
    return ask(client, stream, err);
}

/* --- reading --- */

static spin_status note_latency(struct client *client, uint64_t latency_ns, struct spin_error *err)
{
    if (client->latency_count == client->latency_capacity) {
        const uint64_t capacity = SPIN_MAX(2 * client->latency_capacity, UINT64_C(1) << 18);
        uint64_t *grown = realloc(client->latencies_ns, capacity * sizeof *grown);
        if (grown == NULL) {
            return spin_fail(err, SPIN_ERR_NO_MEMORY, "%" PRIu64 " latencies", capacity);
        }
        client->latencies_ns = grown;
        client->latency_capacity = capacity;
    }
    client->latencies_ns[client->latency_count++] = latency_ns;
    return SPIN_OK;
}

static spin_status take_token(struct client *client, struct stream *stream, char letter,
                              struct spin_error *err)
{
    const uint32_t row = stream->index;
    const uint32_t place = stream->tokens++;
    if (!client->measuring) {
        return SPIN_OK;
    }
    client->counts.tokens++;
    client->counts.wrong += letter != (char)spin_stub_token(stream->key, place) ? 1 : 0;
    const uint64_t sent_ns = spin_stub_times_get(client->times, row, place);
    if (sent_ns == 0 || sent_ns > client->read_ns) {
        client->counts.untimed++;
        return SPIN_OK;
    }
    return note_latency(client, client->read_ns - sent_ns, err);
}

/* The value of the first "text": letters only, so it ends at the next quote. */
static const char *find_text(const char *line)
{
    const char *name = strstr(line, "\"text\":");
    if (name == NULL) {
        return NULL;
    }
    name += strlen("\"text\":");
    name += *name == ' ' ? 1 : 0;
    return *name == '"' ? name + 1 : NULL;
}

static spin_status take_event(struct client *client, struct stream *stream, struct spin_error *err)
{
    static const char prefix[] = "data: ";
    const char *line = stream->event.text;
    if (strncmp(line, prefix, sizeof prefix - 1) != 0) {
        return SPIN_OK; /* the empty line between events, a comment */
    }
    if (strcmp(line + sizeof prefix - 1, "[DONE]") == 0) {
        stream->done = true;
        return SPIN_OK;
    }
    const char *text = find_text(line);
    if (text == NULL) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "stream %u: %.160s", stream->index, line);
    }
    client->counts.events += client->measuring && *text != '"' ? 1 : 0;
    for (; *text != '"' && *text != '\0'; text++) {
        SPIN_TRY(take_token(client, stream, *text, err));
    }
    return SPIN_OK;
}

static spin_status end_answer(struct client *client, struct stream *stream, struct spin_error *err)
{
    if (!stream->done || stream->tokens != stream->tokens_max) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "stream %u ended %s [DONE], after %u of %u tokens",
                         stream->index, stream->done ? "with" : "without", stream->tokens,
                         stream->tokens_max);
    }
    client->counts.answers += client->measuring ? 1 : 0;
    return ask(client, stream, err);
}

/* A whole line of framing. */
static spin_status take_frame(struct client *client, struct stream *stream, struct spin_error *err)
{
    const char *line = stream->frame.text;
    switch (stream->place) {
    case HEADERS:
        if (strncmp(line, "HTTP/1.1 ", 9) == 0 && strncmp(line, "HTTP/1.1 200", 12) != 0) {
            return spin_fail(err, SPIN_ERR_CORRUPT, "stream %u: %.100s", stream->index, line);
        }
        stream->place = stream->frame.bytes == 0 ? SIZE : HEADERS;
        return SPIN_OK;
    case SIZE:
        stream->chunk_left = strtoull(line, NULL, 16);
        stream->place = stream->chunk_left == 0 ? LAST_LINE : DATA;
        return SPIN_OK;
    case DATA_END:
        stream->place = SIZE;
        return SPIN_OK;
    case LAST_LINE:
        return end_answer(client, stream, err);
    case DATA:
        break;
    }
    return spin_fail(err, SPIN_ERR_INTERNAL, "data is no framing");
}

/* Adds bytes up to the line's end; *count becomes what it took. True: the line is whole. */
static bool fill_line(struct line *line, const char *bytes, uint64_t *count)
{
    const char *end = memchr(bytes, '\n', *count);
    if (end != NULL) {
        *count = (uint64_t)(end - bytes) + 1;
    }
    const uint64_t kept = SPIN_MIN(*count - (end != NULL ? 1 : 0), LINE_BYTES - 1 - line->bytes);
    memcpy(line->text + line->bytes, bytes, kept);
    line->bytes += (uint32_t)kept;
    if (end != NULL && line->bytes != 0 && line->text[line->bytes - 1] == '\r') {
        line->bytes--;
    }
    line->text[line->bytes] = '\0';
    return end != NULL;
}

/* Takes bytes up to the end of a line or of the chunk; *count becomes how many. */
static spin_status take_bytes(struct client *client, struct stream *stream, const char *bytes,
                              uint64_t *count, struct spin_error *err)
{
    spin_status status = SPIN_OK;
    if (stream->place != DATA) {
        if (fill_line(&stream->frame, bytes, count)) {
            status = take_frame(client, stream, err);
            stream->frame.bytes = 0;
        }
        return status;
    }
    *count = SPIN_MIN(*count, stream->chunk_left);
    if (fill_line(&stream->event, bytes, count)) {
        status = take_event(client, stream, err);
        stream->event.bytes = 0;
    }
    stream->chunk_left -= *count;
    if (stream->chunk_left == 0) {
        stream->place = DATA_END;
    }
    return status;
}

static spin_status read_stream(struct client *client, struct stream *stream, struct spin_error *err)
{
    const ssize_t got = recv(stream->socket, client->bytes, sizeof client->bytes, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) {
        return SPIN_OK;
    }
    if (got <= 0) {
        return spin_fail(err, SPIN_ERR_IO, "stream %u: the router closed it after %u tokens",
                         stream->index, stream->tokens);
    }
    client->read_ns = now_ns();
    uint64_t offset = 0;
    while (offset < (uint64_t)got) {
        uint64_t count = (uint64_t)got - offset;
        SPIN_TRY(take_bytes(client, stream, client->bytes + offset, &count, err));
        offset += count;
    }
    return SPIN_OK;
}

/* One round of epoll; the bytes of a ready stream are read as soon as it is looked at. */
static spin_status read_ready(struct client *client, uint64_t until_ns, struct spin_error *err)
{
    struct epoll_event events[EVENTS_MAX];
    const uint64_t now = now_ns();
    const int timeout_ms = until_ns <= now ? 0 : (int)((until_ns - now) / SPIN_NS_PER_MS) + 1;
    const int ready = epoll_wait(client->epoll, events, EVENTS_MAX, timeout_ms);
    for (int i = 0; i < ready; i++) {
        SPIN_TRY(read_stream(client, events[i].data.ptr, err));
    }
    return SPIN_OK;
}

/* --- measuring --- */

/* User and system time of a process, in seconds; 0 when it cannot be read. */
static double cpu_seconds(uint32_t pid)
{
    char path[64];
    char text[1024];
    (void)snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = pid == 0 ? NULL : fopen(path, "re");
    if (file == NULL) {
        return 0;
    }
    const size_t bytes = fread(text, 1, sizeof text - 1, file);
    (void)fclose(file);
    text[bytes] = '\0';
    /* "pid (name) state ...": utime and stime are fields 14 and 15, the 12th and 13th after the
     * name, which may hold anything. */
    const char *cursor = strrchr(text, ')');
    for (int field = 2; cursor != NULL && field < 14; field++) {
        cursor = strchr(cursor + 1, ' ');
    }
    if (cursor == NULL) {
        return 0;
    }
    char *end = NULL;
    const uint64_t user = strtoull(cursor, &end, 10);
    const uint64_t kernel = strtoull(end, NULL, 10);
    return (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
}

static int compare_u64(const void *left, const void *right)
{
    const uint64_t a = *(const uint64_t *)left;
    const uint64_t b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

static double quantile_ms(const struct client *client, double share)
{
    if (client->latency_count == 0) {
        return 0;
    }
    const uint64_t last = client->latency_count - 1;
    return (double)client->latencies_ns[(uint64_t)(share * (double)last)] / (double)SPIN_NS_PER_MS;
}

static void print_result(struct client *client, double seconds, double cpu_s)
{
    const struct counts *counts = &client->counts;
    qsort(client->latencies_ns, client->latency_count, sizeof *client->latencies_ns, compare_u64);
    (void)printf(
        "{\"streams\": %u, \"seconds\": %.3f, \"tokens\": %" PRIu64 ", \"events\": %" PRIu64
        ", \"answers\": %" PRIu64 ", \"wrong\": %" PRIu64 ", \"untimed\": %" PRIu64
        ", \"router_cpu_s\": %.2f, \"latency_ms\": {\"p50\": %.3f, \"p90\": %.3f, "
        "\"p99\": %.3f, \"p999\": %.3f, \"max\": %.3f}}\n",
        client->options.streams, seconds, counts->tokens, counts->events, counts->answers,
        counts->wrong, counts->untimed, cpu_s, quantile_ms(client, 0.5), quantile_ms(client, 0.9),
        quantile_ms(client, 0.99), quantile_ms(client, 0.999), quantile_ms(client, 1));
}

static spin_status warm_up(struct client *client, struct spin_error *err)
{
    const uint64_t started_ns = now_ns();
    const uint64_t ramp_ns = client->options.warmup_ns / 2;
    const uint64_t end_ns = started_ns + client->options.warmup_ns;
    while (now_ns() < end_ns) {
        uint64_t next_ns = end_ns;
        if (client->opened < client->options.streams) {
            next_ns = started_ns + ramp_ns * client->opened / client->options.streams;
        }
        if (next_ns <= now_ns()) {
            SPIN_TRY(open_stream(client, err));
        }
        SPIN_TRY(read_ready(client, next_ns, err));
    }
    if (client->opened < client->options.streams) {
        return spin_fail(err, SPIN_ERR_DEADLINE, "%u of %u streams open after the warm-up",
                         client->opened, client->options.streams);
    }
    return SPIN_OK;
}

static spin_status measure(struct client *client, struct spin_error *err)
{
    SPIN_TRY(warm_up(client, err));
    client->measuring = true;
    const uint64_t started_ns = now_ns();
    const double cpu_before_s = cpu_seconds(client->options.router_pid);
    const uint64_t end_ns = started_ns + client->options.measure_ns;
    while (now_ns() < end_ns) {
        SPIN_TRY(read_ready(client, end_ns, err));
    }
    const double cpu_s = cpu_seconds(client->options.router_pid) - cpu_before_s;
    const double seconds = (double)(now_ns() - started_ns) / (double)SPIN_NS_PER_S;
    print_result(client, seconds, cpu_s);
    if (client->counts.wrong != 0) {
        return spin_fail(err, SPIN_ERR_CORRUPT, "%" PRIu64 " tokens are wrong",
                         client->counts.wrong);
    }
    return SPIN_OK;
}

static spin_status prepare(struct client *client, struct spin_error *err)
{
    char address[64];
    const char *colon = strrchr(client->options.router, ':');
    const size_t host_bytes = colon == NULL ? 0 : (size_t)(colon - client->options.router);
    if (colon == NULL || host_bytes >= sizeof address) {
        return spin_fail(err, SPIN_ERR_INVALID, "--router %s: not address:port",
                         client->options.router);
    }
    memcpy(address, client->options.router, host_bytes);
    address[host_bytes] = '\0';
    client->router.sin_family = AF_INET;
    client->router.sin_port = htons((uint16_t)strtoul(colon + 1, NULL, 10));
    if (inet_pton(AF_INET, address, &client->router.sin_addr) != 1) {
        return spin_fail(err, SPIN_ERR_INVALID, "--router %s: not an IPv4 address", address);
    }
    client->rng = (struct spin_rng){.seed = 1};
    client->streams = calloc(client->options.streams, sizeof *client->streams);
    client->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (client->streams == NULL || client->epoll < 0) {
        return spin_fail_errno(err, SPIN_ERR_NO_MEMORY, "%u streams", client->options.streams);
    }
    return spin_stub_times_open(client->options.times, &client->times, err);
}

int main(int argc, char **argv)
{
    static struct client client;
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    spin_status status =
        spin_config_load(&spec, argc, argv, environ, &client.options, &values, &exit_now, &err);
    if (status == SPIN_OK && !exit_now) {
        status = prepare(&client, &err);
    }
    if (status == SPIN_OK && !exit_now) {
        status = measure(&client, &err);
    }
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "spin-stream-client: %s\n", err.text);
    }
    for (uint32_t i = 0; i < client.opened; i++) {
        (void)close(client.streams[i].socket);
    }
    free(client.latencies_ns);
    free(client.streams);
    spin_stub_times_close(client.times);
    spin_config_values_destroy(values);
    return status == SPIN_OK ? 0 : 1;
}
