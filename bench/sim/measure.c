/* step-times: measures what a simulated worker cannot compute, and prints it as a table.
 *
 * As many engines as workers are to share this machine run side by side, so that what they take
 * from each other is in the numbers; each is configured by spin-worker's own options, which stand
 * behind "--". The format: docs/simulation.md. */
#include "base/clock.h"
#include "base/config.h"
#include "base/file.h"
#include "base/log.h"
#include "bench/sim/probe.h"
#include "bench/sim/step_times.h"
#include "model/weights/place.h"
#include "worker/engine/scheduler.h"
#include "worker/service/backend.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Shortest prompts: what a unit costs that is nearly empty. Longer ones go on by powers of two. */
static const uint32_t short_prompts[] = {1, 16, 64};
/* Contexts of a batch, as far as --step-tokens and --longest-context allow. */
static const uint32_t contexts[] = {32, 256, 1024, 4096, 16384, 65536};

struct options {
    uint32_t workers;
    uint32_t longest_prompt;
    uint32_t longest_context;
    uint32_t step_tokens;
    uint32_t repeats;
    const char *target;
    const char *api_key;
    const char *output;
    struct spin_worker_options worker; /* from behind "--" */
};

#define FIELD(name) .offset = offsetof(struct options, name)

static const struct spin_option option_rows[] = {
    {.name = "workers",
     .type = SPIN_OPTION_U32,
     FIELD(workers),
     .default_value = "1",
     .min = 1,
     .max = 64,
     .help = "Engines that run side by side, as the workers on this machine will."},
    {.name = "longest-prompt",
     .type = SPIN_OPTION_U32,
     FIELD(longest_prompt),
     .default_value = "2048",
     .min = 2,
     .max = 1 << 24,
     .unit = "tokens",
     .help = "Of prompts that are measured; longer ones are guessed."},
    {.name = "longest-context",
     .type = SPIN_OPTION_U32,
     FIELD(longest_context),
     .default_value = "2048",
     .min = 64,
     .max = 1 << 24,
     .unit = "tokens",
     .help = "Of sequences in batches that are measured."},
    {.name = "step-tokens",
     .type = SPIN_OPTION_U32,
     FIELD(step_tokens),
     .default_value = "8192",
     .min = 64,
     .max = 1 << 24,
     .unit = "tokens",
     .help = "Prompts of a measured batch together: large batches with long contexts take long."},
    {.name = "repeats",
     .type = SPIN_OPTION_U32,
     FIELD(repeats),
     .default_value = "5",
     .min = 1,
     .max = 100,
     .help = "Of each prompt; the median counts."},
    {.name = "target",
     .type = SPIN_OPTION_STRING,
     FIELD(target),
     .max = -1,
     .help = "host:port of the gRPC of a router whose workers are measured, serving included; they "
             "must have been started with what stands behind \"--\". Without it engines of this "
             "process are."},
    {.name = "api-key",
     .type = SPIN_OPTION_STRING,
     FIELD(api_key),
     .max = -1,
     .secret = true,
     .help = "The key that the router asks for; better in the environment."},
    {.name = "output",
     .type = SPIN_OPTION_STRING,
     FIELD(output),
     .max = -1,
     .help = "The table; without it standard output."},
};

static const struct spin_config_spec config_spec = {
    .program = "step-times",
    .synopsis = "-- --model FILE [options of spin-worker]",
    .about = "Measures how long this machine's workers take for prompts and decode steps, for "
             "spin-sim. Takes minutes, and wants the machine for itself. Workers are configured by "
             "spin-worker's options behind \"--\"; without --threads they share the cores.",
    .options = option_rows,
    .option_count = SPIN_ARRAY_COUNT(option_rows)};

/* --- the table --- */

struct table {
    const struct options *options;
    struct spin_probe *probe;
    FILE *out; /* into text */
    char *text;
    size_t bytes;
    uint64_t least_prompt_ns; /* of the longest so far */
};

