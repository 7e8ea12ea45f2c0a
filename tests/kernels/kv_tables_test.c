/* A million operations on tables of both policies, each done by both versions, against a model that
 * keeps no tables: a list of slots per row, with pages and 64-bit times, searched from end to end.
 * It is written from the words of kv_resolve.h and kv_resize.h, not from their code.
 *
 * A world is a few sequences over a pool that cannot hold them all. Sequences are born BUFFERED or
 * RESIDENT, decode with selections that change their kind now and then, grow, shrink, leave the
 * identity map, and are emptied. After every operation tables, lists and counters are what the
 * model says, byte for byte the same in both versions, and the invariants hold. */
#include "tests/kernels/kv_tables_fixture.h"

enum { SEQUENCES = 3, LAYERS = 2, HEADS = 2, SLABS_MAX = 4, PAGES_MAX = 256, POOL_SLABS = 36 };
enum { SLOTS_MAX = SLABS_MAX * 16, ROWS = SEQUENCES * LAYERS * HEADS };

#ifdef SPIN_DEBUG
#define OPERATIONS 100000u
#else
#define OPERATIONS 1000000u
#endif

struct model_slot {
    int32_t page; /* -1: free */
    int64_t used; /* when it was selected last */
};

struct model_row {
    uint32_t slots;
    struct model_slot slot[SLOTS_MAX];
    int64_t clock; /* slot_lru: resolves of the row; bucketed: the bucket of the last one */
};

/* What a resolve of a row is asked, and what it should say. */
struct answer {
    const uint16_t *pages;
    uint32_t count;
    uint32_t slots[SLOTS_MAX]; /* of the row, by list entry */
    uint32_t misses[SLOTS_MAX];
    uint32_t miss_count;
    uint32_t tokens;
    struct spin_kv_counters counters;
};

enum life { EMPTY, BUFFERED, RESIDENT };

enum choice {
    CHOOSE_RANDOM,
    CHOOSE_NEWEST,
    CHOOSE_WINDOW,
    CHOOSE_SAME,   /* what was selected last */
    CHOOSE_CIRCLE, /* round and round: what LRU likes least */
    CHOOSE_ABSENT, /* nothing that has a slot */
    CHOOSE_AGED,   /* what has a slot and was not selected last */
    CHOOSE_ALL,
    CHOICES
};

struct sequence {
    enum life life;
    enum choice choice;
    uint32_t choice_left; /* steps until it changes */
    uint32_t tokens;
    uint64_t step;
};

/* What has happened at least once, or the test has not tested it. */
struct witness {
    uint64_t evictions;
    uint64_t free_slots_taken;
    uint64_t fresh;
    uint64_t saturated;
    uint64_t dropped;
    uint64_t resident;
    uint64_t repeated;
    uint64_t from_resident;
};

struct world {
    struct test_tables ref;
    struct test_tables cpu;
    struct spin_stream *stream;
    struct spin_rng rng;
    struct sequence sequences[SEQUENCES];
    struct model_row rows[ROWS];
    struct witness witness;
    uint64_t operations;
};

static bool is_bucketed(const struct world *world)
{
    return world->ref.replacement == SPIN_KV_BUCKETED;
}

static uint32_t row_index(uint32_t sequence, uint32_t layer, uint32_t head)
{
    return (sequence * LAYERS + layer) * HEADS + head;
}

static uint32_t below(struct world *world, uint32_t bound)
{
    return spin_rng_below(&world->rng, bound);
}

/* --- the model --- */

static int64_t age_max(const struct world *world)
{
    return is_bucketed(world) ? 62 : 254;
}

static int64_t age_of(const struct world *world, const struct model_row *row, uint32_t slot)
{
    return SPIN_MIN(row->clock - row->slot[slot].used, age_max(world));
}

static int64_t model_clock(const struct world *world, const struct model_row *row, int64_t step)
{
    return is_bucketed(world) ? step >> world->ref.view.bucket_shift : row->clock + 1;
}

