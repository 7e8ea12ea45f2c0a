/* A member against routers made of spin_rpc_server: what it says, when, and what it does after
 * every way in which a router can fail it. */
#include "proto/join.h"

#include "base/clock.h"
#include "base/mutex.h"
#include "proto/rpc_server.h"
#include "tests/spin_test.h"

#include <stdatomic.h>
#include <unistd.h>

#define LIMIT_NS (20 * SPIN_NS_PER_S) /* a test that waits longer has failed */
#define INTERVAL_MS 100u
#define INTERVAL_NS (INTERVAL_MS * SPIN_NS_PER_MS)
#define NEVER UINT32_MAX

static uint64_t now_ns(void)
{
    return spin_now_ns(spin_clock_real());
}

/* --- a router --- */

struct router {
    struct spin_rpc_server *server;
    struct spin_rpc_method method;
    char id[32];
    char address[64];
    /* Set before a hello comes, read on the rpc thread. */
    uint32_t interval_ms; /* of the welcome; NEVER: no welcome */
    bool refuses;         /* the hello */
    bool ends;            /* the stream, after the first status */
    _Atomic bool deaf;    /* from the first status on its thread stands still for so long */
    /* Written on the rpc thread. */
    _Atomic uint32_t hellos;
    _Atomic uint32_t statuses;
    _Atomic uint32_t drains;  /* statuses that said draining */
    _Atomic uint32_t running; /* the load of the last status */
    _Atomic uint32_t goodbyes;
    _Atomic uint32_t open;
    _Atomic uint32_t wrong; /* messages out of order or not as they were sent */
    _Atomic uint64_t gone_after_ns;
};

struct stream {
    struct router *router;
    uint64_t started_ns;
    bool hello;
    bool finished;
};

static void finish(struct stream *stream, struct spin_rpc_call *call, spin_status status,
                   const char *text)
{
    if (!stream->finished) {
        stream->finished = true;
        atomic_fetch_sub(&stream->router->open, 1);
        spin_rpc_call_finish(call, status, text);
    }
}

static void on_start(void *context, struct spin_rpc_call *call,
                     const struct ProtobufCMessage *request)
{
    struct stream *stream = spin_rpc_call_state(call);
    stream->router = context;
    stream->started_ns = now_ns();
    atomic_fetch_add(&stream->router->open, 1);
    assert_null(request);
}

static void on_hello(struct stream *stream, struct spin_rpc_call *call,
                     const Spin__V1__Hello *hello)
{
    struct router *router = stream->router;
    atomic_fetch_add(&router->hellos, 1);
    const bool right = !stream->hello && hello->peer != NULL && hello->peer->incarnation == 77 &&
                       strcmp(hello->peer->id, "member:1") == 0 && hello->protocol == 1;
    atomic_fetch_add(&router->wrong, right ? 0 : 1);
    stream->hello = true;
    if (router->refuses) {
        finish(stream, call, SPIN_ERR_PEER_MISMATCH, "another model");
    } else if (router->interval_ms != NEVER) {
        Spin__V1__Welcome welcome;
        spin__v1__welcome__init(&welcome);
        welcome.router_id = router->id;
        welcome.status_interval_ms = router->interval_ms;
        Spin__V1__RouterMessage message;
        spin__v1__router_message__init(&message);
        message.welcome = &welcome;
        spin_rpc_call_append(call, &message.base);
    }
}

