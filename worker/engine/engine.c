/* The engine's life: configuration, memory, thread. */
#include "worker/engine/engine.h"

#include "base/assert.h"
#include "base/file.h"
#include "base/log.h"
#include "worker/engine/engine_internal.h"

#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_NUM_SEQS_MAX 1024u
#define MAX_WAITING_MAX 65536u
#define MAX_NUM_BATCHED_TOKENS_MAX (1u << 20)
#define THREADS_MAX 64u

/* Prompts in prefill at once. Each has the hidden states of a super-chunk; more of them share the
 * same compute, and two long ones, a short one and one about to finish are what fairness needs. */
#define PREFILL_SLOTS 4u

/* What admission counts for an output whose end is not known: longer than most answers, so that
 * preemption is rare; far below most max_tokens, so that the pool is not kept empty for nothing. */
#define OUTPUT_EXPECTED_TOKENS 512u

/* Rows of one lm_head product: enough to read its weights seldom, few enough that the logits of a
 * large vocabulary stay small. */
#define LOGITS_ROWS_MIN 16u
#define LOGITS_ROWS_MAX 64u

struct spin_engine_config spin_engine_config_default(void)
{
    return (struct spin_engine_config){.max_model_len = 0,
                                       .max_num_seqs = 32,
                                       .max_num_batched_tokens = 256,
                                       .super_chunk_tokens = 2048,
                                       .chunk_tokens = 128,
                                       .max_waiting = 256,
                                       .threads = 0,
                                       .kv_bytes = 0,
                                       .ops = NULL};
}

struct limit {
    const char *name;
    uint32_t value;
    uint32_t min;
    uint32_t max;
};

static spin_status check_config(const struct spin_engine_config *config,
                                const struct spin_model_config *shape, struct spin_error *err)
{
    const struct limit limits[] = {
        {"max_model_len", config->max_model_len, 1, SPIN_MIN(shape->context_max, SPIN_CONTEXT_MAX)},
        {"max_num_seqs", config->max_num_seqs, 1, MAX_NUM_SEQS_MAX},
        {"max_num_batched_tokens", config->max_num_batched_tokens, 1, MAX_NUM_BATCHED_TOKENS_MAX},
        {"super_chunk_tokens", config->super_chunk_tokens, SPIN_BLOCK_TOKENS, SPIN_CONTEXT_MAX},
        {"chunk_tokens", config->chunk_tokens, 1, config->super_chunk_tokens},
        {"max_waiting", config->max_waiting, 1, MAX_WAITING_MAX},
        {"threads", config->threads, 1, THREADS_MAX},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(limits); i++) {
        if (limits[i].value < limits[i].min || limits[i].value > limits[i].max) {
            return spin_fail(err, SPIN_ERR_INVALID, "%s %u: must be %u to %u", limits[i].name,
                             limits[i].value, limits[i].min, limits[i].max);
        }
    }
    if (config->super_chunk_tokens % SPIN_BLOCK_TOKENS != 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "super_chunk_tokens %u: must be a multiple of %u",
                         config->super_chunk_tokens, SPIN_BLOCK_TOKENS);
    }
    return SPIN_OK;
}

/* The cores that this process may use: a container's share, not the machine's. */
static uint32_t count_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) {
        return 1;
    }
    return (uint32_t)SPIN_MIN(SPIN_MAX(CPU_COUNT(&set), 1), (int)THREADS_MAX);
}

/* The machine's memory, or the container's limit where that is lower. */
static uint64_t memory_bytes(void)
{
    const uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    char *text = NULL;
    uint64_t text_bytes = 0;
    if (spin_file_read("/sys/fs/cgroup/memory.max", 64, &text, &text_bytes, NULL) != SPIN_OK) {
        return machine;
    }
    char *end = NULL;
    const uint64_t limit = strtoull(text, &end, 10);
    const bool is_number = end != text; /* "max": no limit */
    free(text);
    return is_number ? SPIN_MIN(limit, machine) : machine;
}

static struct spin_kv_layout layout_of(const struct spin_engine *engine)
{
    const struct spin_model_config *shape = &engine->model->config;
    return (struct spin_kv_layout){.layers = shape->layers,
                                   .kv_heads = shape->kv_heads,
                                   .head_dim = shape->head_dim,
                                   .dtype = SPIN_KV_BF16,
                                   .swizzle = engine->config.ops->swizzle};
}

