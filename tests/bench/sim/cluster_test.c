/* Method: what must hold whatever is decided (everybody ends once, tokens add up, the same input is
 * the same output), and what queueing theory says about a cluster that is simple enough for it. */
#include "bench/sim/cluster.h"

#include "base/rng.h"
#include "bench/load/arrival.h"
#include "tests/bench/sim/small_table.h"
#include "tests/spin_test.h"

#define MS UINT64_C(1000000)
#define S UINT64_C(1000000000)

struct run {
    struct spin_bench_result *result;
    struct spin_sim_stats stats;
};

static struct run simulate(const struct spin_sim_config *config,
                           const struct spin_sim_arrival *arrivals, uint32_t count)
{
    struct run run = {0};
    struct spin_error err = {0};
    struct spin_small_source state = {.arrivals = arrivals, .count = count};
    const struct spin_sim_source source = spin_small_source(&state);
    SPIN_EXPECT_OK(spin_bench_result_create(count, &run.result, &err), &err);
    SPIN_EXPECT_OK(spin_sim_run(config, &source, run.result, &run.stats, &err), &err);
    assert_int_equal(state.next, count);
    assert_int_equal(state.ended, count);
    return run;
}

/* Poisson arrivals of prompts and answers of all lengths, some of them impossible. */
static struct spin_sim_arrival *make_traffic(uint32_t count, double rate_per_s, uint64_t seed)
{
    struct spin_sim_arrival *arrivals = calloc(count, sizeof *arrivals);
    assert_non_null(arrivals);
    struct spin_bench_arrivals times = {
        .kind = SPIN_BENCH_POISSON, .rate_per_s = rate_per_s, .seed = seed};
    struct spin_rng rng = {.seed = seed, .stream = 1};
    for (uint32_t i = 0; i < count; i++) {
        const uint64_t at_ns = spin_bench_arrivals_next(&times);
        arrivals[i] = (struct spin_sim_arrival){.intended_ns = at_ns,
                                                .sent_ns = at_ns + spin_rng_below(&rng, 2),
                                                .index = i,
                                                .prompt_tokens = 1 + spin_rng_below(&rng, 1500),
                                                .output_tokens = 1 + spin_rng_below(&rng, 300),
                                                .warm_up = i < count / 10};
        if (i > 0 && arrivals[i].sent_ns < arrivals[i - 1].sent_ns) {
            arrivals[i].sent_ns = arrivals[i - 1].sent_ns;
        }
        if (spin_rng_below(&rng, 50) == 0) {
            arrivals[i].output_tokens = 8000;
        }
    }
    return arrivals;
}

struct sums {
    uint32_t outcomes[SPIN_BENCH_OUTCOMES];
    uint64_t tokens;
    uint64_t gaps;
};

static struct sums add_up(const struct spin_bench_result *result,
                          const struct spin_sim_arrival *arrivals, uint32_t count)
{
    struct sums sums = {0};
    bool *seen = calloc(count, sizeof *seen);
    assert_non_null(seen);
    assert_int_equal(result->requests_count, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct spin_bench_request *request = &result->requests[i];
        assert_in_range(request->index, 0, count - 1);
        assert_false(seen[request->index]);
        seen[request->index] = true;
        const struct spin_sim_arrival *asked = &arrivals[request->index];
        assert_int_equal(request->prompt_tokens, asked->prompt_tokens);
        assert_int_equal(request->asked_tokens, asked->output_tokens);
        assert_int_equal(request->intended_ns, asked->intended_ns);
        assert_int_equal(request->sent_ns, asked->sent_ns);
        assert_int_equal(request->messages, request->output_tokens);
        assert_true(request->output_tokens <= asked->output_tokens);
        if (request->outcome == SPIN_BENCH_OK) {
            assert_int_equal(request->output_tokens, asked->output_tokens);
            assert_int_equal(request->last_ns, request->end_ns);
        }
        sums.outcomes[request->outcome]++;
        sums.tokens += request->output_tokens;
        sums.gaps += !request->warm_up && request->messages > 1 ? request->messages - 1 : 0;
    }
    free(seen);
    return sums;
}