static void on_message(void *context, struct spin_rpc_call *call,
                       const struct ProtobufCMessage *base)
{
    struct router *router = context;
    struct stream *stream = spin_rpc_call_state(call);
    const Spin__V1__MemberMessage *message = (const Spin__V1__MemberMessage *)base;
    if (message->hello != NULL) {
        on_hello(stream, call, message->hello);
        return;
    }
    atomic_fetch_add(&router->wrong, stream->hello ? 0 : 1);
    if (message->status != NULL) {
        atomic_fetch_add(&router->statuses, 1);
        atomic_fetch_add(&router->drains, message->status->draining ? 1 : 0);
        atomic_store(&router->running,
                     message->status->load == NULL ? 0 : message->status->load->running);
        while (atomic_load(&router->deaf)) {
            (void)usleep(1000);
        }
        if (router->ends) {
            finish(stream, call, SPIN_OK, NULL);
        }
    }
    if (message->goodbye != NULL && strcmp(message->goodbye->reason, "going home") == 0) {
        atomic_fetch_add(&router->goodbyes, 1);
    }
}

static void on_half_closed(void *context, struct spin_rpc_call *call)
{
    (void)context;
    finish(spin_rpc_call_state(call), call, SPIN_OK, NULL);
}

static void on_gone(void *context, struct spin_rpc_call *call)
{
    struct router *router = context;
    struct stream *stream = spin_rpc_call_state(call);
    atomic_store(&router->gone_after_ns, now_ns() - stream->started_ns);
    finish(stream, call, SPIN_ERR_CANCELLED, NULL);
}

static void router_start(struct router *router, const char *listen, const char *bearer)
{
    router->method = (struct spin_rpc_method){.path = "/spin.v1.Cluster/Join",
                                              .request = &spin__v1__member_message__descriptor,
                                              .request_bytes_max = 1 << 16,
                                              .arena_bytes_max = 1 << 18,
                                              .outbox_bytes = 1 << 16,
                                              .calls_max = 64,
                                              .state_bytes = sizeof(struct stream),
                                              .bearer = bearer,
                                              .start = on_start,
                                              .message = on_message,
                                              .half_closed = on_half_closed,
                                              .gone = on_gone};
    const struct spin_rpc_server_config config = {.listen = listen,
                                                  .listen_flag = "--grpc-listen",
                                                  .methods = &router->method,
                                                  .method_count = 1,
                                                  .context = router};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_rpc_server_create(&config, &router->server, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_server_start(router->server, &err), &err);
    (void)snprintf(router->address, sizeof router->address, "127.0.0.1:%u",
                   spin_rpc_server_port(router->server));
}

static void router_stop(struct router *router)
{
    spin_rpc_server_stop(router->server, 0);
    spin_rpc_server_destroy(router->server);
    router->server = NULL;
}

static struct router router_make(const char *id, uint32_t interval_ms)
{
    struct router router = {.interval_ms = interval_ms};
    (void)snprintf(router.id, sizeof router.id, "%s", id);
    return router;
}

/* --- a member --- */

struct member {
    struct spin_loop *loop;
    struct spin_rpc_thread *thread;
    struct spin_join *join;
    Spin__V1__Peer peer;
    Spin__V1__Hello hello;
    Spin__V1__WorkerLoad load;
    char *role; /* NULL: none is said */
    bool draining;
    uint32_t statuses;
    uint32_t left;
    /* What `until` waits for. */
    struct spin_timer *timer;
    bool (*condition)(void *context);
    void *context;
    uint64_t deadline_ns;
    bool met;
};

static void fill_status(void *context, Spin__V1__MemberStatus *status)
{
    struct member *member = context;
    status->load = &member->load;
    status->draining = member->draining;
    status->role = member->role != NULL ? member->role : status->role;
    member->statuses++;
}

static void on_left(void *context)
{
    struct member *member = context;
    member->left++;
}

static char member_id[] = "member:1";

static void member_open(struct member *member)
{
    *member = (struct member){0};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_loop_create(&member->loop, &err), &err);
    SPIN_EXPECT_OK(spin_rpc_thread_create(&member->thread, &err), &err);
    spin__v1__peer__init(&member->peer);
    member->peer.id = member_id;
    member->peer.incarnation = 77;
    spin__v1__hello__init(&member->hello);
    member->hello.peer = &member->peer;
    member->hello.protocol = 1;
    spin__v1__worker_load__init(&member->load);
}

