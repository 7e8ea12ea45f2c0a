/* probe: workers side by side, asked for prompts and batches, timed.
 *
 * Why        Workers of one machine share its memory, its caches and its processors: what one of
 *            them takes depends on the others doing the same, so all are measured at once: engines
 *            in this process, each with its own threads, or the workers of a cluster behind a
 *            router. With a cluster, what serving costs beside the engine is in the numbers, too.
 * Method     prompt: as many prompts of so many tokens as there are workers, and a token of each;
 *            the time is from submission to the token. decode: every worker decodes so many
 *            sequences; counted is the time from when the last of all has begun to when the first
 *            ends, over the tokens of each. The result is the median over prompts, or over
 *            sequences. A router shares what comes at once out by number, so that every worker has
 *            its part. first: a prompt of one chunk in engines of this process, less what its units
 *            took by the moving average of the engine itself, which has been through the like units
 *            of all layers then.
 * Ownership  Borrows the model; owns its engines and its connection.
 * Threading  One thread.
 * Units      Tokens, nanoseconds.
 * Errors     Those of the engine and of the SDK; INTERNAL: a request ended in another way than
 *            asked, or steps with all sequences were too few to count; DEADLINE: no answer within
 *            SPIN_PROBE_LIMIT_NS. */
#pragma once

#include "model/weights/model.h"
#include "worker/engine/engine.h"

SPIN_BEGIN_DECLS

#define SPIN_PROBE_LIMIT_NS UINT64_C(1800000000000) /* of one run of all engines */
#define SPIN_PROBE_STEPS 32u                        /* of a batch, with all sequences */

struct spin_probe; /* private to probe.c */

struct spin_probe_config {
    const struct spin_model *model;
    struct spin_engine_config engine; /* of each */
    uint32_t engines;    /* in this process; with a target: as many as it has workers */
    uint32_t repeats;    /* of a prompt */
    const char *target;  /* host:port of a router's gRPC; NULL: the engines alone */
    const char *api_key; /* for it; NULL: none */
};

SPIN_MUST_USE spin_status spin_probe_create(const struct spin_probe_config *config,
                                            struct spin_probe **out, struct spin_error *err);
void spin_probe_destroy(struct spin_probe *probe); /* NULL is allowed */
/* The configuration in force, and what the pools hold; all engines have the same. */
const struct spin_engine *spin_probe_engine(const struct spin_probe *probe);

SPIN_MUST_USE spin_status spin_probe_prompt(struct spin_probe *probe, uint32_t tokens,
                                            uint64_t *out_ns, struct spin_error *err);
/* The part of such a prompt's time that its units do not take; `tokens` is one chunk at most, so
 * that a unit is alike in every layer. */
SPIN_MUST_USE spin_status spin_probe_first(struct spin_probe *probe, uint32_t tokens,
                                           uint64_t *out_ns, struct spin_error *err);
struct spin_probe_batch {
    uint32_t sequences; /* of each worker */
    uint32_t prompt;    /* tokens of each of them */
    uint32_t context;   /* out: tokens of each in the mean of the steps that were counted */
    uint64_t step_ns;   /* out */
};
SPIN_MUST_USE spin_status spin_probe_decode(struct spin_probe *probe,
                                            struct spin_probe_batch *batch, struct spin_error *err);
/* Tokens that a sequence of such a batch has at its end, at least. */
uint64_t spin_probe_decode_tokens(const struct spin_probe *probe, uint32_t sequences,
                                  uint32_t prompt);

SPIN_END_DECLS