static void name_machine(char *out, size_t capacity)
{
    static const char key[] = "model name";
    char *text = NULL;
    uint64_t bytes = 0;
    (void)snprintf(out, capacity, "unknown");
    if (spin_file_read("/proc/cpuinfo", UINT64_C(4) << 20, &text, &bytes, NULL) != SPIN_OK) {
        return;
    }
    const char *line = strstr(text, key);
    const char *colon = line == NULL ? NULL : strchr(line, ':');
    if (colon != NULL) {
        const char *name = colon + 1 + strspn(colon + 1, " ");
        (void)snprintf(out, capacity, "%.*s, %ld cores", (int)SPIN_MIN(strcspn(name, "\n#"), 96),
                       name, sysconf(_SC_NPROCESSORS_ONLN));
    }
    free(text);
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

static void print_engine(const struct table *table)
{
    const struct spin_engine *engine = spin_probe_engine(table->probe);
    const struct spin_engine_config *config = spin_engine_get_config(engine);
    struct spin_scheduler_config scheduling;
    const bool replay = spin_engine_get_scheduling(engine, &scheduling);
    char machine[128];
    name_machine(machine, sizeof machine);
    (void)fprintf(table->out, "spin-step-times 1\nmodel %.120s\nmachine %s\nalgorithm %s\n",
                  base_name(table->options->worker.model), machine, config->sparse.algorithm->name);
    const struct {
        const char *name;
        uint32_t value;
    } rows[] = {
        {"layers", scheduling.grid.layers},
        {"kv_heads", scheduling.budget->kv_heads},
        {"chunk_tokens", scheduling.grid.chunk_tokens},
        {"super_chunk_tokens", scheduling.grid.super_chunk_tokens},
        {"max_model_len", config->max_model_len},
        {"max_num_seqs", scheduling.max_num_seqs},
        {"max_num_batched_tokens", scheduling.max_num_batched_tokens},
        {"max_waiting", config->max_waiting},
        {"prefill_slots", scheduling.prefill_slots},
        {"output_expected_tokens", scheduling.output_expected_tokens},
        {"budget_tokens", config->sparse.budget_tokens},
        {"min_context", config->sparse.min_context},
        {"replay", replay},
        {"kv_blocks", scheduling.kv_blocks},
        {"kv_slabs", scheduling.kv_slabs},
        {"workers", table->options->workers},
        {"threads", config->threads},
    };
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(rows); i++) {
        (void)fprintf(table->out, "%s %u\n", rows[i].name, rows[i].value);
    }
}

/* What noise would turn around is kept level: a longer prompt takes no less. */
static spin_status measure_prompt(struct table *table, uint32_t tokens, struct spin_error *err)
{
    uint64_t ns = 0;
    SPIN_TRY(spin_probe_prompt(table->probe, tokens, &ns, err));
    table->least_prompt_ns = SPIN_MAX(table->least_prompt_ns, ns);
    (void)fprintf(table->out, "prompt %u %" PRIu64 "\n", tokens, table->least_prompt_ns);
    SPIN_INFO("prompt: tokens=%u ms=%.3f tokens_per_s=%.0f", tokens, (double)ns / SPIN_NS_PER_MS,
              (double)tokens * SPIN_NS_PER_S / (double)ns);
    return SPIN_OK;
}

/* The first token is a part of every prompt, the shortest one's, too. */
static spin_status measure_first(struct table *table, struct spin_error *err)
{
    const struct spin_engine_config *config =
        spin_engine_get_config(spin_probe_engine(table->probe));
    uint64_t least_ns = 0;
    uint64_t first_ns = 0;
    SPIN_TRY(spin_probe_prompt(table->probe, 1, &least_ns, err));
    SPIN_TRY(spin_probe_first(
        table->probe, SPIN_MIN(config->chunk_tokens, config->max_model_len - 1), &first_ns, err));
    table->least_prompt_ns = SPIN_MAX(SPIN_MIN(first_ns, least_ns), 1);
    (void)fprintf(table->out, "first %" PRIu64 "\n", table->least_prompt_ns);
    SPIN_INFO("first token: ms=%.3f", (double)table->least_prompt_ns / SPIN_NS_PER_MS);
    return SPIN_OK;
}