static uint64_t default_kv_bytes(const struct spin_engine *engine)
{
    const struct spin_kv_layout layout = layout_of(engine);
    const uint64_t sequence =
        spin_kv_blocks_for(engine->config.max_model_len) * spin_block_bytes(&layout);
    return SPIN_MIN(engine->config.max_num_seqs * sequence, memory_bytes() / 4);
}

static spin_status resolve_config(struct spin_engine *engine, struct spin_error *err)
{
    struct spin_engine_config *config = &engine->config;
    if (config->ops == NULL) {
        config->ops = spin_ops_best_cpu();
    }
    if (config->max_model_len == 0) {
        config->max_model_len = SPIN_MIN(engine->model->config.context_max, SPIN_CONTEXT_MAX);
    }
    if (config->threads == 0) {
        config->threads = count_cores();
    }
    SPIN_TRY(check_config(config, &engine->model->config, err));
    if (config->kv_bytes == 0) {
        config->kv_bytes = default_kv_bytes(engine);
    }
    engine->prefill_slots = SPIN_MIN(PREFILL_SLOTS, config->max_num_seqs);
    /* Every place is a request that waits or is in flight. */
    engine->requests_max = config->max_waiting + config->max_num_seqs;
    engine->logits_rows =
        SPIN_MIN(SPIN_MAX(config->max_num_seqs, LOGITS_ROWS_MIN), LOGITS_ROWS_MAX);
    engine->grid = (struct spin_grid){.layers = engine->model->config.layers,
                                      .super_chunk_tokens = config->super_chunk_tokens,
                                      .chunk_tokens = config->chunk_tokens};
    return SPIN_OK;
}

static spin_status create_host(struct spin_engine *engine, struct spin_error *err)
{
    const struct spin_engine_config *config = &engine->config;
    SPIN_TRY(spin_door_create(engine->requests_max, config->max_waiting, &engine->door, err));
    uint32_t capacity = 2;
    while (capacity < engine->requests_max) {
        capacity *= 2;
    }
    SPIN_TRY(spin_ring_create(capacity, &engine->inbox, err));
    SPIN_TRY(spin_load_board_create(&engine->board, err));
    SPIN_TRY(spin_sampler_scratch_create(engine->model->config.vocab, &engine->sampler, err));
    /* Zeroed pages cost nothing until a request touches them. */
    engine->jobs = calloc(engine->requests_max, sizeof *engine->jobs);
    engine->tokens =
        calloc((uint64_t)engine->requests_max * config->max_model_len, sizeof *engine->tokens);
    engine->steps = calloc(config->max_num_seqs, sizeof *engine->steps);
    if (engine->jobs == NULL || engine->tokens == NULL || engine->steps == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "engine: %u requests of %u tokens",
                         engine->requests_max, config->max_model_len);
    }
    return SPIN_OK;
}

static spin_status create_device(struct spin_engine *engine, struct spin_error *err)
{
    const struct spin_engine_config *config = &engine->config;
    SPIN_TRY(spin_stream_create_cpu(config->threads, &engine->stream, err));
    const struct spin_kv_config kv = {.layout = layout_of(engine),
                                      .pool_bytes = config->kv_bytes,
                                      .sequences_max = config->max_num_seqs,
                                      .tokens_max = config->max_model_len,
                                      .page_tokens = SPIN_DENSE_PAGE_TOKENS};
    SPIN_TRY(spin_kv_create(&kv, engine->stream, &engine->kv, err));
    const struct spin_forward_config forward = {.model = engine->model,
                                                .ops = config->ops,
                                                .stream = engine->stream,
                                                .kv = engine->kv,
                                                .grid = engine->grid,
                                                .sequences_max = config->max_num_seqs,
                                                .tokens_max = config->max_model_len,
                                                .logits_rows_max = engine->logits_rows};
    SPIN_TRY(spin_forward_create(&forward, &engine->forward, err));
    const uint64_t rows = SPIN_MIN(config->super_chunk_tokens, config->max_model_len);
    for (uint32_t i = 0; i < engine->prefill_slots; i++) {
        void *memory = NULL;
        SPIN_TRY(spin_device_alloc(
            engine->stream, rows * engine->model->config.hidden * sizeof(float), &memory, err));
        engine->hidden[i] = memory;
    }
    return SPIN_OK;
}

