/* Lengths of every workload against the published ranges and means, the cut exponential against
 * its formula, and that a request is a function of seed and index alone. */
#include "bench/load/workload.h"

#include "tests/spin_test.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MANY 100000u

static struct spin_bench_workload *opened(const char *name, double scale, uint64_t seed)
{
    const struct spin_bench_workload_config config = {.name = name, .scale = scale, .seed = seed};
    struct spin_bench_workload *workload = NULL;
    struct spin_error err = {0};
    const spin_status status = spin_bench_workload_create(&config, &workload, &err);
    if (status != SPIN_OK) {
        fail_msg("%s: %s", name, err.text);
    }
    return workload;
}

struct row {
    const char *name;
    double prompt[3];
    double output[3];
    double prefix; /* added to every prompt */
};

/* As published, a second time on purpose. */
static const struct row rows[] = {
    {"longbench-v2", {32000, 55000, 120000}, {500, 5000, 15000}, 0},
    {"longgenbench", {16000, 18000, 19000}, {7000, 12000, 32000}, 0},
    {"chat", {4, 161, 2048}, {4, 338, 2048}, 0},
    {"prefix-heavy", {16, 128, 256}, {16, 128, 512}, 2048},
};

struct seen {
    double sum;
    double squares;
    double min;
    double max;
};

static void see(struct seen *seen, double value)
{
    seen->sum += value;
    seen->squares += value * value;
    seen->min = seen->min == 0 || value < seen->min ? value : seen->min;
    seen->max = value > seen->max ? value : seen->max;
}

/* Five standard errors of the mean, and half a token of rounding. */
static void assert_lengths(const struct seen *seen, const double range[3], double scale)
{
    const double mean = seen->sum / MANY;
    const double deviation = sqrt(seen->squares / MANY - mean * mean);
    assert_true(fabs(mean - range[1] * scale) < 5 * deviation / sqrt(MANY) + 0.5);
    assert_true(seen->min >= floor(range[0] * scale));
    assert_true(seen->max <= ceil(range[2] * scale));
    /* Both ends are reached, so the range is no wider than what is drawn. */
    const double width = (range[2] - range[0]) * scale;
    assert_true(seen->min <= (range[0] + 0.02 * width / scale) * scale + 1);
    assert_true(seen->max >= range[1] * scale + 0.6 * (range[2] - range[1]) * scale);
}

static void test_published_lengths(void **state)
{
    (void)state;
    static const double scales[] = {1, 0.01};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows) * SPIN_ARRAY_COUNT(scales); i++) {
        const struct row *row = &rows[i / SPIN_ARRAY_COUNT(scales)];
        const double scale = scales[i % SPIN_ARRAY_COUNT(scales)];
        if (row->prompt[0] * scale < 1) {
            continue; /* the shortest is cut at one token, which moves the mean */
        }
        struct spin_bench_workload *workload = opened(row->name, scale, 42);
        struct seen prompt = {0};
        struct seen output = {0};
        for (uint32_t k = 0; k < MANY; k++) {
            struct spin_bench_plan plan;
            spin_bench_workload_plan(workload, k, &plan);
            see(&prompt, plan.prompt_tokens - row->prefix * scale);
            see(&output, plan.output_tokens);
        }
        assert_lengths(&prompt, row->prompt, scale);
        assert_lengths(&output, row->output, scale);
        assert_int_equal(spin_bench_workload_count(workload), 0);
        spin_bench_workload_destroy(workload);
    }
}

/* The quantile function against the density, integrated by the midpoint rule. */
static void test_cut_exponential(void **state)
{
    (void)state;
    static const double shapes[][3] = {{32, 55, 120}, {16, 18, 19}, {0, 0.5, 1}, {0, 1, 100}};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(shapes); i++) {
        const double *shape = shapes[i];
        const struct spin_bench_lengths lengths =
            spin_bench_lengths_make(shape[0], shape[1], shape[2]);
        double sum = 0;
        double last = shape[0];
        for (uint32_t k = 0; k < MANY; k++) {
            const double value = spin_bench_lengths_at(&lengths, (k + 0.5) / MANY);
            assert_true(value >= last);
            assert_true(value <= shape[2]);
            last = value;
            sum += value;
        }
        assert_true(fabs(sum / MANY - shape[1]) < 1e-4 * (shape[2] - shape[0]));
        /* The density falls by the same factor over equal steps: quantiles tell it. */
        const double width = shape[2] - shape[0];
        const double k = lengths.steepness;
        for (uint32_t tenth = 1; tenth < 10; tenth++) {
            const double u = 0.1 * tenth;
            const double x = (spin_bench_lengths_at(&lengths, u) - shape[0]) / width;
            const double below = fabs(k) < 1e-4 ? x : expm1(-k * x) / expm1(-k);
            assert_true(fabs(below - u) < 1e-6);
        }
    }
}

