/* Join and Describe through real gRPC, by members in this process that say the right and the wrong
 * things; what the table holds afterwards is looked at on the loop's thread. */
#include "router/grpc/cluster.h"

#include "base/clock.h"
#include "base/mutex.h"
#include "proto/rpc_client.h"
#include "tests/spin_test.h"

#define WAIT_NS (20 * SPIN_NS_PER_S) /* a hang fails instead */
#define TOKEN "0123456789abcdef"
#define KEY "sk-alice"
#define PEERS 3u

struct fixture;

struct peer { /* one call of a member or of somebody who asks */
    struct spin_rpc_client_call *call;
    struct spin_mutex mutex; /* guards the rest */
    uint32_t welcomes;
    uint32_t interval_ms;
    char router_id[64];
    uint32_t described;
    char first_id[64];
    char first_model[64];
    uint32_t first_running;
    bool first_reachable;
    uint64_t first_age_ms;
    char first_algorithm[64];
    char first_device[64];
    uint32_t first_budget_tokens;
    uint64_t first_hits;
    uint32_t first_requests;
    char first_request_id[64];
    uint64_t first_request_misses;
    uint32_t finished;
    enum spin_rpc_code code;
    char text[240];
};

struct fixture {
    struct spin_loop *loop;
    struct spin_tenants *tenants;
    struct spin_members *members;
    struct spin_cluster *cluster;
    struct spin_rpc_method methods[SPIN_CLUSTER_METHODS];
    struct spin_rpc_server *server;
    struct spin_rpc_thread *thread;
    struct spin_rpc_client *client;
    struct spin_rpc_client *stranger; /* bears another token */
    struct peer peers[PEERS];
    struct spin_timer *watch;
    bool (*condition)(struct fixture *fixture);
    uint64_t give_up_ns;
    bool gave_up;
    uint32_t changes;
};

static void on_watch(void *context)
{
    struct fixture *fixture = context;
    if (fixture->condition(fixture)) {
        spin_loop_stop(fixture->loop);
    } else if (spin_loop_now_ns(fixture->loop) > fixture->give_up_ns) {
        fixture->gave_up = true;
        spin_loop_stop(fixture->loop);
    }
}

static void run_until(struct fixture *fixture, bool (*condition)(struct fixture *))
{
    fixture->condition = condition;
    fixture->give_up_ns = spin_now_ns(spin_clock_real()) + WAIT_NS;
    spin_timer_start(fixture->watch, SPIN_NS_PER_MS, true);
    spin_loop_run(fixture->loop);
    spin_timer_stop(fixture->watch);
    assert_false(fixture->gave_up);
}

static void on_changed(void *context, struct spin_member *member)
{
    (void)member;
    struct fixture *fixture = context;
    fixture->changes++;
}

static void on_left(void *context, struct spin_member *member, bool replaced)
{
    (void)context;
    (void)member;
    (void)replaced;
}

static struct spin_rpc_client *connect_as(struct fixture *fixture, const char *bearer)
{
    char target[64];
    (void)snprintf(target, sizeof target, "127.0.0.1:%u", spin_rpc_server_port(fixture->server));
    const struct spin_rpc_client_config config = {.target = target, .bearer = bearer};
    struct spin_rpc_client *client = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_rpc_client_create(fixture->thread, &config, &client, &err), &err);
    return client;
}

