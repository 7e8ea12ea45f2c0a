/* Method: times that the small table makes easy to add up; then random traffic, watched for what
 * may never happen. */
#include "bench/sim/worker.h"

#include "base/clock.h"
#include "base/list.h"
#include "base/rng.h"
#include "tests/bench/sim/small_table.h"
#include "tests/spin_test.h"

#define TOKENS_MAX 4096u
#define MS UINT64_C(1000000)

struct client {
    struct spin_sim_request request;
    uint64_t token_ns[TOKENS_MAX];
    uint32_t tokens;
    uint64_t end_ns;
    uint32_t ends;
    enum spin_finish_reason reason;
};

struct fixture {
    struct spin_small_engine small;
    struct spin_sim_worker *worker;
    uint64_t earliest_ns; /* promised: nobody ends before */
    uint32_t ended;
};

static void on_tokens(void *context, uint64_t at_ns, struct spin_sim_request *const *requests,
                      uint32_t count)
{
    (void)context;
    for (uint32_t i = 0; i < count; i++) {
        struct client *client = SPIN_CONTAINER_OF(requests[i], struct client, request);
        assert_int_equal(client->ends, 0);
        if (client->tokens < TOKENS_MAX) {
            client->token_ns[client->tokens] = at_ns;
        }
        client->tokens++;
    }
}

static void on_finished(void *context, uint64_t at_ns, struct spin_sim_request *request,
                        enum spin_finish_reason reason)
{
    struct fixture *fixture = context;
    struct client *client = SPIN_CONTAINER_OF(request, struct client, request);
    assert_true(at_ns >= fixture->earliest_ns);
    client->ends++;
    client->end_ns = at_ns;
    client->reason = reason;
    fixture->ended++;
}

static struct fixture *make(const char *table)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    assert_non_null(fixture);
    fixture->small = spin_small_engine_create(table);
    const struct spin_sim_sink sink = {fixture, on_tokens, on_finished};
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_sim_worker_create(fixture->small.engine, &sink, &fixture->worker, &err),
                   &err);
    return fixture;
}

static void unmake(struct fixture *fixture)
{
    spin_sim_worker_destroy(fixture->worker);
    spin_small_engine_destroy(&fixture->small);
    free(fixture);
}

static void submit(struct fixture *fixture, uint64_t now_ns, struct client *client)
{
    spin_sim_worker_advance(fixture->worker, now_ns);
    fixture->earliest_ns = 0;
    SPIN_EXPECT_STATUS(spin_sim_worker_submit(fixture->worker, now_ns, &client->request), SPIN_OK);
}

static struct client client_of(uint32_t prompt, uint32_t output)
{
    return (struct client){.request = {.prompt_tokens = prompt,
                                       .output_tokens = output,
                                       .deadline_ns = SPIN_NO_DEADLINE}};
}

/* First token when the whole prompt has run, then one a step. */
static void test_alone(void **state)
{
    (void)state;
    struct fixture *fixture = make(spin_small_table);
    struct client client = client_of(1000, 3);
    assert_true(spin_sim_worker_next_ns(fixture->worker, false) == SPIN_NO_DEADLINE);
    submit(fixture, 5 * MS, &client);
    spin_sim_worker_advance(fixture->worker, UINT64_MAX);
    assert_int_equal(client.tokens, 3);
    assert_int_equal(client.token_ns[0], 5 * MS + 1001 * MS);
    assert_int_equal(client.token_ns[1] - client.token_ns[0], 11001000); /* 1,001 of context */
    assert_int_equal(client.token_ns[2] - client.token_ns[1], 11002000);
    assert_int_equal(client.end_ns, client.token_ns[2]);
    assert_int_equal(client.reason, SPIN_FINISH_LENGTH);
    struct spin_sim_worker_stats stats;
    spin_sim_worker_get_stats(fixture->worker, &stats);
    assert_int_equal(stats.units, 20);
    assert_int_equal(stats.decode_steps, 2);
    assert_int_equal(stats.beyond, 0);
    assert_int_equal(stats.busy_ns, client.end_ns - 5 * MS);
    unmake(fixture);
}