static void model_drop(struct model_row *row, uint32_t begin, uint32_t end)
{
    for (uint32_t s = begin; s < end; s++) {
        row->slot[s].page = -1;
    }
}

struct candidate {
    uint32_t slot;
    int64_t age;
};

static int older_first(const void *a, const void *b)
{
    const struct candidate *x = a;
    const struct candidate *y = b;
    if (x->age != y->age) {
        return x->age > y->age ? -1 : 1;
    }
    return x->slot < y->slot ? -1 : 1;
}

static int lower_first(const void *a, const void *b)
{
    const struct candidate *x = a;
    const struct candidate *y = b;
    return x->slot < y->slot ? -1 : 1;
}

/* The slots that the misses take, ascending. */
static void model_take(const struct world *world, const struct model_row *row, const bool *selected,
                       uint32_t count, struct candidate *taken)
{
    uint32_t candidates = 0;
    for (uint32_t s = 0; s < row->slots; s++) {
        if (!selected[s]) {
            const int64_t age = row->slot[s].page < 0 ? INT64_MAX : age_of(world, row, s);
            taken[candidates++] = (struct candidate){s, age};
        }
    }
    assert_true(count <= candidates);
    qsort(taken, candidates, sizeof *taken, older_first);
    qsort(taken, count, sizeof *taken, lower_first);
}

static uint32_t model_working_set(const struct world *world, const struct model_row *row,
                                  int64_t step)
{
    int64_t since = row->clock - 11;
    if (is_bucketed(world)) {
        since = (step - 11) >> world->ref.view.bucket_shift;
    }
    uint32_t count = 0;
    for (uint32_t s = 0; s < row->slots; s++) {
        count += row->slot[s].page >= 0 && row->slot[s].used >= since;
    }
    return count;
}

static void model_resolve(const struct world *world, struct model_row *row,
                          const struct sequence *sequence, struct answer *answer)
{
    const uint16_t *pages = answer->pages;
    bool selected[SLOTS_MAX] = {false};
    struct candidate taken[SLOTS_MAX];
    uint32_t missing[SLOTS_MAX];
    memset(&answer->counters, 0, sizeof answer->counters);
    answer->miss_count = 0;
    row->clock = model_clock(world, row, (int64_t)sequence->step);
    for (uint32_t i = 0; i < answer->count; i++) {
        uint32_t s = 0;
        while (s < row->slots && row->slot[s].page != pages[i]) {
            s++;
        }
        answer->slots[i] = s;
        if (s == row->slots) {
            missing[answer->miss_count++] = i;
        } else {
            selected[s] = true;
            row->slot[s].used = row->clock;
            answer->counters.hits++;
        }
    }
    model_take(world, row, selected, answer->miss_count, taken);
    for (uint32_t m = 0; m < answer->miss_count; m++) {
        const uint32_t i = missing[m];
        const uint32_t tokens_before = pages[i] * world->ref.view.page_tokens;
        answer->counters.evictions += row->slot[taken[m].slot].page >= 0;
        answer->counters.misses += tokens_before + 1 != sequence->tokens;
        answer->misses[m] = taken[m].slot;
        answer->slots[i] = taken[m].slot;
        row->slot[taken[m].slot] = (struct model_slot){pages[i], row->clock};
    }
    answer->counters.working_set = model_working_set(world, row, (int64_t)sequence->step);
}

/* --- tables against the model --- */

static void expect_row(struct world *world, uint32_t index)
{
    const struct model_row *row = &world->rows[index];
    int32_t pages[SLOTS_MAX];
    spin_test_tables_read(&world->ref, index, row->slots, pages);
    for (uint32_t s = 0; s < row->slots; s++) {
        if (pages[s] != row->slot[s].page) {
            fail_msg("operation %lu, row %u, slot %u: page %d, wanted %d",
                     (unsigned long)world->operations, index, s, pages[s], row->slot[s].page);
        }
        if (pages[s] < 0) {
            continue;
        }
        const int64_t age = age_of(world, row, s);
        const int64_t stamp = is_bucketed(world) ? (row->clock - age) & 63 : age;
        assert_int_equal(world->ref.view.stamp[spin_kv_pool_slot(&world->ref.view, index, s)],
                         stamp);
        world->witness.saturated += age == age_max(world);
    }
}