static int set_up(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct spin_error err;
    const struct spin_members_config members = {
        .vocab = 100, .context = fixture, .changed = on_changed, .left = on_left};
    SPIN_EXPECT_OK(spin_loop_create(&fixture->loop, &err), &err);
    SPIN_EXPECT_OK(spin_tenants_create(KEY, NULL, &fixture->tenants, &err), &err);
    SPIN_EXPECT_OK(spin_members_create(&members, &fixture->members, &err), &err);
    const struct spin_cluster_config config = {.router_id = "router-1",
                                               .status_interval_ms = 250,
                                               .token = TOKEN,
                                               .tenants = fixture->tenants};
    SPIN_EXPECT_OK(
        spin_cluster_create(&config, fixture->loop, fixture->members, &fixture->cluster, &err),
        &err);
    spin_cluster_methods(fixture->cluster, fixture->methods);
    const struct spin_rpc_server_config server = {.listen = "127.0.0.1:0",
                                                  .listen_flag = "--grpc-listen",
                                                  .methods = fixture->methods,
                                                  .method_count = SPIN_CLUSTER_METHODS};
    SPIN_EXPECT_OK(spin_rpc_server_create(&server, &fixture->server, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_server_start(fixture->server, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_thread_create(&fixture->thread, &err), &err);
    fixture->client = connect_as(fixture, TOKEN);
    fixture->stranger = connect_as(fixture, KEY);
    assert_int_equal(spin_timer_create(fixture->loop, on_watch, fixture, &fixture->watch), SPIN_OK);
    for (uint32_t i = 0; i < PEERS; i++) {
        spin_mutex_init(&fixture->peers[i].mutex);
    }
    *state = fixture;
    return 0;
}

/* Every call that was made is over, seen from here; the server saw it end by itself then. */
static bool all_finished(struct fixture *fixture)
{
    for (uint32_t i = 0; i < PEERS; i++) {
        struct peer *peer = &fixture->peers[i];
        spin_mutex_lock(&peer->mutex);
        const bool open = peer->call != NULL && peer->finished == 0;
        spin_mutex_unlock(&peer->mutex);
        if (open) {
            return false;
        }
    }
    struct spin_rpc_server_stats stats;
    spin_rpc_server_get_stats(fixture->server, &stats);
    return stats.calls_open == 0;
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    spin_cluster_close(fixture->cluster);
    run_until(fixture, all_finished);
    spin_rpc_server_stop(fixture->server, 0);
    spin_rpc_client_destroy(fixture->client);
    spin_rpc_client_destroy(fixture->stranger);
    spin_rpc_thread_destroy(fixture->thread);
    spin_rpc_server_destroy(fixture->server);
    spin_cluster_destroy(fixture->cluster);
    spin_members_destroy(fixture->members);
    spin_tenants_destroy(fixture->tenants);
    spin_timer_destroy(fixture->watch);
    spin_loop_destroy(fixture->loop);
    for (uint32_t i = 0; i < PEERS; i++) {
        spin_rpc_client_call_release(fixture->peers[i].call);
        spin_mutex_deinit(&fixture->peers[i].mutex);
    }
    free(fixture);
    return 0;
}

/* --- a member --- */

static void on_welcome(void *context, const struct ProtobufCMessage *message)
{
    struct peer *peer = context;
    const Spin__V1__RouterMessage *answer = (const Spin__V1__RouterMessage *)message;
    spin_mutex_lock(&peer->mutex);
    peer->welcomes++;
    peer->interval_ms = answer->welcome->status_interval_ms;
    (void)snprintf(peer->router_id, sizeof peer->router_id, "%s", answer->welcome->router_id);
    spin_mutex_unlock(&peer->mutex);
}

static void on_finished(void *context, const struct spin_rpc_outcome *outcome)
{
    struct peer *peer = context;
    spin_mutex_lock(&peer->mutex);
    peer->finished++;
    peer->code = outcome->code;
    (void)snprintf(peer->text, sizeof peer->text, "%s", outcome->text);
    spin_mutex_unlock(&peer->mutex);
}

static void open_join(struct peer *peer, struct spin_rpc_client *client)
{
    const struct spin_rpc_request request = {.path = "/spin.v1.Cluster/Join",
                                             .response = &spin__v1__router_message__descriptor,
                                             .response_bytes_max = 4096,
                                             .arena_bytes_max = 65536,
                                             .deadline_ns = SPIN_NO_DEADLINE,
                                             .sends_stream = true,
                                             .outbox_bytes = 1 << 20,
                                             .context = peer,
                                             .message_received = on_welcome,
                                             .finished = on_finished};
    struct spin_error err;
    SPIN_EXPECT_OK(spin_rpc_client_submit(client, &request, &peer->call, &err), &err);
}

static void send_message(struct peer *peer, const Spin__V1__MemberMessage *message)
{
    assert_int_equal(spin_rpc_client_call_send(peer->call, &message->base, 0), SPIN_OK);
}

static void say_hello(struct peer *peer, uint64_t incarnation, uint32_t vocab)
{
    char id[] = "w1";
    char address[] = "127.0.0.1:9100";
    char name[] = "a model";
    char algorithm[] = "shadowkv";
    char device[] = "NVIDIA H200";
    Spin__V1__Peer identity;
    Spin__V1__ModelIdentity model;
    Spin__V1__WorkerCapacity capacity;
    Spin__V1__Hello hello;
    Spin__V1__MemberMessage message;
    spin__v1__peer__init(&identity);
    spin__v1__model_identity__init(&model);
    spin__v1__worker_capacity__init(&capacity);
    spin__v1__hello__init(&hello);
    spin__v1__member_message__init(&message);
    identity.id = id;
    identity.incarnation = incarnation;
    identity.grpc_address = address;
    model.name = name;
    model.vocab = vocab;
    model.max_model_len = 64;
    capacity.sequences_max = 4;
    hello.peer = &identity;
    hello.model = &model;
    hello.capacity = &capacity;
    hello.kind = SPIN__V1__MEMBER_KIND__MEMBER_WORKER;
    hello.protocol = 1;
    hello.algorithm = algorithm;
    hello.device = device;
    hello.budget_tokens = 512;
    message.hello = &hello;
    send_message(peer, &message);
}

static void say_status(struct peer *peer, uint32_t running)
{
    Spin__V1__WorkerLoad load;
    Spin__V1__MemberStatus status;
    Spin__V1__MemberMessage message;
    spin__v1__worker_load__init(&load);
    spin__v1__member_status__init(&status);
    spin__v1__member_message__init(&message);
    load.running = running;
    status.load = &load;
    message.status = &status;
    send_message(peer, &message);
}

#define REQUESTS_SAID 100u /* more than a router keeps */

static void say_requests(struct peer *peer, uint32_t running)
{
    Spin__V1__WorkerLoad load;
    Spin__V1__RequestKv requests[REQUESTS_SAID];
    Spin__V1__RequestKv *list[REQUESTS_SAID];
    char ids[REQUESTS_SAID][16];
    Spin__V1__MemberStatus status;
    Spin__V1__MemberMessage message;
    spin__v1__worker_load__init(&load);
    spin__v1__member_status__init(&status);
    spin__v1__member_message__init(&message);
    for (uint32_t i = 0; i < REQUESTS_SAID; i++) {
        (void)snprintf(ids[i], sizeof ids[i], "%s%u", i == 0 ? "\n" : "request-", i);
        spin__v1__request_kv__init(&requests[i]);
        requests[i].request_id = ids[i];
        requests[i].misses = 1000 + i;
        list[i] = &requests[i];
    }
    load.running = running;
    load.kv_hits = UINT64_C(1) << 40;
    status.load = &load;
    status.n_requests = REQUESTS_SAID;
    status.requests = list;
    message.status = &status;
    send_message(peer, &message);
}

static void say_goodbye(struct peer *peer)
{
    Spin__V1__Goodbye goodbye;
    Spin__V1__MemberMessage message;
    spin__v1__goodbye__init(&goodbye);
    spin__v1__member_message__init(&message);
    message.goodbye = &goodbye;
    send_message(peer, &message);
}

static bool has(struct peer *peer, const uint32_t *value, uint32_t wanted)
{
    spin_mutex_lock(&peer->mutex);
    const bool reached = *value >= wanted;
    spin_mutex_unlock(&peer->mutex);
    return reached;
}

static bool first_welcomed(struct fixture *fixture)
{
    return has(&fixture->peers[0], &fixture->peers[0].welcomes, 1);
}

static bool second_welcomed(struct fixture *fixture)
{
    return has(&fixture->peers[1], &fixture->peers[1].welcomes, 1);
}

static bool first_finished(struct fixture *fixture)
{
    return has(&fixture->peers[0], &fixture->peers[0].finished, 1);
}

static bool second_finished(struct fixture *fixture)
{
    return has(&fixture->peers[1], &fixture->peers[1].finished, 1);
}

static bool third_finished(struct fixture *fixture)
{
    return has(&fixture->peers[2], &fixture->peers[2].finished, 1);
}

static const struct spin_member *w1(const struct fixture *fixture)
{
    return spin_members_find(fixture->members, "w1");
}

static bool w1_runs_7(struct fixture *fixture)
{
    return w1(fixture)->view.running == 7;
}

static bool w1_runs_8(struct fixture *fixture)
{
    return w1(fixture)->view.running == 8;
}

static bool w1_is_gone(struct fixture *fixture)
{
    return !w1(fixture)->joined;
}

static bool w1_said_goodbye(struct fixture *fixture)
{
    return w1(fixture)->goodbye;
}

/* --- somebody who asks --- */

static void on_described(void *context, const struct ProtobufCMessage *message)
{
    struct peer *peer = context;
    const Spin__V1__ClusterDescribeResponse *answer =
        (const Spin__V1__ClusterDescribeResponse *)message;
    spin_mutex_lock(&peer->mutex);
    peer->described = (uint32_t)answer->n_members;
    (void)snprintf(peer->router_id, sizeof peer->router_id, "%s", answer->router_id);
    if (answer->n_members > 0) {
        const Spin__V1__Member *first = answer->members[0];
        (void)snprintf(peer->first_id, sizeof peer->first_id, "%s", first->hello->peer->id);
        (void)snprintf(peer->first_model, sizeof peer->first_model, "%s",
                       first->hello->model->name);
        peer->first_running = first->status->load->running;
        peer->first_reachable = first->reachable;
        peer->first_age_ms = first->status_age_ms;
        (void)snprintf(peer->first_algorithm, sizeof peer->first_algorithm, "%s",
                       first->hello->algorithm);
        (void)snprintf(peer->first_device, sizeof peer->first_device, "%s", first->hello->device);
        peer->first_budget_tokens = first->hello->budget_tokens;
        peer->first_hits = first->status->load->kv_hits;
        peer->first_requests = (uint32_t)first->status->n_requests;
        if (first->status->n_requests > 0) {
            const Spin__V1__RequestKv *request = first->status->requests[0];
            (void)snprintf(peer->first_request_id, sizeof peer->first_request_id, "%s",
                           request->request_id);
            peer->first_request_misses = request->misses;
        }
    }
    spin_mutex_unlock(&peer->mutex);
}

static void describe(struct peer *peer, struct spin_rpc_client *client)
{
    Spin__V1__ClusterDescribeRequest message;
    spin__v1__cluster_describe_request__init(&message);
    const struct spin_rpc_request request = {.path = "/spin.v1.Cluster/Describe",
                                             .message = &message.base,
                                             .response =
                                                 &spin__v1__cluster_describe_response__descriptor,
                                             .response_bytes_max = 1 << 20,
                                             .arena_bytes_max = 4 << 20,
                                             .deadline_ns = SPIN_NO_DEADLINE,
                                             .context = peer,
                                             .message_received = on_described,
                                             .finished = on_finished};
    struct spin_error err;
    SPIN_EXPECT_OK(spin_rpc_client_submit(client, &request, &peer->call, &err), &err);
}

/* --- the scenes --- */

static void test_join_and_leave(void **state)
{
    struct fixture *fixture = *state;
    struct peer *member = &fixture->peers[0];
    open_join(member, fixture->client);
    say_hello(member, 1, 100);
    run_until(fixture, first_welcomed);
    assert_string_equal(member->router_id, "router-1");
    assert_int_equal(member->interval_ms, 250);
    assert_int_equal(spin_members_ready(fixture->members), 1);
    say_status(member, 7);
    run_until(fixture, w1_runs_7);

    struct peer *asking = &fixture->peers[1];
    describe(asking, fixture->stranger); /* with a tenant's key */
    run_until(fixture, second_finished);
    assert_int_equal(asking->code, SPIN_RPC_OK);
    assert_int_equal(asking->described, 1);
    assert_string_equal(asking->router_id, "router-1");
    assert_string_equal(asking->first_id, "w1");
    assert_string_equal(asking->first_model, "a model");
    assert_int_equal(asking->first_running, 7);
    assert_true(asking->first_reachable);
    assert_in_range(asking->first_age_ms, 0, 5000);

    say_goodbye(member);
    run_until(fixture, w1_said_goodbye);
    assert_int_equal(spin_members_ready(fixture->members), 0);
    spin_rpc_client_call_close_send(member->call);
    run_until(fixture, first_finished);
    assert_int_equal(member->code, SPIN_RPC_OK);
    assert_false(w1(fixture)->joined);
}

static void test_requests_are_passed_on(void **state)
{
    struct fixture *fixture = *state;
    struct peer *member = &fixture->peers[0];
    open_join(member, fixture->client);
    say_hello(member, 1, 100);
    run_until(fixture, first_welcomed);
    say_requests(member, 7);
    run_until(fixture, w1_runs_7);

    struct peer *asking = &fixture->peers[1];
    describe(asking, fixture->stranger);
    run_until(fixture, second_finished);
    assert_int_equal(asking->code, SPIN_RPC_OK);
    assert_string_equal(asking->first_algorithm, "shadowkv");
    assert_string_equal(asking->first_device, "NVIDIA H200");
    assert_int_equal(asking->first_budget_tokens, 512);
    assert_true(asking->first_hits == UINT64_C(1) << 40);
    assert_int_equal(asking->first_requests, SPIN_MEMBER_REQUESTS_MAX);
    assert_string_equal(asking->first_request_id, "request-1"); /* the first has no good id */
    assert_int_equal(asking->first_request_misses, 1001);

    say_status(member, 8); /* nobody holds KV any more */
    run_until(fixture, w1_runs_8);
    describe(&fixture->peers[2], fixture->stranger);
    run_until(fixture, third_finished);
    assert_int_equal(fixture->peers[2].described, 1);
    assert_int_equal(fixture->peers[2].first_requests, 0);
    assert_int_equal(fixture->peers[2].first_hits, 0);
}

static void test_connection_breaks(void **state)
{
    struct fixture *fixture = *state;
    struct peer *member = &fixture->peers[0];
    open_join(member, fixture->client);
    say_hello(member, 1, 100);
    run_until(fixture, first_welcomed);
    spin_rpc_client_call_cancel(member->call);
    run_until(fixture, w1_is_gone);
    assert_false(w1(fixture)->goodbye);
    assert_int_equal(spin_members_ready(fixture->members), 0);
}

static void expect_end(struct fixture *fixture, struct peer *peer, enum spin_rpc_code code,
                       const char *says)
{
    run_until(fixture, first_finished);
    if (peer->code != code || strstr(peer->text, says) == NULL) {
        fail_msg("wanted \"%s\", got %s: %s", says, spin_rpc_code_name(peer->code), peer->text);
    }
}

static void test_status_before_hello(void **state)
{
    struct fixture *fixture = *state;
    open_join(&fixture->peers[0], fixture->client);
    say_status(&fixture->peers[0], 1);
    expect_end(fixture, &fixture->peers[0], SPIN_RPC_INVALID_ARGUMENT,
               "the first message must be hello");
    assert_int_equal(spin_members_count(fixture->members), 0);
}

static void test_second_hello(void **state)
{
    struct fixture *fixture = *state;
    open_join(&fixture->peers[0], fixture->client);
    say_hello(&fixture->peers[0], 1, 100);
    run_until(fixture, first_welcomed);
    say_hello(&fixture->peers[0], 1, 100);
    expect_end(fixture, &fixture->peers[0], SPIN_RPC_INVALID_ARGUMENT, "a second hello");
    assert_false(w1(fixture)->joined);
}

static void test_empty_message(void **state)
{
    struct fixture *fixture = *state;
    Spin__V1__MemberMessage message;
    spin__v1__member_message__init(&message);
    open_join(&fixture->peers[0], fixture->client);
    send_message(&fixture->peers[0], &message);
    expect_end(fixture, &fixture->peers[0], SPIN_RPC_INVALID_ARGUMENT, "exactly one of");
}

static void test_other_model(void **state)
{
    struct fixture *fixture = *state;
    open_join(&fixture->peers[0], fixture->client);
    say_hello(&fixture->peers[0], 1, 99);
    expect_end(fixture, &fixture->peers[0], SPIN_RPC_FAILED_PRECONDITION,
               "vocabulary of 99 tokens: this router's tokenizer has 100");
    assert_int_equal(spin_members_count(fixture->members), 0);
}

static void test_wrong_token(void **state)
{
    struct fixture *fixture = *state;
    open_join(&fixture->peers[0], fixture->stranger);
    expect_end(fixture, &fixture->peers[0], SPIN_RPC_UNAUTHENTICATED, "");
    struct spin_rpc_client *nobody = connect_as(fixture, NULL);
    describe(&fixture->peers[1], nobody);
    run_until(fixture, second_finished);
    assert_int_equal(fixture->peers[1].code, SPIN_RPC_UNAUTHENTICATED);
    assert_int_equal(fixture->peers[1].described, 0);
    spin_rpc_client_destroy(nobody);
    describe(&fixture->peers[2], fixture->client); /* a member may look, too */
    run_until(fixture, third_finished);
    assert_int_equal(fixture->peers[2].code, SPIN_RPC_OK);
}

/* A member that comes back before its old stream is seen to be over. */
static void test_joins_again(void **state)
{
    struct fixture *fixture = *state;
    for (uint64_t incarnation = 1; incarnation <= 2; incarnation++) {
        struct peer *older = &fixture->peers[incarnation - 1];
        struct peer *newer = &fixture->peers[incarnation];
        if (incarnation == 1) {
            open_join(older, fixture->client);
            say_hello(older, 1, 100);
            run_until(fixture, first_welcomed);
        }
        open_join(newer, fixture->client);
        say_hello(newer, incarnation, 100); /* the same process, then another */
        run_until(fixture, incarnation == 1 ? first_finished : second_finished);
        assert_int_equal(older->code, SPIN_RPC_UNAVAILABLE);
        assert_string_equal(older->text, "the member has joined again");
        run_until(fixture, incarnation == 1 ? second_welcomed : second_finished);
        assert_int_equal(spin_members_count(fixture->members), 1);
        assert_true(w1(fixture)->joined); /* the end of the older one changed nothing */
        assert_int_equal(w1(fixture)->incarnation, incarnation);
    }
}

static bool flood_is_over(struct fixture *fixture)
{
    return w1(fixture)->view.running == 3000;
}

static void test_flood(void **state)
{
    struct fixture *fixture = *state;
    struct peer *member = &fixture->peers[0];
    open_join(member, fixture->client);
    say_hello(member, 1, 100);
    run_until(fixture, first_welcomed);
    const uint32_t before = fixture->changes;
    for (uint32_t i = 1; i <= 3000; i++) {
        say_status(member, i);
    }
    run_until(fixture, flood_is_over);
    /* Those that waited together counted once: the loop was not here while they were sent. */
    assert_in_range(fixture->changes - before, 1, 2999);
}

static void test_close(void **state)
{
    struct fixture *fixture = *state;
    open_join(&fixture->peers[0], fixture->client);
    say_hello(&fixture->peers[0], 1, 100);
    run_until(fixture, first_welcomed);
    spin_cluster_close(fixture->cluster);
    expect_end(fixture, &fixture->peers[0], SPIN_RPC_UNAVAILABLE, "the router is shutting down");
    open_join(&fixture->peers[1], fixture->client); /* without a word, even */
    run_until(fixture, second_finished);
    assert_int_equal(fixture->peers[1].code, SPIN_RPC_UNAVAILABLE);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_join_and_leave),
        TEST(test_connection_breaks),
        TEST(test_status_before_hello),
        TEST(test_second_hello),
        TEST(test_empty_message),
        TEST(test_other_model),
        TEST(test_wrong_token),
        TEST(test_joins_again),
        TEST(test_flood),
        TEST(test_close),
        TEST(test_requests_are_passed_on),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