static spin_status create_scheduler(struct spin_engine *engine, struct spin_error *err)
{
    struct spin_kv_stats kv;
    spin_kv_get_stats(engine->kv, &kv);
    const struct spin_scheduler_config config = {
        .grid = engine->grid,
        .requests_max = engine->requests_max,
        .max_num_seqs = engine->config.max_num_seqs,
        .prefill_slots = engine->prefill_slots,
        .max_num_batched_tokens = engine->config.max_num_batched_tokens,
        .output_expected_tokens = OUTPUT_EXPECTED_TOKENS,
        .kv_blocks = kv.blocks,
    };
    return spin_scheduler_create(&config, &engine->scheduler, err);
}

static void print_memory(const struct spin_engine *engine)
{
    struct spin_kv_stats kv;
    spin_kv_get_stats(engine->kv, &kv);
    SPIN_INFO("engine memory: kv_pool_bytes=%" PRIu64 " kv_blocks=%u kv_table_bytes=%" PRIu64
              " requests=%u request_bytes=%zu token_array_bytes=%zu",
              kv.pool_bytes, kv.blocks, kv.table_bytes, engine->requests_max, sizeof *engine->jobs,
              engine->config.max_model_len * sizeof *engine->tokens);
}

/* NOLINTNEXTLINE(readability-function-size): what an engine depends on, each by its own name. */
spin_status spin_engine_create(const struct spin_engine_config *config,
                               const struct spin_model *model, const struct spin_clock *clock,
                               struct spin_metrics *metrics, struct spin_engine **out,
                               struct spin_error *err)
{
    struct spin_engine *engine = calloc(1, sizeof *engine);
    if (engine == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "engine: %zu bytes", sizeof *engine);
    }
    engine->config = *config;
    engine->model = model;
    engine->clock = clock;
    engine->metrics = metrics;
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, resolve_config(engine, err), fail);
    SPIN_TRY_GOTO(status, create_host(engine, err), fail);
    SPIN_TRY_GOTO(status, create_device(engine, err), fail);
    SPIN_TRY_GOTO(status, create_scheduler(engine, err), fail);
    print_memory(engine);
    spin_engine_publish(engine); /* the capacity is known before the first step */
    *out = engine;
    return SPIN_OK;
fail:
    spin_engine_destroy(engine);
    return status;
}

static void *thread_main(void *argument)
{
    spin_engine_run(argument);
    return NULL;
}

spin_status spin_engine_start(struct spin_engine *engine, struct spin_error *err)
{
    SPIN_ASSERT(!engine->started);
    SPIN_ASSERT(!engine->stopped);
    /* Signals are for the threads that expect them. */
    sigset_t all;
    sigset_t previous;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &previous);
    const int error = pthread_create(&engine->thread, NULL, thread_main, engine);
    (void)pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (error != 0) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "engine thread: %s", strerrordesc_np(error));
    }
    (void)pthread_setname_np(engine->thread, "engine");
    engine->started = true;
    return SPIN_OK;
}

void spin_engine_stop(struct spin_engine *engine, uint64_t grace_ns)
{
    if (engine->stopped) {
        return;
    }
    engine->stopped = true;
    const uint64_t now_ns = spin_now_ns(engine->clock);
    spin_door_stop(engine->door, engine->started ? spin_deadline_ns(now_ns, grace_ns) : now_ns);
    spin_ring_wake(engine->inbox);
    if (engine->started) {
        (void)pthread_join(engine->thread, NULL);
    } else {
        spin_engine_run(engine); /* never started: tells whoever came that it is over */
    }
}

void spin_engine_destroy(struct spin_engine *engine)
{
    if (engine == NULL) {
        return;
    }
    SPIN_ASSERT(!engine->started || engine->stopped);
    spin_scheduler_destroy(engine->scheduler);
    spin_forward_destroy(engine->forward);
    for (uint32_t i = 0; i < engine->prefill_slots && engine->stream != NULL; i++) {
        spin_device_free(engine->stream, engine->hidden[i]);
    }
    spin_kv_destroy(engine->kv);
    spin_stream_destroy(engine->stream);
    free(engine->steps);
    free(engine->tokens);
    free(engine->jobs);
    spin_sampler_scratch_destroy(engine->sampler);
    spin_load_board_destroy(engine->board);
    spin_ring_destroy(engine->inbox);
    spin_door_destroy(engine->door);
    free(engine);
}

void spin_engine_get_load(const struct spin_engine *engine, struct spin_engine_load *out)
{
    spin_load_board_get(engine->board, out);
}

spin_status spin_engine_get_status(const struct spin_engine *engine)
{
    return spin_door_get_status(engine->door);
}

const struct spin_engine_config *spin_engine_get_config(const struct spin_engine *engine)
{
    return &engine->config;
}
