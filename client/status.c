/* spin status: the cluster on one screen, as one router sees it. */
#include "base/clock.h"
#include "client/ask.h"
#include "client/cluster_view.h"
#include "client/commands.h"
#include "client/spin_client_internal.h"

#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#define CALL_TIMEOUT_NS (5 * SPIN_NS_PER_S) /* a router answers Describe at once or not at all */
#define REDRAW_MS 1000
#define CLEAR_SCREEN "\033[H\033[2J"

static bool on_described(void *context, const struct ProtobufCMessage *message)
{
    const struct spin_status_options *options = context;
    const Spin__V1__ClusterDescribeResponse *cluster =
        (const Spin__V1__ClusterDescribeResponse *)message;
    if (options->json) {
        spin_cluster_view_json(cluster, stdout);
        return true;
    }
    if (options->watch && isatty(STDOUT_FILENO) == 1) {
        (void)fputs(CLEAR_SCREEN, stdout);
    }
    spin_cluster_view_members(cluster, options->router.target, stdout);
    if (options->requests) {
        spin_cluster_view_requests(cluster, stdout);
    }
    return true;
}

static int describe(struct spin_client *client, const struct spin_status_options *options)
{
    struct spin_status_options shown = *options; /* `context` is not const */
    Spin__V1__ClusterDescribeRequest message;
    spin__v1__cluster_describe_request__init(&message);
    const struct spin_client_exchange exchange = {
        .path = "/spin.v1.Cluster/Describe",
        .message = &message.base,
        .response = &spin__v1__cluster_describe_response__descriptor,
        .deadline_ns = spin_client_deadline_ns(CALL_TIMEOUT_NS),
        .context = &shown,
        .answered = on_described};
    struct spin_error err = {0};
    if (spin_client_call_run(client, &exchange, &err) != SPIN_OK) {
        spin_complain("spin status", &options->router, &err);
        return SPIN_EXIT_FAILED;
    }
    if (fflush(stdout) != 0 || ferror(stdout) != 0) {
        (void)fprintf(stderr, "spin status: cannot write to standard output\n");
        return SPIN_EXIT_FAILED;
    }
    return SPIN_EXIT_DONE;
}

/* Again every second; a signal ends it. */
static int watch(struct spin_client *client, const struct spin_status_options *options)
{
    struct spin_interrupt interrupt;
    struct spin_error err = {0};
    if (spin_interrupt_open(&interrupt, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin status: %s\n", err.text);
        return SPIN_EXIT_FAILED;
    }
    struct pollfd signalled = {.fd = interrupt.fd, .events = POLLIN};
    int code = SPIN_EXIT_DONE;
    while (code == SPIN_EXIT_DONE) {
        code = describe(client, options);
        (void)poll(&signalled, 1, REDRAW_MS);
        if (code == SPIN_EXIT_DONE && spin_interrupt_take(&interrupt) != 0) {
            code = SPIN_EXIT_INTERRUPTED;
        }
    }
    spin_interrupt_close(&interrupt);
    return code;
}

static int run(const struct spin_status_options *options)
{
    struct spin_client *client = NULL;
    struct spin_error err = {0};
    if (spin_ask_open(&options->router, &client, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin status: %s\n", err.text);
        return SPIN_EXIT_FAILED;
    }
    const int code = options->watch ? watch(client, options) : describe(client, options);
    spin_client_close(client);
    return code;
}

int spin_command_status(int argc, char *const *argv)
{
    struct spin_status_options options = {.watch = false};
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    int code = SPIN_EXIT_DONE;
    if (spin_config_load(&spin_status_config_spec, argc, argv, environ, &options, &values,
                         &exit_now, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin status: %s\n", err.text);
        code = SPIN_EXIT_OPTIONS;
    } else if (!exit_now) {
        code = run(&options);
    }
    spin_config_values_destroy(values);
    return code;
}
