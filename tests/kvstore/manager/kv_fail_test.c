/* Method: an operation table whose n-th call fails, for every n of a script that takes all paths to
 * an operation. Whatever call of the manager that ends, its sequences can be closed, and every slab
 * and block is back. */
#include "tests/kvstore/manager/kv_world.h"

enum operation { RESIZE, RESOLVE, OFFLOAD, GATHER, LIST, OPERATIONS };

/* Operations know nothing of a test: what it wants of them is here. */
static struct {
    uint32_t calls_left; /* until one fails */
    bool failed[OPERATIONS];
    bool over; /* one has failed */
    enum spin_kv_replacement replacement;
} plan;

static bool is_lost(enum operation operation)
{
    assert_false(plan.over); /* nobody goes on after a failure */
    plan.over = --plan.calls_left == 0;
    plan.failed[operation] = plan.failed[operation] || plan.over;
    return plan.over;
}

static spin_status fail_resize(const struct spin_kv_resize_args *args, struct spin_stream *stream)
{
    return is_lost(RESIZE) ? SPIN_ERR_DEVICE_LOST
                           : spin_ops_ref.kv_resize[plan.replacement](args, stream);
}

static spin_status fail_resolve(const struct spin_kv_resolve_args *args, struct spin_stream *stream)
{
    return is_lost(RESOLVE) ? SPIN_ERR_DEVICE_LOST
                            : spin_ops_ref.kv_resolve[plan.replacement](args, stream);
}

static spin_status fail_offload(const struct spin_kv_offload_args *args, struct spin_stream *stream)
{
    return is_lost(OFFLOAD) ? SPIN_ERR_DEVICE_LOST : spin_ops_ref.kv_offload(args, stream);
}

static spin_status fail_gather(const struct spin_kv_gather_args *args, struct spin_stream *stream)
{
    return is_lost(GATHER) ? SPIN_ERR_DEVICE_LOST : spin_ops_ref.kv_gather(args, stream);
}

static spin_status fail_list(const struct spin_kv_list_args *args, struct spin_stream *stream)
{
    return is_lost(LIST) ? SPIN_ERR_DEVICE_LOST : spin_ops_ref.kv_list(args, stream);
}

/* --- the script --- */

struct script {
    struct world world;
    spin_kv_seq seqs[3];
    uint32_t tokens[3];
    uint32_t turn; /* steps choose other pages every time */
};

static spin_status open_and_activate(struct script *script, uint32_t index, uint32_t tokens)
{
    SPIN_TRY(spin_kv_open(script->world.kv, &script->seqs[index]));
    script->world.seqs[index] = (struct world_seq){.open = true, .id = script->seqs[index]};
    SPIN_TRY(spin_kv_reserve(script->world.kv, script->seqs[index], 640));
    return spin_kv_activate(script->world.kv, script->seqs[index], tokens, 0);
}

/* Super-chunks of 256 tokens, a unit each. */
static spin_status prefill(struct script *script, uint32_t index, uint32_t tokens)
{
    struct spin_kv *kv = script->world.kv;
    for (uint32_t begin = 0; begin < tokens; begin += 256) {
        for (uint32_t layer = 0; layer < script->world.options.layers; layer++) {
            struct spin_page_lists out;
            SPIN_TRY(spin_kv_prefill_begin(kv, script->seqs[index], layer, begin,
                                           SPIN_MIN(begin + 256, tokens), true, &out));
            SPIN_TRY(spin_kv_offload(kv, layer));
        }
    }
    script->tokens[index] = tokens;
    return SPIN_OK;
}

/* The newest partition, and pages further and further from the first. */
static void choose(struct script *script, uint32_t layer, uint32_t tokens)
{
    const struct spin_kv_lists lists = spin_kv_get_lists(script->world.kv);
    const uint32_t pages = (tokens + 7) / 8;
    const uint32_t wanted = spin_world_mandatory(&script->world.demand, layer, tokens);
    const uint32_t first = script->turn++ * 5 % (pages - wanted + 1);
    for (uint64_t head = 0; head < script->world.options.heads; head++) {
        uint16_t *list = lists.pages + head * lists.stride;
        for (uint32_t i = 0; i < wanted; i++) {
            list[i] = (uint16_t)(i < wanted - 2 ? first + i : pages - wanted + i);
        }
        lists.page_count[head] = wanted;
    }
}