static spin_status measure_prompts(struct table *table, struct spin_error *err)
{
    const struct spin_engine_config *config =
        spin_engine_get_config(spin_probe_engine(table->probe));
    const uint32_t longest = SPIN_MIN(table->options->longest_prompt, config->max_model_len - 1);
    const uint32_t chunk = config->chunk_tokens;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(short_prompts); i++) {
        if (short_prompts[i] < SPIN_MIN(chunk, longest)) {
            SPIN_TRY(measure_prompt(table, short_prompts[i], err));
        }
    }
    for (uint64_t tokens = chunk; tokens < longest; tokens *= 2) {
        SPIN_TRY(measure_prompt(table, (uint32_t)tokens, err));
    }
    return measure_prompt(table, longest, err);
}

static spin_status measure_decode(struct table *table, uint32_t sequences, struct spin_error *err)
{
    const uint32_t longest = spin_engine_get_config(spin_probe_engine(table->probe))->max_model_len;
    uint32_t before = 0;
    for (uint32_t i = 0; i < SPIN_ARRAY_COUNT(contexts); i++) {
        const uint32_t room =
            SPIN_MIN(table->options->longest_context, table->options->step_tokens / sequences);
        const uint32_t prompt = SPIN_MIN(contexts[i], SPIN_MAX(room, contexts[0]));
        struct spin_probe_batch batch = {.sequences = sequences, .prompt = prompt};
        if (spin_probe_decode_tokens(table->probe, sequences, prompt) > longest) {
            return SPIN_OK;
        }
        if (prompt <= before) {
            continue;
        }
        SPIN_TRY(spin_probe_decode(table->probe, &batch, err));
        (void)fprintf(table->out, "decode %u %u %" PRIu64 "\n", sequences, batch.context,
                      batch.step_ns);
        SPIN_INFO("decode: sequences=%u context=%u ms=%.3f", sequences, batch.context,
                  (double)batch.step_ns / SPIN_NS_PER_MS);
        before = batch.context; /* the next is longer than this one became */
    }
    return SPIN_OK;
}

static spin_status measure(struct table *table, struct spin_error *err)
{
    const uint32_t most = spin_engine_get_config(spin_probe_engine(table->probe))->max_num_seqs;
    print_engine(table);
    SPIN_TRY(measure_first(table, err)); /* and warms up */
    SPIN_TRY(measure_prompts(table, err));
    for (uint32_t sequences = 1; sequences < most; sequences *= 2) {
        SPIN_TRY(measure_decode(table, sequences, err));
    }
    return measure_decode(table, most, err);
}

/* What is written is what can be read. */
static spin_status write_table(struct table *table, struct spin_error *err)
{
    struct spin_step_times *times = NULL;
    SPIN_TRY(spin_step_times_parse(table->text, table->bytes, &times, err));
    spin_step_times_destroy(times);
    if (table->options->output != NULL) {
        return spin_file_replace(table->options->output, table->text, err);
    }
    return fputs(table->text, stdout) < 0 || fflush(stdout) != 0
               ? spin_fail_errno(err, SPIN_ERR_IO, "standard output")
               : SPIN_OK;
}

static uint32_t count_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

/* --- engines as spin-worker would have them --- */

struct backend {
    struct spin_worker_backend chosen;
    struct spin_model *model;
};