/* 200 tokens of prefill between two steps: 4 units of 100 tokens and half of the layers. */
static void test_prefill_between_steps(void **state)
{
    (void)state;
    struct fixture *fixture = make(spin_small_table);
    struct client talker = client_of(100, 40);
    struct client reader = client_of(1000, 1);
    submit(fixture, 0, &talker);
    submit(fixture, 102 * MS, &reader); /* in the middle of the first step */
    spin_sim_worker_advance(fixture->worker, UINT64_MAX);
    assert_int_equal(talker.token_ns[0], 101 * MS);
    assert_int_equal(talker.token_ns[1], 112 * MS);
    for (uint32_t i = 2; i <= 6; i++) { /* 20 units, 4 a step; the last one draws a token, too */
        const uint64_t gap_ns = talker.token_ns[i] - talker.token_ns[i - 1];
        assert_int_equal(gap_ns, 200 * MS + 11 * MS + (i == 6 ? MS : 0));
    }
    assert_int_equal(talker.token_ns[7] - talker.token_ns[6], 11 * MS);
    assert_int_equal(reader.token_ns[0], talker.token_ns[6] - 11 * MS);
    unmake(fixture);
}

/* What an engine that is busy has not taken yet is in no status, as in reality. */
static void test_load(void **state)
{
    (void)state;
    struct fixture *fixture = make(spin_small_table);
    struct client first = client_of(1000, 50);
    struct client second = client_of(500, 50);
    struct spin_sim_load load;
    submit(fixture, 0, &first);
    submit(fixture, MS, &second);
    spin_sim_worker_get_load(fixture->worker, &load);
    assert_int_equal(load.running, 1);
    assert_int_equal(load.waiting, 0);
    assert_int_equal(load.queued_prompt_tokens, 1000);
    assert_int_equal(load.kv_tokens_used, 1024); /* blocks of 128 */
    assert_int_equal(load.step_ns, 0);
    spin_sim_worker_advance(fixture->worker, 50 * MS);
    spin_sim_worker_get_load(fixture->worker, &load);
    assert_int_equal(load.running, 2);
    assert_int_equal(load.queued_prompt_tokens, 1450);
    assert_true(fabs(load.prefill_tokens_per_s - 1000) <
                1e-6); /* 50 ms: 100 tokens, half through */
    spin_sim_worker_advance(fixture->worker, UINT64_MAX);
    spin_sim_worker_get_load(fixture->worker, &load);
    assert_int_equal(load.running, 0);
    assert_int_equal(load.kv_tokens_used, 0);
    assert_in_range(load.step_ns, 11 * MS, 14 * MS);
    unmake(fixture);
}

static void test_refuses_when_full(void **state)
{
    (void)state;
    char *table = spin_small_table_with(spin_small_table, "max_waiting", "max_waiting 3");
    struct fixture *fixture = make(table);
    free(table);
    struct client clients[5];
    for (uint32_t i = 0; i < 5; i++) {
        clients[i] = client_of(1000, 10);
        spin_sim_worker_advance(fixture->worker, i);
        /* The first is admitted at once; the others wait until it has run a unit. */
        SPIN_EXPECT_STATUS(spin_sim_worker_submit(fixture->worker, i, &clients[i].request),
                           i < 4 ? SPIN_OK : SPIN_ERR_EXHAUSTED);
    }
    spin_sim_worker_advance(fixture->worker, UINT64_MAX);
    assert_int_equal(fixture->ended, 4);
    unmake(fixture);
}

