#include "bench/load/driver.h"

#include "base/list.h"

#include <stdio.h>

void spin_load_heard(struct spin_load_call *call, uint64_t at_ns)
{
    /* Relaxed: the loop only asks how long ago it was. */
    __atomic_store_n(&call->heard_ns, at_ns, __ATOMIC_RELAXED);
}

void spin_load_tokens(struct spin_load_call *call, uint64_t at_ns)
{
    struct spin_load_driver *driver = call->driver;
    struct spin_bench_request *record = &call->record;
    const uint64_t since_ns = at_ns - driver->start_ns;
    if (record->messages == 0) {
        record->first_ns = since_ns;
    } else if (!record->warm_up) {
        spin_histogram_add(&driver->part->itl, since_ns - record->last_ns, 1);
    }
    record->last_ns = since_ns;
    record->messages++;
    spin_bench_result_tokens(driver->part, since_ns, 1);
    __atomic_fetch_add(&driver->counts.messages, 1, __ATOMIC_RELAXED);
    spin_load_heard(call, at_ns);
}

void spin_load_usage(struct spin_load_call *call, uint32_t prompt_tokens, uint32_t output_tokens)
{
    if (output_tokens == 0) {
        return; /* zeros stand for "not counted" with some servers */
    }
    call->record.prompt_tokens = prompt_tokens;
    call->record.output_tokens = output_tokens;
    call->record.usage = true;
}

static void on_ended(struct spin_loop_message *message)
{
    struct spin_load_call *call = SPIN_CONTAINER_OF(message, struct spin_load_call, message);
    call->driver->ended(call->driver->context, call);
}

/* Messages may bring several tokens: what the server counted beyond them came with the last. */
static void settle_tokens(struct spin_load_call *call)
{
    struct spin_bench_request *record = &call->record;
    if (!record->usage) {
        record->output_tokens = record->messages;
    } else if (record->output_tokens > record->messages && record->messages != 0) {
        spin_bench_result_tokens(call->driver->part, record->last_ns,
                                 record->output_tokens - record->messages);
    }
}

void spin_load_end(struct spin_load_call *call, enum spin_bench_outcome outcome, const char *text)
{
    struct spin_load_driver *driver = call->driver;
    struct spin_bench_request *record = &call->record;
    settle_tokens(call);
    record->end_ns = spin_loop_now_ns(driver->loop) - driver->start_ns;
    if (outcome == SPIN_BENCH_OK && record->messages == 0) {
        outcome = SPIN_BENCH_EMPTY;
        text = "the answer ended without a token";
    }
    record->outcome = (uint8_t)outcome;
    (void)snprintf(call->error, sizeof call->error, "%s",
                   outcome == SPIN_BENCH_OK || text == NULL ? "" : text);
    call->message.run = on_ended;
    spin_loop_post(driver->loop, &call->message);
}