static spin_status open_backend(const struct options *options, struct backend *backend,
                                struct spin_error *err)
{
    SPIN_TRY(spin_model_open(options->worker.model, &backend->model, err));
    SPIN_TRY(spin_worker_backend_open(&options->worker, backend->model, &backend->chosen, err));
    if (backend->chosen.stream == NULL) {
        return SPIN_OK;
    }
    if (options->workers > 1) {
        return spin_fail(err, SPIN_ERR_INVALID, "--workers %u: a GPU has one, or --device cpu",
                         options->workers);
    }
    struct spin_model *placed = NULL;
    SPIN_TRY(spin_model_place(backend->model, backend->chosen.stream, &placed, err));
    spin_model_close(backend->model);
    backend->model = placed;
    return SPIN_OK;
}

static void close_backend(struct backend *backend)
{
    spin_model_close(backend->model);
    spin_worker_backend_close(&backend->chosen);
}

static spin_status create_probe(const struct options *options, const struct backend *backend,
                                struct spin_probe **out, struct spin_error *err)
{
    struct spin_probe_config config = {.model = backend->model,
                                       .engine = spin_worker_options_to_engine(&options->worker),
                                       .engines = options->workers,
                                       .repeats = options->repeats,
                                       .target = options->target,
                                       .api_key = options->api_key};
    const uint32_t share = count_cores() / options->workers;
    if (config.engine.threads == 0) {
        config.engine.threads = SPIN_MAX(share, 1);
    }
    config.engine.ops = backend->chosen.ops;
    config.engine.stream = backend->chosen.stream;
    return spin_probe_create(&config, out, err);
}

static spin_status measure_all(const struct options *options, struct spin_error *err)
{
    struct table table = {.options = options};
    struct backend backend = {0};
    spin_status status = SPIN_OK;
    spin_log_set_level((enum spin_log_level)options->worker.log_level);
    SPIN_TRY_GOTO(status, open_backend(options, &backend, err), out);
    SPIN_TRY_GOTO(status, create_probe(options, &backend, &table.probe, err), out);
    table.out = open_memstream(&table.text, &table.bytes);
    if (table.out == NULL) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for the table");
        goto out;
    }
    status = measure(&table, err);
    if (fclose(table.out) != 0 && status == SPIN_OK) {
        status = spin_fail(err, SPIN_ERR_NO_MEMORY, "no memory for the table");
    }
    if (status == SPIN_OK) {
        status = write_table(&table, err);
    }
out:
    free(table.text);
    spin_probe_destroy(table.probe);
    close_backend(&backend);
    return status;
}

/* --- options --- */

struct loaded {
    struct options options;
    struct spin_config_values *own;    /* in front of "--" */
    struct spin_config_values *worker; /* behind it */
    bool exit_now;
};

static spin_status load(int argc, char **argv, struct loaded *out, struct spin_error *err)
{
    struct options *options = &out->options;
    int own = 1;
    while (own < argc && strcmp(argv[own], "--") != 0) {
        own++;
    }
    SPIN_TRY(spin_config_load(&config_spec, own, argv, environ, options, &out->own, &out->exit_now,
                              err));
    if (out->exit_now) {
        return SPIN_OK;
    }
    if (own == argc) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "\"--\" is missing: behind it stand spin-worker's options, --model FILE "
                         "at least");
    }
    return spin_config_load(&spin_worker_config_spec, argc - own, argv + own, environ,
                            &options->worker, &out->worker, &out->exit_now, err);
}

int main(int argc, char **argv)
{
    struct loaded loaded = {0};
    struct spin_error err = {0};
    int code = 0;
    if (load(argc, argv, &loaded, &err) != SPIN_OK) {
        (void)fprintf(stderr, "step-times: %s\n", err.text);
        code = 2;
    } else if (!loaded.exit_now && measure_all(&loaded.options, &err) != SPIN_OK) {
        (void)fprintf(stderr, "step-times: %s\n", err.text);
        code = 1;
    }
    spin_config_values_destroy(loaded.own);
    spin_config_values_destroy(loaded.worker);
    return code;
}
