/* Clusters that nobody has, as tables and as JSON: whole lines, their width, what is missing. */
#include "client/cluster_view.h"

#include "tests/spin_test.h"

#define MIB (UINT64_C(1) << 20)
#define COLUMNS 100u

struct made { /* a cluster of one worker and, where a test wants it, what it said of requests */
    Spin__V1__ClusterDescribeResponse cluster;
    Spin__V1__Member member;
    Spin__V1__Member *members[1];
    Spin__V1__Hello hello;
    Spin__V1__Peer peer;
    Spin__V1__ModelIdentity model;
    Spin__V1__WorkerCapacity capacity;
    Spin__V1__MemberStatus status;
    Spin__V1__WorkerLoad load;
    Spin__V1__RequestKv requests[3];
    Spin__V1__RequestKv *request_list[3];
    char router[16];
    char id[32];
    char name[64];
    char role[16];
    char algorithm[16];
    char device[32];
    char request_ids[3][40];
};

static void init(struct made *made)
{
    memset(made, 0, sizeof *made);
    spin__v1__cluster_describe_response__init(&made->cluster);
    spin__v1__member__init(&made->member);
    spin__v1__hello__init(&made->hello);
    spin__v1__peer__init(&made->peer);
    spin__v1__model_identity__init(&made->model);
    spin__v1__worker_capacity__init(&made->capacity);
    spin__v1__member_status__init(&made->status);
    spin__v1__worker_load__init(&made->load);
    made->members[0] = &made->member;
    made->cluster.members = made->members;
    made->cluster.n_members = 1;
    (void)snprintf(made->router, sizeof made->router, "r-1");
    made->cluster.router_id = made->router;
}

static void fill_requests(struct made *made)
{
    static const struct {
        const char *id;
        bool resident;
        bool suspended;
    } rows[3] = {{"cmpl-0123456789abcdef01234567/0", true, false},
                 {"b", false, false},
                 {"with \"quotes\"", false, true}};
    for (uint32_t i = 0; i < 3; i++) {
        Spin__V1__RequestKv *request = &made->requests[i];
        spin__v1__request_kv__init(request);
        (void)snprintf(made->request_ids[i], sizeof made->request_ids[i], "%s", rows[i].id);
        request->request_id = made->request_ids[i];
        request->resident = rows[i].resident;
        request->suspended = rows[i].suspended;
        request->tokens = 524280;
        request->budget_pages = 160;
        request->mandatory_pages = 36;
        request->working_set = 51;
        request->hits = i == 2 ? 0 : 999;
        request->misses = i == 2 ? 0 : 1;
        made->request_list[i] = request;
    }
    made->status.n_requests = 3;
    made->status.requests = made->request_list;
}

static void fill(struct made *made)
{
    init(made);
    (void)snprintf(made->id, sizeof made->id, "127.0.0.1:65535");
    (void)snprintf(made->name, sizeof made->name, "a-model-with-a-name-that-is-far-too-long");
    (void)snprintf(made->role, sizeof made->role, "unified");
    (void)snprintf(made->algorithm, sizeof made->algorithm, "shadowkv");
    (void)snprintf(made->device, sizeof made->device, "NVIDIA H200");
    made->hello.device = made->device;
    made->peer.id = made->id;
    made->model.name = made->name;
    made->hello.role = made->role;
    made->hello.algorithm = made->algorithm;
    made->hello.peer = &made->peer;
    made->hello.model = &made->model;
    made->hello.capacity = &made->capacity;
    made->capacity.sequences_max = 32;
    made->capacity.kv_device_bytes = 64 * MIB;
    made->capacity.kv_host_bytes = 2048 * MIB;
    made->load.running = 3;
    made->load.step_ns = 12340000;
    made->load.kv_hits = 982;
    made->load.kv_misses = 18;
    made->load.kv_pages_retrieved = 700; /* most of them read back, not missed */
    made->load.kv_evictions = 12345678;
    made->load.kv_table_bytes = 1234;
    made->load.kv_hbm_bytes_used = 12 * MIB;
    made->load.kv_host_bytes_used = 512 * MIB;
    made->status.load = &made->load;
    made->member.hello = &made->hello;
    made->member.status = &made->status;
    made->member.reachable = 1;
}

enum what { MEMBERS, REQUESTS, JSON };

/* The text, to be freed. */
static char *print(const struct made *made, enum what what)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    assert_non_null(out);
    if (what == MEMBERS) {
        spin_cluster_view_members(&made->cluster, "here:1", out);
    } else if (what == REQUESTS) {
        spin_cluster_view_requests(&made->cluster, out);
    } else {
        spin_cluster_view_json(&made->cluster, out);
    }
    assert_int_equal(fclose(out), 0);
    return text;
}

static void expect(const struct made *made, enum what what, const char *wanted)
{
    char *text = print(made, what);
    assert_string_equal(text, wanted);
    free(text);
}

static void expect_part(const struct made *made, enum what what, const char *wanted)
{
    char *text = print(made, what);
    if (strstr(text, wanted) == NULL) {
        fail_msg("\"%s\" lacks \"%s\"", text, wanted);
    }
    free(text);
}