/* A cluster short of everything: queue, time, blocks, slabs. */
static void test_everybody_ends_once(void **state)
{
    (void)state;
    enum { COUNT = 4000 };
    char *blocks = spin_small_table_with(spin_small_table, "kv_blocks", "kv_blocks 64");
    char *slabs = spin_small_table_with(blocks, "kv_slabs", "kv_slabs 72");
    char *table = spin_small_table_with(slabs, "output_expected", "output_expected_tokens 16");
    struct spin_small_engine small = spin_small_engine_create(table);
    struct spin_sim_arrival *arrivals = make_traffic(COUNT, 4, 5);
    struct spin_sim_config config = spin_sim_config_default(small.engine);
    config.workers = 3;
    config.queue_max = 30;
    config.generations_max = 45;
    config.request_timeout_ns = 20 * S;
    config.network_ns = 3 * MS;
    const struct run run = simulate(&config, arrivals, COUNT);
    const struct sums sums = add_up(run.result, arrivals, COUNT);
    assert_true(sums.outcomes[SPIN_BENCH_OK] > COUNT / 20);
    assert_true(sums.outcomes[SPIN_BENCH_BUSY] > COUNT / 20);
    assert_true(sums.outcomes[SPIN_BENCH_TIMEOUT] > 0);
    assert_true(sums.outcomes[SPIN_BENCH_REFUSED] > 0);
    assert_int_equal(sums.outcomes[SPIN_BENCH_OK] + sums.outcomes[SPIN_BENCH_BUSY] +
                         sums.outcomes[SPIN_BENCH_TIMEOUT] + sums.outcomes[SPIN_BENCH_REFUSED],
                     COUNT);
    assert_true(run.stats.workers.preemptions + run.stats.workers.suspensions > 0);
    assert_int_equal(run.result->itl.count, sums.gaps);
    uint64_t curve = 0;
    for (uint32_t i = 0; i < run.result->timeline.count; i++) {
        curve += run.result->timeline.tokens[i];
    }
    assert_int_equal(curve, sums.tokens);
    assert_non_null(strstr(run.result->errors[SPIN_BENCH_REFUSED].first, "max_model_len, 8000"));
    spin_bench_result_destroy(run.result);
    free(arrivals);
    spin_small_engine_destroy(&small);
    free(table);
    free(slabs);
    free(blocks);
}

static void expect_equal(const struct run *a, const struct run *b)
{
    assert_int_equal(a->result->requests_count, b->result->requests_count);
    assert_memory_equal(a->result->requests, b->result->requests,
                        a->result->requests_count * sizeof *a->result->requests);
    assert_memory_equal(&a->result->itl, &b->result->itl, sizeof a->result->itl);
    assert_memory_equal(&a->result->timeline, &b->result->timeline, sizeof a->result->timeline);
    assert_int_equal(a->result->end_ns, b->result->end_ns);
    assert_memory_equal(&a->stats.workers, &b->stats.workers, sizeof a->stats.workers);
}

/* The same input is the same output; whether a worker runs in bursts or step by step does not show,
 * another seed does. */
static void test_same_again(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    struct spin_small_engine small = spin_small_engine_create(spin_small_table);
    struct spin_sim_arrival *arrivals = make_traffic(COUNT, 6, 9);
    struct spin_sim_config config = spin_sim_config_default(small.engine);
    config.workers = 7;
    config.network_ns = 1 * MS;
    const struct run first = simulate(&config, arrivals, COUNT);
    const struct run second = simulate(&config, arrivals, COUNT);
    expect_equal(&first, &second);
    assert_int_equal(first.stats.events, second.stats.events);
    config.stepwise = true;
    const struct run stepwise = simulate(&config, arrivals, COUNT);
    expect_equal(&first, &stepwise);
    assert_true(stepwise.stats.events - stepwise.stats.statuses >
                3 * (first.stats.events - first.stats.statuses));
    config.seed = 1;
    const struct run other = simulate(&config, arrivals, COUNT);
    assert_memory_not_equal(first.result->requests, other.result->requests,
                            COUNT * sizeof *other.result->requests);
    spin_bench_result_destroy(first.result);
    spin_bench_result_destroy(second.result);
    spin_bench_result_destroy(stepwise.result);
    spin_bench_result_destroy(other.result);
    free(arrivals);
    spin_small_engine_destroy(&small);
}

