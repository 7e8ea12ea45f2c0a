/* Method: create with one field wrong at a time; sequences and their numbers. */
#include "kvstore/manager/kv.h"

#include "tests/kvstore/manager/kv_world.h"

static void expect_refused(struct world *world, const struct spin_kv_config *config,
                           spin_status status, const char *text)
{
    struct spin_error err;
    struct spin_kv *kv = NULL;
    SPIN_EXPECT_STATUS(spin_kv_create(config, world->stream, &kv, &err), status);
    assert_null(kv);
    if (strstr(err.text, text) == NULL) {
        fail_msg("\"%s\" does not name \"%s\"", err.text, text);
    }
}

static void test_config_is_checked(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    options.slabs = 0;
    options.blocks = 0;
    spin_world_set_up(&world, &options);
    struct spin_kv_config config = world.config;
    config.page_tokens = 16;
    expect_refused(&world, &config, SPIN_ERR_INVALID, "page_tokens 16");
    config = world.config;
    config.partition_tokens = 12;
    expect_refused(&world, &config, SPIN_ERR_INVALID, "partition_tokens 12");
    config.partition_tokens = 256;
    expect_refused(&world, &config, SPIN_ERR_INVALID, "partition_tokens 256");
    config.partition_tokens = 0;
    expect_refused(&world, &config, SPIN_ERR_INVALID, "partition_tokens 0");
    config = world.config;
    config.tokens_max = 0;
    expect_refused(&world, &config, SPIN_ERR_LIMIT, "tokens_max 0");
    config.tokens_max = 524161; /* slots of 65,520 pages of 8 tokens are what u16 can name */
    expect_refused(&world, &config, SPIN_ERR_LIMIT, "tokens_max 524161");
    config = world.config;
    config.sequences_max = 0;
    expect_refused(&world, &config, SPIN_ERR_INVALID, "sequences_max 0");
    config = world.config;
    config.bucket_shift = SPIN_BUCKET_SHIFT_MAX + 1;
    expect_refused(&world, &config, SPIN_ERR_INVALID, "bucket_shift 27");
    config = world.config;
    config.layout.head_dim = 12;
    expect_refused(&world, &config, SPIN_ERR_INVALID, "head_dim");
    config = world.config; /* as small as pools can be */
    config.hbm_bytes -= 78;
    expect_refused(&world, &config, SPIN_ERR_LIMIT, "one sequence of 640 tokens");
    config = world.config;
    config.host_bytes -= 78;
    expect_refused(&world, &config, SPIN_ERR_LIMIT, "one sequence of 640 tokens");
    spin_world_tear_down(&world);
}

/* A pool that holds the longest sequence is too small when a shorter one, still dense, claims
 * more. */
static void test_every_length_must_fit(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    struct world world;
    options.slabs = 0;
    options.demand.dense_below = 600;
    spin_world_set_up(&world, &options);
    const struct spin_kv_budget *budget = spin_kv_get_budget(world.kv);
    const uint32_t longest = spin_kv_claim_slabs(budget, 640);
    assert_true(longest < spin_kv_claim_slabs(budget, 599));
    struct spin_kv_config config = world.config;
    config.hbm_bytes = longest * spin_kv_slab_bytes(&config);
    expect_refused(&world, &config, SPIN_ERR_LIMIT, "KV slots");
    spin_world_tear_down(&world);
}

static void test_sequences_run_out(void **state)
{
    (void)state;
    const struct world_options options = spin_world_options_default();
    struct world world;
    spin_world_set_up(&world, &options);
    for (uint32_t i = 0; i < WORLD_SEQUENCES; i++) {
        const struct world_seq *seq = spin_world_open(&world, i, 10);
        for (uint32_t j = 0; j < i; j++) {
            assert_int_not_equal(world.seqs[j].id.v, seq->id.v);
        }
    }
    spin_kv_seq more = {77};
    SPIN_EXPECT_STATUS(spin_kv_open(world.kv, &more), SPIN_ERR_AGAIN);
    assert_int_equal(more.v, 77);
    spin_world_close(&world, &world.seqs[3]);
    (void)spin_world_open(&world, 3, 10);
    assert_int_equal(spin_world_stats(&world).sequences_open, WORLD_SEQUENCES);
    spin_world_tear_down(&world);
}

static void leave_one_open(void *argument)
{
    spin_kv_destroy(((struct world *)argument)->kv);
}

static void test_destroy_asserts_that_all_are_closed(void **state)
{
    (void)state;
    const struct world_options options = spin_world_options_default();
    struct world world;
    spin_world_set_up(&world, &options);
    (void)spin_world_open(&world, 0, 10);
    assert_true(spin_test_dies(leave_one_open, &world, "sequences_open"));
    spin_kv_destroy(NULL);
    spin_world_tear_down(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_config_is_checked),
        cmocka_unit_test(test_every_length_must_fit),
        cmocka_unit_test(test_sequences_run_out),
        cmocka_unit_test(test_destroy_asserts_that_all_are_closed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