static void expect_same_and_rows(struct world *world, uint32_t sequence, uint32_t layer)
{
    spin_test_tables_expect_same(&world->ref, &world->cpu);
    if (world->sequences[sequence].life == BUFFERED) {
        for (uint32_t head = 0; head < HEADS; head++) {
            expect_row(world, row_index(sequence, layer, head));
        }
    }
    world->operations++;
}

/* Slabs are in one place; free + used = all. */
static void expect_pool(const struct world *world)
{
    bool seen[POOL_SLABS / HEADS] = {false};
    uint32_t count = world->ref.free_count;
    for (uint32_t i = 0; i < world->ref.free_count; i++) {
        seen[world->ref.free_groups[i]] = true;
    }
    for (uint32_t layer = 0; layer < ROWS / HEADS; layer++) {
        const uint32_t groups = world->ref.slab_count[layer];
        for (uint32_t i = 0; i < groups; i++, count++) {
            const uint32_t group = world->ref.slab_list[layer * SLABS_MAX + i];
            assert_false(seen[group]);
            seen[group] = true;
        }
    }
    assert_int_equal(count, POOL_SLABS / HEADS);
}

/* --- resizing --- */

static void resize(struct world *world, const struct spin_kv_resize_args *args)
{
    struct spin_kv_resize_args other = *args;
    other.view = &world->cpu.view;
    spin_test_tables_copy_host(&world->cpu, &world->ref);
    assert_int_equal(spin_ops_ref.kv_resize[world->ref.replacement](args, world->stream), SPIN_OK);
    assert_int_equal(spin_ops_cpu.kv_resize[world->ref.replacement](&other, world->stream),
                     SPIN_OK);
    for (uint32_t head = 0; head < HEADS; head++) {
        struct model_row *row = &world->rows[row_index(args->sequence, args->layer, head)];
        uint32_t dropped = 0;
        for (uint32_t s = args->after; s < args->before; s++) {
            dropped += row->slot[s].page >= 0;
        }
        world->witness.dropped += dropped;
        model_drop(row, SPIN_MIN(args->before, args->after), SLOTS_MAX);
        row->slots = args->after;
        if (is_bucketed(world) && args->before == 0) {
            const int64_t step = (int64_t)world->sequences[args->sequence].step;
            row->clock = model_clock(world, row, step - 1);
        }
        for (uint32_t s = 0; s < args->held; s++) {
            row->slot[s] = (struct model_slot){(int32_t)(args->first_page + s), row->clock};
        }
    }
}

static struct spin_kv_resize_args resize_args(const struct world *world, uint32_t sequence,
                                              uint32_t layer)
{
    const uint32_t slots = spin_test_tables_slots(&world->ref, sequence, layer);
    const struct spin_kv_resize_args args = {.view = &world->ref.view,
                                             .sequence = sequence,
                                             .layer = layer,
                                             .step = (uint32_t)world->sequences[sequence].step,
                                             .before = slots,
                                             .after = slots};
    return args;
}

static void set_life(struct world *world, uint32_t sequence, enum life life)
{
    world->sequences[sequence].life = life;
    world->ref.residency[sequence] = life == RESIDENT ? SPIN_KV_RESIDENT : SPIN_KV_BUFFERED;
    spin_test_tables_copy_host(&world->cpu, &world->ref);
}

static bool grow(struct world *world, uint32_t sequence, uint32_t layer, uint32_t slabs)
{
    struct spin_kv_resize_args args = resize_args(world, sequence, layer);
    if (args.before / 16 + slabs > SLABS_MAX ||
        !spin_test_tables_grant(&world->ref, sequence, layer, slabs, &world->rng)) {
        return false;
    }
    args.after = args.before + slabs * 16;
    resize(world, &args);
    expect_same_and_rows(world, sequence, layer);
    return true;
}

