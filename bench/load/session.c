#include "bench/load/session.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/version.h"
#include "bench/load/fetch.h"
#include "bench/load/grpc.h"
#include "bench/load/openai.h"
#include "bench/load/openai_event.h"
#include "bench/load/run.h"
#include "bench/load/url.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MODELS_BYTES_MAX (UINT64_C(1) << 20)
#define METRICS_BYTES_MAX (UINT64_C(16) << 20)
#define METRICS_TIMEOUT_NS (10 * SPIN_NS_PER_S)
#define FILES_OF_OURS 64u /* descriptors that are no stream: loop, threads, reports */

struct spin_load_session {
    const struct spin_load_options *options;
    struct spin_loop *loop;
    struct spin_load_driver *driver;
    struct spin_load_run *run; /* under way; NULL: none */
    struct spin_load_url url;
    char address[SPIN_LOAD_NUMERIC_BYTES]; /* HTTP: the one that answered */
    char model[SPIN_LOAD_MODEL_BYTES];
    char fields[512]; /* the key as a header line; "": none */
    uint32_t in_flight_max;
    bool interrupted;
    struct spin_bench_setup setup; /* what all runs have in common */
};

static void on_shutdown(void *context, int number)
{
    struct spin_load_session *session = context;
    (void)number;
    session->interrupted = true;
    if (session->run != NULL) {
        spin_load_run_interrupt(session->run);
    } else {
        spin_loop_stop(session->loop);
    }
}

bool spin_load_session_is_interrupted(const struct spin_load_session *session)
{
    return session->interrupted;
}

/* --- open --- */

/* Thousands of streams are thousands of descriptors; the soft limit is often 1,024. */
static uint32_t raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return 512;
    }
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    const uint64_t room = limit.rlim_cur > UINT64_C(2) * FILES_OF_OURS
                              ? limit.rlim_cur - FILES_OF_OURS
                              : FILES_OF_OURS;
    return (uint32_t)SPIN_MIN(room, SPIN_BENCH_CONCURRENCY_MAX);
}

static spin_status set_fields(struct spin_load_session *session, struct spin_error *err)
{
    const char *key = session->options->api_key;
    if (key == NULL) {
        return SPIN_OK;
    }
    const int bytes =
        snprintf(session->fields, sizeof session->fields, "Authorization: Bearer %s\r\n", key);
    if (bytes < 0 || (size_t)bytes >= sizeof session->fields || strpbrk(key, "\r\n") != NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "--api-key: one line of at most %zu bytes",
                         sizeof session->fields - 32);
    }
    return SPIN_OK;
}

/* Asks what is served: that tells whether anybody is there, and at which of its addresses. */
static spin_status probe(struct spin_load_session *session, struct spin_error *err)
{
    char path[SPIN_LOAD_PATH_BYTES + 16];
    (void)snprintf(path, sizeof path, "%s/v1/models", session->url.path);
    const struct spin_load_fetch fetch = {.target = session->url.address,
                                          .path = path,
                                          .fields = session->fields,
                                          .bytes_max = MODELS_BYTES_MAX,
                                          .timeout_ns = session->options->connect_timeout_ns};
    struct spin_load_fetched fetched;
    SPIN_TRY(spin_load_fetch(session->loop, &fetch, &fetched, err));
    (void)snprintf(session->address, sizeof session->address, "%s", fetched.address);
    const char *wanted = session->options->model;
    bool has_model = wanted != NULL && strlen(wanted) < sizeof session->model;
    if (has_model) {
        (void)snprintf(session->model, sizeof session->model, "%s", wanted);
    } else if (wanted == NULL && fetched.code == 200) {
        has_model = spin_openai_model_read(fetched.body, fetched.bytes, session->model,
                                           sizeof session->model);
    }
    free(fetched.body);
    if (!has_model) {
        return spin_fail(err, SPIN_ERR_NOT_FOUND,
                         "%.128s%.64s: HTTP %d, which names no model of less than %zu bytes: "
                         "give --model",
                         session->url.address, path, fetched.code, sizeof session->model);
    }
    return SPIN_OK;
}

static spin_status open_openai(struct spin_load_session *session, struct spin_error *err)
{
    const struct spin_load_options *options = session->options;
    SPIN_TRY(probe(session, err));
    const struct spin_load_openai_config config = {.loop = session->loop,
                                                   .address = session->address,
                                                   .host = session->url.address,
                                                   .base = session->url.path,
                                                   .api_key = options->api_key,
                                                   .model = session->model,
                                                   .extra_body = options->extra_body,
                                                   .chat = options->api == SPIN_LOAD_CHAT,
                                                   .ignore_eos = options->ignore_eos,
                                                   .connections_max = session->in_flight_max};
    return spin_load_openai_create(&config, &session->driver, err);
}

