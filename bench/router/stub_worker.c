/* spin-stub-worker: a worker without a model, for benchmarks and tests of the router. It joins,
 * describes itself and answers Generate by the clock (stub_streams.h). */
#include "base/address.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/file.h"
#include "base/log.h"
#include "base/version.h"
#include "bench/router/stub_streams.h"
#include "net/loop.h"
#include "proto/join.h"
#include "proto/spin/v1/worker.pb-c.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#define LAST_BYTES_GRACE_NS (2 * SPIN_NS_PER_S)
#define SEQUENCES_MAX 32768
#define CALLS_MAX (2u * SEQUENCES_MAX) /* those that are ending, too */
/* A prompt of a megabyte is as long as a test of routers needs. */
#define REQUEST_BYTES_MAX (UINT64_C(1) << 20)

struct options {
    const char *model;
    const char *listen;
    const char *port_file;
    const char *router;
    uint32_t vocab;
    uint32_t max_model_len;
    uint32_t max_num_seqs;
    double tokens_per_s;
    uint64_t ttft_ns;
    uint32_t pattern;
    const char *hold_file;
    const char *times;
    uint32_t log_level;
};

#define FIELD(name) .offset = offsetof(struct options, name)
#define NO_RANGE .min = 0, .max = -1

static const struct spin_option option_table[] = {
    {.name = "model",
     .type = SPIN_OPTION_STRING,
     FIELD(model),
     .required = true,
     NO_RANGE,
     .help = "The name of the model that it claims to run; a router for random:... joins."},
    {.name = "listen",
     .type = SPIN_OPTION_STRING,
     FIELD(listen),
     .default_value = "127.0.0.1:0",
     NO_RANGE,
     .help = "host:port of the gRPC service; port 0 takes any free one."},
    {.name = "port-file",
     .type = SPIN_OPTION_STRING,
     FIELD(port_file),
     NO_RANGE,
     .help = "A file to write host:port to when it serves."},
    {.name = "router",
     .type = SPIN_OPTION_STRING,
     FIELD(router),
     NO_RANGE,
     .help = "host:port,... of the routers to join; without it none."},
    {.name = "vocab",
     .type = SPIN_OPTION_U32,
     FIELD(vocab),
     .default_value = "512",
     .min = 256,
     .max = 1 << 20,
     .unit = "tokens",
     .help = "The vocabulary that it claims to have."},
    {.name = "max-model-len",
     .type = SPIN_OPTION_U32,
     FIELD(max_model_len),
     .default_value = "32768",
     .min = 1,
     .max = 1 << 24,
     .unit = "tokens",
     .help = "The longest sequence that it claims to take."},
    {.name = "max-num-seqs",
     .type = SPIN_OPTION_U32,
     FIELD(max_num_seqs),
     .default_value = "8192",
     .min = 1,
     .max = SEQUENCES_MAX,
     .help = "The streams that it claims to run at once."},
    {.name = "tokens-per-s",
     .type = SPIN_OPTION_DOUBLE,
     FIELD(tokens_per_s),
     .default_value = "30",
     .min = 0.001,
     .max = 1e6,
     .help = "Of one stream."},
    {.name = "ttft",
     .type = SPIN_OPTION_DURATION,
     FIELD(ttft_ns),
     .default_value = "0s",
     NO_RANGE,
     .help = "From a request to its first token."},
    {.name = "pattern",
     .type = SPIN_OPTION_CHOICE,
     FIELD(pattern),
     .default_value = "spread",
     .choices = "spread,step", /* the order of enum spin_stub_pattern */
     NO_RANGE,
     .help = "spread: every stream has its own phase; step: all tokens come at the same moments."},
    {.name = "hold-file",
     .type = SPIN_OPTION_STRING,
     FIELD(hold_file),
     NO_RANGE,
     .help = "While this file exists no stream draws its first token."},
    {.name = "times",
     .type = SPIN_OPTION_STRING,
     FIELD(times),
     NO_RANGE,
     .help = "A file for the moment at which each token was sent (stub_tokens.h)."},
    {.name = "log-level",
     .type = SPIN_OPTION_CHOICE,
     FIELD(log_level),
     .default_value = "info",
     .choices = "error,warn,info,debug,trace", /* the order of enum spin_log_level */
     NO_RANGE,
     .help = "How much is written to standard error."},
};

static const struct spin_config_spec spec = {
    .program = "spin-stub-worker",
    .synopsis = "",
    .about = "A worker without a model: answers by the clock, for benchmarks and tests.",
    .options = option_table,
    .option_count = SPIN_ARRAY_COUNT(option_table),
};

