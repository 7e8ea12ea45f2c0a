/* spin-bench sweep: the highest rate at which a server holds an SLO. */
#include "base/clock.h"
#include "bench/load/command_internal.h"
#include "bench/load/commands.h"
#include "bench/load/sweep.h"
#include "bench/report/stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NO_RANGE .min = 0, .max = -1
#define FIRST_RATE 1.0 /* requests per second, where --rate says nothing: most servers hold that */
/* How often a rate may be tried: a generator that was late once met somebody else's burst of work
 * on its machine; one that is late each time has met its own limit. */
#define TRIES_MAX 3u

struct sweep_options {
    struct spin_load_options load; /* first: its rows have offsets of their own */
    double attainment;
    double precision;
    double rate_min;
    double rate_max;
    uint32_t rates_max;
};

static const struct spin_option own_rows[] = {
    {.name = "attainment",
     .type = SPIN_OPTION_DOUBLE,
     .offset = offsetof(struct sweep_options, attainment),
     .default_value = "0.99",
     .min = 0.01,
     .max = 1,
     .help = "A rate holds when this part of its requests is answered within --slo; with --repeat, "
             "in the median run."},
    {.name = "precision",
     .type = SPIN_OPTION_DOUBLE,
     .offset = offsetof(struct sweep_options, precision),
     .default_value = "0.05",
     .min = 0.001,
     .max = 1,
     .help = "The search ends when the lowest rate that fails is at most this part above the "
             "highest that holds."},
    {.name = "rate-min",
     .type = SPIN_OPTION_DOUBLE,
     .offset = offsetof(struct sweep_options, rate_min),
     .default_value = "0.01",
     .min = 1e-6,
     .max = SPIN_BENCH_RATE_MAX,
     .unit = "requests/s",
     .help = "The lowest rate to try."},
    {.name = "rate-max",
     .type = SPIN_OPTION_DOUBLE,
     .offset = offsetof(struct sweep_options, rate_max),
     .default_value = "10000",
     .min = 1e-6,
     .max = SPIN_BENCH_RATE_MAX,
     .unit = "requests/s",
     .help = "The highest rate to try. --rate is the first."},
    {.name = "rates-max",
     .type = SPIN_OPTION_U32,
     .offset = offsetof(struct sweep_options, rates_max),
     .default_value = "20",
     .min = 1,
     .max = 100,
     .help = "How many rates to try at most."},
};

/* Copies the rows of a run and adds those of the search; NULL: no memory. */
static struct spin_option *make_rows(void)
{
    struct spin_option *rows =
        malloc((spin_load_option_count + SPIN_ARRAY_COUNT(own_rows)) * sizeof *rows);
    if (rows != NULL) {
        memcpy(rows, spin_load_option_rows, spin_load_option_count * sizeof *rows);
        memcpy(rows + spin_load_option_count, own_rows, sizeof own_rows);
    }
    return rows;
}

/* Who is already answered keeps his pace while the queue behind him grows: tpot alone would hold at
 * rates that no server holds for long. */
static spin_status check_slo(const char *text, struct spin_error *err)
{
    struct spin_bench_slo slo;
    if (text == NULL) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--slo: a sweep needs one, as in ttft=500ms,tpot=50ms");
    }
    SPIN_TRY(spin_bench_slo_parse(text, &slo, err));
    if (slo.ttft_ns == 0 && slo.e2e_ns == 0) {
        return spin_fail(err, SPIN_ERR_INVALID,
                         "--slo \"%.64s\": a sweep needs ttft or e2e in it, which see a queue grow",
                         text);
    }
    return SPIN_OK;
}

/* The options as a search, or what is wrong with them. */
static spin_status plan(struct sweep_options *options, struct spin_sweep *sweep,
                        struct spin_error *err)
{
    struct spin_bench_schedule_options *schedule = &options->load.schedule;
    SPIN_TRY(check_slo(schedule->slo, err));
    if (schedule->arrival == NULL) {
        schedule->arrival = "poisson";
    }
    if (strcmp(schedule->arrival, "closed") == 0 || strcmp(schedule->arrival, "trace") == 0) {
        return spin_fail(err, SPIN_ERR_INVALID, "--arrival %s: has no rate to search for",
                         schedule->arrival);
    }
    if (options->rate_min > options->rate_max) {
        return spin_fail(err, SPIN_ERR_INVALID, "--rate-min %g is above --rate-max %g",
                         options->rate_min, options->rate_max);
    }
    const double wanted = schedule->rate_per_s > 0 ? schedule->rate_per_s : FIRST_RATE;
    schedule->rate_per_s = fmin(fmax(wanted, options->rate_min), options->rate_max);
    const struct spin_sweep_config config = {.rate_first = schedule->rate_per_s,
                                             .rate_min = options->rate_min,
                                             .rate_max = options->rate_max,
                                             .precision = options->precision,
                                             .rates_max = options->rates_max};
    spin_sweep_init(sweep, &config);
    return spin_load_command_check(&options->load, err);
}

