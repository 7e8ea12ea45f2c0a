/* result: what one run of the load generator, or of the simulation, has seen; raw.
 *
 *     spin-bench (gRPC, HTTP) --+                    +--> table
 *                               +--> result --> summary --> JSON --> compare
 *     simulation ---------------+     (here)         +--> HTML
 *
 * Why        Who measures does not judge. A driver writes down when things happened; everything
 *            that is said about a run (bench/report) is made from this and from nothing else, so a
 *            simulated run and a real one are judged alike.
 *
 *            A request is one record of 64 bytes, a gap between tokens one count in a histogram:
 *            a million requests with a hundred million tokens are 64 MB and no allocation a token.
 *
 * One life   intended      sent   first message with tokens             last one    end
 *               |-- lag --->|                 |                             |        |
 *               |------------- ttft --------->|--------- tpot x (n - 1) --->|        |
 *               |------------------------------- e2e ------------------------------->|
 *
 *            Latencies count from the moment at which the schedule wanted the request to go, so a
 *            generator or a server that falls behind cannot hide it.
 *            itl: from one message that brings tokens to the next of its stream. A message with
 *            several tokens is one gap: that is how long its reader has waited.
 *
 * Ownership  The result owns its records and metrics. Strings are arrays inside: it is plain data.
 * Threading  One thread at a time.
 * Units      Nanoseconds since the run's start (the moment at which its clock said 0), tokens.
 *            A request belongs to the warm-up, and to no statistic, if it was intended then.
 * Errors     create, add, metrics: NO_MEMORY, LIMIT. What happens to a request is its outcome,
 *            never an error of these functions. */
#pragma once

#include "base/status.h"
#include "bench/load/histogram.h"

SPIN_BEGIN_DECLS

#define SPIN_BENCH_REQUESTS_MAX (UINT32_C(1) << 24) /* of a run: 1 GiB of records */
#define SPIN_BENCH_METRICS_MAX 8192u                /* samples of a page of metrics */
#define SPIN_BENCH_TIMELINE_POINTS 1024u            /* of the time axis, then its step doubles */
#define SPIN_BENCH_TIMELINE_STEP_NS UINT64_C(100000000)

/* X(NAME, name, text). How a request ended; `name` is its key in files. */
#define SPIN_BENCH_OUTCOME_MAP(X) \
    X(OK, ok, "answered to its end") \
    X(CONNECT, connect, "no connection: refused, unreachable, no such host, handshake") \
    X(BUSY, busy, "turned away for now: HTTP 429 or 503, RESOURCE_EXHAUSTED or UNAVAILABLE") \
    X(REFUSED, refused, "turned away for good: another HTTP 4xx or its gRPC like") \
    X(SERVER, server, "the server failed: another HTTP 5xx, INTERNAL, an error in the stream") \
    X(BROKEN, broken, "the connection or the stream ended in the middle") \
    X(STALLED, stalled, "nothing came for longer than the stall limit") \
    X(TIMEOUT, timeout, "not done within the request's limit") \
    X(PROTOCOL, protocol, "bytes that are no answer of this protocol") \
    X(EMPTY, empty, "an end without a token") \
    X(UNSENT, unsent, "never sent: the generator had no room or the run was over") \
    X(CUT, cut, "still running when the run ended")

#define SPIN_BENCH_OUTCOME_ENUM(name, key, text) SPIN_BENCH_##name,
enum spin_bench_outcome { SPIN_BENCH_OUTCOME_MAP(SPIN_BENCH_OUTCOME_ENUM) SPIN_BENCH_OUTCOMES };
#undef SPIN_BENCH_OUTCOME_ENUM

const char *spin_bench_outcome_name(enum spin_bench_outcome outcome); /* "ok" */
const char *spin_bench_outcome_text(enum spin_bench_outcome outcome);

struct spin_bench_request {
    uint64_t intended_ns; /* when the schedule wanted it sent */
    uint64_t sent_ns;     /* when its first byte was handed over; of an unsent one: intended_ns */
    uint64_t first_ns;    /* first message with tokens; 0: none came */
    uint64_t last_ns;     /* last message with tokens; 0: none came */
    uint64_t end_ns;      /* the answer's end, whichever */
    uint32_t index;       /* its place in the schedule, from 0 */
    uint32_t asked_tokens;
    uint32_t prompt_tokens; /* as the server counts, else as planned */
    uint32_t output_tokens; /* as the server counts, else messages that brought text */
    uint32_t messages;      /* that brought tokens */
    uint8_t outcome;        /* enum spin_bench_outcome */
    bool warm_up;           /* intended during the warm-up */
    bool usage;             /* both counts are the server's own */
};

