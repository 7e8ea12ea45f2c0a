/* Method: the world walks at random: sequences open, prefill in units, decode in any company, are
 * suspended, come back, close, in pools from ample to the smallest that create takes. Every list is
 * compared with the shadow, and all invariants are asserted on the way. AGAIN must not come while
 * the scheduler's claims fit. */
#include "tests/kernels/fake_device.h"
#include "tests/kvstore/manager/kv_world.h"

#ifdef SPIN_DEBUG /* a sanitizer build: several times slower */
#define CALLS_ALL 150000u
#define CALLS_LATE 1500u
#define CHECK_EVERY 4u
#else
#define CALLS_ALL 1000000u
#define CALLS_LATE 1500u
#define CHECK_EVERY 64u
#endif

/* What a walk is there for: that much of it must come, or none. */
enum event {
    RETRIEVED = 1,
    EVICTED = 2,
    DROPPED = 4,
    DEMOTED = 8,
    SUSPENDED = 16,
    ALL = RETRIEVED | EVICTED | DROPPED | DEMOTED | SUSPENDED
};

struct walk {
    const char *name;
    uint32_t events;
    uint32_t never;
    uint32_t sequences;  /* open at a time; 0: 6 */
    uint32_t layers;     /* 0: 2 */
    uint32_t heads;      /* 0: 2 */
    uint32_t tokens_max; /* 0: 640 */
    uint32_t slabs;
    uint32_t blocks;
    uint32_t page_tokens;
    uint32_t partition_tokens;
    uint32_t pages[WORLD_LAYERS_MAX]; /* that a step attends to; 0: 10 and 6 */
    uint32_t dense_below;
    uint32_t bucket_shift;
    bool buffered;
    bool reference;
};

static const struct walk walks[] = {
    /* Everybody fits: only those who come back read anything. */
    {.name = "ample",
     .events = RETRIEVED | SUSPENDED,
     .never = EVICTED | DROPPED | DEMOTED,
     .slabs = 200,
     .blocks = 40,
     .page_tokens = 8,
     .partition_tokens = 16},
    {.name = "half",
     .events = ALL,
     .slabs = 50,
     .blocks = 25,
     .page_tokens = 8,
     .partition_tokens = 16},
    {.name = "small",
     .events = ALL,
     .slabs = 20,
     .blocks = 12,
     .page_tokens = 8,
     .partition_tokens = 8},
    /* One at a time fits; of more than two, none would get far. */
    {.name = "least", .events = ALL, .sequences = 2, .page_tokens = 8, .partition_tokens = 32},
    {.name = "late sparse",
     .events = ALL,
     .slabs = 40,
     .blocks = 15,
     .page_tokens = 8,
     .partition_tokens = 16,
     .dense_below = 200,
     .bucket_shift = 1},
    /* Nobody can give a slot away but by an arena. */
    {.name = "dense",
     .events = RETRIEVED | DEMOTED | SUSPENDED,
     .never = EVICTED | DROPPED,
     .slabs = 50,
     .blocks = 20,
     .page_tokens = 8,
     .partition_tokens = 8,
     .dense_below = UINT32_MAX},
    {.name = "dense layer",
     .events = RETRIEVED | EVICTED | DEMOTED | SUSPENDED,
     .sequences = 2,
     .page_tokens = 8,
     .partition_tokens = 16,
     .pages = {10, UINT32_MAX}},
    {.name = "long pages",
     .events = ALL,
     .sequences = 3,
     .slabs = 10,
     .blocks = 15,
     .page_tokens = 32,
     .partition_tokens = 32,
     .pages = {5, 2}},
    {.name = "one layer, three heads",
     .events = ALL,
     .layers = 1,
     .heads = 3,
     .slabs = 31, /* one is left over */
     .blocks = 15,
     .page_tokens = 8,
     .partition_tokens = 16},
    /* The longest sequence ends inside a page, a partition and a block. */
    {.name = "odd length",
     .events = ALL,
     .layers = 2,
     .heads = 3,
     .tokens_max = 637,
     .slabs = 40,
     .blocks = 15,
     .page_tokens = 8,
     .partition_tokens = 32},
    {.name = "buffered",
     .events = RETRIEVED | EVICTED | DROPPED | SUSPENDED,
     .never = DEMOTED,
     .slabs = 60,
     .blocks = 30,
     .page_tokens = 8,
     .partition_tokens = 16,
     .buffered = true},
    {.name = "reference",
     .events = ALL,
     .slabs = 24,
     .blocks = 12,
     .page_tokens = 8,
     .partition_tokens = 16,
     .reference = true},
};

