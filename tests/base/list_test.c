/* Random operations on three lists against arrays that do the same the slow way. */
#include "base/list.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define ITEMS 20u
#define LISTS 3u
#define STEPS 20000u
#define NOWHERE LISTS

struct item {
    uint32_t number;
    struct spin_link link;
};

struct model {
    uint32_t numbers[ITEMS];
    uint32_t count;
};

static void model_insert(struct model *model, uint32_t at, uint32_t number)
{
    memmove(model->numbers + at + 1, model->numbers + at,
            (model->count - at) * sizeof model->numbers[0]);
    model->numbers[at] = number;
    model->count++;
}

static void model_remove(struct model *model, uint32_t number)
{
    uint32_t at = 0;
    while (model->numbers[at] != number) {
        at++;
    }
    model->count--;
    memmove(model->numbers + at, model->numbers + at + 1,
            (model->count - at) * sizeof model->numbers[0]);
}

static void check(const struct spin_list *list, const struct model *model)
{
    assert_int_equal(list->count, model->count);
    assert_int_equal(spin_list_first(list) == NULL, model->count == 0);
    assert_int_equal(spin_list_last(list) == NULL, model->count == 0);
    uint32_t seen = 0;
    SPIN_LIST_FOREACH (list, link) {
        const struct item *item = SPIN_CONTAINER_OF(link, struct item, link);
        assert_true(seen < model->count);
        assert_int_equal(item->number, model->numbers[seen]);
        seen++;
        if (seen == model->count) {
            assert_ptr_equal(link, spin_list_last(list));
        }
    }
    assert_int_equal(seen, model->count);
}

static void test_random_operations(void **state)
{
    (void)state;
    static struct item items[ITEMS];
    struct spin_list lists[LISTS];
    struct model models[LISTS] = {0};
    uint32_t where[ITEMS];
    struct spin_rng rng = {.seed = 4};
    for (uint32_t i = 0; i < LISTS; i++) {
        spin_list_init(&lists[i]);
    }
    for (uint32_t i = 0; i < ITEMS; i++) {
        items[i].number = i;
        where[i] = NOWHERE;
    }
    for (uint32_t step = 0; step < STEPS; step++) {
        const uint32_t i = spin_rng_below(&rng, ITEMS);
        const uint32_t target = spin_rng_below(&rng, LISTS);
        if (where[i] != NOWHERE) {
            spin_list_remove(&lists[where[i]], &items[i].link);
            model_remove(&models[where[i]], i);
            check(&lists[where[i]], &models[where[i]]);
            where[i] = NOWHERE;
            continue;
        }
        const uint32_t kind = spin_rng_below(&rng, 3);
        if (kind == 0 && models[target].count > 0) {
            const uint32_t at = spin_rng_below(&rng, models[target].count);
            struct item *next = &items[models[target].numbers[at]];
            spin_list_insert_before(&lists[target], &next->link, &items[i].link);
            model_insert(&models[target], at, i);
        } else if (kind == 1) {
            spin_list_push_back(&lists[target], &items[i].link);
            model_insert(&models[target], models[target].count, i);
        } else {
            spin_list_push_front(&lists[target], &items[i].link);
            model_insert(&models[target], 0, i);
        }
        where[i] = target;
        check(&lists[target], &models[target]);
    }
}

static void push_twice(void *argument)
{
    struct spin_list list;
    struct spin_link link = {0};
    (void)argument;
    spin_list_init(&list);
    spin_list_push_back(&list, &link);
    spin_list_push_back(&list, &link);
}

static void remove_stranger(void *argument)
{
    struct spin_list list;
    struct spin_link link = {0};
    (void)argument;
    spin_list_init(&list);
    spin_list_remove(&list, &link);
}

static void test_misuse_is_asserted(void **state)
{
    (void)state;
    assert_true(spin_test_dies(push_twice, NULL, "link->prev == NULL"));
    assert_true(spin_test_dies(remove_stranger, NULL, "link->prev != NULL"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations),
        cmocka_unit_test(test_misuse_is_asserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