/* What was asked for, in words that another run of it would take. Empty: does not apply. */
struct spin_bench_setup {
    char label[64];   /* what tables and plots call this run; the target unless it was given */
    char driver[16];  /* "grpc", "openai", "sim" */
    char target[256]; /* the endpoint; for a simulation its table and its workers */
    char model[128];
    char workload[64];      /* "longbench-v2", "chat", "fixed:512,64", ... */
    char arrival[64];       /* "poisson", "constant", "burst:8", "closed" */
    char command[1024];     /* the command line */
    char generator[64];     /* name and version of the program */
    char machine[128];      /* where the generator ran: CPU and count */
    uint64_t wall_start_ns; /* since 1970 */
    double rate_per_s;      /* 0: closed loop */
    uint32_t concurrency;   /* streams of a closed loop, or the most at a time; 0: no limit */
    uint32_t repeat;        /* which of several equal runs this is, from 0 */
    uint64_t seed;
    double scale; /* of the workload's lengths; 1: as it is */
    uint64_t warm_up_ns;
    uint64_t duration_ns; /* how long requests were started; 0: until all were */
    uint32_t requests;    /* how many were planned; 0: as many as duration_ns has room for */
};

/* What goodput asks of a request. 0: does not matter. */
struct spin_bench_slo {
    uint64_t ttft_ns;
    uint64_t tpot_ns;
    uint64_t e2e_ns;
};

/* Output tokens by arrival, warm-up included; the other curves follow from the records. */
struct spin_bench_timeline {
    uint64_t step_ns; /* SPIN_BENCH_TIMELINE_STEP_NS, doubled whenever the run outgrows it */
    uint64_t tokens[SPIN_BENCH_TIMELINE_POINTS];
    uint32_t count; /* points up to the last that is not 0 */
};

/* One sample of the server's /metrics, by its name with labels. Buckets of histograms are left out:
 * their _sum and _count stay. */
struct spin_bench_metric {
    char name[232];
    double before;
    double after;
    bool has_before;
    bool has_after;
};
enum spin_bench_metrics_when { SPIN_BENCH_BEFORE, SPIN_BENCH_AFTER };

/* How the generator itself fared. A simulation leaves it zero. */
struct spin_bench_generator {
    double cpu_s;          /* user and system, of the run */
    double cpu_busiest;    /* 0 .. 1: its busiest thread's part of the run */
    uint64_t lag_max_ns;   /* the latest that its loop came back */
    bool limited;          /* figures say more about the generator than about the server */
    char limited_why[240]; /* what told */
};

struct spin_bench_error {
    uint64_t count;  /* with the warm-up's, which statistics leave out */
    char first[240]; /* what the first of the kind said */
};

struct spin_bench_result {
    struct spin_bench_setup setup;
    struct spin_bench_slo slo;
    struct spin_bench_request *requests; /* in any order */
    uint32_t requests_count;
    uint32_t requests_capacity;
    struct spin_histogram itl; /* of requests after the warm-up, whatever their outcome */
    struct spin_bench_timeline timeline;
    struct spin_bench_error errors[SPIN_BENCH_OUTCOMES]; /* by outcome; that of OK stays zero */
    struct spin_bench_metric *metrics;
    uint32_t metrics_count;
    char metrics_note[160]; /* why there are none; empty otherwise */
    struct spin_bench_generator generator;
    uint64_t end_ns;     /* when the run was over */
    bool interrupted;    /* by the user or by a limit: shorter than it was asked to be */
    double simulated_in; /* simulation: seconds it took; else 0 */
};

/* An empty result with room for `requests` records; it grows when there are more. */
SPIN_MUST_USE spin_status spin_bench_result_create(uint32_t requests,
                                                   struct spin_bench_result **out,
                                                   struct spin_error *err);
void spin_bench_result_destroy(struct spin_bench_result *result); /* NULL is allowed */

/* Takes in a copy of a request that has ended. `error` is what an outcome other than OK said, NULL:
 * nothing. LIMIT: over SPIN_BENCH_REQUESTS_MAX. */
SPIN_MUST_USE spin_status spin_bench_result_add(struct spin_bench_result *result,
                                                const struct spin_bench_request *request,
                                                const char *error, struct spin_error *err);
/* `tokens` came at `at_ns`: O(1) and no allocation. Every token, of whatever request. */
void spin_bench_result_tokens(struct spin_bench_result *result, uint64_t at_ns, uint64_t tokens);
/* Adds what another thread's part has seen: records, gaps, tokens, errors. Setup, metrics and
 * generator stay `into`'s. */
SPIN_MUST_USE spin_status spin_bench_result_merge(struct spin_bench_result *into,
                                                  const struct spin_bench_result *from,
                                                  struct spin_error *err);

/* Takes in a page of metrics, Prometheus text of `bytes` bytes from outside. Lines that are none
 * are skipped; what is over a limit is left out and said in metrics_note. */
SPIN_MUST_USE spin_status spin_bench_result_metrics(struct spin_bench_result *result,
                                                    enum spin_bench_metrics_when when,
                                                    const char *text, uint64_t bytes,
                                                    struct spin_error *err);

SPIN_END_DECLS
