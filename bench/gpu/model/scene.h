/* scene: sequences of one length that decode together, step after step, with a clock beside them.
 *
 * Why        What a step costs depends on algorithm, context, batch, how many slots rows have and
 *            how much of a choice is new: a scene holds the first four, a run of it takes the last.
 * Prompts    Nobody prefills: frames and summaries are random and adopted. Choices are drift.h's,
 *            or a trace's, put in place of Select's after Select has run in full; those of layers
 *            that attend to everything stay.
 * Ownership  Borrows the rig; owns manager, forward pass and choices.
 * Threading  The rig's thread.
 * Units      Tokens, milliseconds; counts are of all rows and sequences.
 * Errors     NO_MEMORY: the text says what did not fit. What was called. */
#pragma once

#include "bench/gpu/model/drift.h"
#include "bench/gpu/model/rig.h"
#include "bench/kv/trace.h"

SPIN_BEGIN_DECLS

struct spin_scene; /* private to scene.c */

struct spin_scene_config {
    struct spin_rig *rig;
    struct spin_sparse_options sparse;
    uint32_t context; /* tokens before the first step; whole pages */
    uint32_t batch;
    uint32_t steps_max;   /* of all runs */
    double slots_factor;  /* as spin_rig_kv's; dense: 0 */
    uint64_t frame_bytes; /* as spin_rig_kv's */
    uint32_t waves;       /* as spin_forward_config's */
    uint64_t seed;
};

/* Device bytes that it needs, but for recordings; *aliased: sequences will share frames. */
uint64_t spin_scene_bytes(const struct spin_scene_config *config, bool *aliased);
SPIN_MUST_USE spin_status spin_scene_open(const struct spin_scene_config *config,
                                          struct spin_scene **out, struct spin_error *err);
void spin_scene_close(struct spin_scene *scene); /* NULL is allowed */

/* An operation that a run leaves out, to see what it adds: what it would have made is stale. */
enum spin_scene_part { SPIN_SCENE_ALL, SPIN_SCENE_NO_GATHER, SPIN_SCENE_NO_SELECT };

struct spin_scene_run {
    uint32_t warm; /* steps before the measured ones */
    uint32_t steps;
    double overlap; /* of neighbouring choices; as spin_drift_config's */
    double returns;
    /* Choices recorded at this context, in place of those; NULL: none. It outlives the run. */
    const struct spin_trace *trace;
    enum spin_scene_part without;
};

struct spin_scene_result {
    double ms; /* median */
    double ms_p10;
    double ms_p90;
    double ms_mean;
    double submit_ms; /* median until everything is submitted: the device waits for most of it */
    double end_ms;    /* median of what the host does after the wait */
    /* Of the measured steps. */
    uint64_t hits;
    uint64_t misses;
    uint64_t evictions;
    uint64_t sparse_steps;
    uint64_t dense_fallbacks;
    uint32_t tokens; /* visible in the middle of them */
    uint64_t recorded;
    uint64_t replayed;
    bool finite; /* the last logits */
};

/* Steps begin where the last run ended. INVALID: more than steps_max in all; a trace of another
 * algorithm or context, or with fewer steps. */
SPIN_MUST_USE spin_status spin_scene_measure(struct spin_scene *scene,
                                             const struct spin_scene_run *run,
                                             struct spin_scene_result *out, struct spin_error *err);

SPIN_END_DECLS