static void test_members(void **state)
{
    (void)state;
    struct made made;
    fill(&made);
    expect(
        &made, MEMBERS,
        "router r-1 at here:1: 1 members, 1 ready\n"
        "\n"
        "MEMBER           ROLE     STATE       RUNNING   WAIT  STEP MS  PREFILL/S  AGE S  MODEL\n"
        "127.0.0.1:65535  unified  ready          3/32      0     12.3        0.0    0.0  "
        "a-model-with-a-name\n"
        "\n"
        "MEMBER           ALGORITHM     HIT  RETRIEVED  EVICTED       HBM USED      HOST USED"
        "    TABLES\n"
        "127.0.0.1:65535  shadowkv    98.2%        700    12.3M  12.0/64.0 MiB    0.5/2.0 GiB"
        "   1.2 KiB\n"
        "\n"
        "MEMBER           DEVICE\n"
        "127.0.0.1:65535  NVIDIA H200\n");
}

static void test_requests(void **state)
{
    (void)state;
    struct made made;
    fill(&made);
    expect(&made, REQUESTS, "\nno request holds KV\n");
    fill_requests(&made);
    expect(&made, REQUESTS,
           "\n"
           "MEMBER           KV          TOKENS  BUDGET  MANDATORY  WORKING     HIT  REQUEST\n"
           "127.0.0.1:65535  resident    524280     160         36       51   99.9%  "
           "cmpl-0123456789abcdef01234567/0\n"
           "127.0.0.1:65535  buffered    524280     160         36       51   99.9%  b\n"
           "127.0.0.1:65535  suspended   524280     160         36       51       -  "
           "with \"quotes\"\n");
}

static void test_tables_fit_the_screen(void **state)
{
    (void)state;
    struct made made;
    fill(&made);
    made.load.running = 1023;
    made.load.waiting = 32768;
    made.capacity.sequences_max = 1024;
    made.load.step_ns = UINT64_C(9999900000);
    made.load.prefill_tokens_per_s = 9999999;
    made.member.status_age_ms = 59999;
    made.load.kv_hits = UINT64_MAX;
    made.load.kv_misses = UINT64_MAX / 1000000;
    made.load.kv_pages_retrieved = UINT64_MAX / 1000000;
    made.load.kv_evictions = UINT64_C(999499999999999);
    made.capacity.kv_device_bytes = made.load.kv_hbm_bytes_used = 1023 * MIB;
    made.capacity.kv_host_bytes = made.load.kv_host_bytes_used = 1023 * MIB * 1024;
    made.load.kv_table_bytes = 1023 * MIB;
    char *text = print(&made, MEMBERS);
    for (const char *line = text; *line != '\0';) {
        const size_t length = strcspn(line, "\n");
        if (length > COLUMNS) {
            fail_msg("%zu columns: %.*s", length, (int)length, line);
        }
        line += length + 1;
    }
    free(text);
}

static void test_nothing_said(void **state)
{
    (void)state;
    struct made made;
    init(&made);
    expect_part(&made, MEMBERS, "1 members, 0 ready");
    expect_part(&made, MEMBERS, "lost");
    expect_part(&made, MEMBERS,
                "     -          0        0              -              -       0 B\n");
    expect_part(&made, REQUESTS, "no request holds KV");
    expect_part(&made, JSON, "\"hit_ratio\": null, \"requests\": []}]}\n");
    made.hello.kind = SPIN__V1__MEMBER_KIND__MEMBER_MEMORY_NODE; /* it runs no algorithm */
    made.member.hello = &made.hello;
    expect_part(&made, MEMBERS, "TABLES\n");
    char *text = print(&made, MEMBERS);
    assert_non_null(strstr(text, "TABLES\n"));
    assert_string_equal(strstr(text, "TABLES\n"), "TABLES\n\nMEMBER  DEVICE\n");
    free(text);
    made.cluster.n_members = 0;
    expect(&made, MEMBERS,
           "router r-1 at here:1: 0 members, 0 ready\n"
           "no worker has joined yet: start one with `spin-worker --router here:1`\n");
    expect(&made, JSON, "{\"router\": \"r-1\", \"members\": []}\n");
}

static void test_json(void **state)
{
    (void)state;
    struct made made;
    fill(&made);
    fill_requests(&made);
    made.hello.budget_tokens = 512;
    made.hello.min_context = 4096;
    made.load.dense_fallbacks = 5;
    expect_part(&made, JSON,
                "\"algorithm\": \"shadowkv\", \"device\": \"NVIDIA H200\", \"budget_tokens\": 512, "
                "\"min_context\": 4096, ");
    expect_part(&made, JSON,
                "\"kv_hits\": 982, \"kv_misses\": 18, \"kv_pages_retrieved\": 700"
                ", \"kv_evictions\": 12345678"
                ", \"dense_fallbacks\": 5, \"kv_table_bytes\": 1234, \"kv_summary_bytes\": 0"
                ", \"kv_hbm_bytes_used\": 12582912, \"kv_hbm_bytes\": 67108864"
                ", \"kv_host_bytes_used\": 536870912, \"kv_host_bytes\": 2147483648"
                ", \"hit_ratio\": 0.982000, \"requests\": [{");
    expect_part(&made, JSON,
                "{\"id\": \"with \\\"quotes\\\"\", \"kv\": \"suspended\", \"tokens\": 524280"
                ", \"budget_pages\": 160, \"mandatory_pages\": 36, \"working_set\": 51"
                ", \"slots\": 0, \"hits\": 0, \"misses\": 0, \"hit_ratio\": null}]}]}\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_tables_fit_the_screen),
        cmocka_unit_test(test_nothing_said),
        cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