struct search {
    const struct sweep_options *options;
    struct spin_load_session *session;
    struct spin_sweep *sweep;
    struct spin_bench_runs runs;
};

static bool is_beyond(const struct spin_bench_summary *summary, enum spin_bench_latency latency,
                      uint64_t limit_ns)
{
    const struct spin_bench_spread *spread = &summary->spreads[latency];
    const uint64_t late_ns = limit_ns + summary->generator.lag_max_ns;
    return limit_ns != 0 && spread->count > 0 &&
           spread->p50_ms > (double)late_ns / (double)SPIN_NS_PER_MS;
}

/* Half of the requests are over a limit by more than the generator was ever late: the server is too
 * slow whatever the generator did. */
static bool is_servers_own(const struct spin_bench_summary *summary, double attainment)
{
    return attainment > 0.5 && (is_beyond(summary, SPIN_BENCH_TTFT, summary->slo.ttft_ns) ||
                                is_beyond(summary, SPIN_BENCH_TPOT, summary->slo.tpot_ns) ||
                                is_beyond(summary, SPIN_BENCH_E2E, summary->slo.e2e_ns));
}

/* What the last runs, all at one rate, say of it. */
static enum spin_sweep_verdict judge(const struct spin_bench_runs *runs, uint32_t count,
                                     double attainment, double *good_part)
{
    double parts[SPIN_LOAD_REPEAT_MAX];
    bool limited = false;
    for (uint32_t i = 0; i < count; i++) {
        const struct spin_bench_summary *summary = runs->items[runs->count - count + i];
        parts[i] = summary->rates.good_part;
        limited |= summary->generator.limited && !is_servers_own(summary, attainment);
    }
    spin_stats_sort(parts, count);
    *good_part = spin_stats_percentile(parts, count, 0.5);
    if (*good_part >= attainment) {
        return SPIN_SWEEP_HOLDS; /* even with a generator that was late */
    }
    return limited ? SPIN_SWEEP_LIMITED : SPIN_SWEEP_FAILS;
}

static const char *verdict_text(enum spin_sweep_verdict verdict)
{
    switch (verdict) {
    case SPIN_SWEEP_HOLDS:
        return "holds";
    case SPIN_SWEEP_FAILS:
        return "fails";
    case SPIN_SWEEP_LIMITED:
        return "was more than the generator can do";
    }
    return "";
}

/* All runs at one rate. Each rate has the same seeds: the same requests, closer together. */
static spin_status try_rate(struct search *search, double rate, struct spin_error *err)
{
    const struct spin_load_options *load = &search->options->load;
    for (uint32_t i = 0; i < load->repeat; i++) {
        struct spin_bench_schedule_options schedule = load->schedule;
        struct spin_bench_result *result = NULL;
        schedule.rate_per_s = rate;
        schedule.seed += i;
        SPIN_TRY(spin_load_session_run(search->session, &schedule, i, &result, err));
        SPIN_TRY(spin_load_command_keep(result, &search->runs, err));
        if (spin_load_session_is_interrupted(search->session)) {
            return SPIN_OK;
        }
    }
    return SPIN_OK;
}

/* What comes of a rate, tried again while only the generator stands in the way. */
static spin_status find_verdict(struct search *search, double rate, enum spin_sweep_verdict *out,
                                struct spin_error *err)
{
    const struct sweep_options *options = search->options;
    for (uint32_t i = 0; i < TRIES_MAX; i++) {
        double good_part = 0;
        SPIN_TRY(try_rate(search, rate, err));
        if (spin_load_session_is_interrupted(search->session)) {
            return SPIN_OK;
        }
        *out = judge(&search->runs, options->load.repeat, options->attainment, &good_part);
        (void)printf("rate %.4g req/s %s: %.2f %% within the SLO\n\n", rate, verdict_text(*out),
                     100 * good_part);
        (void)fflush(stdout);
        if (*out != SPIN_SWEEP_LIMITED || i + 1 == TRIES_MAX) {
            break;
        }
        /* They say nothing of the server, and the report shall not either. */
        spin_bench_runs_drop(&search->runs, options->load.repeat);
    }
    return SPIN_OK;
}

