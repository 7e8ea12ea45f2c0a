#include "tests/bench/kv/trace_maker.h"

#include "base/rng.h"
#include "tests/spin_test.h"

#define PAGE_TOKENS 8u
#define PAGES_MAX 256u
#define ROWS_MAX 64u

struct maker {
    const struct spin_trace_plan *plan;
    struct spin_rng rng;
    bool chosen[ROWS_MAX][PAGES_MAX]; /* of the step before */
};

const char *spin_trace_path(const char *name)
{
    static char path[512];
    const char *folder = getenv("TEST_TMPDIR");
    (void)snprintf(path, sizeof path, "%s/%s", folder == NULL ? "/tmp" : folder, name);
    return path;
}

/* Keeps at random half of what row chose before and is still a candidate; then adds. */
static void choose(struct maker *maker, uint32_t row, struct spin_trace_window window)
{
    bool *chosen = maker->chosen[row];
    const uint32_t candidates = window.local_begin - window.sink_end;
    const uint32_t wanted = SPIN_MIN(maker->plan->chosen, candidates);
    uint32_t count = 0;
    for (uint32_t page = 0; page < PAGES_MAX; page++) {
        const bool candidate = page >= window.sink_end && page < window.local_begin;
        chosen[page] =
            chosen[page] && candidate && count < wanted && spin_rng_below(&maker->rng, 2) == 0;
        count += chosen[page];
    }
    while (count < wanted) {
        const uint32_t page = window.sink_end + spin_rng_below(&maker->rng, candidates);
        count += !chosen[page];
        chosen[page] = true;
    }
}

static void put_row(struct maker *maker, struct spin_trace_writer *writer, uint32_t row,
                    struct spin_trace_window window, uint32_t newest)
{
    uint16_t pages[PAGES_MAX];
    struct spin_trace_list list = {.pages = pages};
    choose(maker, row, window);
    for (uint32_t page = 0; page <= newest; page++) {
        if (spin_trace_is_private(&window, page) || maker->chosen[row][page]) {
            pages[list.count++] = (uint16_t)page;
        }
    }
    spin_trace_put_list(writer, list);
}

static void put_document(struct maker *maker, struct spin_trace_writer *writer, uint32_t prompt)
{
    const struct spin_trace_plan *plan = maker->plan;
    for (uint32_t step = 0; step < plan->steps; step++) {
        const uint32_t newest = (prompt + step) / PAGE_TOKENS;
        const uint32_t local = newest > plan->local ? newest - plan->local : 0;
        const struct spin_trace_window window = {.sink_end = SPIN_MIN(plan->sink, local),
                                                 .local_begin = local};
        assert_true(newest < PAGES_MAX);
        spin_trace_put_window(writer, window);
        for (uint32_t row = 0; row < plan->layers * plan->kv_heads; row++) {
            put_row(maker, writer, row, window, newest);
        }
    }
}

void spin_make_trace(const struct spin_trace_plan *plan, struct spin_trace *out)
{
    const char *path = spin_trace_path("made.trace");
    struct spin_trace_shape shape = {.page_tokens = PAGE_TOKENS,
                                     .layers = plan->layers,
                                     .kv_heads = plan->kv_heads,
                                     .documents = plan->documents,
                                     .steps = plan->steps,
                                     .algorithm = "made"};
    struct spin_trace_document documents[SPIN_TRACE_DOCUMENTS_MAX] = {0};
    struct spin_trace_writer writer;
    struct spin_error err;
    struct maker maker = {.plan = plan, .rng = {.seed = plan->seed}};
    assert_true(plan->layers * plan->kv_heads <= ROWS_MAX);
    for (uint32_t i = 0; i < plan->documents; i++) {
        (void)snprintf(documents[i].name, sizeof documents[i].name, "document %u", i);
        documents[i].prompt_tokens = plan->prompt_tokens + PAGE_TOKENS * i;
    }
    SPIN_EXPECT_OK(spin_trace_create(path, &shape, documents, &writer, &err), &err);
    for (uint32_t i = 0; i < plan->documents; i++) {
        put_document(&maker, &writer, documents[i].prompt_tokens);
    }
    SPIN_EXPECT_OK(spin_trace_finish(&writer, &err), &err);
    SPIN_EXPECT_OK(spin_trace_open(path, out, &err), &err);
}