static void test_fixed(void **state)
{
    (void)state;
    struct spin_bench_workload *workload = opened("fixed:100,7", 0.25, 1);
    struct spin_bench_plan plan;
    for (uint64_t i = 0; i < 10; i++) {
        spin_bench_workload_plan(workload, i, &plan);
        assert_int_equal(plan.prompt_tokens, 25);
        assert_int_equal(plan.output_tokens, 2);
        assert_int_equal(plan.block_count, 0);
    }
    spin_bench_workload_destroy(workload);
}

static void test_prefixes_are_shared_evenly(void **state)
{
    (void)state;
    struct spin_bench_workload *workload = opened("prefix-heavy:5,300", 1, 3);
    uint64_t seeds[5] = {0};
    uint32_t counts[5] = {0};
    uint32_t known = 0;
    for (uint32_t i = 0; i < 10000; i++) {
        struct spin_bench_plan plan;
        spin_bench_workload_plan(workload, i, &plan);
        assert_int_equal(plan.block_count, 1);
        assert_int_equal(plan.block_tokens, 300);
        uint32_t group = 0;
        while (group < known && seeds[group] != plan.blocks[0]) {
            group++;
        }
        assert_true(group < 5);
        seeds[group] = plan.blocks[0];
        known = group == known ? known + 1 : known;
        counts[group]++;
    }
    assert_int_equal(known, 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_in_range(counts[i], 1800, 2200); /* 2,000 and five standard deviations */
    }
    spin_bench_workload_destroy(workload);
}

static void test_request_is_a_function_of_seed_and_index(void **state)
{
    (void)state;
    struct spin_bench_workload *one = opened("chat", 1, 9);
    struct spin_bench_workload *same = opened("chat", 1, 9);
    struct spin_bench_workload *other = opened("chat", 1, 10);
    uint32_t equal = 0;
    for (uint64_t i = 0; i < 200; i++) {
        struct spin_bench_plan a;
        struct spin_bench_plan b;
        struct spin_bench_plan c;
        spin_bench_workload_plan(one, i, &a);
        spin_bench_workload_plan(same, 199 - i, &b);
        spin_bench_workload_plan(same, i, &b); /* in whatever order they are asked for */
        spin_bench_workload_plan(other, i, &c);
        assert_int_equal(a.prompt_tokens, b.prompt_tokens);
        assert_int_equal(a.output_tokens, b.output_tokens);
        assert_int_equal(a.text_seed, b.text_seed);
        equal += a.text_seed == c.text_seed;
    }
    assert_int_equal(equal, 0);
    spin_bench_workload_destroy(one);
    spin_bench_workload_destroy(same);
    spin_bench_workload_destroy(other);
}

static void test_wrong_names(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double scale;
        const char *says;
    } wrong[] = {
        {"", 1, "longbench-v2"},       {"longbench", 1, "longbench-v2"},
        {"chat:1,2", 1, "there are"},  {"fixed:", 1, "IN,OUT"},
        {"fixed:0,5", 1, "IN,OUT"},    {"fixed:5", 1, "IN,OUT"},
        {"fixed:5,6,7", 1, "IN,OUT"},  {"fixed:-5,6", 1, "IN,OUT"},
        {"fixed:5,9999999999", 1, ""}, {"prefix-heavy:0,5", 1, "GROUPS"},
        {"prefix-heavy:5", 1, ""},     {"trace:/no/such/file", 1, "/no/such/file"},
        {"chat", 0, "scale"},          {"chat", -1, "scale"},
        {"chat", NAN, "scale"},        {"chat", 1e9, "scale"},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(wrong); i++) {
        const struct spin_bench_workload_config config = {.name = wrong[i].name,
                                                          .scale = wrong[i].scale};
        struct spin_bench_workload *workload = NULL;
        struct spin_error err = {0};
        assert_int_not_equal(spin_bench_workload_create(&config, &workload, &err), SPIN_OK);
        assert_null(workload);
        assert_non_null(strstr(err.text, wrong[i].says));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_lengths),
        cmocka_unit_test(test_cut_exponential),
        cmocka_unit_test(test_fixed),
        cmocka_unit_test(test_prefixes_are_shared_evenly),
        cmocka_unit_test(test_request_is_a_function_of_seed_and_index),
        cmocka_unit_test(test_wrong_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