static void shrink(struct world *world, uint32_t sequence, uint32_t layer, uint32_t slabs)
{
    struct spin_kv_resize_args args = resize_args(world, sequence, layer);
    args.after = args.before - slabs * 16;
    resize(world, &args);
    spin_test_tables_revoke(&world->ref, sequence, layer, slabs);
    spin_test_tables_copy_host(&world->cpu, &world->ref);
    expect_same_and_rows(world, sequence, layer);
}

static void empty(struct world *world, uint32_t sequence)
{
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const uint32_t slabs = spin_test_tables_slots(&world->ref, sequence, layer) / 16;
        if (world->sequences[sequence].life == BUFFERED) {
            shrink(world, sequence, layer, slabs);
        } else {
            spin_test_tables_revoke(&world->ref, sequence, layer, slabs);
        }
    }
    set_life(world, sequence, EMPTY);
}

static uint32_t pages_of(const struct world *world, uint32_t sequence)
{
    const uint32_t page_tokens = world->ref.view.page_tokens;
    return (world->sequences[sequence].tokens + page_tokens - 1) / page_tokens;
}

/* Some of the middle of what the identity map held stays. */
static void leave_identity_map(struct world *world, uint32_t sequence)
{
    const uint32_t pages = pages_of(world, sequence);
    set_life(world, sequence, BUFFERED);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        struct spin_kv_resize_args args = resize_args(world, sequence, layer);
        const uint32_t slabs = args.before / 16;
        const uint32_t first = below(world, slabs);
        const uint32_t keep = 1 + below(world, slabs - first);
        spin_test_tables_revoke_first(&world->ref, sequence, layer, first);
        spin_test_tables_revoke(&world->ref, sequence, layer, slabs - first - keep);
        args.before = 0;
        args.after = keep * 16;
        args.first_page = first * 16;
        args.held = args.first_page < pages ? SPIN_MIN(pages - args.first_page, args.after) : 0;
        resize(world, &args);
        expect_same_and_rows(world, sequence, layer);
    }
    world->witness.from_resident++;
}

static void be_born(struct world *world, uint32_t sequence)
{
    struct sequence *state = &world->sequences[sequence];
    const uint32_t page_tokens = world->ref.view.page_tokens;
    const bool resident = below(world, 3) == 0;
    state->tokens = 1 + below(world, (resident ? 40 : 120) * page_tokens);
    /* The counter of steps wraps, too; the model's does not. */
    state->step = below(world, 4) == 0 ? UINT64_C(0xffffff80) : below(world, 100);
    const uint32_t slabs = resident ? (pages_of(world, sequence) + 15) / 16 : 1 + below(world, 3);
    if (slabs * LAYERS > world->ref.free_count) {
        return;
    }
    set_life(world, sequence, resident ? RESIDENT : BUFFERED);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        if (resident) {
            assert_true(spin_test_tables_grant(&world->ref, sequence, layer, slabs, &world->rng));
        } else {
            assert_true(grow(world, sequence, layer, slabs));
        }
    }
    spin_test_tables_copy_host(&world->cpu, &world->ref);
}

/* --- selecting --- */

static bool likes(const struct world *world, const struct sequence *state, uint32_t page,
                  int64_t age)
{
    const uint32_t newest = (state->tokens - 1) / world->ref.view.page_tokens;
    const uint32_t mixed =
        (page + 1) * UINT32_C(2654435761) ^ (uint32_t)world->rng.counter * 40503u;
    switch (state->choice) {
    case CHOOSE_RANDOM:
        return mixed >> 30 == 0;
    case CHOOSE_NEWEST:
        return false;
    case CHOOSE_WINDOW:
        return page + 12 > newest;
    case CHOOSE_SAME:
        return age == 0;
    case CHOOSE_CIRCLE:
        return (page + 7 * state->step) % (newest + 1) < 20;
    case CHOOSE_ABSENT:
        return age < 0;
    case CHOOSE_AGED:
        return age > 0;
    case CHOOSE_ALL:
    case CHOICES:
        return true;
    }
    return true;
}