struct worker {
    struct options options;
    char address[SPIN_ADDRESS_TEXT_BYTES];
    char id[32];
    Spin__V1__Peer peer;
    Spin__V1__ModelIdentity model;
    Spin__V1__WorkerCapacity capacity;
    Spin__V1__Hello hello;
    Spin__V1__WorkerLoad load; /* the loop's */
    struct spin_stub_times *times;
    struct spin_stub_streams *streams;
    struct spin_rpc_method methods[2];
    struct spin_rpc_server *server;
    bool server_started;
    struct spin_loop *loop;
    struct spin_rpc_thread *thread;
    struct spin_join *join;
};

static char *borrow_text(const char *text)
{
    char *borrowed;
    memcpy(&borrowed, &text, sizeof text); /* protobuf-c has no const; it only reads */
    return borrowed;
}

static void fill_load(struct worker *worker, Spin__V1__WorkerLoad *out)
{
    const struct spin_stub_counts counts = spin_stub_streams_counts(worker->streams);
    spin__v1__worker_load__init(out);
    out->running = counts.running;
    out->kv_tokens_used = counts.kv_tokens;
    out->step_ns = (uint64_t)((double)SPIN_NS_PER_S / worker->options.tokens_per_s);
}

static void describe(void *context, struct spin_rpc_call *call,
                     const struct ProtobufCMessage *request)
{
    struct worker *worker = context;
    (void)request; /* it has no fields */
    Spin__V1__WorkerLoad load;
    fill_load(worker, &load);
    Spin__V1__DescribeResponse response;
    spin__v1__describe_response__init(&response);
    response.peer = &worker->peer;
    response.model = &worker->model;
    response.role = borrow_text("unified");
    response.capacity = &worker->capacity;
    response.load = &load;
    response.version = borrow_text(SPIN_VERSION);
    response.backend = borrow_text("stub");
    response.algorithm = borrow_text("dense");
    response.device = borrow_text("stub");
    spin_rpc_call_append(call, &response.base);
    spin_rpc_call_finish(call, SPIN_OK, NULL);
}

static void fill_methods(struct worker *worker)
{
    worker->methods[0] = (struct spin_rpc_method){
        .path = "/spin.v1.Worker/Generate",
        .request = &spin__v1__generate_request__descriptor,
        .request_bytes_max = REQUEST_BYTES_MAX,
        .arena_bytes_max = 8 * REQUEST_BYTES_MAX,
        .outbox_bytes = 256 << 10,
        .calls_max = CALLS_MAX,
        .state_bytes = spin_stub_stream_bytes(),
        .context = worker->streams,
        .merge = true,
        .start = spin_stub_generate_start,
        .gone = spin_stub_generate_gone,
    };
    worker->methods[1] = (struct spin_rpc_method){
        .path = "/spin.v1.Worker/Describe",
        .request = &spin__v1__describe_request__descriptor,
        .request_bytes_max = 4096,
        .arena_bytes_max = 64 << 10,
        .outbox_bytes = 64 << 10,
        .calls_max = 64,
        .start = describe,
    };
}

static spin_status fill_identity(struct worker *worker, struct spin_error *err)
{
    static uint8_t model_id[16] = "stub";
    const struct options *options = &worker->options;
    spin_address_local(options->listen, spin_rpc_server_port(worker->server), worker->address);
    (void)snprintf(worker->id, sizeof worker->id, "stub:%u", spin_rpc_server_port(worker->server));
    spin__v1__peer__init(&worker->peer);
    worker->peer.id = worker->id;
    worker->peer.grpc_address = worker->address;
    if (getrandom(&worker->peer.incarnation, sizeof worker->peer.incarnation, 0) !=
        (ssize_t)sizeof worker->peer.incarnation) {
        return spin_fail_errno(err, SPIN_ERR_INTERNAL, "no random bytes for the incarnation");
    }
    spin__v1__model_identity__init(&worker->model);
    worker->model.name = borrow_text(options->model);
    worker->model.model_id = (ProtobufCBinaryData){.len = sizeof model_id, .data = model_id};
    worker->model.vocab = options->vocab;
    worker->model.max_model_len = options->max_model_len;
    spin__v1__worker_capacity__init(&worker->capacity);
    worker->capacity.sequences_max = options->max_num_seqs;
    worker->capacity.queue_max = options->max_num_seqs;
    worker->capacity.kv_tokens = (uint64_t)options->max_num_seqs * options->max_model_len;
    return SPIN_OK;
}

static spin_status open_streams(struct worker *worker, struct spin_error *err)
{
    const struct options *options = &worker->options;
    if (options->times != NULL) {
        SPIN_TRY(spin_stub_times_open(options->times, &worker->times, err));
    }
    const struct spin_stub_config config = {.tokens_per_s = options->tokens_per_s,
                                            .ttft_ns = options->ttft_ns,
                                            .pattern = (enum spin_stub_pattern)options->pattern,
                                            .hold_file = options->hold_file,
                                            .times = worker->times};
    return spin_stub_streams_create(&config, &worker->streams, err);
}