static spin_status open_grpc(struct spin_load_session *session, struct spin_error *err)
{
    const struct spin_load_options *options = session->options;
    const struct spin_load_grpc_config config = {
        .loop = session->loop,
        .client = {.target = session->url.address,
                   .api_key = options->api_key,
                   .tls = options->tls,
                   .ca_file = options->tls_ca,
                   .cert_file = options->tls_cert,
                   .key_file = options->tls_key,
                   .connect_timeout_ns = options->connect_timeout_ns},
        .model = options->model,
        .chat = options->api == SPIN_LOAD_CHAT,
        .ignore_eos = options->ignore_eos};
    if (options->extra_body != NULL) {
        return spin_fail(err, SPIN_ERR_INVALID, "--extra-body: for HTTP targets only");
    }
    return spin_load_grpc_create(&config, &session->driver, session->model, err);
}

/* "AMD EPYC 9654, 2 cores" */
static void name_machine(char *out, uint64_t capacity)
{
    char *text = NULL;
    char name[96] = "unknown processor";
    uint64_t bytes = 0;
    if (spin_file_read("/proc/cpuinfo", UINT64_C(4) << 20, &text, &bytes, NULL) == SPIN_OK) {
        const char *line = strstr(text, "model name");
        const char *colon = line == NULL ? NULL : strchr(line, ':');
        if (colon != NULL) {
            const uint64_t length = strcspn(colon + 1, "\n");
            (void)snprintf(name, sizeof name, "%.*s", (int)SPIN_MIN(length, sizeof name),
                           colon + 1 + (colon[1] == ' ' ? 1 : 0));
            name[strcspn(name, "\n")] = '\0';
        }
        free(text);
    }
    (void)snprintf(out, capacity, "%s, %ld cores", name, sysconf(_SC_NPROCESSORS_ONLN));
}

static void describe(struct spin_load_session *session, const char *command)
{
    struct spin_bench_setup *setup = &session->setup;
    const struct spin_load_options *options = session->options;
    (void)snprintf(setup->label, sizeof setup->label, "%s",
                   options->label != NULL ? options->label : options->target);
    (void)snprintf(setup->driver, sizeof setup->driver, "%s", session->driver->name);
    (void)snprintf(setup->target, sizeof setup->target, "%s", options->target);
    (void)snprintf(setup->model, sizeof setup->model, "%s", session->model);
    (void)snprintf(setup->command, sizeof setup->command, "%s", command);
    (void)snprintf(setup->generator, sizeof setup->generator, "spin-bench %s", SPIN_VERSION);
    name_machine(setup->machine, sizeof setup->machine);
}

static spin_status fill(struct spin_load_session *session, const char *command,
                        struct spin_error *err)
{
    SPIN_TRY(spin_load_url_parse(session->options->target, &session->url, err));
    SPIN_TRY(set_fields(session, err));
    SPIN_TRY(spin_loop_create(&session->loop, err));
    const uint32_t files = raise_file_limit();
    /* Streams of gRPC share connections. */
    session->in_flight_max = session->url.is_http ? files : SPIN_BENCH_CONCURRENCY_MAX;
    SPIN_TRY(session->url.is_http ? open_openai(session, err) : open_grpc(session, err));
    describe(session, command);
    /* Last: until here Ctrl-C ends the process, which has nothing to tell yet. */
    return spin_loop_on_shutdown(session->loop, on_shutdown, session, err);
}

spin_status spin_load_session_open(const struct spin_load_options *options, const char *command,
                                   struct spin_load_session **out, struct spin_error *err)
{
    struct spin_load_session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a session: %zu bytes", sizeof *session);
    }
    session->options = options;
    const spin_status status = fill(session, command, err);
    if (status != SPIN_OK) {
        spin_load_session_close(session);
        return status;
    }
    *out = session;
    return SPIN_OK;
}

void spin_load_session_close(struct spin_load_session *session)
{
    if (session == NULL) {
        return;
    }
    if (session->driver != NULL) {
        session->driver->destroy(session->driver);
    }
    spin_loop_destroy(session->loop);
    free(session);
}

/* --- metrics --- */