/* As many workers as requests at once: everybody has one alone. */
static void test_burst_spreads(void **state)
{
    (void)state;
    enum { COUNT = 64 };
    struct spin_small_engine small = spin_small_engine_create(spin_small_table);
    struct spin_sim_arrival arrivals[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        arrivals[i] =
            (struct spin_sim_arrival){.index = i, .prompt_tokens = 100, .output_tokens = 5};
    }
    struct spin_sim_config config = spin_sim_config_default(small.engine);
    config.workers = COUNT;
    config.network_ns = 2 * MS;
    const struct run run = simulate(&config, arrivals, COUNT);
    for (uint32_t i = 0; i < COUNT; i++) {
        assert_int_equal(run.result->requests[i].first_ns, (2 + 101 + 2) * MS);
        assert_int_equal(run.result->requests[i].end_ns, (2 + 101 + 2 + 4 * 11) * MS);
    }
    assert_int_equal(run.stats.placements, COUNT);
    spin_bench_result_destroy(run.result);
    spin_small_engine_destroy(&small);
}

/* One worker, one place, prompts of one length, one token: M/D/1. Its mean wait is
 * rho D / (2 (1 - rho)) (Pollaczek-Khinchine); the error of the measured mean comes from the means
 * of 40 batches, and is small enough to tell. */
static void check_md1(double load, uint64_t seed)
{
    enum { BATCHES = 40, BATCH = 5000, COUNT = BATCHES * BATCH };
    const double service_s = 0.101;
    char *one = spin_small_table_with(spin_small_table, "max_num_seqs", "max_num_seqs 1");
    struct spin_small_engine small = spin_small_engine_create(one);
    struct spin_bench_arrivals times = {
        .kind = SPIN_BENCH_POISSON, .rate_per_s = load / service_s, .seed = seed};
    struct spin_sim_arrival *arrivals = calloc(COUNT, sizeof *arrivals);
    assert_non_null(arrivals);
    for (uint32_t i = 0; i < COUNT; i++) {
        const uint64_t at_ns = spin_bench_arrivals_next(&times);
        arrivals[i] = (struct spin_sim_arrival){.intended_ns = at_ns,
                                                .sent_ns = at_ns,
                                                .index = i,
                                                .prompt_tokens = 100,
                                                .output_tokens = 1};
    }
    const struct spin_sim_config config = spin_sim_config_default(small.engine);
    const struct run run = simulate(&config, arrivals, COUNT);
    double means[BATCHES] = {0};
    double mean = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        const struct spin_bench_request *request = &run.result->requests[i];
        assert_int_equal(request->index, i); /* first come, first served */
        const double wait_s = (double)(request->first_ns - request->intended_ns) / 1e9 - service_s;
        means[i / BATCH] += wait_s / BATCH;
        mean += wait_s / COUNT;
    }
    double variance = 0;
    for (uint32_t i = 0; i < BATCHES; i++) {
        variance += (means[i] - mean) * (means[i] - mean) / (BATCHES - 1);
    }
    const double error = sqrt(variance / BATCHES);
    const double theory = load * service_s / (2 * (1 - load));
    print_message("M/D/1 at %.2f: %.5f s, theory %.5f s, error %.5f s\n", load, mean, theory,
                  error);
    assert_true(error < 0.04 * theory);
    assert_true(fabs(mean - theory) < 3 * error);
    const double busy = (double)run.stats.workers.busy_ns / (double)run.result->end_ns;
    assert_true(fabs(busy - load) < 0.01);
    spin_bench_result_destroy(run.result);
    free(arrivals);
    spin_small_engine_destroy(&small);
    free(one);
}

static void test_queueing_formula(void **state)
{
    (void)state;
    check_md1(0.3, 1);
    check_md1(0.8, 2);
}

static void test_limits(void **state)
{
    (void)state;
    struct spin_small_engine small = spin_small_engine_create(spin_small_table);
    struct spin_sim_arrival *arrivals = make_traffic(100, 1, 1);
    struct spin_small_source counter = {.arrivals = arrivals, .count = 100};
    const struct spin_sim_source source = spin_small_source(&counter);
    struct spin_sim_config config = spin_sim_config_default(small.engine);
    struct spin_bench_result *result = NULL;
    struct spin_sim_stats stats;
    struct spin_error err = {0};
    SPIN_EXPECT_OK(spin_bench_result_create(100, &result, &err), &err);
    config.events_max = 50;
    SPIN_EXPECT_STATUS(spin_sim_run(&config, &source, result, &stats, &err), SPIN_ERR_EXHAUSTED);
    assert_non_null(strstr(err.text, "50 events"));
    spin_bench_result_destroy(result);
    free(arrivals);
    spin_small_engine_destroy(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everybody_ends_once),
        cmocka_unit_test(test_same_again),
        cmocka_unit_test(test_burst_spreads),
        cmocka_unit_test(test_queueing_formula),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