static spin_status member_join(struct member *member, const char *routers, const char *bearer,
                               struct spin_error *err)
{
    const struct spin_join_config config = {.routers = routers,
                                            .bearer = bearer,
                                            .hello = &member->hello,
                                            .context = member,
                                            .fill_status = fill_status,
                                            .left = on_left};
    return spin_join_create(member->loop, member->thread, &config, &member->join, err);
}

static void member_close(struct member *member)
{
    spin_join_destroy(member->join);
    spin_rpc_thread_destroy(member->thread);
    spin_loop_destroy(member->loop);
}

static void on_tick(void *context)
{
    struct member *member = context;
    member->met = member->condition(member->context);
    if (member->met || now_ns() > member->deadline_ns) {
        spin_loop_stop(member->loop);
    }
}

/* Runs the loop until the condition is met, or for limit_ns. */
static bool until_for(struct member *member, bool (*condition)(void *context), void *context,
                      uint64_t limit_ns)
{
    member->condition = condition;
    member->context = context;
    member->deadline_ns = now_ns() + limit_ns;
    SPIN_EXPECT_OK(spin_timer_create(member->loop, on_tick, member, &member->timer), NULL);
    spin_timer_start(member->timer, 2 * SPIN_NS_PER_MS, true);
    spin_loop_run(member->loop);
    spin_timer_destroy(member->timer);
    return member->met;
}

static void until(struct member *member, bool (*condition)(void *context), void *context)
{
    assert_true(until_for(member, condition, context, LIMIT_NS));
}

static bool never(void *context)
{
    (void)context;
    return false;
}

static void for_a_while(struct member *member, uint64_t ns)
{
    (void)until_for(member, never, NULL, ns);
}

static bool has_three_statuses(void *context)
{
    return atomic_load(&((struct router *)context)->statuses) >= 3;
}

static bool has_drain(void *context)
{
    return atomic_load(&((struct router *)context)->drains) != 0;
}

static bool has_two_hellos(void *context)
{
    return atomic_load(&((struct router *)context)->hellos) >= 2;
}

static bool has_left(void *context)
{
    return ((struct member *)context)->left != 0;
}

static bool is_joined(void *context)
{
    return spin_join_connected(((struct member *)context)->join) == 1;
}

static bool is_joined_to_two(void *context)
{
    return spin_join_connected(((struct member *)context)->join) == 2;
}

static bool is_alone(void *context)
{
    return spin_join_connected(((struct member *)context)->join) == 0;
}

/* --- tests --- */

static void test_hello_status_goodbye(void **state)
{
    (void)state;
    struct router router = router_make("r", INTERVAL_MS);
    router_start(&router, "127.0.0.1:0", NULL);
    struct member member;
    member_open(&member);
    member.load.running = 5;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(member_join(&member, router.address, NULL, &err), &err);
    const uint64_t started_ns = now_ns();
    until(&member, has_three_statuses, &router);
    /* The first comes with the welcome, the others an interval apart. */
    assert_true(now_ns() - started_ns >= 2 * INTERVAL_NS);
    assert_int_equal(atomic_load(&router.running), 5);
    assert_int_equal(spin_join_connected(member.join), 1);

    member.draining = true;
    const uint64_t drained_ns = now_ns();
    spin_join_report(member.join);
    until(&member, has_drain, &router);
    assert_true(now_ns() - drained_ns < INTERVAL_NS);

    spin_join_leave(member.join, "going home");
    spin_join_leave(member.join, "again");
    assert_int_equal(member.left, 0); /* never from inside */
    until(&member, has_left, &member);
    assert_int_equal(atomic_load(&router.goodbyes), 1);
    const uint32_t statuses = atomic_load(&router.statuses);
    for_a_while(&member, 3 * INTERVAL_NS);
    assert_int_equal(atomic_load(&router.statuses), statuses);
    assert_int_equal(atomic_load(&router.hellos), 1);
    assert_int_equal(atomic_load(&router.wrong), 0);
    assert_int_equal(atomic_load(&router.open), 0);
    assert_int_equal(member.left, 1);
    member_close(&member);
    router_stop(&router);
}