static uint32_t draw(struct world *world, uint32_t bound)
{
    return spin_rng_below(&world->rng, bound);
}

/* The youngest gives way; here, any other. Nobody is left without a way out. */
static void make_way(struct world *world, const struct world_seq *spared)
{
    struct world_seq *victims[WORLD_SEQUENCES];
    uint32_t count = 0;
    for (uint32_t i = 0; i < WORLD_SEQUENCES; i++) {
        if (world->seqs[i].open && &world->seqs[i] != spared) {
            victims[count++] = &world->seqs[i];
        }
    }
    assert_int_not_equal(count, 0); /* one alone always fits */
    struct world_seq *victim = victims[draw(world, count)];
    if (victim->active && draw(world, 2) == 0) {
        spin_world_suspend(world, victim);
    } else {
        spin_world_close(world, victim);
    }
}

/* A step of some of those that decode. */
static void walk_step(struct world *world)
{
    struct world_seq *seqs[WORLD_SEQUENCES];
    uint32_t count = 0;
    const uint32_t start = draw(world, WORLD_SEQUENCES);
    const uint32_t wanted = 1 + draw(world, WORLD_SEQUENCES);
    for (uint32_t i = 0; i < WORLD_SEQUENCES && count < wanted; i++) {
        struct world_seq *seq = &world->seqs[(start + i) % WORLD_SEQUENCES];
        if (!seq->active || !seq->decoding) {
            continue;
        }
        if (seq->tokens == world->options.tokens_max) {
            spin_world_close(world, seq);
        } else if (spin_kv_reserve(world->kv, seq->id, seq->tokens + 1) == SPIN_OK) {
            seq->reserved = SPIN_MAX(seq->reserved, seq->tokens + 1);
            seqs[count++] = seq;
        }
        world->calls++;
    }
    if (count > 0 && !spin_world_step(world, seqs, count)) {
        make_way(world, NULL);
    }
}

static void walk_once(struct world *world, uint32_t sequences)
{
    struct world_seq *seq = &world->seqs[draw(world, sequences)];
    const uint32_t dice = draw(world, 100);
    if (!seq->open) {
        (void)spin_world_open(world, (uint32_t)(seq - world->seqs),
                              1 + draw(world, world->options.tokens_max));
    } else if (!seq->active) {
        if (!spin_world_activate(world, seq)) {
            make_way(world, seq);
        }
    } else if (dice < 1) {
        spin_world_close(world, seq);
    } else if (dice < 4) {
        spin_world_suspend(world, seq);
        seq->next = seq->super_begin;
    } else if (!seq->decoding) {
        spin_world_unit(world, seq, 1 + draw(world, 128));
    } else {
        walk_step(world);
    }
}

static struct world_options options_of(const struct walk *walk)
{
    struct world_options options = spin_world_options_default();
    options.ops = walk->reference ? &spin_ops_ref : options.ops;
    options.layers = walk->layers != 0 ? walk->layers : options.layers;
    options.heads = walk->heads != 0 ? walk->heads : options.heads;
    options.tokens_max = walk->tokens_max != 0 ? walk->tokens_max : options.tokens_max;
    options.page_tokens = walk->page_tokens;
    options.partition_tokens = walk->partition_tokens;
    options.slabs = walk->slabs;
    options.blocks = walk->blocks;
    options.bucket_shift = walk->bucket_shift;
    options.buffered = walk->buffered;
    options.demand.dense_below = walk->dense_below;
    for (uint32_t layer = 0; layer < options.layers && walk->pages[0] != 0; layer++) {
        options.demand.pages[layer] = walk->pages[layer];
    }
    return options;
}

static void expect_events(const struct walk *walk, const struct spin_kv_stats *stats)
{
    const struct {
        enum event event;
        uint64_t count;
    } events[] = {{RETRIEVED, stats->pages_retrieved},
                  {EVICTED, stats->evictions},
                  {DROPPED, stats->pages_dropped},
                  {DEMOTED, stats->demotions},
                  {SUSPENDED, stats->suspensions}};
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(events); i++) {
        if ((walk->events & events[i].event) != 0) {
            assert_int_not_equal(events[i].count, 0);
        }
        if ((walk->never & events[i].event) != 0) {
            assert_int_equal(events[i].count, 0);
        }
    }
}

