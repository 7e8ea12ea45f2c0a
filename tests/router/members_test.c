/* Who is let in and why not, what placement may think of them then, and when they are forgotten. */
#include "router/members.h"

#include "tests/spin_test.h"

#define S UINT64_C(1000000000)
#define SUSPECT_NS S
#define VOCAB 1000u

struct fixture {
    struct spin_members *members;
    uint32_t changes;
    uint32_t lefts;
    uint32_t replaced;
    char last_left[SPIN_MEMBER_ID_BYTES];
};

struct hello {
    Spin__V1__Hello hello;
    Spin__V1__Peer peer;
    Spin__V1__ModelIdentity model;
    Spin__V1__WorkerCapacity capacity;
    char id[200];
    char address[300];
    char name[200];
    char role[32];
    char version[64];
    uint8_t model_id[SPIN_MEMBER_MODEL_ID_BYTES];
};

static void fill_hello(struct hello *out, const char *id, uint64_t incarnation)
{
    memset(out, 0, sizeof *out);
    spin__v1__hello__init(&out->hello);
    spin__v1__peer__init(&out->peer);
    spin__v1__model_identity__init(&out->model);
    spin__v1__worker_capacity__init(&out->capacity);
    (void)snprintf(out->id, sizeof out->id, "%s", id);
    (void)snprintf(out->address, sizeof out->address, "%s:9100", id);
    (void)snprintf(out->name, sizeof out->name, "model");
    (void)snprintf(out->role, sizeof out->role, "unified");
    (void)snprintf(out->version, sizeof out->version, "1.2");
    out->peer.id = out->id;
    out->peer.incarnation = incarnation;
    out->peer.grpc_address = out->address;
    out->model.name = out->name;
    out->model.vocab = VOCAB;
    out->model.max_model_len = 4096;
    out->model.model_id = (ProtobufCBinaryData){sizeof out->model_id, out->model_id};
    out->capacity.sequences_max = 8;
    out->capacity.queue_max = 16;
    out->capacity.kv_tokens = 100000;
    out->hello.peer = &out->peer;
    out->hello.model = &out->model;
    out->hello.capacity = &out->capacity;
    out->hello.kind = SPIN__V1__MEMBER_KIND__MEMBER_WORKER;
    out->hello.role = out->role;
    out->hello.version = out->version;
    out->hello.protocol = SPIN_MEMBERS_PROTOCOL;
}

static void on_changed(void *context, struct spin_member *member)
{
    (void)member;
    struct fixture *fixture = context;
    fixture->changes++;
}

static void on_left(void *context, struct spin_member *member, bool replaced)
{
    struct fixture *fixture = context;
    fixture->lefts++;
    fixture->replaced += replaced ? 1 : 0;
    (void)snprintf(fixture->last_left, sizeof fixture->last_left, "%s", member->id);
}

static int set_up_named(void **state, const char *name, uint32_t vocab)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    const struct spin_members_config config = {.model_name = name,
                                               .vocab = vocab,
                                               .suspect_ns = SUSPECT_NS,
                                               .context = fixture,
                                               .changed = on_changed,
                                               .left = on_left};
    struct spin_error err;
    SPIN_EXPECT_OK(spin_members_create(&config, &fixture->members, &err), &err);
    *state = fixture;
    return 0;
}

static int set_up(void **state)
{
    return set_up_named(state, NULL, VOCAB);
}

static int tear_down(void **state)
{
    struct fixture *fixture = *state;
    spin_members_destroy(fixture->members);
    free(fixture);
    return 0;
}

static struct spin_member *join(struct fixture *fixture, const struct hello *hello, uint64_t now_ns)
{
    struct spin_member *member = NULL;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_members_join(fixture->members, &hello->hello, now_ns, &member, &err), &err);
    return member;
}

static void refuse(struct fixture *fixture, const struct hello *hello, spin_status wanted,
                   const char *says)
{
    struct spin_member *member = NULL;
    struct spin_error err = {0};
    const uint32_t before = spin_members_count(fixture->members);
    const spin_status status = spin_members_join(fixture->members, &hello->hello, 0, &member, &err);
    if (status != wanted || strstr(err.text, says) == NULL) {
        fail_msg("wanted \"%s\", got %s: %s", says, spin_status_name(status), err.text);
    }
    assert_int_equal(spin_members_count(fixture->members), before);
}

