#include "bench/load/schedule.h"

#include "base/assert.h"
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLO_TEXT_MAX 256u
#define SLO_PARTS_MAX 3u
#define SLO_BYTES (SLO_TEXT_MAX + 4u * SLO_PARTS_MAX) /* two dashes and a NUL for each part */

struct spin_bench_schedule {
    struct spin_bench_schedule_options options; /* its strings are not kept */
    char workload_name[64];
    char arrival_name[64];
    struct spin_bench_slo slo;
    struct spin_bench_workload *workload;
    struct spin_bench_arrivals arrivals;
    uint64_t end_ns;
    uint64_t count; /* the most requests */
    uint64_t next;
};

/* --- slo --- */

static const struct spin_option slo_options[] = {
    {.name = "ttft",
     .type = SPIN_OPTION_DURATION,
     .offset = offsetof(struct spin_bench_slo, ttft_ns),
     .default_value = "0",
     .min = 0,
     .max = 86400e9,
     .help = "To the first token."},
    {.name = "tpot",
     .type = SPIN_OPTION_DURATION,
     .offset = offsetof(struct spin_bench_slo, tpot_ns),
     .default_value = "0",
     .min = 0,
     .max = 86400e9,
     .help = "For each further token, in the mean."},
    {.name = "e2e",
     .type = SPIN_OPTION_DURATION,
     .offset = offsetof(struct spin_bench_slo, e2e_ns),
     .default_value = "0",
     .min = 0,
     .max = 86400e9,
     .help = "To the end."},
};

static const struct spin_config_spec slo_spec = {
    .program = "slo",
    .synopsis = "",
    .about = "",
    .options = slo_options,
    .option_count = SPIN_ARRAY_COUNT(slo_options),
};

/* Cuts "a=1,b=2" into the flags "--a=1", "--b=2"; 0: it is none of that. */
static int slo_flags(const char *text, char bytes[SLO_BYTES], char *argv[SLO_PARTS_MAX + 1])
{
    static char program[] = "slo";
    int argc = 0;
    uint64_t at = 0;
    argv[argc++] = program;
    while (*text != '\0') {
        const uint64_t part = strcspn(text, ",");
        const char *equals = memchr(text, '=', part);
        if (equals == NULL || equals == text || argc > (int)SLO_PARTS_MAX) {
            return 0;
        }
        argv[argc++] = bytes + at;
        at += (uint64_t)snprintf(bytes + at, SLO_BYTES - at, "--%.*s", (int)part, text) + 1;
        text += part;
        text += *text == ',' ? 1 : 0;
    }
    return argc;
}

/* The words of durations are those of every other option, so the reader of options reads them. */
spin_status spin_bench_slo_parse(const char *text, struct spin_bench_slo *out,
                                 struct spin_error *err)
{
    char bytes[SLO_BYTES];
    char *argv[SLO_PARTS_MAX + 1];
    char *const no_environment[] = {NULL};
    struct spin_config_values *values = NULL;
    struct spin_error why = {0};
    bool exit_now = false;
    *out = (struct spin_bench_slo){0};
    if (text == NULL) {
        return SPIN_OK;
    }
    const int argc = strlen(text) > SLO_TEXT_MAX ? 0 : slo_flags(text, bytes, argv);
    if (argc < 2) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--slo \"%.64s\": ttft=TIME, tpot=TIME and e2e=TIME, with commas between",
                         text);
    }
    const spin_status status =
        spin_config_load(&slo_spec, argc, argv, no_environment, out, &values, &exit_now, &why);
    spin_config_values_destroy(values);
    if (status != SPIN_OK || exit_now) {
        return spin_fail(err, SPIN_ERR_INVALID, "--slo \"%.64s\": %.160s", text,
                         exit_now ? "no such part" : why.text);
    }
    return SPIN_OK;
}

/* --- open --- */

static spin_status choose_arrival(struct spin_bench_schedule *schedule, const char *given,
                                  struct spin_error *err)
{
    const struct spin_bench_schedule_options *options = &schedule->options;
    const char *name = given;
    if (name == NULL) {
        const char *otherwise = options->rate_per_s > 0 ? "poisson" : "closed";
        name = spin_bench_workload_has_times(schedule->workload) && !(options->rate_per_s > 0)
                   ? "trace"
                   : otherwise;
    }
    struct spin_bench_arrivals *arrivals = &schedule->arrivals;
    SPIN_TRY(spin_bench_arrivals_parse(name, arrivals, err));
    (void)snprintf(schedule->arrival_name, sizeof schedule->arrival_name, "%s", name);
    arrivals->rate_per_s = options->rate_per_s;
    arrivals->seed = options->seed;
    const bool wants_rate = spin_bench_arrival_has_rate(arrivals->kind);
    if (wants_rate != (options->rate_per_s > 0)) {
        return spin_fail(err, SPIN_ERR_INVALID, "--arrival %.32s: %s", name,
                         wants_rate ? "--rate must be above 0" : "takes no --rate");
    }
    if (arrivals->kind == SPIN_BENCH_TRACE && !spin_bench_workload_has_times(schedule->workload)) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--arrival trace: the workload %.64s has no timestamps",
                         schedule->workload_name);
    }
    return SPIN_OK;
}

