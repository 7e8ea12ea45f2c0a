/* Method: the program is linked with wrappers around the allocator that count calls; between create
 * and destroy the manager must make none, whatever it is asked for. */
#include "tests/kvstore/manager/kv_world.h"

/* Volatile: the compiler knows malloc, and that malloc does not look at them. */
static volatile bool armed;
static volatile uint32_t calls;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    calls += armed;
    return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    calls += armed;
    return __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
    calls += armed;
    return __real_realloc(memory, bytes);
}

static void live(struct world *world)
{
    struct world_seq *a = spin_world_open(world, 0, 500);
    struct world_seq *b = spin_world_open(world, 1, 600);
    assert_true(spin_world_activate(world, a));
    spin_world_prefill(world, a);
    assert_true(spin_world_activate(world, b));
    spin_world_decode(world, a, 5);
    spin_world_prefill(world, b);
    spin_world_decode(world, b, 30);
    spin_world_suspend(world, a);
    assert_true(spin_world_activate(world, a));
    spin_world_decode(world, a, 30);
    spin_kv_check(world->kv);
    spin_world_close(world, a);
    spin_world_close(world, b);
}

static void test_no_malloc_after_create(void **state)
{
    (void)state;
    struct world_options options = spin_world_options_default();
    for (uint32_t i = 0; i < SPIN_KV_REPLACEMENTS; i++) {
        struct world world;
        options.replacement = (enum spin_kv_replacement)i;
        options.slabs = 24;
        spin_world_set_up(&world, &options);
        armed = true;
        live(&world);
        armed = false;
        const struct spin_kv_stats stats = spin_world_stats(&world);
        assert_true(stats.demotions > 0);
        assert_true(stats.evictions > 0);
        spin_world_tear_down(&world);
    }
    assert_int_equal(calls, 0);
    armed = true;
    void *volatile memory = malloc(1); /* the wrapper counts */
    armed = false;
    free(memory);
    assert_int_equal(calls, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_malloc_after_create),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