static void test_join(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "w1", 7);
    const struct spin_member *member = join(fixture, &hello, 5);
    assert_string_equal(member->id, "w1");
    assert_string_equal(member->address, "w1:9100");
    assert_string_equal(member->role, "unified");
    assert_int_equal(member->max_model_len, 4096);
    assert_int_equal(member->view.sequences_max, 8);
    assert_true(member->view.takes);
    assert_int_equal(fixture->changes, 1);
    assert_int_equal(spin_members_ready(fixture->members), 1);
    assert_int_equal(spin_members_max_model_len(fixture->members), 4096);
    /* A pool that holds less than the model's length is the limit. */
    fill_hello(&hello, "w2", 7);
    hello.capacity.kv_tokens = 1000;
    assert_int_equal(join(fixture, &hello, 5)->max_model_len, 1000);
    assert_int_equal(spin_members_max_model_len(fixture->members), 1000);
    assert_ptr_equal(spin_members_find(fixture->members, "w1"), member);
    assert_null(spin_members_find(fixture->members, "w3"));
}

static void test_refused_fields(void **state)
{
    struct fixture *fixture = *state;
    struct hello h;
#define REFUSE(change, status, says) \
    do { \
        fill_hello(&h, "w", 1); \
        change; \
        refuse(fixture, &h, (status), (says)); \
    } while (0)
    REFUSE(h.hello.protocol = 2, SPIN_ERR_PEER_MISMATCH, "protocol 2");
    REFUSE(h.hello.peer = NULL, SPIN_ERR_INVALID, "hello.peer: missing");
    REFUSE(h.id[0] = '\0', SPIN_ERR_INVALID, "hello.peer.id: empty");
    REFUSE(memset(h.id, 'x', 128), SPIN_ERR_INVALID, "hello.peer.id: 128 bytes, at most 127");
    REFUSE(h.id[0] = '\n', SPIN_ERR_INVALID, "hello.peer.id: byte 0 is not printable");
    REFUSE(h.address[0] = '\0', SPIN_ERR_INVALID, "hello.peer.grpc_address");
    REFUSE(h.peer.grpc_address = h.id, SPIN_ERR_INVALID, "not host:port");
    REFUSE(memset(h.role, 'x', 16), SPIN_ERR_INVALID, "hello.role: 16 bytes, at most 15");
    REFUSE(memset(h.version, 'x', 32), SPIN_ERR_INVALID, "hello.version");
    REFUSE(h.hello.kind = 0, SPIN_ERR_INVALID, "hello.kind: 0");
    REFUSE(h.hello.kind = 3, SPIN_ERR_INVALID, "hello.kind: 3");
    REFUSE(h.hello.capacity = NULL, SPIN_ERR_INVALID, "hello.capacity: missing");
    REFUSE(h.capacity.sequences_max = 0, SPIN_ERR_INVALID, "sequences_max: 0");
    REFUSE(h.hello.model = NULL, SPIN_ERR_INVALID, "hello.model: missing");
    REFUSE(h.model.model_id.len = 5, SPIN_ERR_INVALID, "model_id: 5 bytes");
    REFUSE(h.model.max_model_len = 0, SPIN_ERR_INVALID, "max_model_len: 0");
    REFUSE(h.model.vocab = 0, SPIN_ERR_INVALID, "vocab: 0");
    REFUSE(h.model.vocab = VOCAB - 1, SPIN_ERR_PEER_MISMATCH, "vocabulary of 999");
    REFUSE(h.model.vocab = VOCAB + 4097, SPIN_ERR_PEER_MISMATCH, "vocabulary of 5097");
#undef REFUSE
    assert_int_equal(fixture->changes, 0);
    fill_hello(&h, "padded", 1); /* as models pad theirs */
    h.model.vocab = VOCAB + 4096;
    (void)join(fixture, &h, 0);
}