/* Ascending, the newest page last, no more than the row has slots. */
static uint32_t choose(struct world *world, uint32_t sequence, const struct model_row *row,
                       uint16_t *pages)
{
    const struct sequence *state = &world->sequences[sequence];
    const uint32_t newest = pages_of(world, sequence) - 1;
    const uint32_t slots = state->life == RESIDENT ? SLOTS_MAX : row->slots;
    const uint32_t limit = below(world, 4) == 0 ? slots : 1 + below(world, slots);
    int64_t ages[PAGES_MAX];
    memset(ages, 0xff, sizeof ages); /* -1: in no slot */
    for (uint32_t s = 0; s < row->slots; s++) {
        if (row->slot[s].page >= 0) {
            ages[row->slot[s].page] = age_of(world, row, s);
        }
    }
    bool chosen[PAGES_MAX] = {false};
    const uint32_t start = below(world, newest + 1);
    uint32_t count = 1;
    chosen[newest] = true;
    for (uint32_t i = 0; i <= newest && count < limit; i++) {
        const uint32_t page = (start + i) % (newest + 1);
        if (!chosen[page] && likes(world, state, page, ages[page])) {
            chosen[page] = true;
            count++;
        }
    }
    count = 0;
    for (uint32_t page = 0; page <= newest; page++) {
        if (chosen[page]) {
            pages[count++] = (uint16_t)page;
        }
    }
    return count;
}

/* --- resolving --- */

struct pass {
    uint32_t sequence[SEQUENCES];
    uint32_t tokens[SEQUENCES];
    uint32_t step[SEQUENCES];
    uint32_t count;
    uint32_t layer;
    bool repeated; /* the same again: nothing may miss */
};

static void expect_lists(const struct world *world, uint32_t row, uint32_t index,
                         const struct answer *answer)
{
    const struct spin_kv_lists *lists = &world->ref.lists;
    const struct spin_kv_view *view = &world->ref.view;
    const uint64_t first = (uint64_t)row * lists->stride;
    for (uint32_t i = 0; i < lists->page_count[row]; i++) {
        assert_int_equal(lists->slots[first + i], spin_kv_pool_slot(view, index, answer->slots[i]));
    }
    assert_int_equal(lists->miss_count[row], answer->miss_count);
    for (uint32_t m = 0; m < answer->miss_count; m++) {
        const struct spin_kv_miss *miss = &lists->misses[first + m];
        assert_int_equal(miss->page, world->rows[index].slot[answer->misses[m]].page);
        assert_int_equal(miss->slot, spin_kv_pool_slot(view, index, answer->misses[m]));
        assert_int_equal(miss->fresh, miss->page * view->page_tokens + 1 == answer->tokens);
        assert_true(m == 0 || miss->page > miss[-1].page);
    }
    const struct spin_kv_counters *counters = &view->counters[index];
    assert_int_equal(counters->hits, answer->counters.hits);
    assert_int_equal(counters->misses, answer->counters.misses);
    assert_int_equal(counters->evictions, answer->counters.evictions);
    assert_int_equal(counters->working_set, answer->counters.working_set);
}

/* No victim is younger than a page that stayed without having been selected. */
static void expect_fair(const struct world *world, const struct model_row *before,
                        const struct model_row *after)
{
    int64_t youngest_victim = INT64_MAX;
    int64_t oldest_survivor = 0;
    for (uint32_t s = 0; s < before->slots; s++) {
        const int64_t age = SPIN_MIN(after->clock - before->slot[s].used, age_max(world));
        if (before->slot[s].page < 0) {
            continue;
        }
        if (before->slot[s].page != after->slot[s].page) {
            youngest_victim = SPIN_MIN(youngest_victim, age);
        } else if (after->slot[s].used != after->clock) {
            oldest_survivor = SPIN_MAX(oldest_survivor, age);
        }
    }
    assert_true(youngest_victim >= oldest_survivor);
}

