/* schedule: which requests a run consists of, from the options that the generator and the
 * simulation share.
 *
 * Why        `spin bench` and the simulation take the same words for the same requests: one table
 *            of options, one reader of them, one source of (when, what).
 *
 *            0 .............. warm_up .............................. warm_up + duration
 *            |-- sent, not judged --|-- sent and judged ------------------------| no more
 *
 * Ownership  The schedule owns its workload; it borrows the options' strings during open.
 * Threading  One thread at a time.
 * Units      Nanoseconds since the run's start, tokens, requests per second.
 * Errors     open: INVALID names the option, those of workload.h and arrival.h. */
#pragma once

#include "base/config.h"
#include "bench/load/arrival.h"
#include "bench/load/result.h"
#include "bench/load/workload.h"

SPIN_BEGIN_DECLS

struct spin_bench_schedule_options {
    const char *workload;
    double scale;
    const char *arrival; /* NULL: by what else is given */
    double rate_per_s;   /* 0: none */
    uint32_t concurrency;
    uint64_t seed;
    uint64_t warm_up_ns;
    uint64_t duration_ns; /* 0: none */
    uint32_t requests;    /* 0: any */
    const char *slo;      /* NULL: none */
};

#define SPIN_BENCH_DURATION_DEFAULT_NS UINT64_C(30000000000)
#define SPIN_BENCH_CONCURRENCY_MAX 60000u /* what one address has ports for */

/* The rows of a table of options; `options` is the program's struct, which has a struct
 * spin_bench_schedule_options named `schedule`. */
#define SPIN_BENCH_SCHEDULE_FIELD(options, name) .offset = offsetof(options, schedule.name)
#define SPIN_BENCH_SCHEDULE_ROWS(options) \
    {.name = "workload", \
     .type = SPIN_OPTION_STRING, \
     SPIN_BENCH_SCHEDULE_FIELD(options, workload), \
     .default_value = "chat", \
     .min = 0, \
     .max = -1, \
     .help = "How long prompts and answers are: longbench-v2, longgenbench, chat, " \
             "prefix-heavy[:GROUPS,TOKENS], fixed:IN,OUT, trace:FILE."}, \
        {.name = "scale", \
         .type = SPIN_OPTION_DOUBLE, \
         SPIN_BENCH_SCHEDULE_FIELD(options, scale), \
         .default_value = "1", \
         .min = 1e-6, \
         .max = 1000, \
         .help = "Multiplies every length of the workload: a small machine takes a small part."}, \
        {.name = "arrival", \
         .type = SPIN_OPTION_STRING, \
         SPIN_BENCH_SCHEDULE_FIELD(options, arrival), \
         .min = 0, \
         .max = -1, \
         .help = "When requests go out: poisson, constant, burst:N (N at once), trace (its " \
                 "timestamps), closed (each stream asks again when it was answered). Without it " \
                 "trace where there is one, else poisson with --rate, else closed."}, \
        {.name = "rate", \
         .type = SPIN_OPTION_DOUBLE, \
         SPIN_BENCH_SCHEDULE_FIELD(options, rate_per_s), \
         .default_value = "0", \
         .min = 0, \
         .max = SPIN_BENCH_RATE_MAX, \
         .unit = "requests/s", \
         .help = "In the mean; 0: no rate, a closed loop or a trace."}, \
        {.name = "concurrency", \
         .type = SPIN_OPTION_U32, \
         SPIN_BENCH_SCHEDULE_FIELD(options, concurrency), \
         .default_value = "0", \
         .min = 0, \
         .max = SPIN_BENCH_CONCURRENCY_MAX, \
         .help = "The streams of a closed loop, 0 is 1; otherwise the most at a time, 0 is no " \
                 "limit: who waits for one to end is late, and its latency says so."}, \
        {.name = "seed", \
         .type = SPIN_OPTION_U64, \
         SPIN_BENCH_SCHEDULE_FIELD(options, seed), \
         .default_value = "1", \
         .min = 0, \
         .max = -1, \
         .help = "Of lengths, texts and arrivals: the same seed is the same requests."}, \
        {.name = "warm-up", \
         .type = SPIN_OPTION_DURATION, \
         SPIN_BENCH_SCHEDULE_FIELD(options, warm_up_ns), \
         .default_value = "0s", \
         .min = 0, \
         .max = 86400e9, \
         .help = "Requests of the first so long are sent and not judged."}, \
        {.name = "duration", \
         .type = SPIN_OPTION_DURATION, \
         SPIN_BENCH_SCHEDULE_FIELD(options, duration_ns), \
         .default_value = "0s", \
         .min = 0, \
         .max = 604800e9, \
         .help = "How long requests are started after the warm-up; 0: until all are, or 30s when " \
                 "there is no number of them."}, \
        {.name = "requests", \
         .type = SPIN_OPTION_U32, \
         SPIN_BENCH_SCHEDULE_FIELD(options, requests), \
         .default_value = "0", \
         .min = 0, \
         .max = SPIN_BENCH_REQUESTS_MAX, \
         .help = "How many in all, the warm-up's included; 0: as many as the time has room for."}, \
    { \
        .name = "slo", .type = SPIN_OPTION_STRING, SPIN_BENCH_SCHEDULE_FIELD(options, slo), \
        .min = 0, .max = -1, \
        .help = "What goodput asks of an answer: ttft=200ms,tpot=50ms,e2e=10s, or some of them." \
    }

struct spin_bench_schedule; /* private to schedule.c */

struct spin_bench_arrived { /* a request that is due */
    uint32_t index;
    uint64_t at_ns; /* closed loop: 0, it is due when a stream is free */
    bool warm_up;   /* closed loop: for whoever starts it to say */
};

SPIN_MUST_USE spin_status
spin_bench_schedule_open(const struct spin_bench_schedule_options *options,
                         struct spin_bench_schedule **out, struct spin_error *err);
void spin_bench_schedule_close(struct spin_bench_schedule *schedule); /* NULL is allowed */
const struct spin_bench_workload *spin_bench_schedule_workload(
    const struct spin_bench_schedule *schedule);
/* Workload, arrival, rate, concurrency, seed, scale, warm-up, duration, requests. */
void spin_bench_schedule_describe(const struct spin_bench_schedule *schedule,
                                  struct spin_bench_setup *out);
struct spin_bench_slo spin_bench_schedule_slo(const struct spin_bench_schedule *schedule);
bool spin_bench_schedule_is_closed(const struct spin_bench_schedule *schedule);
uint32_t spin_bench_schedule_concurrency(const struct spin_bench_schedule *schedule); /* 0: any */
/* When no more start: warm-up and duration; UINT64_MAX when requests alone end it. */
uint64_t spin_bench_schedule_end_ns(const struct spin_bench_schedule *schedule);
uint64_t spin_bench_schedule_warm_up_ns(const struct spin_bench_schedule *schedule);
/* The next request in order of time; false when there are no more. */
bool spin_bench_schedule_next(struct spin_bench_schedule *schedule, struct spin_bench_arrived *out);
/* An upper guess of how many requests there will be, to make room once. */
uint32_t spin_bench_schedule_expected(const struct spin_bench_schedule *schedule);

/* "ttft=200ms,tpot=50ms"; NULL: nothing matters. */
SPIN_MUST_USE spin_status spin_bench_slo_parse(const char *text, struct spin_bench_slo *out,
                                               struct spin_error *err);

SPIN_END_DECLS