static spin_status open_server(struct worker *worker, struct spin_error *err)
{
    fill_methods(worker);
    const struct spin_rpc_server_config config = {.listen = worker->options.listen,
                                                  .listen_flag = "--listen",
                                                  .methods = worker->methods,
                                                  .method_count = SPIN_ARRAY_COUNT(worker->methods),
                                                  .context = worker};
    SPIN_TRY(spin_rpc_server_create(&config, &worker->server, err));
    SPIN_TRY(fill_identity(worker, err));
    SPIN_TRY(spin_rpc_server_start(worker->server, err));
    worker->server_started = true;
    spin_rpc_server_set_serving(worker->server, true);
    return SPIN_OK;
}

static void fill_status(void *context, Spin__V1__MemberStatus *status)
{
    struct worker *worker = context;
    fill_load(worker, &worker->load);
    status->load = &worker->load;
    status->role = borrow_text("unified");
}

static void on_left(void *context)
{
    const struct worker *worker = context;
    spin_loop_stop(worker->loop);
}

static spin_status open_join(struct worker *worker, struct spin_error *err)
{
    Spin__V1__Hello *hello = &worker->hello;
    if (worker->options.router == NULL) {
        return SPIN_OK;
    }
    spin__v1__hello__init(hello);
    hello->peer = &worker->peer;
    hello->kind = SPIN__V1__MEMBER_KIND__MEMBER_WORKER;
    hello->role = borrow_text("unified");
    hello->model = &worker->model;
    hello->capacity = &worker->capacity;
    hello->version = borrow_text(SPIN_VERSION);
    hello->protocol = 1;
    hello->algorithm = borrow_text("dense");
    hello->device = borrow_text("stub");
    const struct spin_join_config config = {.routers = worker->options.router,
                                            .hello = hello,
                                            .context = worker,
                                            .fill_status = fill_status,
                                            .left = on_left};
    SPIN_TRY(spin_rpc_thread_create(&worker->thread, err));
    return spin_join_create(worker->loop, worker->thread, &config, &worker->join, err);
}

static spin_status write_port_file(const struct worker *worker, struct spin_error *err)
{
    char text[SPIN_ADDRESS_TEXT_BYTES + 2];
    if (worker->options.port_file == NULL) {
        return SPIN_OK;
    }
    (void)snprintf(text, sizeof text, "%s\n", worker->address);
    return spin_file_replace(worker->options.port_file, text, err);
}

static void on_shutdown(void *context, int number)
{
    struct worker *worker = context;
    (void)number;
    if (worker->join != NULL) {
        spin_join_leave(worker->join, "shutting down");
    } else {
        spin_loop_stop(worker->loop);
    }
}

static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit); /* fewer files: fewer connections */
    }
}

static spin_status serve(struct worker *worker, struct spin_error *err)
{
    SPIN_TRY(spin_loop_create(&worker->loop, err));
    SPIN_TRY(spin_loop_on_shutdown(worker->loop, on_shutdown, worker, err));
    SPIN_TRY(open_streams(worker, err));
    SPIN_TRY(open_server(worker, err));
    SPIN_TRY(open_join(worker, err));
    SPIN_TRY(write_port_file(worker, err));
    SPIN_INFO("listening: grpc=%s", worker->address);
    spin_loop_run(worker->loop);
    return SPIN_OK;
}

static void take_down(struct worker *worker)
{
    spin_join_destroy(worker->join);
    spin_rpc_thread_destroy(worker->thread);
    if (worker->streams != NULL) {
        spin_stub_streams_stop(worker->streams);
    }
    if (worker->server_started) {
        spin_rpc_server_stop(worker->server, LAST_BYTES_GRACE_NS);
    }
    spin_rpc_server_destroy(worker->server);
    spin_stub_streams_destroy(worker->streams);
    spin_stub_times_close(worker->times);
    spin_loop_destroy(worker->loop);
}

int main(int argc, char **argv)
{
    static struct worker worker;
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    int code = 0;
    spin_status status =
        spin_config_load(&spec, argc, argv, environ, &worker.options, &values, &exit_now, &err);
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "spin-stub-worker: %s\n", err.text);
        code = 2;
    } else if (!exit_now) {
        spin_log_set_level((enum spin_log_level)worker.options.log_level);
        raise_file_limit();
        status = serve(&worker, &err);
        if (status != SPIN_OK) {
            SPIN_ERROR("cannot start: %s", err.text);
            code = 1;
        }
        take_down(&worker);
    }
    spin_config_values_destroy(values);
    return code;
}
