/* spin status: one worker on one screen. */
#include "base/clock.h"
#include "client/commands.h"
#include "client/connection.h"
#include "client/options.h"
#include "proto/spin/v1/worker.pb-c.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#define CALL_TIMEOUT_NS (5 * SPIN_NS_PER_S) /* a worker answers Describe at once or not at all */

static double mebibytes(uint64_t bytes)
{
    return (double)bytes / (1024.0 * 1024.0);
}

static void print_bytes(const char *name, const ProtobufCBinaryData *data)
{
    (void)printf("%s", name);
    for (size_t i = 0; i < data->len; i++) {
        (void)printf("%02x", data->data[i]);
    }
    (void)putchar('\n');
}

static void print_load(const Spin__V1__WorkerCapacity *capacity, const Spin__V1__WorkerLoad *load)
{
    (void)printf("running   %u of %u sequences, %u of %u waiting, %" PRIu64
                 " prompt tokens to prefill\n",
                 load->running, capacity->sequences_max, load->waiting, capacity->queue_max,
                 load->queued_prompt_tokens);
    (void)printf("kv        %" PRIu64 " of %" PRIu64 " tokens, %.1f MiB\n", load->kv_tokens_used,
                 capacity->kv_tokens, mebibytes(capacity->kv_device_bytes));
    (void)printf("speed     %.1f ms a decode step, %.1f prompt tok/s, %" PRIu64 " preemptions\n",
                 (double)load->step_ns / (double)SPIN_NS_PER_MS, load->prefill_tokens_per_s,
                 load->preemptions);
}

static bool on_describe(void *context, const struct ProtobufCMessage *message)
{
    bool *whole = context;
    const Spin__V1__DescribeResponse *response = (const Spin__V1__DescribeResponse *)message;
    *whole = response->peer != NULL && response->model != NULL && response->capacity != NULL &&
             response->load != NULL;
    if (!*whole) {
        return false;
    }
    (void)printf("worker    %s at %s, version %s, incarnation %016" PRIx64 "%s\n",
                 response->peer->id, response->peer->grpc_address, response->version,
                 response->peer->incarnation, response->draining ? ", draining" : "");
    (void)printf("serves    %s, role %s, backend %s, attention %s\n", response->model->name,
                 response->role, response->backend, response->algorithm);
    (void)printf("limits    %u tokens a sequence, vocabulary %u\n", response->model->max_model_len,
                 response->model->vocab);
    print_load(response->capacity, response->load);
    print_bytes("model id  ", &response->model->model_id);
    print_bytes("layout    ", &response->model->kv_layout);
    return true;
}

static int fail(const char *text)
{
    (void)fprintf(stderr, "spin status: %s\n", text);
    return 1;
}

static int run(const struct spin_status_options *options)
{
    struct spin_connection *connection = NULL;
    struct spin_error err = {0};
    if (spin_connection_open(options->worker, options->connect_timeout_ns, &connection, &err) !=
        SPIN_OK) {
        return fail(err.text);
    }
    Spin__V1__DescribeRequest message;
    spin__v1__describe_request__init(&message);
    const struct spin_rpc_request request = {
        .path = "/spin.v1.Worker/Describe",
        .message = &message.base,
        .response = &spin__v1__describe_response__descriptor,
        .response_bytes_max = 64 << 10,
        .arena_bytes_max = 64 << 10,
        .deadline_ns = spin_deadline_ns(spin_now_ns(spin_clock_real()), CALL_TIMEOUT_NS)};
    struct spin_call_result result;
    bool whole = false;
    const spin_status status =
        spin_connection_call(connection, &request, on_describe, &whole, &result);
    spin_connection_close(connection);
    if (result.interrupted) {
        return 130;
    }
    if (status != SPIN_OK || !whole) {
        return fail(status != SPIN_OK ? result.text : "the answer is not whole: another version?");
    }
    return fflush(stdout) == 0 ? 0 : fail("cannot write to standard output");
}

int spin_command_status(int argc, char *const *argv)
{
    struct spin_status_options options = {0};
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    int code = 0;
    if (spin_config_load(&spin_status_config_spec, argc, argv, environ, &options, &values,
                         &exit_now, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin status: %s\n", err.text);
        code = 2;
    } else if (!exit_now) {
        code = run(&options);
    }
    spin_config_values_destroy(values);
    return code;
}
