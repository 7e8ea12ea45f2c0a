/* Scenes on the processor and on a device that is not the host, and late: the same choices have the
 * same hits and misses, and nothing that the device reads is touched by the host. */
#include "bench/gpu/model/scene.h"

#include "model/weights/place.h"
#include "tests/kernels/fake_device.h"
#include "tests/spin_test.h"

#define DEVICE_BYTES (UINT64_C(256) << 20)
#define CONTEXT 512u
#define BATCH 3u

static struct spin_rig open_cpu(void)
{
    struct spin_rig rig;
    struct spin_error err;
    SPIN_EXPECT_OK(spin_rig_open(&rig, SPIN_RIG_CPU, "random:tiny-qwen3", 2, &err), &err);
    return rig;
}

/* What spin_put is to the fake device: a copy in the stream's order. */
static void put_now(const void *context)
{
    const struct spin_put_args *args = context;
    for (uint32_t row = 0; row < args->rows; row++) {
        memcpy(args->lists.pages + (uint64_t)row * args->lists.stride,
               args->pages + (uint64_t)row * args->stride,
               args->page_count[row] * sizeof *args->pages);
        args->lists.page_count[row] = args->page_count[row];
    }
}

static spin_status put_fake(const struct spin_put_args *args, struct spin_stream *stream)
{
    return spin_fake_submit(stream, put_now, args, sizeof *args);
}

static struct spin_rig open_fake(void)
{
    struct spin_rig rig = open_cpu();
    struct spin_error err;
    struct spin_model *host = rig.model;
    spin_stream_destroy(rig.stream);
    rig.stream = spin_fake_stream_create(DEVICE_BYTES);
    rig.model = NULL;
    SPIN_EXPECT_OK(spin_model_place(host, rig.stream, &rig.model, &err), &err);
    spin_model_close(host);
    rig.all_ops = &spin_ops_fake;
    rig.ops = spin_ops_fake;
    rig.put = put_fake;
    return rig;
}

struct totals {
    struct spin_scene_result wide; /* overlap of a half */
    struct spin_scene_result narrow;
    struct spin_scene_result no_gather;
    struct spin_scene_result no_select;
};

static struct spin_scene_result run(struct spin_scene *scene, double overlap,
                                    enum spin_scene_part without)
{
    struct spin_error err;
    struct spin_scene_result result;
    const struct spin_scene_run config = {
        .warm = 17, .steps = 16, .overlap = overlap, .without = without};
    SPIN_EXPECT_OK(spin_scene_measure(scene, &config, &result, &err), &err);
    return result;
}

static struct totals run_scene(struct spin_rig *rig, const struct spin_sparse_algorithm *algorithm,
                               double slots, uint32_t waves)
{
    struct spin_error err;
    struct spin_scene *scene = NULL;
    const struct spin_scene_config config = {
        .rig = rig,
        .sparse = {.algorithm = algorithm, .budget_tokens = 128, .min_context = 1},
        .context = CONTEXT,
        .batch = BATCH,
        .steps_max = 4 * 33,
        .slots_factor = slots,
        .frame_bytes = UINT64_C(256) << 10,
        .seed = 3,
        .waves = waves,
    };
    bool aliased = false;
    assert_true(spin_scene_bytes(&config, &aliased) < DEVICE_BYTES);
    assert_true(aliased);
    SPIN_EXPECT_OK(spin_scene_open(&config, &scene, &err), &err);
    struct totals totals = {.wide = run(scene, 0.5, SPIN_SCENE_ALL)};
    totals.narrow = run(scene, 0.9, SPIN_SCENE_ALL);
    totals.no_gather = run(scene, 0.5, SPIN_SCENE_NO_GATHER);
    totals.no_select = run(scene, 0.5, SPIN_SCENE_NO_SELECT);
    struct spin_scene_result too_many;
    const struct spin_scene_run more = {.steps = 2};
    assert_int_equal(spin_scene_measure(scene, &more, &too_many, &err), SPIN_ERR_INVALID);
    spin_scene_close(scene);
    return totals;
}

static void same_counts(const struct spin_scene_result *a, const struct spin_scene_result *b)
{
    assert_int_equal(a->hits, b->hits);
    assert_int_equal(a->misses, b->misses);
    assert_int_equal(a->evictions, b->evictions);
    assert_int_equal(a->sparse_steps, b->sparse_steps);
    assert_int_equal(a->dense_fallbacks, b->dense_fallbacks);
    assert_int_equal(a->tokens, b->tokens);
}

static void compare(const struct spin_sparse_algorithm *algorithm, double slots, uint32_t waves)
{
    struct spin_rig cpu = open_cpu();
    struct spin_rig fake = open_fake();
    const struct totals here = run_scene(&cpu, algorithm, slots, 1);
    const struct totals there = run_scene(&fake, algorithm, slots, waves);
    same_counts(&here.wide, &there.wide);
    same_counts(&here.narrow, &there.narrow);
    same_counts(&here.no_gather, &there.no_gather);
    same_counts(&here.no_select, &there.no_select);
    assert_true(here.wide.finite && there.wide.finite && there.narrow.finite);
    assert_int_equal(here.wide.replayed, 0);
    assert_true(there.wide.replayed > 0 && there.no_gather.replayed > 0);
    if (algorithm->summary != SPIN_SUMMARY_NONE) {
        assert_int_equal(here.wide.sparse_steps, 16 * BATCH);
        assert_true(here.wide.misses > 2 * here.narrow.misses);
        assert_true(here.wide.evictions > 0);
    } else {
        assert_int_equal(here.wide.misses, 0);
    }
    spin_rig_close(&cpu);
    spin_rig_close(&fake);
}

static void shadowkv_misses_the_same(void **state)
{
    (void)state;
    compare(&spin_sparse_shadowkv, 1.5, 1);
}

static void quest_misses_the_same(void **state)
{
    (void)state;
    compare(&spin_sparse_quest, 1.5, 1);
}

/* A wave's part of the lists is put in place behind its own Select. */
static void waves_miss_the_same(void **state)
{
    (void)state;
    compare(&spin_sparse_shadowkv, 1.5, 2);
    compare(&spin_sparse_quest, 1.5, BATCH);
}

static void dense_misses_nothing(void **state)
{
    (void)state;
    compare(&spin_sparse_dense, 0, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shadowkv_misses_the_same),
        cmocka_unit_test(quest_misses_the_same),
        cmocka_unit_test(waves_miss_the_same),
        cmocka_unit_test(dense_misses_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