static void test_model_rules(void **state)
{
    struct fixture *fixture = *state;
    struct hello first;
    struct hello other;
    fill_hello(&first, "w1", 1);
    fill_hello(&other, "w2", 1);
    (void)snprintf(other.name, sizeof other.name, "another name"); /* nobody asked for one */
    (void)join(fixture, &first, 0);
    other.model_id[3] = 9;
    refuse(fixture, &other, SPIN_ERR_PEER_MISMATCH, "other weights");
    /* The first may come back with other weights itself: it is alone. */
    first.model_id[3] = 9;
    first.peer.incarnation = 2;
    struct spin_member *member = join(fixture, &first, 0);
    (void)join(fixture, &other, 0);
    /* And when nobody stands, another model may start. */
    spin_members_disconnect(fixture->members, member, 0);
    spin_members_disconnect(fixture->members, spin_members_find(fixture->members, "w2"), 0);
    struct hello third;
    fill_hello(&third, "w3", 1);
    (void)join(fixture, &third, 0);
}

static void test_served_name(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "w1", 1);
    refuse(fixture, &hello, SPIN_ERR_PEER_MISMATCH, "this router serves \"mine\"");
    (void)snprintf(hello.name, sizeof hello.name, "mine");
    (void)join(fixture, &hello, 0);
}

static int set_up_with_name(void **state)
{
    return set_up_named(state, "mine", VOCAB);
}

static int set_up_any_vocab(void **state)
{
    return set_up_named(state, NULL, 0);
}

static void test_any_vocab(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "w1", 1);
    hello.model.vocab = 17;
    (void)join(fixture, &hello, 0);
    assert_int_equal(spin_members_vocab(fixture->members), 17);
}

static void report(struct fixture *fixture, struct spin_member *member, uint64_t now_ns,
                   uint32_t running, bool draining)
{
    Spin__V1__WorkerLoad load;
    Spin__V1__MemberStatus status;
    spin__v1__worker_load__init(&load);
    spin__v1__member_status__init(&status);
    load.running = running;
    load.prefill_tokens_per_s = 1234.5;
    status.load = &load;
    status.draining = draining;
    spin_members_status(fixture->members, member, &status, now_ns);
}

static void test_status(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "w1", 1);
    struct spin_member *member = join(fixture, &hello, 0);
    spin_members_sent(member, 100);
    spin_members_sent(member, 50);
    assert_int_equal(member->view.sent_sequences, 2);
    assert_int_equal(member->view.sent_prompt_tokens, 150);
    spin_members_done(member, 0, 50); /* sent since the last status: taken back */
    assert_int_equal(member->view.sent_sequences, 1);
    assert_int_equal(member->view.sent_prompt_tokens, 100);
    report(fixture, member, 10, 3, false);
    assert_int_equal(member->view.sent_sequences, 0); /* the status counts them */
    assert_int_equal(member->view.running, 3);
    spin_members_done(member, 5, 100); /* sent before it */
    assert_int_equal(member->view.running, 2);
    report(fixture, member, 20, 0, true);
    assert_false(member->view.takes);
    assert_int_equal(spin_members_ready(fixture->members), 0);
    report(fixture, member, 30, 0, false);
    assert_true(member->view.takes);
    spin_members_done(member, 5, 1); /* nothing to take from: no underflow */
    assert_int_equal(member->view.running, 0);
}

static void test_nonsense_in_status(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "w1", 1);
    struct spin_member *member = join(fixture, &hello, 0);
    static const double rates[] = {-1, 0, NAN, INFINITY, 1e300};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rates); i++) {
        Spin__V1__WorkerLoad load;
        Spin__V1__MemberStatus status;
        char role[64];
        memset(role, 'r', sizeof role);
        role[63] = '\0';
        spin__v1__worker_load__init(&load);
        spin__v1__member_status__init(&status);
        load.running = UINT32_MAX;
        load.waiting = UINT32_MAX;
        load.queued_prompt_tokens = UINT64_MAX;
        load.prefill_tokens_per_s = rates[i];
        status.load = &load;
        status.role = role;
        spin_members_status(fixture->members, member, &status, 0);
        assert_true(member->view.prefill_tokens_per_s == 0);
        assert_string_equal(member->role, "unified");
        const struct spin_placement_request request = {1, 1, SPIN_PLACEMENT_NONE};
        assert_int_equal(spin_placement_choose(&member->view, 1, &request), SPIN_PLACEMENT_NONE);
    }
}

