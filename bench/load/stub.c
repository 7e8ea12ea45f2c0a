#include "bench/load/stub.h"

#include "base/assert.h"
#include "base/clock.h"
#include "bench/load/pacer.h"
#include "bench/load/stub_internal.h"
#include "net/http_server.h"

#include <stdlib.h>

/* --- time --- */

/* The end of the freeze when `at_ns` is in it, else at_ns. */
static uint64_t thawed_ns(const struct spin_load_stub *stub, uint64_t at_ns)
{
    const uint64_t begin_ns = stub->start_ns + stub->config.freeze_at_ns;
    const uint64_t end_ns = begin_ns + stub->config.freeze_ns;
    return at_ns >= begin_ns && at_ns < end_ns ? end_ns : at_ns;
}

static struct stub_stream *first_of(const struct spin_list *list)
{
    struct spin_link *link = spin_list_first(list);
    return link == NULL ? NULL : SPIN_CONTAINER_OF(link, struct stub_stream, link);
}

static struct stub_stream *next_due(const struct spin_load_stub *stub)
{
    struct stub_stream *first = first_of(&stub->first);
    struct stub_stream *next = first_of(&stub->next);
    if (first == NULL || next == NULL) {
        return first == NULL ? next : first;
    }
    return first->due_ns < next->due_ns ? first : next;
}

static void set_pacer(struct spin_load_stub *stub)
{
    const struct stub_stream *stream = next_due(stub);
    if (stream != NULL && !stub->is_firing) {
        spin_load_pacer_set(stub->pacer, thawed_ns(stub, stream->due_ns));
    }
}

/* --- streams --- */

enum spin_load_fault spin_load_stub_next_fault(struct spin_load_stub *stub)
{
    const bool is_it = ++stub->requests % stub->config.fault_every == 0;
    return is_it ? (enum spin_load_fault)stub->config.fault : SPIN_LOAD_FAULT_NONE;
}

void spin_load_stub_leave(struct stub_stream *stream)
{
    if (stream->list != NULL) {
        spin_list_remove(stream->list, &stream->link);
        stream->list = NULL;
    }
}

static void enter(struct spin_list *list, struct stub_stream *stream)
{
    stream->list = list;
    spin_list_push_back(list, &stream->link);
}

void spin_load_stub_begin(struct spin_load_stub *stub, struct stub_stream *stream)
{
    const uint64_t now_ns = spin_loop_now_ns(stub->loop);
    stream->due_ns = thawed_ns(stub, now_ns) + stub->config.ttft_ns;
    enter(&stub->first, stream);
    set_pacer(stub);
}

static bool has_failed(const struct spin_load_stub *stub, const struct stub_stream *stream)
{
    return stream->fault != SPIN_LOAD_FAULT_NONE && stream->messages >= stub->config.fault_after;
}

/* One message, or the end, of the stream that is due. */
static void serve(struct spin_load_stub *stub, struct stub_stream *stream)
{
    spin_load_stub_leave(stream);
    if (has_failed(stub, stream)) {
        if (stream->fault != SPIN_LOAD_FAULT_STALL) {
            stream->carrier->end(stream, (enum spin_load_fault)stream->fault);
        }
        return;
    }
    const uint32_t left = stream->tokens_max - stream->tokens;
    const uint32_t tokens = SPIN_MIN(left, stub->config.tokens_per_message);
    stream->tokens += tokens;
    stream->messages++;
    stub->messages++;
    stream->carrier->send(stream, tokens);
    if (stream->tokens == stream->tokens_max && !has_failed(stub, stream)) {
        stream->carrier->end(stream, SPIN_LOAD_FAULT_NONE);
        return;
    }
    stream->due_ns += stub->config.itl_ns; /* of the schedule, not of now: it does not drift */
    enter(&stub->next, stream);
}

static void on_due(void *context, uint64_t due_ns)
{
    struct spin_load_stub *stub = context;
    (void)due_ns;
    const uint64_t now_ns = spin_loop_now_ns(stub->loop);
    stub->is_firing = true;
    struct stub_stream *stream = next_due(stub);
    while (stream != NULL && thawed_ns(stub, stream->due_ns) <= now_ns &&
           thawed_ns(stub, now_ns) == now_ns) {
        serve(stub, stream);
        stream = next_due(stub);
    }
    stub->is_firing = false;
    set_pacer(stub);
}

/* --- life --- */

static void on_http_closed(void *context)
{
    struct spin_load_stub *stub = context;
    stub->http_closed = true;
    if (stub->stopped != NULL) {
        stub->stopped(stub->stopped_context);
    }
}

void spin_load_stub_close_http(struct spin_load_stub *stub)
{
    if (stub->http != NULL && !stub->http_closing) {
        stub->http_closing = true;
        spin_http_server_close(stub->http, 0, on_http_closed, stub);
    }
}

static void on_death(void *context)
{
    spin_load_stub_close_http(context);
}

static spin_status fill(struct spin_load_stub *stub, struct spin_error *err)
{
    const struct spin_load_stub_config *config = &stub->config;
    SPIN_TRY(spin_load_pacer_create(stub->loop, on_due, stub, &stub->pacer, err));
    if (spin_timer_create(stub->loop, on_death, stub, &stub->death) != SPIN_OK) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a timer");
    }
    if (config->http_listen != NULL) {
        SPIN_TRY(spin_load_stub_open_http(stub, err));
    }
    if (config->grpc_listen != NULL) {
        SPIN_TRY(spin_load_stub_open_grpc(stub, err));
    }
    if (config->die_at_ns != 0) {
        spin_timer_start(stub->death, config->die_at_ns, false);
    }
    return SPIN_OK;
}

spin_status spin_load_stub_create(struct spin_loop *loop,
                                  const struct spin_load_stub_config *config,
                                  struct spin_load_stub **out, struct spin_error *err)
{
    SPIN_ASSERT_NE(config->tokens_per_message, 0);
    SPIN_ASSERT_NE(config->fault_every, 0);
    struct spin_load_stub *stub = calloc(1, sizeof *stub);
    if (stub == NULL) {
        return spin_fail(err, SPIN_ERR_NO_MEMORY, "a stub: %zu bytes", sizeof *stub);
    }
    stub->config = *config;
    stub->loop = loop;
    stub->start_ns = spin_loop_now_ns(loop);
    spin_list_init(&stub->first);
    spin_list_init(&stub->next);
    const spin_status status = fill(stub, err);
    if (status != SPIN_OK) {
        spin_load_stub_destroy(stub);
        return status;
    }
    *out = stub;
    return SPIN_OK;
}

uint32_t spin_load_stub_http_port(const struct spin_load_stub *stub)
{
    return stub->http == NULL ? 0 : spin_http_server_port(stub->http);
}

uint32_t spin_load_stub_grpc_port(const struct spin_load_stub *stub)
{
    return stub->grpc == NULL ? 0 : spin_load_stub_port_grpc(stub->grpc);
}

void spin_load_stub_stop(struct spin_load_stub *stub, void (*stopped)(void *context), void *context)
{
    if (stub->http == NULL || stub->http_closed) {
        stopped(context);
        return;
    }
    stub->stopped = stopped;
    stub->stopped_context = context;
    spin_load_stub_close_http(stub);
}

void spin_load_stub_destroy(struct spin_load_stub *stub)
{
    if (stub == NULL) {
        return;
    }
    spin_load_stub_close_grpc(stub->grpc);
    spin_http_server_destroy(stub->http);
    spin_timer_destroy(stub->death);
    spin_load_pacer_destroy(stub->pacer);
    free(stub);
}
