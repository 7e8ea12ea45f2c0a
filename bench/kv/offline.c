#include "bench/kv/offline.h"

#include "base/assert.h"
#include "base/rng.h"

#include <stdlib.h>

#define RANDOM_SEED 5u
#define NOWHERE UINT32_MAX

/* One row at a time. `steps` stands for "never again". */
struct row {
    const struct spin_trace *trace;
    enum spin_offline_policy policy;
    struct spin_rng rng;
    uint32_t document;
    uint32_t row;
    uint32_t steps;
    uint32_t slots;

    uint64_t refs_max;
    uint64_t refs;      /* selections so far */
    uint32_t *next;     /* [selections of the row]: step at which the page is selected again */
    uint32_t *upcoming; /* [pages]: next of its last selection */
    uint32_t *selected; /* [pages]: last step that selected it, plus one */
    uint32_t *place;    /* [pages]: index in resident, or NOWHERE */
    uint32_t *resident; /* [slots]: pages */
    uint32_t residents;
    uint32_t *candidates; /* [slots] */
    uint32_t *of_step;    /* [steps + 1]: candidates by upcoming */
};

static uint32_t pages_of(const struct spin_trace *trace, uint32_t document)
{
    const uint32_t tokens = spin_trace_tokens(trace, document, trace->shape.steps - 1);
    return (tokens - 1) / trace->shape.page_tokens + 1;
}

uint32_t spin_replay_slots(const struct spin_trace *trace, uint32_t document, uint32_t buffering)
{
    const uint64_t wanted = (uint64_t)spin_trace_mandatory(trace, document) * (1 + buffering);
    return (uint32_t)SPIN_MIN(wanted, pages_of(trace, document));
}

static void row_deinit(struct row *row)
{
    free(row->next);
    free(row->upcoming);
    free(row->selected);
    free(row->place);
    free(row->resident);
    free(row->candidates);
    free(row->of_step);
}

static spin_status row_init(struct row *row, const struct spin_offline_config *config,
                            struct spin_error *err)
{
    const struct spin_trace *trace = config->trace;
    *row = (struct row){.trace = trace,
                        .policy = config->policy,
                        .rng = {.seed = RANDOM_SEED},
                        .steps = trace->shape.steps};
    uint64_t pages = 0;
    uint64_t mandatory = 0;
    for (uint32_t document = 0; document < trace->shape.documents; document++) {
        pages = SPIN_MAX(pages, pages_of(trace, document));
        mandatory = SPIN_MAX(mandatory, spin_trace_mandatory(trace, document));
    }
    SPIN_ASSERT_GE(pages, 1);
    row->refs_max = mandatory * row->steps;
    row->next = calloc(SPIN_MAX(row->refs_max, 1), sizeof *row->next);
    row->upcoming = calloc(pages, sizeof *row->upcoming);
    row->selected = calloc(pages, sizeof *row->selected);
    row->place = calloc(pages, sizeof *row->place);
    row->resident = calloc(pages, sizeof *row->resident);
    row->candidates = calloc(pages, sizeof *row->candidates);
    row->of_step = calloc((uint64_t)row->steps + 1, sizeof *row->of_step);
    if (row->next == NULL || row->upcoming == NULL || row->selected == NULL || row->place == NULL ||
        row->resident == NULL || row->candidates == NULL || row->of_step == NULL) {
        row_deinit(row);
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "rows of %llu pages", (unsigned long long)pages);
    }
    return SPIN_OK;
}

/* Backwards through the row: when each selection's page is selected again. */
static void look_ahead(struct row *row)
{
    const uint32_t pages = pages_of(row->trace, row->document);
    for (uint32_t page = 0; page < pages; page++) {
        row->upcoming[page] = row->steps;
        row->selected[page] = 0;
        row->place[page] = NOWHERE;
    }
    uint64_t at = 0;
    for (uint32_t step = 0; step < row->steps; step++) {
        at += spin_trace_get_list(row->trace, row->document, step, row->row).count;
    }
    SPIN_ASSERT_LE(at, row->refs_max);
    for (uint32_t step = row->steps; step-- > 0;) {
        const struct spin_trace_list list =
            spin_trace_get_list(row->trace, row->document, step, row->row);
        for (uint32_t i = list.count; i-- > 0;) {
            row->next[--at] = row->upcoming[list.pages[i]];
            row->upcoming[list.pages[i]] = step;
        }
    }
    row->residents = 0;
    row->refs = 0;
}