/* What Describe passes on: numbers as they were said, requests as far as they fit. */
static void test_what_is_kept_for_describe(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "w1", 1);
    hello.hello.budget_tokens = 512;
    hello.hello.min_context = 4096;
    hello.capacity.kv_host_bytes = 1 << 20;
    hello.capacity.kv_device_bytes = 1 << 16;
    struct spin_member *member = join(fixture, &hello, 0);
    assert_int_equal(member->budget_tokens, 512);
    assert_int_equal(member->min_context, 4096);
    assert_int_equal(member->kv_host_bytes, 1 << 20);
    assert_int_equal(member->kv_device_bytes, 1 << 16);
    assert_int_equal(member->load.kv_hits, 0);

    ProtobufCMessageUnknownField unknown = {.tag = 99};
    Spin__V1__WorkerLoad load;
    Spin__V1__MemberStatus status;
    spin__v1__worker_load__init(&load);
    spin__v1__member_status__init(&status);
    load.kv_hits = UINT64_MAX;
    load.suspensions = 3;
    load.base.n_unknown_fields = 1; /* they lie in the message's memory */
    load.base.unknown_fields = &unknown;
    status.load = &load;
    spin_members_status(fixture->members, member, &status, 0);
    assert_true(member->load.kv_hits == UINT64_MAX);
    assert_int_equal(member->load.suspensions, 3);
    assert_int_equal(member->load.base.n_unknown_fields, 0);
    assert_null(member->load.base.unknown_fields);
}

#define REQUESTS_SAID 128u /* twice as many as are kept */

static void test_requests_of_a_status(void **state)
{
    (void)state;
    Spin__V1__RequestKv said[REQUESTS_SAID];
    Spin__V1__RequestKv *list[REQUESTS_SAID];
    char ids[REQUESTS_SAID][SPIN_MEMBER_REQUEST_ID_BYTES + 8];
    Spin__V1__MemberStatus status;
    spin__v1__member_status__init(&status);
    for (uint32_t i = 0; i < REQUESTS_SAID; i++) {
        spin__v1__request_kv__init(&said[i]);
        (void)snprintf(ids[i], sizeof ids[i], "r%u", i);
        said[i].request_id = ids[i];
        said[i].tokens = i;
        said[i].suspended = i % 2 == 1;
        said[i].hits = UINT64_MAX - i;
        list[i] = &said[i];
    }
    memset(ids[1], 'x', SPIN_MEMBER_REQUEST_ID_BYTES); /* one too long, one not printable */
    ids[1][SPIN_MEMBER_REQUEST_ID_BYTES] = '\0';
    ids[3][0] = '\033';
    memset(ids[4], 'y', SPIN_MEMBER_REQUEST_ID_BYTES - 1); /* as long as may be */
    ids[4][SPIN_MEMBER_REQUEST_ID_BYTES - 1] = '\0';
    status.requests = list;
    struct spin_member_requests read;

    status.n_requests = 5;
    spin_members_read_requests(&status, &read);
    assert_int_equal(read.count, 3);
    assert_string_equal(read.rows[0].id, "r0");
    assert_int_equal(read.rows[1].tokens, 2);
    assert_string_equal(read.rows[2].id, ids[4]);
    assert_true(read.rows[2].hits == UINT64_MAX - 4);
    assert_false(read.rows[2].suspended);

    status.n_requests = REQUESTS_SAID;
    spin_members_read_requests(&status, &read);
    assert_int_equal(read.count, SPIN_MEMBER_REQUESTS_MAX);
    assert_int_equal(read.rows[SPIN_MEMBER_REQUESTS_MAX - 1].tokens, SPIN_MEMBER_REQUESTS_MAX + 1);
    assert_true(read.rows[SPIN_MEMBER_REQUESTS_MAX - 1].suspended);
    status.n_requests = 0;
    spin_members_read_requests(&status, &read);
    assert_int_equal(read.count, 0);
}

