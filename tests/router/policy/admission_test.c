/* Method: tenants that always have something to send, and random pushes, pops and removals, with an
 * account of our own: fairness is measured in tokens sent, order by the keys of the header. */
#include "router/policy/admission.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define TENANTS 5u
#define ENTRIES 400u
#define QUANTUM 2048u
#define COST_NS UINT64_C(500000)

static struct spin_admission *make(uint32_t queue_max, uint32_t tenant_queue_max)
{
    struct spin_error err;
    struct spin_admission *admission = NULL;
    const struct spin_admission_config config = {.queue_max = queue_max,
                                                 .tenant_queue_max = tenant_queue_max,
                                                 .tenant_count = TENANTS,
                                                 .token_cost_ns = COST_NS,
                                                 .quantum_tokens = QUANTUM};
    SPIN_EXPECT_OK(spin_admission_create(&config, &admission, &err), &err);
    return admission;
}

static void push(struct spin_admission *admission, struct spin_admission_entry *entry,
                 uint64_t now_ns)
{
    struct spin_error err;
    SPIN_EXPECT_OK(spin_admission_push(admission, entry, now_ns, false, &err), &err);
}

static struct spin_admission_entry *pop(struct spin_admission *admission)
{
    struct spin_admission_entry *entry = spin_admission_peek(admission);
    if (entry != NULL) {
        assert_ptr_equal(spin_admission_peek(admission), entry); /* looking takes no turn */
        spin_admission_pop(admission, entry);
    }
    return entry;
}

static void empty_and_destroy(struct spin_admission *admission)
{
    while (pop(admission) != NULL) {
    }
    assert_int_equal(spin_admission_count(admission), 0);
    spin_admission_destroy(admission);
}

static void test_limits(void **state)
{
    (void)state;
    struct spin_admission *admission = make(5, 3);
    struct spin_admission_entry entries[8] = {0};
    struct spin_error err;
    for (uint32_t i = 0; i < 3; i++) {
        entries[i].tenant = 1;
        push(admission, &entries[i], i);
    }
    entries[3].tenant = 1;
    SPIN_EXPECT_STATUS(spin_admission_push(admission, &entries[3], 3, false, &err),
                       SPIN_ERR_EXHAUSTED);
    assert_string_equal(err.text, "your queue is full: 3 of your requests wait, at most 3");
    entries[4].tenant = 2;
    entries[5].tenant = 2;
    push(admission, &entries[4], 4);
    push(admission, &entries[5], 5);
    entries[6].tenant = 3;
    SPIN_EXPECT_STATUS(spin_admission_push(admission, &entries[6], 6, false, &err),
                       SPIN_ERR_EXHAUSTED);
    assert_string_equal(err.text, "the queue is full: 5 requests wait, at most 5");
    /* One that was running before comes in all the same, and is the next. */
    SPIN_EXPECT_OK(spin_admission_push(admission, &entries[6], 6, true, &err), &err);
    assert_ptr_equal(pop(admission), &entries[6]);
    empty_and_destroy(admission);
}

/* Inside a tenant: arrival + cost. */
static void test_short_passes_long(void **state)
{
    (void)state;
    struct spin_admission *admission = make(10, 10);
    struct spin_admission_entry longer = {.prompt_tokens = 2000}; /* costs a second */
    struct spin_admission_entry shorter = {.prompt_tokens = 10};
    struct spin_admission_entry twin = {.prompt_tokens = 10};
    struct spin_admission_entry late = {.prompt_tokens = 10};
    push(admission, &longer, 0);
    push(admission, &shorter, UINT64_C(500000000));
    push(admission, &twin, UINT64_C(500000000));
    push(admission, &late, UINT64_C(1100000000)); /* after the long one's own cost */
    assert_ptr_equal(pop(admission), &shorter);
    assert_ptr_equal(pop(admission), &twin);
    assert_ptr_equal(pop(admission), &longer);
    assert_ptr_equal(pop(admission), &late);
    assert_null(pop(admission));
    empty_and_destroy(admission);
}

/* Who sends now and then saves nothing up for later. */
static void test_nothing_is_saved_up(void **state)
{
    (void)state;
    struct spin_admission *admission = make(100, 50);
    struct spin_admission_entry tiny = {.tenant = 0, .prompt_tokens = 1};
    for (uint64_t now_ns = 1; now_ns < 1000; now_ns++) {
        push(admission, &tiny, now_ns);
        assert_ptr_equal(pop(admission), &tiny);
    }
    struct spin_admission_entry entries[2][50] = {0};
    for (uint32_t i = 0; i < 50; i++) {
        for (uint32_t t = 0; t < 2; t++) {
            entries[t][i].tenant = t;
            entries[t][i].prompt_tokens = QUANTUM;
            push(admission, &entries[t][i], 2000);
        }
    }
    uint32_t turns[2] = {0, 0};
    for (uint32_t i = 0; i < 20; i++) {
        turns[pop(admission)->tenant]++;
    }
    assert_int_equal(turns[0], 10);
    assert_int_equal(turns[1], 10);
    empty_and_destroy(admission);
}

