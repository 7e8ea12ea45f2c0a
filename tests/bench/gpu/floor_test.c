/* Against figures worked out by hand for Qwen3-14B: 330.3 million parameters a layer, 40 layers,
 * lm_head of 151,936 x 5,120, 8 KV heads of 128. */
#include "bench/gpu/model/floor.h"

#include "tests/spin_test.h"

#include <math.h>

static const struct spin_model_config qwen3_14b = {.layers = 40,
                                                   .hidden = 5120,
                                                   .ffn = 17408,
                                                   .q_heads = 40,
                                                   .kv_heads = 8,
                                                   .head_dim = 128,
                                                   .vocab = 151936};

static void close_to(double value, double expected, double tolerance)
{
    if (fabs(value - expected) > tolerance) {
        fail_msg("%.6f, expected %.6f", value, expected);
    }
}

static struct spin_sparse_options options(const struct spin_sparse_algorithm *algorithm)
{
    return (struct spin_sparse_options){.algorithm = algorithm, .min_context = 1};
}

static void weights_take_the_time_that_is_known(void **state)
{
    (void)state;
    /* A layer: 5120 x (2 x 5120 + 2 x 1024 + 3 x 17408) = 330,301,440. */
    const double bytes = 2.0 * (40 * 330301440.0 + 151936 * 5120.0);
    close_to(spin_floor_weight_bytes(&qwen3_14b), bytes, 0.5);
    const struct spin_floor_bytes weights = {.weights = bytes};
    close_to(spin_floor_of(&weights).hbm_ms, 6.563, 0.001);
}

/* 160 KiB a token: 8 sequences of 32K are 42.9 GB. */
static void dense_reads_every_page(void **state)
{
    (void)state;
    const struct spin_sparse_options dense = options(&spin_sparse_dense);
    const struct spin_floor_bytes bytes = spin_floor_step(&qwen3_14b, &dense, 32768, 8);
    close_to(bytes.pages, 8.0 * 32768 * 160 * 1024, 0.5);
    close_to(bytes.summaries, 0, 0);
    close_to(spin_floor_of(&bytes).overlapped_ms, 6.563 + 10.075, 0.01);
}

/* 32768 / 64 = 512 tokens are 64 chunks of 8; chunk 0 and the last four are taken anyway, and
 * nothing behind them is open: 69 pages of 4 KiB in each of 320 rows. Candidates: 4096 - 5. */
static void shadowkv_reads_means_and_its_list(void **state)
{
    (void)state;
    const struct spin_sparse_options shadowkv = options(&spin_sparse_shadowkv);
    const struct spin_floor_bytes bytes = spin_floor_step(&qwen3_14b, &shadowkv, 32768, 8);
    close_to(bytes.pages, 8.0 * 320 * 69 * 4096, 0.5);
    close_to(bytes.summaries, 8.0 * 320 * 4091 * 256, 0.5);
    const struct spin_floor floor = spin_floor_of(&bytes);
    close_to(floor.hbm_ms, 6.563 + 0.629 + 0.170, 0.01);
}

/* 1024 tokens are 64 pages of 16, the newest one among them; the first two layers are dense. */
static void quest_reads_bounds_and_two_layers_whole(void **state)
{
    (void)state;
    const struct spin_sparse_options quest = options(&spin_sparse_quest);
    const struct spin_floor_bytes bytes = spin_floor_step(&qwen3_14b, &quest, 65536, 1);
    const double list = 8.0 * 128 * 4096;
    const double whole = 8.0 * 8192 * 4096;
    close_to(bytes.pages, 38 * list + 2 * whole, 0.5);
    close_to(bytes.summaries, 38.0 * 8 * 4095 * 512, 0.5);
}

/* A tenth of 64 chosen pages in 320 rows of 8 sequences: 67.1 MB, 1.31 ms. */
static void misses_cross_the_bus(void **state)
{
    (void)state;
    struct spin_floor_bytes bytes = {.misses = 8 * 320 * 6.4 * 4096};
    close_to(spin_floor_of(&bytes).pcie_ms, 1.311, 0.001);
    bytes.weights = 4263e6;
    const struct spin_floor floor = spin_floor_of(&bytes);
    close_to(floor.hbm_ms, 1, 1e-9);
    close_to(floor.overlapped_ms, 1.311, 0.001);
    close_to(floor.serial_ms, 2.311, 0.001);
    bytes.weights = 2 * 4263e6;
    close_to(spin_floor_of(&bytes).overlapped_ms, 2, 1e-9);
}

/* 40 layers of 330.3 M weights, 32,768 tokens: 866 TFLOP; pairs of 40 heads of 128: 440 TFLOP. */
static void prompts_take_known_operations(void **state)
{
    (void)state;
    close_to(spin_floor_prefill_linear(&qwen3_14b, 32768) / 1e12, 865.9, 0.1);
    close_to(spin_floor_prefill_attention(&qwen3_14b, 32768) / 1e12, 439.8, 0.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_take_the_time_that_is_known),
        cmocka_unit_test(dense_reads_every_page),
        cmocka_unit_test(shadowkv_reads_means_and_its_list),
        cmocka_unit_test(quest_reads_bounds_and_two_layers_whole),
        cmocka_unit_test(misses_cross_the_bus),
        cmocka_unit_test(prompts_take_known_operations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