static void expect_pass_row(struct world *world, const struct pass *pass, uint32_t i, uint32_t head)
{
    const struct spin_kv_lists *lists = &world->ref.lists;
    const uint32_t row = i * HEADS + head;
    const uint32_t index = row_index(pass->sequence[i], pass->layer, head);
    const struct sequence *state = &world->sequences[pass->sequence[i]];
    const uint16_t *pages = lists->pages + (uint64_t)row * lists->stride;
    const uint32_t page_tokens = world->ref.view.page_tokens;
    const uint32_t count = lists->page_count[row];
    assert_int_equal(lists->visible[row],
                     state->tokens - (pages[count - 1] + 1 - count) * page_tokens);
    struct answer answer = {
        .pages = pages, .count = count, .tokens = state->tokens, .counters = {.hits = count}};
    if (state->life == RESIDENT) {
        for (uint32_t e = 0; e < count; e++) {
            answer.slots[e] = pages[e];
        }
        world->witness.resident++;
    } else {
        const struct model_row before = world->rows[index];
        model_resolve(world, &world->rows[index], state, &answer);
        expect_fair(world, &before, &world->rows[index]);
    }
    expect_lists(world, row, index, &answer);
    assert_true(!pass->repeated || answer.miss_count == 0);
    world->witness.evictions += answer.counters.evictions;
    world->witness.free_slots_taken += answer.miss_count - answer.counters.evictions;
    world->witness.fresh += answer.miss_count - answer.counters.misses;
}

static void resolve(struct world *world, const struct pass *pass)
{
    struct spin_kv_resolve_args args = {
        &world->ref.view,
        {pass->layer, pass->count, pass->sequence, pass->tokens, pass->step},
        world->ref.lists};
    assert_int_equal(spin_ops_ref.kv_resolve[world->ref.replacement](&args, world->stream),
                     SPIN_OK);
    args.view = &world->cpu.view;
    args.lists = world->cpu.lists;
    assert_int_equal(spin_ops_cpu.kv_resolve[world->ref.replacement](&args, world->stream),
                     SPIN_OK);
    spin_test_tables_expect_same(&world->ref, &world->cpu);
    for (uint32_t i = 0; i < pass->count; i++) {
        for (uint32_t head = 0; head < HEADS; head++) {
            expect_pass_row(world, pass, i, head);
            if (world->sequences[pass->sequence[i]].life == BUFFERED) {
                expect_row(world, row_index(pass->sequence[i], pass->layer, head));
            }
        }
    }
    world->operations++;
}

static void select_layer(struct world *world, const struct pass *pass)
{
    struct spin_kv_lists *lists = &world->ref.lists;
    for (uint32_t i = 0; i < pass->count; i++) {
        for (uint32_t head = 0; head < HEADS; head++) {
            const uint64_t row = (uint64_t)i * HEADS + head;
            const struct model_row *model =
                &world->rows[row_index(pass->sequence[i], pass->layer, head)];
            uint16_t *pages = lists->pages + row * lists->stride;
            uint16_t *copy = world->cpu.lists.pages + row * lists->stride;
            lists->page_count[row] = choose(world, pass->sequence[i], model, pages);
            world->cpu.lists.page_count[row] = lists->page_count[row];
            memcpy(copy, pages, lists->page_count[row] * sizeof *pages);
        }
    }
}

/* Where the next token goes, as the engine would have it; false: the sequence sits this one out. */
static bool make_ready(struct world *world, uint32_t sequence)
{
    struct sequence *state = &world->sequences[sequence];
    if (state->life == EMPTY || below(world, 4) == 0) {
        return false;
    }
    if (pages_of(world, sequence) >= PAGES_MAX - 4) {
        empty(world, sequence);
        return false;
    }
    if (state->choice_left == 0) {
        state->choice = (enum choice)below(world, CHOICES);
        state->choice_left = 1 + below(world, 300);
    }
    state->choice_left--;
    state->tokens += below(world, 8) == 0 ? 1 + below(world, 20) : 1;
    state->step += 1 + below(world, 1u << world->ref.view.bucket_shift);
    if (state->life == RESIDENT &&
        pages_of(world, sequence) > spin_test_tables_slots(&world->ref, sequence, 0)) {
        leave_identity_map(world, sequence);
    }
    return true;
}