static spin_status search_rates(struct search *search, struct spin_error *err)
{
    while (search->sweep->end == SPIN_SWEEP_GOES_ON) {
        enum spin_sweep_verdict verdict = SPIN_SWEEP_LIMITED;
        SPIN_TRY(find_verdict(search, search->sweep->next, &verdict, err));
        if (spin_load_session_is_interrupted(search->session)) {
            return SPIN_OK;
        }
        spin_sweep_judge(search->sweep, verdict);
    }
    return SPIN_OK;
}

static void print_answer(const struct sweep_options *options, const struct spin_sweep *sweep)
{
    (void)printf("\n%s\n", spin_sweep_end_text(sweep->end));
    (void)printf("RESULT max_rate=%.4g", sweep->holds);
    if (isfinite(sweep->fails)) {
        (void)printf(" fails_at=%.4g", sweep->fails);
    }
    (void)printf(" attainment=%g slo=%s rates_tried=%u\n", options->attainment,
                 options->load.schedule.slo, sweep->tried);
}

/* A rate that holds is an answer; without one there is none. */
static int finish(const struct search *search, bool interrupted)
{
    struct spin_error err = {0};
    if (spin_load_command_write(&search->options->load, &search->runs, &err) != SPIN_OK) {
        (void)fprintf(stderr, "spin bench sweep: %s\n", err.text);
        return SPIN_BENCH_EXIT_FAILED;
    }
    print_answer(search->options, search->sweep);
    if (interrupted) {
        return SPIN_BENCH_EXIT_INTERRUPTED;
    }
    return search->sweep->holds > 0 ? 0 : SPIN_BENCH_EXIT_FAILED;
}

static int sweep_with(const struct sweep_options *options, struct spin_sweep *sweep,
                      const char *command)
{
    struct search search = {.options = options, .sweep = sweep};
    struct spin_error err = {0};
    spin_status status = spin_load_session_open(&options->load, command, &search.session, &err);
    if (status == SPIN_OK) {
        status = search_rates(&search, &err);
    }
    const bool interrupted =
        search.session != NULL && spin_load_session_is_interrupted(search.session);
    spin_load_session_close(search.session);
    int code = SPIN_BENCH_EXIT_FAILED;
    if (status == SPIN_OK) {
        code = finish(&search, interrupted);
    } else {
        (void)fprintf(stderr, "spin bench sweep: %s\n", err.text);
    }
    spin_bench_runs_deinit(&search.runs);
    return code;
}

int spin_bench_sweep_main(int argc, char *const *argv)
{
    struct spin_option *rows = make_rows();
    if (rows == NULL) {
        (void)fprintf(stderr, "spin bench sweep: no memory\n");
        return SPIN_BENCH_EXIT_FAILED;
    }
    const struct spin_config_spec spec = {
        .program = "spin bench sweep",
        .synopsis = "",
        .about =
            "Finds the highest rate at which --attainment of all requests are answered within\n"
            "--slo: a run at each of some rates, as `spin bench` makes them. Exits with 0 when\n"
            "a rate holds, 1 when none does, 2 for wrong options, 130 after Ctrl-C.",
        .options = rows,
        .option_count = spin_load_option_count + (uint32_t)SPIN_ARRAY_COUNT(own_rows)};
    struct sweep_options options;
    struct spin_sweep sweep;
    struct spin_config_values *values = NULL;
    struct spin_error err = {0};
    bool exit_now = false;
    int code = 0;
    spin_status status =
        spin_config_load(&spec, argc, argv, environ, &options, &values, &exit_now, &err);
    if (status == SPIN_OK && !exit_now) {
        status = plan(&options, &sweep, &err);
    }
    if (status != SPIN_OK) {
        (void)fprintf(stderr, "spin bench sweep: %s\n", err.text);
        code = SPIN_BENCH_EXIT_WRONG;
    } else if (!exit_now) {
        char command[SPIN_LOAD_COMMAND_BYTES];
        spin_load_command_join(argc, argv, command);
        code = sweep_with(&options, &sweep, command);
    }
    spin_config_values_destroy(values);
    free(rows);
    return code;
}