static spin_status decode(struct script *script, uint32_t index, uint32_t steps)
{
    const struct spin_kv_wave one = {.first = 0, .count = 1};
    struct spin_kv *kv = script->world.kv;
    for (uint32_t i = 0; i < steps; i++) {
        const uint32_t tokens = ++script->tokens[index];
        const struct spin_kv_step step = {.seq = script->seqs[index], .tokens = tokens};
        SPIN_TRY(spin_kv_step_begin(kv, &step, 1));
        for (uint32_t layer = 0; layer < script->world.options.layers; layer++) {
            struct spin_page_lists out;
            choose(script, layer, tokens);
            SPIN_TRY(spin_kv_resolve(kv, layer, one, &out));
            SPIN_TRY(spin_kv_gather(kv, layer, one));
            SPIN_TRY(spin_kv_offload(kv, layer));
        }
        SPIN_TRY(spin_kv_step_end(kv));
    }
    return SPIN_OK;
}

static spin_status come_back(struct script *script, uint32_t index)
{
    SPIN_TRY(spin_kv_suspend(script->world.kv, script->seqs[index]));
    return spin_kv_activate(script->world.kv, script->seqs[index], script->tokens[index],
                            script->tokens[index]);
}

/* 24 slabs. Slabs of a row at the floor: 2 and 1, at the target: 4 and 3. */
static spin_status run(struct script *script)
{
    SPIN_TRY(open_and_activate(script, 0, 500)); /* RESIDENT: 16 */
    SPIN_TRY(prefill(script, 0, 500));
    SPIN_TRY(decode(script, 0, 5));
    SPIN_TRY(come_back(script, 0));              /* RESIDENT again */
    SPIN_TRY(open_and_activate(script, 1, 600)); /* an arena of 10 presses 0 to the target */
    SPIN_TRY(prefill(script, 1, 600));
    SPIN_TRY(decode(script, 0, 13));
    SPIN_TRY(decode(script, 1, 14)); /* rows in exchange for the arena, and more of them later */
    SPIN_TRY(come_back(script, 1));
    SPIN_TRY(open_and_activate(script, 2, 600)); /* an arena: both shrink */
    SPIN_TRY(prefill(script, 2, 300));
    SPIN_TRY(spin_kv_suspend(script->world.kv, script->seqs[2]));
    return decode(script, 0, 1);
}

/* Fails the n-th call, if there are so many: false, if not. */
static bool fail_at(uint32_t n)
{
    struct spin_ops ops = *spin_ops_best_cpu();
    struct world_options options = spin_world_options_default();
    static struct script script;
    script = (struct script){.turn = 0};
    ops.kv_resize[plan.replacement] = fail_resize;
    ops.kv_resolve[plan.replacement] = fail_resolve;
    ops.kv_offload = fail_offload;
    ops.kv_gather = fail_gather;
    ops.kv_list = fail_list;
    plan.calls_left = n;
    plan.over = false;
    options.ops = &ops;
    options.slabs = 24;
    options.replacement = plan.replacement;
    spin_world_set_up(&script.world, &options);
    const spin_status status = run(&script);
    assert_int_equal(status, plan.over ? SPIN_ERR_DEVICE_LOST : SPIN_OK);
    if (!plan.over) { /* the script took its paths */
        const struct spin_kv_stats stats = spin_world_stats(&script.world);
        assert_int_equal(stats.demotions, 1);
        assert_int_equal(stats.suspensions, 3);
        assert_true(stats.evictions > 0 && stats.pages_dropped > 0);
    }
    spin_world_tear_down(&script.world); /* closes, checks, and counts what is free */
    return plan.over;
}

static void fail_everywhere(enum spin_kv_replacement replacement)
{
    uint32_t n = 1;
    memset(&plan, 0, sizeof plan);
    plan.replacement = replacement;
    while (fail_at(n)) {
        n++;
    }
    print_message("policy %d: %u calls of operations\n", (int)replacement, n - 1);
    for (uint32_t i = 0; i < OPERATIONS; i++) {
        assert_true(plan.failed[i]);
    }
}

static void test_slot_lru(void **state)
{
    (void)state;
    fail_everywhere(SPIN_KV_SLOT_LRU);
}

static void test_bucketed(void **state)
{
    (void)state;
    fail_everywhere(SPIN_KV_BUCKETED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slot_lru),
        cmocka_unit_test(test_bucketed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
