/* engine_harness: engines of small random models, and requests whose answers can be waited for.
 *
 * Why        Every engine test needs a model, metrics, a sink that remembers, and patience.
 * Ownership  A harness owns model, metrics and engine; an answer is the caller's and must outlive
 *            its request's end.
 * Threading  The test's thread; sinks write an answer on the engine's thread under its lock.
 * Errors     What should not fail ends the test. */
#pragma once

#include "base/mutex.h"
#include "worker/engine/engine.h"
#include "worker/engine/metrics.h"

SPIN_BEGIN_DECLS

#define HARNESS_TOKENS_MAX 2048u

struct harness {
    struct spin_model *model;
    struct spin_metrics *metrics;
    struct spin_engine *engine;
};

/* A sink's view of one request. */
struct answer {
    struct spin_mutex mutex;
    struct spin_cond changed;
    uint64_t ticket;
    int32_t tokens[HARNESS_TOKENS_MAX];
    float logprobs[HARNESS_TOKENS_MAX];
    uint32_t count;
    int32_t prompt_tokens[HARNESS_TOKENS_MAX];
    float prompt_logprobs[HARNESS_TOKENS_MAX];
    uint32_t prompt_count;
    uint32_t tops; /* alternatives that came along, over all tokens */
    uint32_t finishes;
    struct spin_finish finish;
    char text[128];
};

/* Small and quick: 1,024 tokens, 8 sequences, 1 thread. */
struct spin_engine_config spin_harness_config(void);
void spin_harness_open(struct harness *harness, const char *model,
                       const struct spin_engine_config *config);
/* Stops with no grace, and checks that the metrics agree that everybody has ended. */
void spin_harness_close(struct harness *harness);

void spin_answer_init(struct answer *answer);
void spin_answer_deinit(struct answer *answer);
/* A greedy request over `prompt`, telling `answer`. */
struct spin_request spin_harness_request(const int32_t *prompt, uint32_t prompt_count,
                                         uint32_t max_tokens, struct answer *answer);
void spin_harness_submit(struct harness *harness, const struct spin_request *request,
                         struct answer *answer);
/* Wait a few minutes at most. */
void spin_answer_wait(struct answer *answer);
void spin_answer_wait_tokens(struct answer *answer, uint32_t count);

/* `count` tokens of a seed, within the model's vocabulary. */
void spin_harness_prompt(const struct harness *harness, uint32_t seed, int32_t *out,
                         uint32_t count);
/* Waits until the engine's load says that nothing runs or waits and no KV is used. */
void spin_harness_wait_idle(const struct harness *harness);

SPIN_END_DECLS
