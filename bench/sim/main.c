/* spin-sim: a workload on a cluster that is not there; reported as a run of spin-bench is. */
#include "base/clock.h"
#include "base/config.h"
#include "base/version.h"
#include "bench/report/page.h"
#include "bench/report/table.h"
#include "bench/sim/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct options {
    const char *step_times;
    uint32_t workers;
    uint64_t network_ns;
    struct spin_bench_schedule_options schedule;
    uint32_t max_queue;
    uint32_t max_queue_per_tenant;
    uint32_t max_generations;
    uint64_t status_interval_ns;
    uint64_t request_timeout_ns;
    const char *label;
    const char *json;
    const char *html;
};

#define FIELD(name) .offset = offsetof(struct options, name)
#define NO_RANGE .min = 0, .max = -1

static const struct spin_option option_rows[] = {
    {.name = "step-times",
     .type = SPIN_OPTION_STRING,
     FIELD(step_times),
     NO_RANGE,
     .required = true,
     .help = "The table that the program step-times has measured."},
    {.name = "workers",
     .type = SPIN_OPTION_U32,
     FIELD(workers),
     .default_value = "1",
     .min = 1,
     .max = SPIN_SIM_WORKERS_MAX,
     .help = "How many there are, each as the table says."},
    {.name = "network",
     .type = SPIN_OPTION_DURATION,
     FIELD(network_ns),
     .default_value = "0s",
     .min = 0,
     .max = 60e9,
     .help = "What a request is under way from client to engine, and a token back."},
    SPIN_BENCH_SCHEDULE_ROWS(struct options),
    {.name = "max-queue",
     .type = SPIN_OPTION_U32,
     FIELD(max_queue),
     .default_value = "4096",
     .min = 1,
     .max = 1 << 20,
     .help = "As of spin-router: sequences that may wait for a worker; more are refused."},
    {.name = "max-queue-per-tenant",
     .type = SPIN_OPTION_U32,
     FIELD(max_queue_per_tenant),
     .default_value = "2048",
     .min = 1,
     .max = 1 << 20,
     .help = "As of spin-router; there is one tenant here."},
    {.name = "max-generations",
     .type = SPIN_OPTION_U32,
     FIELD(max_generations),
     .default_value = "16384",
     .min = 1,
     .max = 1 << 20,
     .help = "As of spin-router: sequences that may be open, waiting or running."},
    {.name = "status-interval",
     .type = SPIN_OPTION_DURATION,
     FIELD(status_interval_ns),
     .default_value = "250ms",
     .min = 10e6,
     .max = 60e9,
     .help = "As of spin-router: how often workers report."},
    {.name = "request-timeout",
     .type = SPIN_OPTION_DURATION,
     FIELD(request_timeout_ns),
     .default_value = "600s",
     .min = 1e6,
     .max = 604800e9,
     .help = "As of spin-router: the longest that a sequence may take, waiting included."},
    {.name = "label",
     .type = SPIN_OPTION_STRING,
     FIELD(label),
     NO_RANGE,
     .help = "What tables and plots call this run."},
    {.name = "json",
     .type = SPIN_OPTION_STRING,
     FIELD(json),
     NO_RANGE,
     .help = "Writes the run to this file."},
    {.name = "html",
     .type = SPIN_OPTION_STRING,
     FIELD(html),
     NO_RANGE,
     .help = "Writes the run as a page to this file."},
};

static const struct spin_config_spec config_spec = {
    .program = "spin-sim",
    .synopsis = "--step-times FILE --workers N",
    .about = "Runs a workload against simulated workers behind the router's own policy; times come "
             "from a table that was measured.",
    .options = option_rows,
    .option_count = SPIN_ARRAY_COUNT(option_rows)};

/* What a run is made of, to be taken down in one place. */
struct simulation {
    const struct options *options;
    struct spin_step_times *times;
    struct spin_sim_engine *engine;
    struct spin_bench_schedule *schedule;
    struct spin_sim_requests *requests;
    struct spin_bench_result *result;
    struct spin_sim_stats stats;
    struct spin_bench_runs runs;
};

static void join_command(int argc, char *const *argv, char *out, size_t capacity)
{
    size_t length = 0;
    out[0] = '\0';
    for (int i = 0; i < argc && length < capacity; i++) {
        const int wrote =
            snprintf(out + length, capacity - length, "%s%s", i == 0 ? "" : " ", argv[i]);
        length += wrote > 0 ? (size_t)wrote : 0;
    }
}

static void describe(const struct simulation *simulation, int argc, char *const *argv)
{
    const struct options *options = simulation->options;
    const struct spin_step_engine *engine = spin_step_times_engine(simulation->times);
    struct spin_bench_setup *setup = &simulation->result->setup;
    spin_bench_schedule_describe(simulation->schedule, setup);
    (void)snprintf(setup->driver, sizeof setup->driver, "sim");
    (void)snprintf(setup->target, sizeof setup->target, "%.200s, %u workers", options->step_times,
                   options->workers);
    (void)snprintf(setup->label, sizeof setup->label, "%s",
                   options->label != NULL ? options->label : "simulation");
    (void)snprintf(setup->model, sizeof setup->model, "%s", engine->model);
    (void)snprintf(setup->machine, sizeof setup->machine, "%s", engine->machine);
    (void)snprintf(setup->generator, sizeof setup->generator, "spin-sim %s", SPIN_VERSION);
    join_command(argc, argv, setup->command, sizeof setup->command);
    setup->wall_start_ns = spin_wall_ns();
    simulation->result->slo = spin_bench_schedule_slo(simulation->schedule);
    (void)snprintf(simulation->result->metrics_note, sizeof simulation->result->metrics_note,
                   "a simulation has no page of metrics");
}

