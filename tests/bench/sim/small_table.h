/* small_table: a table of step times that tests can read: round numbers, few layers.
 *
 * Why        Tests of the simulator need times whose sums they can do in their heads.
 * Threading  A test's thread. */
#pragma once

#include "bench/sim/cluster.h"

SPIN_BEGIN_DECLS

/* 2 layers, chunks of 100 tokens: 1 ms a token at position 0 (and 1 ms for logits and draw), twice
 * that from 1,000 tokens on; a decode step takes 10 ms, 1 ms more for each further sequence and
 * 1 us more for each token of context of all. */
extern const char spin_small_table[];

/* A table with one line changed or added: `key` is the beginning of the line that goes (NULL:
 * none), `line` is what comes (NULL: nothing). Freed by the caller. */
char *spin_small_table_with(const char *table, const char *key, const char *line);

/* An engine over the table, asserted to be there. */
struct spin_small_engine {
    struct spin_step_times *times;
    struct spin_sim_engine *engine;
};
struct spin_small_engine spin_small_engine_create(const char *text);
void spin_small_engine_destroy(struct spin_small_engine *engine);

/* A source of fixed requests. */
struct spin_small_source {
    const struct spin_sim_arrival *arrivals;
    uint32_t count;
    uint32_t next;
    uint32_t ended;
};
struct spin_sim_source spin_small_source(struct spin_small_source *state);

SPIN_END_DECLS