static void test_a_stream_that_ends_is_begun_again(void **state)
{
    (void)state;
    struct router router = router_make("r", INTERVAL_MS);
    router.ends = true;
    router_start(&router, "127.0.0.1:0", NULL);
    struct member member;
    member_open(&member);
    struct spin_error err = {0};
    SPIN_EXPECT_OK(member_join(&member, router.address, NULL, &err), &err);
    const uint64_t started_ns = now_ns();
    until(&member, has_two_hellos, &router);
    assert_true(now_ns() - started_ns >= 50 * SPIN_NS_PER_MS); /* after a pause */
    assert_int_equal(atomic_load(&router.wrong), 0);
    member_close(&member);
    router_stop(&router);
}

static void test_a_router_that_comes_later_and_again(void **state)
{
    (void)state;
    struct router router = router_make("r", INTERVAL_MS);
    router_start(&router, "127.0.0.1:0", NULL);
    char address[64];
    memcpy(address, router.address, sizeof address);
    router_stop(&router);

    struct member member;
    member_open(&member);
    struct spin_error err = {0};
    SPIN_EXPECT_OK(member_join(&member, address, NULL, &err), &err);
    for_a_while(&member, 300 * SPIN_NS_PER_MS);
    assert_int_equal(spin_join_connected(member.join), 0);
    for (uint32_t round = 0; round < 2; round++) {
        router_start(&router, address, NULL);
        until(&member, is_joined, &member);
        router_stop(&router);
        until(&member, is_alone, &member);
    }
    assert_int_equal(atomic_load(&router.hellos), 2);
    /* Nobody is there to hear the goodbye. */
    spin_join_leave(member.join, "going home");
    until(&member, has_left, &member);
    member_close(&member);
}

static void test_a_refusal_is_asked_again_more_and_more_rarely(void **state)
{
    (void)state;
    struct router router = router_make("r", INTERVAL_MS);
    router.refuses = true;
    router_start(&router, "127.0.0.1:0", NULL);
    struct member member;
    member_open(&member);
    struct spin_error err = {0};
    SPIN_EXPECT_OK(member_join(&member, router.address, NULL, &err), &err);
    for_a_while(&member, 1600 * SPIN_NS_PER_MS);
    /* Pauses of 50..100, 100..200, 200..400, 400..800 and 800..1600 ms. */
    const uint32_t hellos = atomic_load(&router.hellos);
    assert_in_range(hellos, 3, 6);
    assert_int_equal(spin_join_connected(member.join), 0);
    member_close(&member);
    router_stop(&router);
}

static void test_a_router_that_never_welcomes_is_dropped(void **state)
{
    (void)state;
    struct router router = router_make("r", NEVER);
    router_start(&router, "127.0.0.1:0", NULL);
    struct member member;
    member_open(&member);
    struct spin_error err = {0};
    SPIN_EXPECT_OK(member_join(&member, router.address, NULL, &err), &err);
    until(&member, has_two_hellos, &router);
    const uint64_t gone_after_ns = atomic_load(&router.gone_after_ns);
    assert_in_range(gone_after_ns, 4900 * SPIN_NS_PER_MS, 7 * SPIN_NS_PER_S);
    assert_int_equal(atomic_load(&router.statuses), 0);
    member_close(&member);
    router_stop(&router);
}

