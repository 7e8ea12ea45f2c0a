/* Recorded decode steps. On a GPU a step is hundreds of launches, each as dear to the host as what
 * it starts is to the device; recorded, it is one.
 *
 * A recording holds arguments, not what they point to: tokens, positions, windows, lists and tables
 * lie where they always do and are written before it runs. What is not in memory makes another
 * kind of step: how many sequences there are, whether pages are sealed, and the bound of the lists
 * that sizes attention; that one is rounded up to whole splits, by an eighth at most of a long
 * list, so that a sequence meets a new kind seldom. The first step of a kind runs unrecorded: what
 * an operation does once, searching an algorithm or loading its code, cannot be recorded, and a
 * kind that never comes back costs nothing. The kind that was not met for the longest time gives
 * way to a new one. */
#include "base/assert.h"
#include "base/log.h"
#include "worker/engine/forward_internal.h"

#include <string.h>

#define STEPS_PER_OCTAVE 8u

uint32_t spin_forward_round_up(const struct spin_forward *forward, uint32_t tokens)
{
    if (forward->graphs == NULL) {
        return tokens;
    }
    uint64_t octave = (uint64_t)SPIN_SPLIT_TOKENS * STEPS_PER_OCTAVE;
    while (octave * 2 <= tokens) {
        octave *= 2;
    }
    const uint64_t unit = octave / STEPS_PER_OCTAVE;
    const uint64_t rounded = (tokens + unit - 1) / unit * unit;
    return (uint32_t)SPIN_MIN(rounded, forward->config.tokens_max);
}

static bool is_kind(const struct spin_forward_graph *graph, const struct spin_forward_graph *kind)
{
    return graph->count == kind->count && graph->work == kind->work &&
           memcmp(graph->visible_max, kind->visible_max, sizeof kind->visible_max) == 0;
}

/* The place of `kind`; a new one's is the place of the kind that was unused for longest. */
static struct spin_forward_graph *find(struct spin_forward *forward,
                                       const struct spin_forward_graph *kind)
{
    struct spin_forward_graph *oldest = &forward->graphs[0];
    for (uint32_t i = 0; i < forward->config.graphs_max; i++) {
        struct spin_forward_graph *graph = &forward->graphs[i];
        if (is_kind(graph, kind)) {
            return graph;
        }
        oldest = graph->used < oldest->used ? graph : oldest;
    }
    if (oldest->graph != NULL) {
        spin_graph_destroy(forward->config.stream, oldest->graph);
        forward->graph_stats.dropped++;
    }
    *oldest = *kind;
    return oldest;
}

/* The manager keeps its books as the layers are submitted, recorded or not. */
static spin_status record(struct spin_forward *forward, const struct spin_forward_rows *rows,
                          struct spin_graph **out)
{
    struct spin_stream *stream = forward->config.stream;
    struct spin_error err = {.status = SPIN_OK};
    SPIN_TRY(spin_graph_begin(stream));
    const spin_status submitted = spin_forward_submit_step(forward, rows);
    struct spin_graph *graph = NULL;
    const spin_status ended = spin_graph_end(stream, &graph, &err);
    if (submitted != SPIN_OK || ended != SPIN_OK) {
        spin_graph_destroy(stream, graph);
        SPIN_ERROR("decode step not recorded: sequences=%u why=%s", rows->count,
                   ended != SPIN_OK ? err.text : spin_status_name(submitted));
        return submitted != SPIN_OK ? submitted : ended;
    }
    forward->graph_stats.recorded++;
    *out = graph;
    return SPIN_OK;
}

spin_status spin_forward_run_step(struct spin_forward *forward,
                                  const struct spin_forward_rows *rows)
{
    if (forward->graphs == NULL) {
        return spin_forward_submit_step(forward, rows);
    }
    struct spin_forward_graph kind = {.count = rows->count,
                                      .work = spin_kv_step_work(forward->config.kv)};
    memcpy(kind.visible_max, rows->visible_max, sizeof kind.visible_max);
    struct spin_forward_graph *graph = find(forward, &kind);
    const bool is_new = graph->used == 0;
    graph->used = ++forward->graph_stats.steps;
    if (is_new) {
        return spin_forward_submit_step(forward, rows);
    }
    if (graph->graph == NULL) {
        SPIN_TRY(record(forward, rows, &graph->graph));
    } else {
        spin_kv_step_recorded(forward->config.kv);
        forward->graph_stats.replayed++;
    }
    return spin_graph_launch(forward->config.stream, graph->graph);
}