static spin_status choose_end(struct spin_bench_schedule *schedule, struct spin_error *err)
{
    struct spin_bench_schedule_options *options = &schedule->options;
    const uint64_t there_are = spin_bench_workload_count(schedule->workload);
    if (options->requests == 0 && options->duration_ns == 0 &&
        schedule->arrivals.kind != SPIN_BENCH_TRACE) {
        options->duration_ns = SPIN_BENCH_DURATION_DEFAULT_NS;
    }
    if (there_are != 0 && options->requests > there_are) {
        return spin_fail(err, SPIN_ERR_INVALID, "--requests %u: the trace has %llu",
                         options->requests, (unsigned long long)there_are);
    }
    const uint64_t most = there_are != 0 ? there_are : SPIN_BENCH_REQUESTS_MAX;
    schedule->count = options->requests != 0 ? options->requests : most;
    schedule->end_ns =
        options->duration_ns == 0 ? UINT64_MAX : options->warm_up_ns + options->duration_ns;
    return SPIN_OK;
}

static spin_status fill(struct spin_bench_schedule *schedule,
                        const struct spin_bench_schedule_options *options, struct spin_error *err)
{
    const struct spin_bench_workload_config config = {
        .name = options->workload, .scale = options->scale, .seed = options->seed};
    schedule->options = *options;
    schedule->options.workload = NULL;
    schedule->options.arrival = NULL;
    schedule->options.slo = NULL;
    (void)snprintf(schedule->workload_name, sizeof schedule->workload_name, "%s",
                   options->workload);
    SPIN_TRY(spin_bench_slo_parse(options->slo, &schedule->slo, err));
    SPIN_TRY(spin_bench_workload_create(&config, &schedule->workload, err));
    SPIN_TRY(choose_arrival(schedule, options->arrival, err));
    if (schedule->arrivals.kind == SPIN_BENCH_CLOSED && options->concurrency == 0) {
        schedule->options.concurrency = 1;
    }
    return choose_end(schedule, err);
}

spin_status spin_bench_schedule_open(const struct spin_bench_schedule_options *options,
                                     struct spin_bench_schedule **out, struct spin_error *err)
{
    struct spin_bench_schedule *schedule = calloc(1, sizeof *schedule);
    if (schedule == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a schedule: %zu bytes", sizeof *schedule);
    }
    const spin_status status = fill(schedule, options, err);
    if (status != SPIN_OK) {
        spin_bench_schedule_close(schedule);
        return status;
    }
    *out = schedule;
    return SPIN_OK;
}

void spin_bench_schedule_close(struct spin_bench_schedule *schedule)
{
    if (schedule != NULL) {
        spin_bench_workload_destroy(schedule->workload);
        free(schedule);
    }
}

/* --- what it says --- */

const struct spin_bench_workload *spin_bench_schedule_workload(
    const struct spin_bench_schedule *schedule)
{
    return schedule->workload;
}

void spin_bench_schedule_describe(const struct spin_bench_schedule *schedule,
                                  struct spin_bench_setup *out)
{
    const struct spin_bench_schedule_options *options = &schedule->options;
    (void)snprintf(out->workload, sizeof out->workload, "%s", schedule->workload_name);
    (void)snprintf(out->arrival, sizeof out->arrival, "%s", schedule->arrival_name);
    out->rate_per_s = options->rate_per_s;
    out->concurrency = options->concurrency;
    out->seed = options->seed;
    out->scale = options->scale;
    out->warm_up_ns = options->warm_up_ns;
    out->duration_ns = options->duration_ns;
    out->requests = options->requests;
}

struct spin_bench_slo spin_bench_schedule_slo(const struct spin_bench_schedule *schedule)
{
    return schedule->slo;
}

bool spin_bench_schedule_is_closed(const struct spin_bench_schedule *schedule)
{
    return schedule->arrivals.kind == SPIN_BENCH_CLOSED;
}

uint32_t spin_bench_schedule_concurrency(const struct spin_bench_schedule *schedule)
{
    return schedule->options.concurrency;
}

uint64_t spin_bench_schedule_end_ns(const struct spin_bench_schedule *schedule)
{
    return schedule->end_ns;
}

uint64_t spin_bench_schedule_warm_up_ns(const struct spin_bench_schedule *schedule)
{
    return schedule->options.warm_up_ns;
}

static uint64_t due_ns(struct spin_bench_schedule *schedule)
{
    struct spin_bench_plan plan;
    switch (schedule->arrivals.kind) {
    case SPIN_BENCH_POISSON:
    case SPIN_BENCH_CONSTANT:
    case SPIN_BENCH_BURST:
        return spin_bench_arrivals_next(&schedule->arrivals);
    case SPIN_BENCH_TRACE:
        spin_bench_workload_plan(schedule->workload, schedule->next, &plan);
        return plan.at_ns;
    case SPIN_BENCH_CLOSED:
        break;
    }
    return 0;
}

bool spin_bench_schedule_next(struct spin_bench_schedule *schedule, struct spin_bench_arrived *out)
{
    if (schedule->next >= schedule->count) {
        return false;
    }
    const uint64_t at_ns = due_ns(schedule);
    if (at_ns >= schedule->end_ns) {
        schedule->next = schedule->count; /* times only grow */
        return false;
    }
    *out = (struct spin_bench_arrived){.index = (uint32_t)schedule->next++,
                                       .at_ns = at_ns,
                                       .warm_up = at_ns < schedule->options.warm_up_ns};
    return true;
}

uint32_t spin_bench_schedule_expected(const struct spin_bench_schedule *schedule)
{
    const double seconds = (double)schedule->end_ns / (double)SPIN_NS_PER_S;
    const double by_rate = schedule->options.rate_per_s * seconds * 1.1 + 64;
    if (schedule->options.rate_per_s > 0 && by_rate < (double)schedule->count) {
        return (uint32_t)by_rate;
    }
    return schedule->count == SPIN_BENCH_REQUESTS_MAX ? 1024 : (uint32_t)schedule->count;
}