static spin_status read_page(struct spin_load_session *session, struct spin_load_fetched *out,
                             struct spin_error *err)
{
    const char *given = session->options->metrics;
    struct spin_load_url url = session->url;
    if (given != NULL) {
        SPIN_TRY(spin_load_url_parse(given, &url, err));
    } else {
        (void)snprintf(url.path, sizeof url.path, "/metrics");
    }
    if (!url.is_http) {
        return spin_fail(err, SPIN_ERR_INVALID, "no page of metrics was given (--metrics)");
    }
    const struct spin_load_fetch fetch = {.target = url.address,
                                          .path = url.path[0] == '\0' ? "/metrics" : url.path,
                                          .fields = session->fields,
                                          .bytes_max = METRICS_BYTES_MAX,
                                          .timeout_ns = METRICS_TIMEOUT_NS};
    SPIN_TRY(spin_load_fetch(session->loop, &fetch, out, err));
    if (out->code != 200) {
        free(out->body);
        return spin_fail(err, SPIN_ERR_NOT_FOUND, "%.100s%.60s: HTTP %d", url.address, fetch.path,
                         out->code);
    }
    return SPIN_OK;
}

/* Without metrics a run is as good: why there are none is noted. */
static spin_status read_metrics(struct spin_load_session *session,
                                enum spin_bench_metrics_when when, struct spin_bench_result *result,
                                struct spin_error *err)
{
    const char *given = session->options->metrics;
    struct spin_load_fetched page;
    struct spin_error why = {0};
    if (session->interrupted || (given != NULL && strcmp(given, "none") == 0)) {
        return SPIN_OK;
    }
    if (read_page(session, &page, &why) != SPIN_OK) {
        (void)snprintf(result->metrics_note, sizeof result->metrics_note, "%.159s", why.text);
        return SPIN_OK;
    }
    const spin_status status = spin_bench_result_metrics(result, when, page.body, page.bytes, err);
    free(page.body);
    return status;
}

/* --- runs --- */

static bool shows_progress(const struct spin_load_options *options)
{
    return options->progress == SPIN_LOAD_PROGRESS_ON ||
           (options->progress == SPIN_LOAD_PROGRESS_AUTO && isatty(STDERR_FILENO) != 0);
}

static spin_status run_once(struct spin_load_session *session, struct spin_bench_schedule *schedule,
                            struct spin_bench_result *result, struct spin_error *err)
{
    if (session->interrupted) {
        result->interrupted = true;
        return SPIN_OK;
    }
    const struct spin_load_options *options = session->options;
    const struct spin_load_run_config config = {.loop = session->loop,
                                                .driver = session->driver,
                                                .schedule = schedule,
                                                .in_flight_max = session->in_flight_max,
                                                .stall_ns = options->stall_timeout_ns,
                                                .timeout_ns = options->timeout_ns,
                                                .drain_ns = options->drain_timeout_ns,
                                                .progress = shows_progress(options) ? stderr : NULL,
                                                .progress_overwrites = isatty(STDERR_FILENO) != 0};
    SPIN_TRY(spin_load_run_create(&config, result, &session->run, err));
    const spin_status status = spin_load_run_start(session->run, err);
    spin_load_run_destroy(session->run);
    session->run = NULL;
    return status;
}

static spin_status measure(struct spin_load_session *session, struct spin_bench_schedule *schedule,
                           uint32_t repeat, struct spin_bench_result *result,
                           struct spin_error *err)
{
    result->setup = session->setup;
    result->setup.repeat = repeat;
    result->setup.wall_start_ns = spin_wall_ns();
    result->slo = spin_bench_schedule_slo(schedule);
    spin_bench_schedule_describe(schedule, &result->setup);
    SPIN_TRY(read_metrics(session, SPIN_BENCH_BEFORE, result, err));
    SPIN_TRY(run_once(session, schedule, result, err));
    return read_metrics(session, SPIN_BENCH_AFTER, result, err);
}

spin_status spin_load_session_run(struct spin_load_session *session,
                                  const struct spin_bench_schedule_options *options,
                                  uint32_t repeat, struct spin_bench_result **out,
                                  struct spin_error *err)
{
    struct spin_bench_schedule *schedule = NULL;
    struct spin_bench_result *result = NULL;
    SPIN_TRY(spin_bench_schedule_open(options, &schedule, err));
    spin_status status =
        spin_bench_result_create(spin_bench_schedule_expected(schedule), &result, err);
    if (status == SPIN_OK) {
        status = measure(session, schedule, repeat, result, err);
    }
    spin_bench_schedule_close(schedule);
    if (status != SPIN_OK) {
        spin_bench_result_destroy(result);
        return status;
    }
    *out = result;
    return SPIN_OK;
}
