/* The engine's life: memory, thread. */
#include "worker/engine/engine.h"

#include "base/assert.h"
#include "base/log.h"
#include "worker/engine/engine_internal.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* What admission counts for an output whose end is not known: longer than most answers, so that
 * preemption is rare; far below most max_tokens, so that the pool is not kept empty for nothing. */
#define OUTPUT_EXPECTED_TOKENS 512u

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
    engine->request_kv = calloc(config->max_num_seqs, sizeof *engine->request_kv);
    engine->holders = calloc(config->max_num_seqs, sizeof *engine->holders);
    if (engine->jobs == NULL || engine->tokens == NULL || engine->steps == NULL ||
        engine->request_kv == NULL || engine->holders == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "engine: %u requests of %u tokens",
                         engine->requests_max, config->max_model_len);
    }
    return SPIN_OK;
}

static spin_status create_device(struct spin_engine *engine, struct spin_error *err)
{
    const struct spin_kv_config kv = spin_engine_kv_config(engine);
    if (!spin_device_is_host(engine->stream)) { /* seconds: somebody may be watching */
        SPIN_INFO("pinning %.2f GB of host memory for KV blocks", (double)kv.host_bytes / 1e9);
    }
    SPIN_TRY(spin_kv_create(&kv, engine->stream, &engine->kv, err));
    const struct spin_forward_config forward = spin_engine_forward_config(engine);
    SPIN_TRY(spin_forward_create(&forward, &engine->forward, err));
    for (uint32_t i = 0; i < engine->prefill_slots; i++) {
        void *memory = NULL;
        SPIN_TRY(spin_device_alloc(engine->stream, spin_engine_hidden_bytes(engine), &memory, err));
        engine->hidden[i] = memory;
    }
    return spin_engine_create_draws(engine, err);
}

static spin_status create_stream(struct spin_engine *engine, struct spin_error *err)
{
    engine->stream = engine->config.stream;
    engine->owns_stream = engine->stream == NULL;
    return engine->owns_stream
               ? spin_stream_create_cpu(engine->config.threads, &engine->stream, err)
               : SPIN_OK;
}

/* What it runs with: numbers in place of defaults, and the stream that they depend on. */
static spin_status settle(struct spin_engine *engine, struct spin_error *err)
{
    const bool length_given = engine->config.max_model_len != 0;
    SPIN_TRY(spin_engine_resolve_config(engine, err));
    SPIN_TRY(create_stream(engine, err));
    return spin_engine_resolve_tiers(engine, length_given, err);
}

bool spin_engine_get_scheduling(const struct spin_engine *engine, struct spin_scheduler_config *out)
{
    struct spin_kv_stats kv;
    spin_kv_get_stats(engine->kv, &kv);
    *out = (struct spin_scheduler_config){
        .grid = engine->grid,
        .requests_max = engine->requests_max,
        .max_num_seqs = engine->config.max_num_seqs,
        .prefill_slots = engine->prefill_slots,
        .max_num_batched_tokens = engine->config.max_num_batched_tokens,
        .output_expected_tokens = OUTPUT_EXPECTED_TOKENS,
        .kv_blocks = kv.blocks,
        .kv_slabs = kv.slabs,
        .budget = spin_kv_get_budget(engine->kv),
    };
    return engine->replay;
}

static spin_status create_scheduler(struct spin_engine *engine, struct spin_error *err)
{
    struct spin_scheduler_config config;
    (void)spin_engine_get_scheduling(engine, &config);
    return spin_scheduler_create(&config, &engine->scheduler, err);
}

static void print_memory(const struct spin_engine *engine)
{
    struct spin_kv_stats kv;
    spin_kv_get_stats(engine->kv, &kv);
    const struct spin_kv_config config = spin_engine_kv_config(engine);
    struct spin_kv_table_bytes tables;
    spin_kv_plan_tables(&config, &tables);
    SPIN_INFO("engine memory: device=\"%s\" kv_hbm_bytes=%" PRIu64
              " kv_slabs=%u kv_host_bytes=%" PRIu64
              " kv_blocks=%u requests=%u request_bytes=%zu token_array_bytes=%zu",
              spin_device_name(engine->stream), kv.hbm_bytes, kv.slabs, kv.host_bytes, kv.blocks,
              engine->requests_max, sizeof *engine->jobs,
              engine->config.max_model_len * sizeof *engine->tokens);
    SPIN_INFO("kv table bytes: directory=%" PRIu64 " page_table=%" PRIu64 " stamps=%" PRIu64
              " slab_lists=%" PRIu64 " lists=%" PRIu64 " summaries=%" PRIu64
              " cpu_page_table=%" PRIu64 " partition_offset=%" PRIu64,
              tables.directory, tables.page_table, tables.stamps, tables.slab_lists, tables.lists,
              tables.summaries, tables.cpu_page_table, tables.partition_offset);
}

/* Once: asking a GPU takes longer than a step should wait. */
static void count_device_memory(struct spin_engine *engine)
{
    uint64_t total = 0;
    if (!spin_device_is_host(engine->stream)) {
        const uint64_t available = spin_device_memory(engine->stream, &total);
        spin_engine_gauge(engine, SPIN_ENGINE_METRIC_DEVICE_MEMORY_BYTES, (double)total);
        spin_engine_gauge(engine, SPIN_ENGINE_METRIC_DEVICE_MEMORY_USED_BYTES,
                          (double)(total - available));
    }
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
    spin_mutex_init(&engine->request_kv_mutex);
    spin_status status = SPIN_OK;
    SPIN_TRY_GOTO(status, settle(engine, err), fail);
    SPIN_TRY_GOTO(status, create_host(engine, err), fail);
    SPIN_TRY_GOTO(status, create_device(engine, err), fail);
    SPIN_TRY_GOTO(status, create_scheduler(engine, err), fail);
    print_memory(engine);
    count_device_memory(engine);
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
    spin_engine_destroy_draws(engine);
    spin_forward_destroy(engine->forward);
    for (uint32_t i = 0; i < engine->prefill_slots && engine->stream != NULL; i++) {
        spin_device_free(engine->stream, engine->hidden[i]);
    }
    spin_kv_destroy(engine->kv);
    if (engine->owns_stream) {
        spin_stream_destroy(engine->stream);
    }
    free(engine->holders);
    free(engine->request_kv);
    free(engine->steps);
    free(engine->tokens);
    free(engine->jobs);
    spin_sampler_scratch_destroy(engine->sampler);
    spin_load_board_destroy(engine->board);
    spin_ring_destroy(engine->inbox);
    spin_door_destroy(engine->door);
    spin_mutex_deinit(&engine->request_kv_mutex);
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

const char *spin_engine_get_device(const struct spin_engine *engine)
{
    return spin_device_name(engine->stream);
}

const struct spin_engine_config *spin_engine_get_config(const struct spin_engine *engine)
{
    return &engine->config;
}