static void test_the_interval_is_clamped(void **state)
{
    (void)state;
    struct router router = router_make("r", 1);
    router_start(&router, "127.0.0.1:0", NULL);
    struct member member;
    member_open(&member);
    struct spin_error err = {0};
    SPIN_EXPECT_OK(member_join(&member, router.address, NULL, &err), &err);
    until(&member, is_joined, &member);
    for_a_while(&member, 500 * SPIN_NS_PER_MS);
    assert_in_range(atomic_load(&router.statuses), 3, 12); /* every 50 ms, not every 1 ms */
    member_close(&member);
    router_stop(&router);
}

static bool has_one_status(void *context)
{
    return atomic_load(&((struct router *)context)->statuses) == 1;
}

static void report(struct member *member, uint32_t times)
{
    for (uint32_t i = 0; i < times; i++) {
        spin_join_report(member->join);
    }
}

/* While a router stands still, windows fill, then what waits; statuses are missed, and the goodbye
 * is not. */
static void test_statuses_leave_room_for_the_goodbye(void **state)
{
    (void)state;
    enum { LARGE = 5000, REPORTS = 200 };
    struct router router = router_make("r", 10000);
    router.deaf = true;
    router_start(&router, "127.0.0.1:0", NULL);
    struct member member;
    member_open(&member);
    char role[LARGE];
    memset(role, 'r', LARGE - 1);
    role[LARGE - 1] = '\0';
    member.role = role;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(member_join(&member, router.address, NULL, &err), &err);
    until(&member, has_one_status, &router);
    report(&member, REPORTS);
    for_a_while(&member, 50 * SPIN_NS_PER_MS); /* what the windows take is gone */
    report(&member, REPORTS);
    role[1] = '\0'; /* small ones, for the last bytes */
    report(&member, REPORTS);
    spin_join_leave(member.join, "going home");
    atomic_store(&router.deaf, false);
    until(&member, has_left, &member);
    assert_int_equal(atomic_load(&router.goodbyes), 1);
    assert_int_equal(member.statuses, 1 + 3 * REPORTS);
    assert_in_range(atomic_load(&router.statuses), 2, member.statuses - 1);
    assert_int_equal(atomic_load(&router.wrong), 0);
    member_close(&member);
    router_stop(&router);
}

static void test_the_token_opens_the_door(void **state)
{
    (void)state;
    static const struct {
        const char *bearer;
        bool joins;
    } rows[] = {{"right", true}, {"wrong", false}, {NULL, false}};
    struct router router = router_make("r", INTERVAL_MS);
    router_start(&router, "127.0.0.1:0", "right");
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct member member;
        member_open(&member);
        struct spin_error err = {0};
        SPIN_EXPECT_OK(member_join(&member, router.address, rows[i].bearer, &err), &err);
        assert_int_equal(
            until_for(&member, is_joined, &member, rows[i].joins ? LIMIT_NS : 300 * SPIN_NS_PER_MS),
            rows[i].joins);
        member_close(&member);
    }
    assert_int_equal(atomic_load(&router.hellos), 1);
    router_stop(&router);
}

static void test_every_router_is_joined_and_every_address_of_one_counts_once(void **state)
{
    (void)state;
    struct router routers[2] = {router_make("one", INTERVAL_MS), router_make("two", INTERVAL_MS)};
    router_start(&routers[0], "0.0.0.0:0", NULL); /* at 127.0.0.1 and 127.0.0.2 */
    router_start(&routers[1], "127.0.0.1:0", NULL);
    char list[256];
    (void)snprintf(list, sizeof list, "%s,127.0.0.2%s,%s,localhost%s", routers[0].address,
                   strchr(routers[0].address, ':'), routers[1].address,
                   strchr(routers[1].address, ':'));
    struct member member;
    member_open(&member);
    struct spin_error err = {0};
    SPIN_EXPECT_OK(member_join(&member, list, NULL, &err), &err);
    until(&member, is_joined_to_two, &member);
    for_a_while(&member, 1000 * SPIN_NS_PER_MS);
    assert_int_equal(spin_join_connected(member.join), 2);
    assert_int_equal(atomic_load(&routers[0].open), 1);
    assert_int_equal(atomic_load(&routers[1].open), 1);
    assert_int_equal(atomic_load(&routers[0].hellos), 2); /* it took one to know */

    /* One that is lost does not disturb the other; back again, one stream stays again. */
    char address[64];
    (void)snprintf(address, sizeof address, "0.0.0.0%s", strchr(routers[0].address, ':'));
    router_stop(&routers[0]);
    until(&member, is_joined, &member);
    router_start(&routers[0], address, NULL);
    until(&member, is_joined_to_two, &member);
    for_a_while(&member, 1000 * SPIN_NS_PER_MS);
    assert_int_equal(atomic_load(&routers[0].open), 1);
    assert_int_equal(atomic_load(&routers[1].hellos), 1);
    member_close(&member);
    router_stop(&routers[0]);
    router_stop(&routers[1]);
}