static spin_status build(struct simulation *simulation, struct spin_error *err)
{
    const struct options *options = simulation->options;
    SPIN_TRY(spin_step_times_read(options->step_times, &simulation->times, err));
    SPIN_TRY(spin_sim_engine_create(simulation->times, &simulation->engine, err));
    SPIN_TRY(spin_bench_schedule_open(&options->schedule, &simulation->schedule, err));
    SPIN_TRY(spin_sim_requests_create(simulation->schedule, &simulation->requests, err));
    return spin_bench_result_create(spin_bench_schedule_expected(simulation->schedule),
                                    &simulation->result, err);
}

static spin_status simulate(struct simulation *simulation, struct spin_error *err)
{
    const struct options *options = simulation->options;
    const struct spin_sim_source source = spin_sim_requests_source(simulation->requests);
    struct spin_sim_config config = spin_sim_config_default(simulation->engine);
    config.workers = options->workers;
    config.queue_max = options->max_queue;
    config.tenant_queue_max = options->max_queue_per_tenant;
    config.generations_max = options->max_generations;
    config.status_interval_ns = options->status_interval_ns;
    config.request_timeout_ns = options->request_timeout_ns;
    config.network_ns = options->network_ns;
    config.seed = options->schedule.seed;
    const uint64_t begun_ns = spin_now_ns(spin_clock_real());
    SPIN_TRY(spin_sim_run(&config, &source, simulation->result, &simulation->stats, err));
    simulation->result->simulated_in =
        (double)(spin_now_ns(spin_clock_real()) - begun_ns) / SPIN_NS_PER_S;
    return SPIN_OK;
}

static void print_notes(const struct simulation *simulation)
{
    const struct spin_sim_worker_stats *workers = &simulation->stats.workers;
    const double available_ns =
        (double)simulation->options->workers * (double)simulation->result->end_ns;
    printf("workers: %.1f %% busy, %" PRIu64 " decode steps, %" PRIu64 " units of prefill, %" PRIu64
           " preemptions, %" PRIu64 " suspensions\n",
           available_ns > 0 ? 100 * (double)workers->busy_ns / available_ns : 0,
           workers->decode_steps, workers->units, workers->preemptions, workers->suspensions);
    if (workers->beyond > 0) {
        printf("note: %.1f %% of units and steps lie outside of what the table has measured: "
               "lines that go on, guesses\n",
               100 * (double)workers->beyond / (double)workers->commands);
    }
}

static spin_status report(struct simulation *simulation, struct spin_error *err)
{
    const struct options *options = simulation->options;
    struct spin_bench_summary *summary = NULL;
    SPIN_TRY(spin_bench_summary_create(simulation->result, &summary, err));
    SPIN_TRY(spin_bench_runs_append(&simulation->runs, summary, err));
    spin_bench_table_run(simulation->runs.items[0], stdout);
    print_notes(simulation);
    if (options->json != NULL) {
        SPIN_TRY(spin_bench_runs_write(options->json, &simulation->runs, err));
    }
    if (options->html != NULL) {
        const struct spin_bench_page page = {.title = "spin-sim", .runs = &simulation->runs};
        SPIN_TRY(spin_bench_page_write(options->html, &page, err));
    }
    return fflush(stdout) == 0 && ferror(stdout) == 0
               ? SPIN_OK
               : spin_fail_errno(err, SPIN_ERR_IO, "standard output");
}

static spin_status run(const struct options *options, int argc, char *const *argv,
                       struct spin_error *err)
{
    struct simulation simulation = {.options = options};
    spin_status status = build(&simulation, err);
    if (status == SPIN_OK) {
        describe(&simulation, argc, argv);
        status = simulate(&simulation, err);
    }
    if (status == SPIN_OK) {
        status = report(&simulation, err);
    }
    spin_bench_runs_deinit(&simulation.runs);
    spin_bench_result_destroy(simulation.result);
    spin_sim_requests_destroy(simulation.requests);
    spin_bench_schedule_close(simulation.schedule);
    spin_sim_engine_destroy(simulation.engine);
    spin_step_times_destroy(simulation.times);
    return status;
}

int main(int argc, char **argv)
{
    struct options options = {0};
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    int code = 0;
    if (spin_config_load(&config_spec, argc, argv, environ, &options, &values, &exit_now, &err) !=
        SPIN_OK) {
        (void)fprintf(stderr, "spin-sim: %s\n", err.text);
        code = 2;
    } else if (!exit_now && run(&options, argc, argv, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin-sim: %s\n", err.text);
        code = 1;
    }
    spin_config_values_destroy(values);
    return code;
}
