/* spin-bench-stub: the stub server as a process: HTTP and gRPC that answer by the clock. */
#include "base/config.h"
#include "base/file.h"
#include "base/log.h"
#include "bench/load/stub.h"

#include <stdio.h>
#include <unistd.h>

struct options {
    struct spin_load_stub_config stub;
    const char *port_file;
};

#define FIELD(name) .offset = offsetof(struct options, name)
#define NO_RANGE .min = 0, .max = -1

static const struct spin_option option_table[] = {
    {.name = "http",
     .type = SPIN_OPTION_STRING,
     FIELD(stub.http_listen),
     .default_value = "127.0.0.1:0",
     NO_RANGE,
     .help = "host:port to serve OpenAI's API on; port 0: any free one."},
    {.name = "grpc",
     .type = SPIN_OPTION_STRING,
     FIELD(stub.grpc_listen),
     NO_RANGE,
     .help = "host:port to serve gRPC on; without it none."},
    {.name = "port-file",
     .type = SPIN_OPTION_STRING,
     FIELD(port_file),
     NO_RANGE,
     .help = "A file to write \"HTTP-PORT GRPC-PORT\" to when it serves; 0: none."},
    {.name = "ttft",
     .type = SPIN_OPTION_DURATION,
     FIELD(stub.ttft_ns),
     .default_value = "200ms",
     NO_RANGE,
     .help = "From a request to its first message."},
    {.name = "itl",
     .type = SPIN_OPTION_DURATION,
     FIELD(stub.itl_ns),
     .default_value = "20ms",
     NO_RANGE,
     .help = "From a message to the next."},
    {.name = "tokens-per-message",
     .type = SPIN_OPTION_U32,
     FIELD(stub.tokens_per_message),
     .default_value = "1",
     .min = 1,
     .max = 64,
     .help = "Of each message."},
    {.name = "fault",
     .type = SPIN_OPTION_CHOICE,
     FIELD(stub.fault),
     .default_value = "none",
     .choices = "none,refuse,busy,error,cut,stall,garbage,short,empty", /* SPIN_LOAD_FAULT_MAP */
     NO_RANGE,
     .help = "What becomes of some requests."},
    {.name = "fault-every",
     .type = SPIN_OPTION_U32,
     FIELD(stub.fault_every),
     .default_value = "1",
     .min = 1,
     .max = UINT32_MAX,
     .help = "Of the n-th, the 2n-th, ..."},
    {.name = "fault-after",
     .type = SPIN_OPTION_U32,
     FIELD(stub.fault_after),
     .default_value = "0",
     NO_RANGE,
     .unit = "messages",
     .help = "How much of the answer comes before it."},
    {.name = "usage",
     .type = SPIN_OPTION_BOOL,
     FIELD(stub.usage),
     .default_value = "true",
     NO_RANGE,
     .help = "HTTP: says how many tokens there were."},
    {.name = "freeze-at",
     .type = SPIN_OPTION_DURATION,
     FIELD(stub.freeze_at_ns),
     .default_value = "0s",
     NO_RANGE,
     .help = "From then on nothing moves."},
    {.name = "freeze-for",
     .type = SPIN_OPTION_DURATION,
     FIELD(stub.freeze_ns),
     .default_value = "0s",
     NO_RANGE,
     .help = "How long."},
    {.name = "die-at",
     .type = SPIN_OPTION_DURATION,
     FIELD(stub.die_at_ns),
     .default_value = "0s",
     NO_RANGE,
     .help = "When HTTP is cut and closed; 0: never."},
};

static const struct spin_config_spec spec = {
    .program = "spin-bench-stub",
    .synopsis = "",
    .about = "A server that answers by the clock and fails on request, to measure the load\n"
             "generator with.",
    .options = option_table,
    .option_count = SPIN_ARRAY_COUNT(option_table),
};

static void on_stopped(void *context)
{
    spin_loop_stop(context);
}

struct process {
    struct spin_loop *loop;
    struct spin_load_stub *stub;
};

static void on_shutdown(void *context, int number)
{
    struct process *process = context;
    (void)number;
    spin_load_stub_stop(process->stub, on_stopped, process->loop);
}

static spin_status write_ports(const struct options *options, const struct spin_load_stub *stub,
                               struct spin_error *err)
{
    char text[64];
    (void)snprintf(text, sizeof text, "%u %u\n", spin_load_stub_http_port(stub),
                   spin_load_stub_grpc_port(stub));
    SPIN_INFO("listening: http=%u grpc=%u", spin_load_stub_http_port(stub),
              spin_load_stub_grpc_port(stub));
    return options->port_file == NULL ? SPIN_OK : spin_file_replace(options->port_file, text, err);
}

static spin_status serve(const struct options *options, struct spin_error *err)
{
    struct process process = {0};
    SPIN_TRY(spin_loop_create(&process.loop, err));
    spin_status status = spin_loop_on_shutdown(process.loop, on_shutdown, &process, err);
    if (status == SPIN_OK) {
        status = spin_load_stub_create(process.loop, &options->stub, &process.stub, err);
    }
    if (status == SPIN_OK) {
        status = write_ports(options, process.stub, err);
    }
    if (status == SPIN_OK) {
        spin_loop_run(process.loop);
    }
    spin_load_stub_destroy(process.stub);
    spin_loop_destroy(process.loop);
    return status;
}

int main(int argc, char **argv)
{
    struct options options;
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    int code = 0;
    if (spin_config_load(&spec, argc, argv, environ, &options, &values, &exit_now, &err) !=
        SPIN_OK) {
        (void)fprintf(stderr, "spin-bench-stub: %s\n", err.text);
        code = 2;
    } else if (!exit_now && serve(&options, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin-bench-stub: %s\n", err.text);
        code = 1;
    }
    spin_config_values_destroy(values);
    return code;
}