static void drop(struct row *row, uint32_t page)
{
    const uint32_t at = row->place[page];
    const uint32_t last = row->resident[--row->residents];
    row->resident[at] = last;
    row->place[last] = at;
    row->place[page] = NOWHERE;
}

/* What is used again last, or never, goes first; no sort: candidates are counted by step. */
static void evict_latest(struct row *row, uint32_t candidates, uint32_t count)
{
    for (uint32_t i = 0; i < candidates; i++) {
        row->of_step[row->upcoming[row->candidates[i]]]++;
    }
    uint32_t cut = row->steps;
    uint32_t later = 0; /* candidates used again after `cut` */
    while (later + row->of_step[cut] < count) {
        later += row->of_step[cut];
        cut--;
    }
    uint32_t at_cut = count - later;
    for (uint32_t i = 0; i < candidates; i++) {
        const uint32_t page = row->candidates[i];
        const uint32_t upcoming = row->upcoming[page];
        row->of_step[upcoming] = 0;
        if (upcoming > cut) {
            drop(row, page);
        } else if (upcoming == cut && at_cut > 0) {
            at_cut--;
            drop(row, page);
        }
    }
}

static void evict_any(struct row *row, uint32_t candidates, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        const uint32_t at = i + spin_rng_below(&row->rng, candidates - i);
        const uint32_t page = row->candidates[at];
        row->candidates[at] = row->candidates[i];
        drop(row, page);
    }
}

/* Makes room for `misses` pages. Returns how many it evicted. */
static uint32_t make_room(struct row *row, uint32_t step, uint32_t misses)
{
    if (row->residents + misses <= row->slots) {
        return 0;
    }
    const uint32_t count = row->residents + misses - row->slots;
    uint32_t candidates = 0;
    for (uint32_t i = 0; i < row->residents; i++) {
        if (row->selected[row->resident[i]] != step + 1) {
            row->candidates[candidates++] = row->resident[i];
        }
    }
    SPIN_ASSERT_LE(count, candidates);
    if (row->policy == SPIN_OFFLINE_BELADY) {
        evict_latest(row, candidates, count);
    } else {
        evict_any(row, candidates, count);
    }
    return count;
}

static void run_step(struct row *row, uint32_t step, struct spin_hit_tally *tally)
{
    const struct spin_trace_list list =
        spin_trace_get_list(row->trace, row->document, step, row->row);
    const struct spin_trace_window *window = spin_trace_get_window(row->trace, row->document, step);
    const uint32_t tokens = spin_trace_tokens(row->trace, row->document, step);
    const bool fresh = (tokens - 1) % row->trace->shape.page_tokens == 0;
    const uint32_t counted = list.count - (fresh ? 1 : 0); /* the newest page stands last */
    uint32_t misses = 0;
    for (uint32_t i = 0; i < list.count; i++) {
        const uint32_t page = list.pages[i];
        const bool hit = row->place[page] != NOWHERE;
        misses += hit ? 0 : 1;
        row->selected[page] = step + 1;
        row->upcoming[page] = row->next[row->refs + i];
        if (i < counted) {
            const bool chosen = !spin_trace_is_private(window, page);
            tally->selected++;
            tally->hits += hit;
            tally->chosen += chosen;
            tally->chosen_hits += chosen && hit;
        }
    }
    tally->evictions += make_room(row, step, misses);
    for (uint32_t i = 0; i < list.count; i++) {
        const uint32_t page = list.pages[i];
        if (row->place[page] == NOWHERE) {
            row->place[page] = row->residents;
            row->resident[row->residents++] = page;
        }
    }
    row->refs += list.count;
}

static void run_row(struct row *row, uint32_t warm_steps, struct spin_hit_tally *tally)
{
    struct spin_hit_tally warm = {0};
    look_ahead(row);
    for (uint32_t step = 0; step < row->steps; step++) {
        run_step(row, step, step < warm_steps ? &warm : tally);
    }
}

spin_status spin_offline_run(const struct spin_offline_config *config, struct spin_hit_tally *out,
                             struct spin_error *err)
{
    struct row row;
    SPIN_TRY(row_init(&row, config, err));
    *out = (struct spin_hit_tally){0};
    const struct spin_trace_shape *shape = &config->trace->shape;
    for (uint32_t document = 0; document < shape->documents; document++) {
        row.document = document;
        row.slots = spin_replay_slots(config->trace, document, config->buffering);
        for (uint32_t i = 0; i < spin_trace_rows(shape); i++) {
            row.row = i;
            run_row(&row, config->warm_steps, out);
        }
    }
    row_deinit(&row);
    return SPIN_OK;
}