/* A decode step of some sequences: every layer, one after another. */
static void take_step(struct world *world)
{
    struct pass pass = {.count = 0};
    for (uint32_t s = 0; s < SEQUENCES; s++) {
        if (make_ready(world, s)) {
            pass.sequence[pass.count] = s;
            pass.tokens[pass.count] = world->sequences[s].tokens;
            pass.step[pass.count] = (uint32_t)world->sequences[s].step;
            pass.count++;
        }
    }
    for (pass.layer = 0; pass.layer < LAYERS && pass.count > 0; pass.layer++) {
        select_layer(world, &pass);
        pass.repeated = false;
        resolve(world, &pass);
        if (below(world, 16) == 0) {
            pass.repeated = true;
            resolve(world, &pass);
            world->witness.repeated++;
        }
    }
}

static void change_something(struct world *world)
{
    const uint32_t sequence = below(world, SEQUENCES);
    const uint32_t layer = below(world, LAYERS);
    const uint32_t slabs = spin_test_tables_slots(&world->ref, sequence, layer) / 16;
    switch (world->sequences[sequence].life) {
    case EMPTY:
        be_born(world, sequence);
        break;
    case RESIDENT:
        leave_identity_map(world, sequence);
        break;
    case BUFFERED:
        if (below(world, 8) == 0) {
            empty(world, sequence);
        } else if (below(world, 2) == 0) {
            (void)grow(world, sequence, layer, 1 + below(world, 2));
        } else if (slabs > 1) {
            shrink(world, sequence, layer, 1 + below(world, slabs - 1));
        }
        break;
    }
    expect_pool(world);
}

static void live(enum spin_kv_replacement replacement, uint32_t page_tokens, uint32_t bucket_shift)
{
    const struct test_tables_config config = {.replacement = replacement,
                                              .sequences = SEQUENCES,
                                              .layers = LAYERS,
                                              .kv_heads = HEADS,
                                              .head_dim = 8,
                                              .page_tokens = page_tokens,
                                              .pages_max = PAGES_MAX,
                                              .slabs_max = SLABS_MAX,
                                              .slabs = POOL_SLABS,
                                              .bucket_shift = bucket_shift};
    static struct world world;
    memset(&world, 0, sizeof world);
    world.ref = spin_test_tables_create(&config);
    world.cpu = spin_test_tables_create(&config);
    world.stream = spin_test_stream(1);
    world.rng = (struct spin_rng){81, replacement, bucket_shift};
    while (world.operations < OPERATIONS / 4) {
        if (below(&world, 24) == 0) {
            change_something(&world);
        } else {
            take_step(&world);
        }
    }
    assert_true(world.witness.evictions > 0 && world.witness.free_slots_taken > 0);
    assert_true(world.witness.fresh > 0 && world.witness.saturated > 0);
    assert_true(world.witness.dropped > 0 && world.witness.resident > 0);
    assert_true(world.witness.repeated > 0 && world.witness.from_resident > 0);
    spin_stream_destroy(world.stream);
    spin_test_tables_destroy(&world.ref);
    spin_test_tables_destroy(&world.cpu);
}

static void test_slot_lru(void **state)
{
    (void)state;
    live(SPIN_KV_SLOT_LRU, 8, 0);
    live(SPIN_KV_SLOT_LRU, 32, 0);
}

static void test_bucketed(void **state)
{
    (void)state;
    live(SPIN_KV_BUCKETED, 8, 0);
    live(SPIN_KV_BUCKETED, 32, 2);
}

/* kv_tables_test [NAME]: all tests, or the one of that name. */
int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slot_lru),
        cmocka_unit_test(test_bucketed),
    };
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
