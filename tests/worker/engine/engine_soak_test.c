/* usage: engine_soak_test [SECONDS]
 *
 * Method: 32 clients submit requests of random lengths and fields, leave at random, and come back,
 * over tiers that are too small for them, with dense and with sparse attention; in the end every
 * pool is at its starting level and every request has ended exactly once. */
#include "base/rng.h"
#include "tests/spin_test.h"
#include "tests/worker/engine/engine_harness.h"

#include <inttypes.h>

#define CLIENTS 32u
#define TOKENS_MAX 1024u

static uint64_t soak_ns = 2 * SPIN_NS_PER_S; /* of each algorithm */

struct client {
    bool busy;
    bool left; /* cancelled */
    struct answer answer;
    uint64_t submitted_ns;
};

struct crowd {
    struct harness harness;
    struct client *clients;
    struct spin_rng rng;
    uint32_t submitted;
    uint32_t preempted;
    uint32_t ended[5]; /* by reason */
};

static void come(struct crowd *crowd, struct client *client)
{
    struct spin_rng *rng = &crowd->rng;
    int32_t prompt[TOKENS_MAX];
    const uint32_t length = 1 + spin_rng_below(rng, spin_rng_below(rng, 4) == 0 ? 900 : 60);
    const uint32_t output = 1 + spin_rng_below(rng, TOKENS_MAX - length);
    spin_harness_prompt(&crowd->harness, spin_rng_u32(rng), prompt, length);
    spin_answer_init(&client->answer);
    struct spin_request request = spin_harness_request(prompt, length, output, &client->answer);
    request.sampling.temperature = spin_rng_below(rng, 2) == 0 ? 0 : 1;
    request.sampling.top_k = spin_rng_below(rng, 50);
    request.sampling.seed = spin_rng_u32(rng);
    request.sampling.presence_penalty = spin_rng_below(rng, 2) == 0 ? 0 : 1;
    request.logprobs = spin_rng_below(rng, 4) == 0;
    request.prompt_logprobs = spin_rng_below(rng, 8) == 0;
    const int32_t stop = (int32_t)spin_rng_below(rng, 512);
    request.stop_tokens = &stop;
    request.stop_token_count = spin_rng_below(rng, 2);
    client->submitted_ns = spin_now_ns(spin_clock_real());
    if (spin_rng_below(rng, 8) == 0) {
        request.deadline_ns = client->submitted_ns + spin_rng_below(rng, 200) * SPIN_NS_PER_MS;
    }
    spin_harness_submit(&crowd->harness, &request, &client->answer);
    client->busy = true;
    client->left = false;
    crowd->submitted++;
}

static bool has_ended(struct client *client)
{
    spin_mutex_lock(&client->answer.mutex);
    const bool ended = client->answer.finishes > 0;
    spin_mutex_unlock(&client->answer.mutex);
    return ended;
}

static void go(struct crowd *crowd, struct client *client)
{
    const struct spin_finish *finish = &client->answer.finish;
    assert_int_not_equal(finish->reason, SPIN_FINISH_ERROR);
    assert_true(finish->reason != SPIN_FINISH_CANCELLED || client->left);
    assert_int_equal(finish->usage.completion_tokens, client->answer.count);
    crowd->ended[finish->reason]++;
    crowd->preempted += finish->usage.preemptions;
    spin_answer_deinit(&client->answer);
    client->busy = false;
}

static void run_crowd(struct crowd *crowd)
{
    const uint64_t end_ns = spin_now_ns(spin_clock_real()) + soak_ns;
    while (spin_now_ns(spin_clock_real()) < end_ns) {
        struct client *client = &crowd->clients[spin_rng_below(&crowd->rng, CLIENTS)];
        if (!client->busy) {
            come(crowd, client);
        } else if (has_ended(client)) {
            go(crowd, client);
        } else if (spin_rng_below(&crowd->rng, 100) == 0) {
            client->left = true;
            spin_engine_cancel(crowd->harness.engine, client->answer.ticket);
        }
        const struct timespec pause = {0, 200000};
        (void)nanosleep(&pause, NULL);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        if (crowd->clients[i].busy) {
            spin_answer_wait(&crowd->clients[i].answer);
            go(crowd, &crowd->clients[i]);
        }
    }
}

/* Bytes of KV of a token of random:tiny. */
#define TOKEN_BYTES (UINT64_C(2) * 2 * 2 * 16 * 2)

static void expect_everything_comes_back(const struct spin_sparse_algorithm *algorithm)
{
    struct spin_engine_config config = spin_harness_config();
    config.threads = 2;
    config.kv_host_bytes = UINT64_C(20) * SPIN_BLOCK_TOKENS * TOKEN_BYTES;
    config.kv_hbm_bytes = 2560 * TOKEN_BYTES;
    config.sparse.algorithm = algorithm;
    config.sparse.budget_tokens = 64;
    config.sparse.min_context = 128;
    struct crowd crowd = {.rng = {.seed = 2026, .stream = 0, .counter = 0}};
    spin_harness_open(&crowd.harness, "random:tiny", &config);
    crowd.clients = calloc(CLIENTS, sizeof *crowd.clients);
    assert_non_null(crowd.clients);
    run_crowd(&crowd);
    spin_harness_wait_idle(&crowd.harness); /* no KV used, nobody runs or waits */
    struct spin_engine_load load;
    spin_engine_get_load(crowd.harness.engine, &load);
    const uint32_t ended =
        crowd.ended[0] + crowd.ended[1] + crowd.ended[2] + crowd.ended[3] + crowd.ended[4];
    assert_int_equal(ended, crowd.submitted);
    printf("%s: submitted %u: stop %u, length %u, cancelled %u, deadline %u; preemptions %u, "
           "suspensions %" PRIu64 "\n",
           algorithm->name, crowd.submitted, crowd.ended[SPIN_FINISH_STOP],
           crowd.ended[SPIN_FINISH_LENGTH], crowd.ended[SPIN_FINISH_CANCELLED],
           crowd.ended[SPIN_FINISH_DEADLINE], crowd.preempted, load.suspensions);
    assert_true(crowd.ended[SPIN_FINISH_CANCELLED] > 0);
    assert_true(crowd.ended[SPIN_FINISH_LENGTH] > 0);
    free(crowd.clients);
    spin_harness_close(&crowd.harness);
}

static void test_everything_comes_back(void **state)
{
    (void)state;
    expect_everything_comes_back(&spin_sparse_dense);
    expect_everything_comes_back(&spin_sparse_shadowkv);
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        soak_ns = (uint64_t)strtoul(argv[1], NULL, 10) * SPIN_NS_PER_S / 2;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_everything_comes_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