/* A prompt of many quanta has its turn although nobody else's stops. */
static void test_long_prompt_is_not_starved(void **state)
{
    (void)state;
    struct spin_admission *admission = make(10, 10);
    struct spin_admission_entry large = {.tenant = 1, .prompt_tokens = 100 * QUANTUM};
    struct spin_admission_entry small[2] = {{.tenant = 0, .prompt_tokens = 64},
                                            {.tenant = 0, .prompt_tokens = 64}};
    push(admission, &large, 0);
    push(admission, &small[0], 0);
    push(admission, &small[1], 0);
    uint64_t others = 0;
    for (uint64_t now_ns = 1;; now_ns++) {
        struct spin_admission_entry *entry = pop(admission);
        if (entry == &large) {
            break;
        }
        others += entry->prompt_tokens;
        push(admission, entry, now_ns);
        assert_in_range(others, 0, 103 * QUANTUM); /* a quantum a round, and the edges */
    }
    assert_in_range(others, 97 * QUANTUM, 103 * QUANTUM);
    empty_and_destroy(admission);
}

/* All always have something to send, of very different sizes: over any stretch each has sent the
 * same, but for a few quanta and the largest prompts. */
static void test_tenants_share_tokens(void **state)
{
    (void)state;
    static const uint32_t sizes[TENANTS] = {10, 300, 2000, 5000, 20000};
    struct spin_admission *admission = make(ENTRIES, ENTRIES);
    static struct spin_admission_entry entries[TENANTS][4];
    uint64_t sent[TENANTS] = {0};
    for (uint32_t t = 0; t < TENANTS; t++) {
        for (uint32_t i = 0; i < 4; i++) {
            entries[t][i] = (struct spin_admission_entry){.tenant = t, .prompt_tokens = sizes[t]};
            push(admission, &entries[t][i], i);
        }
    }
    for (uint64_t now_ns = 10; now_ns < 60000; now_ns++) {
        struct spin_admission_entry *entry = pop(admission);
        sent[entry->tenant] += entry->prompt_tokens;
        push(admission, entry, now_ns);
        for (uint32_t a = 0; a < TENANTS; a++) {
            for (uint32_t b = 0; b < TENANTS; b++) {
                /* The classic bound of deficit round robin. */
                const uint64_t bound = 2 * QUANTUM + sizes[a] + sizes[b];
                assert_true(sent[a] <= sent[b] + bound);
            }
        }
    }
    assert_true(sent[0] > 20 * UINT64_C(20000)); /* the smallest too */
    empty_and_destroy(admission);
}

struct world {
    struct spin_admission *admission;
    struct spin_admission_entry entries[ENTRIES];
    bool inside[ENTRIES];
    bool first[ENTRIES];
    uint64_t order[ENTRIES]; /* of pushes */
    uint64_t pushes;
    uint32_t count;
};

/* Nobody of its tenant has a smaller key, and nobody of the recovered waits longer. */
static void check_popped(const struct world *world, uint32_t popped)
{
    for (uint32_t i = 0; i < ENTRIES; i++) {
        if (!world->inside[i] || i == popped) {
            continue;
        }
        if (world->first[i]) {
            assert_true(world->first[popped]);
            assert_true(world->order[popped] < world->order[i]);
        } else if (!world->first[popped] &&
                   world->entries[i].tenant == world->entries[popped].tenant) {
            assert_true(world->entries[popped].key_ns < world->entries[i].key_ns ||
                        (world->entries[popped].key_ns == world->entries[i].key_ns &&
                         world->order[popped] < world->order[i]));
        }
    }
}

static void random_step(struct world *world, struct spin_rng *rng, uint64_t now_ns)
{
    const uint32_t index = spin_rng_below(rng, ENTRIES);
    struct spin_admission_entry *entry = &world->entries[index];
    if (!world->inside[index]) {
        entry->tenant = spin_rng_below(rng, TENANTS);
        entry->prompt_tokens = spin_rng_below(rng, 6000);
        world->first[index] = spin_rng_below(rng, 10) == 0;
        assert_int_equal(
            spin_admission_push(world->admission, entry, now_ns, world->first[index], NULL),
            SPIN_OK);
        world->inside[index] = true;
        world->order[index] = ++world->pushes;
        world->count++;
    } else if (spin_rng_below(rng, 4) == 0) {
        spin_admission_remove(world->admission, entry);
        world->inside[index] = false;
        world->count--;
    }
    if (spin_rng_below(rng, 2) == 0 && world->count > 0) {
        const struct spin_admission_entry *popped = pop(world->admission);
        assert_non_null(popped);
        const uint32_t at = (uint32_t)(popped - world->entries);
        assert_true(world->inside[at]);
        check_popped(world, at);
        world->inside[at] = false;
        world->count--;
    }
    assert_int_equal(spin_admission_count(world->admission), world->count);
}

static void test_random(void **state)
{
    (void)state;
    static struct world world;
    struct spin_rng rng = {.seed = 3};
    world.admission = make(ENTRIES, ENTRIES);
    for (uint64_t step = 0; step < 30000; step++) {
        random_step(&world, &rng, step * 1000);
    }
    empty_and_destroy(world.admission);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_short_passes_long),
        cmocka_unit_test(test_nothing_is_saved_up),
        cmocka_unit_test(test_long_prompt_is_not_starved),
        cmocka_unit_test(test_tenants_share_tokens),
        cmocka_unit_test(test_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
