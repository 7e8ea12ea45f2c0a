/* spin status: the cluster on one screen, as one router sees it. */
#include "base/clock.h"
#include "client/ask.h"
#include "client/commands.h"
#include "client/json_text.h"
#include "client/spin_client_internal.h"
#include "proto/spin/v1/cluster.pb-c.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALL_TIMEOUT_NS (5 * SPIN_NS_PER_S) /* a router answers Describe at once or not at all */
#define REDRAW_MS 1000
#define CLEAR_SCREEN "\033[H\033[2J"

/* What stands for the parts that a message may lack. */
struct nothing {
    Spin__V1__Hello hello;
    Spin__V1__Peer peer;
    Spin__V1__ModelIdentity model;
    Spin__V1__WorkerCapacity capacity;
    Spin__V1__MemberStatus status;
    Spin__V1__WorkerLoad load;
};

/* A member, with nothing missing. */
struct row {
    const Spin__V1__Member *member;
    const Spin__V1__Hello *hello;
    const Spin__V1__Peer *peer;
    const Spin__V1__ModelIdentity *model;
    const Spin__V1__WorkerCapacity *capacity;
    const Spin__V1__MemberStatus *status;
    const Spin__V1__WorkerLoad *load;
    const char *role;
    const char *state;
};

static void nothing_init(struct nothing *nothing)
{
    spin__v1__hello__init(&nothing->hello);
    spin__v1__peer__init(&nothing->peer);
    spin__v1__model_identity__init(&nothing->model);
    spin__v1__worker_capacity__init(&nothing->capacity);
    spin__v1__member_status__init(&nothing->status);
    spin__v1__worker_load__init(&nothing->load);
}

static struct row row_of(const Spin__V1__Member *member, const struct nothing *nothing)
{
    struct row row = {.member = member};
    row.hello = member->hello != NULL ? member->hello : &nothing->hello;
    row.peer = row.hello->peer != NULL ? row.hello->peer : &nothing->peer;
    row.model = row.hello->model != NULL ? row.hello->model : &nothing->model;
    row.capacity = row.hello->capacity != NULL ? row.hello->capacity : &nothing->capacity;
    row.status = member->status != NULL ? member->status : &nothing->status;
    row.load = row.status->load != NULL ? row.status->load : &nothing->load;
    row.role = row.status->role[0] != '\0' ? row.status->role : row.hello->role;
    row.state = "ready";
    if (!member->reachable) {
        row.state = "lost";
    } else if (row.status->draining) {
        row.state = "draining";
    }
    return row;
}

static double share(uint64_t part, uint64_t whole)
{
    return whole == 0 ? 0 : 100.0 * (double)part / (double)whole;
}

static double milliseconds(uint64_t ns)
{
    return (double)ns / (double)SPIN_NS_PER_MS;
}

/* --- a table --- */

static int widest_id(const struct row *rows, size_t count)
{
    size_t width = strlen("MEMBER");
    for (size_t i = 0; i < count; i++) {
        width = SPIN_MAX(width, strlen(rows[i].peer->id));
    }
    return (int)SPIN_MIN(width, 64);
}

static void print_row(const struct row *row, int width)
{
    char run[32];
    char kv[64];
    (void)snprintf(run, sizeof run, "%u/%u", row->load->running, row->capacity->sequences_max);
    (void)snprintf(kv, sizeof kv, "%.0f%% of %" PRIu64,
                   share(row->load->kv_tokens_used, row->capacity->kv_tokens),
                   row->capacity->kv_tokens);
    (void)printf("%-*.*s  %-8.16s  %-8s  %9s  %5u  %-16s  %8.1f  %9.1f  %6.1f  %.64s\n", width,
                 width, row->peer->id, row->role, row->state, run, row->load->waiting, kv,
                 milliseconds(row->load->step_ns), row->load->prefill_tokens_per_s,
                 (double)row->member->status_age_ms / 1e3, row->model->name);
}

static void print_table(const struct row *rows, size_t count, const char *router_id,
                        const char *target)
{
    uint32_t ready = 0;
    for (size_t i = 0; i < count; i++) {
        ready += strcmp(rows[i].state, "ready") == 0;
    }
    (void)printf("router %s at %s: %zu members, %u ready\n", router_id, target, count, ready);
    if (count == 0) {
        (void)printf("no worker has joined yet: start one with `spin-worker --router %s`\n",
                     target);
        return;
    }
    const int width = widest_id(rows, count);
    (void)printf("%-*s  %-8s  %-8s  %9s  %5s  %-16s  %8s  %9s  %6s  %s\n", width, "MEMBER", "ROLE",
                 "STATE", "RUNNING", "WAIT", "KV TOKENS", "STEP MS", "PREFILL/S", "AGE S", "MODEL");
    for (size_t i = 0; i < count; i++) {
        print_row(&rows[i], width);
    }
}