static void test_bad_addresses_are_named(void **state)
{
    (void)state;
    static const char *const rows[] = {"",
                                       "nowhere",
                                       "host:",
                                       ":9000",
                                       "host:65536",
                                       "127.0.0.1:9000,",
                                       "::1:9000",
                                       "host:90x",
                                       "127.0.0.1:9000,,b:1",
                                       "127.0.0.1:-1"};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        struct member member;
        member_open(&member);
        struct spin_error err = {0};
        SPIN_EXPECT_STATUS(member_join(&member, rows[i], NULL, &err), SPIN_ERR_INVALID);
        assert_non_null(strstr(err.text, "address"));
        assert_null(member.join);
        member_close(&member);
    }
    char many[65 * 16];
    uint32_t bytes = 0;
    for (uint32_t i = 0; i <= SPIN_JOIN_ROUTERS_MAX; i++) {
        bytes += (uint32_t)snprintf(many + bytes, sizeof many - bytes, "%s127.0.0.1:%u",
                                    i == 0 ? "" : ",", 10000 + i);
    }
    struct member member;
    member_open(&member);
    struct spin_error err = {0};
    SPIN_EXPECT_STATUS(member_join(&member, many, NULL, &err), SPIN_ERR_INVALID);
    assert_non_null(strstr(err.text, "at most 64"));
    member_close(&member);
}

/* For the sanitizers: nothing is lost or touched too late, whatever was under way. */
static void test_destroyed_at_any_moment(void **state)
{
    (void)state;
    struct router router = router_make("r", INTERVAL_MS);
    router_start(&router, "127.0.0.1:0", NULL);
    for (uint64_t ms = 0; ms < 12; ms++) {
        struct member member;
        member_open(&member);
        struct spin_error err = {0};
        SPIN_EXPECT_OK(member_join(&member, router.address, NULL, &err), &err);
        if (ms != 0) {
            for_a_while(&member, ms * SPIN_NS_PER_MS);
        }
        if (ms % 3 == 0) {
            spin_join_leave(member.join, "going home");
        }
        member_close(&member);
    }
    router_stop(&router);
    assert_int_equal(atomic_load(&router.open), 0);
    assert_int_equal(atomic_load(&router.wrong), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello_status_goodbye),
        cmocka_unit_test(test_a_stream_that_ends_is_begun_again),
        cmocka_unit_test(test_a_router_that_comes_later_and_again),
        cmocka_unit_test(test_a_refusal_is_asked_again_more_and_more_rarely),
        cmocka_unit_test(test_a_router_that_never_welcomes_is_dropped),
        cmocka_unit_test(test_the_interval_is_clamped),
        cmocka_unit_test(test_statuses_leave_room_for_the_goodbye),
        cmocka_unit_test(test_the_token_opens_the_door),
        cmocka_unit_test(test_every_router_is_joined_and_every_address_of_one_counts_once),
        cmocka_unit_test(test_bad_addresses_are_named),
        cmocka_unit_test(test_destroyed_at_any_moment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