static void test_silence(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "w1", 1);
    struct spin_member *member = join(fixture, &hello, 0);
    spin_members_expire(fixture->members, SUSPECT_NS);
    assert_true(member->view.takes);
    spin_members_expire(fixture->members, SUSPECT_NS + 1);
    assert_false(member->view.takes);
    assert_true(member->suspected);
    report(fixture, member, 2 * S, 0, false); /* it speaks: at once */
    assert_true(member->view.takes);
    spin_members_expire(fixture->members, 4 * S);
    assert_false(member->view.takes);
    spin_members_heard(fixture->members, member, 4 * S); /* of anything */
    assert_true(member->view.takes);
}

static void test_disconnect_and_expire(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "w1", 1);
    struct spin_member *member = join(fixture, &hello, 0);
    member->requests.count = 3; /* that its last status told of */
    spin_members_disconnect(fixture->members, member, 10 * S);
    assert_int_equal(member->requests.count, 0);
    assert_false(member->view.takes);
    spin_members_expire(fixture->members, 70 * S - 1);
    assert_int_equal(spin_members_max_model_len(fixture->members), 4096); /* it still counts */
    /* The same incarnation: the same row, used at once. */
    assert_ptr_equal(join(fixture, &hello, 70 * S - 1), member);
    assert_true(member->view.takes);
    spin_members_goodbye(fixture->members, member, 80 * S);
    assert_false(member->view.takes);
    spin_members_disconnect(fixture->members, member, 80 * S);
    assert_int_equal(fixture->lefts, 0);
    spin_members_expire(fixture->members, 140 * S);
    assert_int_equal(fixture->lefts, 1);
    assert_int_equal(fixture->replaced, 0);
    assert_int_equal(spin_members_count(fixture->members), 0);
    assert_int_equal(spin_members_max_model_len(fixture->members), 0);
}

static void test_new_incarnation(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "w1", 1);
    const struct spin_member *old = join(fixture, &hello, 0);
    assert_int_equal(old->incarnation, 1);
    hello.peer.incarnation = 2;
    const struct spin_member *member = join(fixture, &hello, 1);
    assert_int_equal(fixture->lefts, 1);
    assert_int_equal(fixture->replaced, 1);
    assert_string_equal(fixture->last_left, "w1");
    assert_int_equal(member->incarnation, 2);
    assert_int_equal(spin_members_count(fixture->members), 1);
}

static void test_full_table(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    char id[32];
    for (uint32_t i = 0; i < SPIN_MEMBERS_MAX; i++) {
        (void)snprintf(id, sizeof id, "w%u", i);
        fill_hello(&hello, id, 1);
        (void)join(fixture, &hello, 0);
    }
    fill_hello(&hello, "one-more", 1);
    refuse(fixture, &hello, SPIN_ERR_EXHAUSTED, "at most 1024");
    fill_hello(&hello, "w5", 2); /* it has a row already */
    (void)join(fixture, &hello, 0);
    assert_int_equal(spin_members_count(fixture->members), SPIN_MEMBERS_MAX);
    assert_int_equal(spin_members_ready(fixture->members), SPIN_MEMBERS_MAX);
}

static void test_memory_node(void **state)
{
    struct fixture *fixture = *state;
    struct hello hello;
    fill_hello(&hello, "m1", 1);
    hello.hello.kind = SPIN__V1__MEMBER_KIND__MEMBER_MEMORY_NODE;
    hello.hello.model = NULL;
    hello.hello.capacity = NULL;
    hello.hello.memory_bytes = 1 << 30;
    const struct spin_member *member = join(fixture, &hello, 0);
    assert_false(member->view.takes);
    assert_int_equal(spin_members_ready(fixture->members), 0);
    assert_int_equal(spin_members_max_model_len(fixture->members), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(test_join),
        TEST(test_refused_fields),
        TEST(test_model_rules),
        cmocka_unit_test_setup_teardown(test_served_name, set_up_with_name, tear_down),
        cmocka_unit_test_setup_teardown(test_any_vocab, set_up_any_vocab, tear_down),
        TEST(test_status),
        TEST(test_nonsense_in_status),
        TEST(test_what_is_kept_for_describe),
        cmocka_unit_test(test_requests_of_a_status),
        TEST(test_silence),
        TEST(test_disconnect_and_expire),
        TEST(test_new_incarnation),
        TEST(test_full_table),
        TEST(test_memory_node),
    };
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