struct way {
    enum spin_kv_replacement replacement;
    uint64_t calls;
    const struct spin_ops *ops; /* NULL: the walk's */
    bool fake;
    bool record;
};

/* What a walk leaves behind. */
struct outcome {
    struct spin_kv_stats stats;
    uint64_t calls;
    uint64_t pages_compared;
    uint64_t recorded;
};

static struct outcome walk_through(const struct walk *walk, const struct way *way)
{
    struct world_options options = options_of(walk);
    struct world world;
    options.replacement = way->replacement;
    options.ops = way->ops != NULL ? way->ops : options.ops;
    options.fake = way->fake;
    options.record = way->record;
    spin_world_set_up(&world, &options);
    for (uint64_t i = 0; world.calls < way->calls; i++) {
        walk_once(&world, walk->sequences != 0 ? walk->sequences : WORLD_SEQUENCES);
        if (i % CHECK_EVERY == 0 && !way->fake) {
            spin_world_check(&world);
        }
    }
    const struct outcome outcome = {spin_world_stats(&world), world.calls, world.pages_compared,
                                    world.recorded};
    const struct spin_kv_stats *stats = &outcome.stats;
    print_message("%s, policy %d: %lu calls, %lu pages compared, retrieved %lu, evictions %lu, "
                  "dropped %lu, demotions %lu, suspensions %lu, recorded %lu\n",
                  walk->name, (int)way->replacement, (unsigned long)world.calls,
                  (unsigned long)world.pages_compared, (unsigned long)stats->pages_retrieved,
                  (unsigned long)stats->evictions, (unsigned long)stats->pages_dropped,
                  (unsigned long)stats->demotions, (unsigned long)stats->suspensions,
                  (unsigned long)outcome.recorded);
    spin_world_tear_down(&world);
    return outcome;
}

static void walk_all(enum spin_kv_replacement replacement)
{
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(walks); i++) {
        const struct way way = {.replacement = replacement,
                                .calls = CALLS_ALL / 2 / SPIN_ARRAY_COUNT(walks) + 1};
        const struct outcome outcome = walk_through(&walks[i], &way);
        expect_events(&walks[i], &outcome.stats);
    }
}

static void test_walk_slot_lru(void **state)
{
    (void)state;
    walk_all(SPIN_KV_SLOT_LRU);
}

static void test_walk_bucketed(void **state)
{
    (void)state;
    walk_all(SPIN_KV_BUCKETED);
}

/* On a device that is not the host, and late, every walk is the one that the reference takes on the
 * processor: nothing was sent too late, changed too early, or looked at before it was there. */
static void walk_late(enum spin_kv_replacement replacement, bool record)
{
    uint64_t retrieved = 0;
    uint64_t recorded = 0;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(walks); i++) {
        struct way way = {.replacement = replacement, .calls = CALLS_LATE, .ops = &spin_ops_ref};
        const struct outcome wanted = walk_through(&walks[i], &way);
        way.ops = &spin_ops_fake;
        way.fake = true;
        way.record = record;
        const struct outcome got = walk_through(&walks[i], &way);
        assert_int_equal(got.calls, wanted.calls);
        assert_int_equal(got.pages_compared, wanted.pages_compared);
        assert_memory_equal(&got.stats, &wanted.stats, sizeof got.stats);
        retrieved += got.stats.pages_retrieved;
        recorded += got.recorded;
    }
    assert_true(retrieved > 0);
    assert_int_equal(recorded > 0, record);
}

static void test_walk_late_slot_lru(void **state)
{
    (void)state;
    walk_late(SPIN_KV_SLOT_LRU, false);
}

static void test_walk_late_bucketed(void **state)
{
    (void)state;
    walk_late(SPIN_KV_BUCKETED, false);
}

static void test_walk_recorded(void **state)
{
    (void)state;
    walk_late(SPIN_KV_SLOT_LRU, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_walk_late_slot_lru), cmocka_unit_test(test_walk_late_bucketed),
        cmocka_unit_test(test_walk_recorded),      cmocka_unit_test(test_walk_slot_lru),
        cmocka_unit_test(test_walk_bucketed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