/* --- JSON --- */

static void print_text(const char *name, const char *text)
{
    (void)printf("\"%s\": ", name);
    spin_json_write_string(stdout, text, strlen(text));
    (void)fputs(", ", stdout);
}

static void print_member(const struct row *row)
{
    (void)fputs("{", stdout);
    print_text("id", row->peer->id);
    print_text("address", row->peer->grpc_address);
    print_text("role", row->role);
    print_text("state", row->state);
    print_text("model", row->model->name);
    print_text("version", row->hello->version);
    print_text("algorithm", row->hello->algorithm);
    (void)printf("\"kind\": \"%s\", \"incarnation\": \"%016" PRIx64 "\", \"reachable\": %s"
                 ", \"age_ms\": %" PRIu64 ", \"max_model_len\": %u, \"running\": %u"
                 ", \"sequences_max\": %u, \"waiting\": %u, \"queue_max\": %u",
                 row->hello->kind == SPIN__V1__MEMBER_KIND__MEMBER_MEMORY_NODE ? "memory-node"
                                                                               : "worker",
                 row->peer->incarnation, row->member->reachable ? "true" : "false",
                 row->member->status_age_ms, row->model->max_model_len, row->load->running,
                 row->capacity->sequences_max, row->load->waiting, row->capacity->queue_max);
    (void)printf(", \"kv_tokens_used\": %" PRIu64 ", \"kv_tokens\": %" PRIu64
                 ", \"queued_prompt_tokens\": %" PRIu64 ", \"step_ms\": %.3f"
                 ", \"prefill_tokens_per_s\": %.3f, \"preemptions\": %" PRIu64 "}",
                 row->load->kv_tokens_used, row->capacity->kv_tokens,
                 row->load->queued_prompt_tokens, milliseconds(row->load->step_ns),
                 row->load->prefill_tokens_per_s, row->load->preemptions);
}

static void print_json(const struct row *rows, size_t count, const char *router_id)
{
    (void)fputs("{", stdout);
    print_text("router", router_id);
    (void)fputs("\"members\": [", stdout);
    for (size_t i = 0; i < count; i++) {
        (void)fputs(i == 0 ? "" : ", ", stdout);
        print_member(&rows[i]);
    }
    (void)fputs("]}\n", stdout);
}

/* --- asking --- */

struct asked {
    const struct spin_status_options *options;
    bool out_of_memory;
};

static bool on_described(void *context, const struct ProtobufCMessage *message)
{
    struct asked *asked = context;
    const struct spin_status_options *options = asked->options;
    const Spin__V1__ClusterDescribeResponse *cluster =
        (const Spin__V1__ClusterDescribeResponse *)message;
    struct nothing nothing;
    nothing_init(&nothing);
    struct row *rows = calloc(cluster->n_members + 1, sizeof *rows);
    asked->out_of_memory = rows == NULL;
    if (rows == NULL) {
        return false;
    }
    for (size_t i = 0; i < cluster->n_members; i++) {
        rows[i] = row_of(cluster->members[i], &nothing);
    }
    if (options->watch && !options->json && isatty(STDOUT_FILENO) == 1) {
        (void)fputs(CLEAR_SCREEN, stdout);
    }
    if (options->json) {
        print_json(rows, cluster->n_members, cluster->router_id);
    } else {
        print_table(rows, cluster->n_members, cluster->router_id, options->router.target);
    }
    free(rows);
    return true;
}

static int describe(struct spin_client *client, const struct spin_status_options *options)
{
    struct asked asked = {.options = options};
    Spin__V1__ClusterDescribeRequest message;
    spin__v1__cluster_describe_request__init(&message);
    const struct spin_client_exchange exchange = {
        .path = "/spin.v1.Cluster/Describe",
        .message = &message.base,
        .response = &spin__v1__cluster_describe_response__descriptor,
        .deadline_ns = spin_client_deadline_ns(CALL_TIMEOUT_NS),
        .context = &asked,
        .answered = on_described};
    struct spin_error err = {0};
    spin_status status = spin_client_call_run(client, &exchange, &err);
    if (asked.out_of_memory) {
        status = spin_fail(&err, SPIN_ERR_NO_MEMORY, "too many members");
    }
    if (status != SPIN_OK) {
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
