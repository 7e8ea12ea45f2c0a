#include "client/ask.h"

#include <poll.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define RETRIES_MAX 3u

spin_status spin_ask_open(const struct spin_router_options *options, struct spin_client **out,
                          struct spin_error *err)
{
    (void)signal(SIGPIPE, SIG_IGN); /* a reader that left is an error of write */
    const struct spin_client_config config = {.target = options->target,
                                              .api_key = options->api_key,
                                              .tls = options->tls,
                                              .ca_file = options->tls_ca,
                                              .cert_file = options->tls_cert,
                                              .key_file = options->tls_key,
                                              .connect_timeout_ns = options->connect_timeout_ns,
                                              .retries_max = RETRIES_MAX};
    const spin_status status = spin_client_connect(&config, out, err);
    if (status == SPIN_ERR_PEER_LOST) {
        return spin_fail(err, status,
                         "cannot reach the router at %.64s: start one with `deploy/local up`, or "
                         "name another with --router host:port",
                         options->target);
    }
    return status;
}

struct waiting {
    const struct spin_asking *asking;
    struct spin_error outcome;
    int over; /* an eventfd: the kernel orders what is before the write and after the read */
};

static bool on_delta(void *context, const struct spin_client_delta *delta)
{
    const struct waiting *waiting = context;
    return waiting->asking->on_delta(waiting->asking->context, delta);
}

static void on_finished(void *context, spin_status status, const char *text)
{
    struct waiting *waiting = context;
    const int over = waiting->over;
    (void)spin_fail(&waiting->outcome, status, "%s", text);
    (void)eventfd_write(over, 1); /* `waiting` may be gone after it */
}

/* Until the end; a signal cancels. */
static void wait_over(const struct waiting *waiting, struct spin_client_call *call,
                      struct spin_interrupt *interrupt, struct spin_asked *out)
{
    struct pollfd fds[] = {{.fd = waiting->over, .events = POLLIN},
                           {.fd = interrupt->fd, .events = POLLIN}};
    while ((fds[0].revents & POLLIN) == 0) {
        (void)poll(fds, SPIN_ARRAY_COUNT(fds), -1);
        const int number = out->interrupted == 0 ? spin_interrupt_take(interrupt) : 0;
        if (number != 0) {
            out->interrupted = number;
            spin_client_call_cancel(call);
            spin_interrupt_let(interrupt);
        }
    }
    spin_interrupt_hold(interrupt);
}

void spin_ask(const struct spin_asking *asking, const struct spin_client_request *request,
              struct spin_asked *out)
{
    *out = (struct spin_asked){.interrupted = 0};
    struct waiting waiting = {.asking = asking, .over = eventfd(0, EFD_CLOEXEC)};
    if (waiting.over < 0) {
        (void)spin_fail_errno(&out->outcome, SPIN_ERR_IO, "eventfd");
        return;
    }
    const struct spin_client_handlers handlers = {&waiting, on_delta, on_finished};
    struct spin_client_call *call = NULL;
    if (spin_client_submit(asking->client, request, &handlers, &call, &out->outcome) == SPIN_OK) {
        wait_over(&waiting, call, asking->interrupt, out);
        spin_client_call_release(call);
        out->outcome = waiting.outcome;
    }
    (void)close(waiting.over);
}

void spin_ask_fill(struct spin_client_request *request, const struct spin_sampling_options *options,
                   const struct spin_stops *stops)
{
    request->model = options->model;
    request->max_tokens = options->max_tokens;
    request->temperature = (float)options->temperature;
    request->top_p = (float)options->top_p;
    request->top_k = options->top_k;
    request->min_p = (float)options->min_p;
    request->seed = options->seed;
    request->stop = stops->texts;
    request->stop_count = stops->count;
}

void spin_complain(const char *command, const struct spin_router_options *options,
                   const struct spin_error *err)
{
    const char *what = spin_status_text(err->status);
    if (err->status == SPIN_ERR_PEER_LOST) {
        (void)fprintf(stderr, "%s: the router at %s is lost or cannot serve: %s\n", command,
                      options->target, err->text);
    } else if (err->status == SPIN_ERR_DENIED) {
        (void)fprintf(stderr, "%s: %s: %s; --api-key or SPIN_API_KEY gives the key\n", command,
                      what, err->text);
    } else {
        (void)fprintf(stderr, "%s: %s: %s\n", command, what, err->text);
    }
}