static void test_deadline(void **state)
{
    (void)state;
    struct fixture *fixture = make(spin_small_table);
    struct client client = client_of(1000, 2000);
    client.request.deadline_ns = 1500 * MS;
    submit(fixture, 0, &client);
    const uint64_t next_ns = spin_sim_worker_next_ns(fixture->worker, false);
    assert_int_equal(next_ns, 1500 * MS);
    spin_sim_worker_advance(fixture->worker, UINT64_MAX);
    assert_int_equal(client.reason, SPIN_FINISH_DEADLINE);
    assert_in_range(client.end_ns, 1500 * MS, 1513 * MS); /* with the step that it was in */
    unmake(fixture);
}

/* Traffic that never fits: whatever is preempted and suspended, everybody gets all tokens once, and
 * nobody ends before the worker said. */
static void walk(const char *table, uint64_t seed, struct spin_sim_worker_stats *stats)
{
    enum { CLIENTS = 300 };
    struct fixture *fixture = make(table);
    struct client *clients = calloc(CLIENTS, sizeof *clients);
    assert_non_null(clients);
    struct spin_rng rng = {.seed = seed};
    uint64_t now_ns = 0;
    for (uint32_t i = 0; i < CLIENTS; i++) {
        clients[i] = client_of(1 + spin_rng_below(&rng, 3000), 1 + spin_rng_below(&rng, 1200));
        const uint64_t wait_ns = spin_rng_below(&rng, 4000) * MS;
        for (uint32_t leap = 0; leap < 4; leap++) { /* never beyond what it asked for */
            fixture->earliest_ns = spin_sim_worker_next_ns(fixture->worker, false);
            assert_true(fixture->earliest_ns >= now_ns);
            now_ns += wait_ns / 4;
            spin_sim_worker_advance(fixture->worker, now_ns);
            if (fixture->earliest_ns != SPIN_NO_DEADLINE) {
                assert_true(spin_sim_worker_next_ns(fixture->worker, true) > now_ns);
            }
        }
        fixture->earliest_ns = 0;
        if (spin_sim_worker_submit(fixture->worker, now_ns, &clients[i].request) != SPIN_OK) {
            clients[i].ends = 1;
        }
    }
    fixture->earliest_ns = 0;
    spin_sim_worker_advance(fixture->worker, UINT64_MAX);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        assert_int_equal(clients[i].ends, 1);
        assert_int_equal(clients[i].tokens,
                         clients[i].end_ns == 0 ? 0 : clients[i].request.output_tokens);
    }
    assert_true(spin_sim_worker_next_ns(fixture->worker, false) == SPIN_NO_DEADLINE);
    spin_sim_worker_get_stats(fixture->worker, stats);
    free(clients);
    unmake(fixture);
}

static void test_short_of_blocks(void **state)
{
    (void)state;
    struct spin_sim_worker_stats stats;
    char *table = spin_small_table_with(spin_small_table, "kv_blocks", "kv_blocks 70");
    walk(table, 1, &stats);
    assert_true(stats.preemptions > 0);
    /* What was drawn before is decoded again, and nothing is drawn twice. */
    const uint64_t dense_steps = stats.decode_steps;
    char *replaying = spin_small_table_with(table, "replay", "replay 1");
    walk(replaying, 1, &stats);
    assert_true(stats.preemptions > 0);
    assert_true(stats.decode_steps > dense_steps);
    free(replaying);
    free(table);
    walk(spin_small_table, 2, &stats);
    assert_int_equal(stats.preemptions + stats.suspensions, 0);
}

static void test_short_of_slabs(void **state)
{
    (void)state;
    struct spin_sim_worker_stats stats;
    char *table = spin_small_table_with(spin_small_table, "kv_slabs", "kv_slabs 70");
    walk(table, 3, &stats);
    assert_true(stats.suspensions > 0);
    free(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_alone),          cmocka_unit_test(test_prefill_between_steps),
        cmocka_unit_test(test_load),           cmocka_unit_test(test_refuses_when_full),
        cmocka_unit_test(test_deadline),       cmocka_unit_test(test_short_of_blocks),
        cmocka_unit_test(test_short_of_slabs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
