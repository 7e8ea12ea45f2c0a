#include "router/session/sequence.h"

#include "base/assert.h"
#include "base/clock.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_TOKENS 32u

static const struct spin_sequence_step stay = {.next = SPIN_SEQUENCE_STAY};

void spin_sequence_init(struct spin_sequence *sequence, const struct spin_sequence_config *config,
                        uint64_t now_ns)
{
    *sequence = (struct spin_sequence){.config = *config,
                                       .phase = SPIN_SEQUENCE_WAITING,
                                       .waiting_ns = now_ns,
                                       .end = {.stop_token = -1}};
}

void spin_sequence_deinit(struct spin_sequence *sequence)
{
    free(sequence->tokens);
    sequence->tokens = NULL;
}

static bool is_open(const struct spin_sequence *sequence, uint32_t attempt)
{
    return sequence->phase == SPIN_SEQUENCE_PLACED && sequence->attempt == attempt;
}

static bool has_begun(const struct spin_sequence *sequence)
{
    return sequence->token_count > 0 || sequence->scores > 0;
}

bool spin_sequence_wants_scores(const struct spin_sequence *sequence)
{
    return sequence->scores < sequence->config.prompt_scores;
}

/* Everything that it can ever give has been handed on; only the worker's word for it is missing. */
static bool is_complete(const struct spin_sequence *sequence)
{
    return sequence->token_count == sequence->config.max_tokens &&
           !spin_sequence_wants_scores(sequence);
}

uint32_t spin_sequence_placed(struct spin_sequence *sequence, uint64_t now_ns)
{
    SPIN_ASSERT_EQ(sequence->phase, SPIN_SEQUENCE_WAITING);
    sequence->phase = SPIN_SEQUENCE_PLACED;
    sequence->attempt++;
    sequence->attempt_scores = 0;
    sequence->attempt_spoke = false;
    sequence->finished = false;
    sequence->heard_ns = now_ns;
    return sequence->attempt;
}

static void hear(struct spin_sequence *sequence, uint64_t now_ns)
{
    sequence->attempt_spoke = true;
    sequence->heard_ns = now_ns;
}

/* Room for `count` more, which max_tokens bounds. */
static spin_status grow(struct spin_sequence *sequence, uint32_t count)
{
    const uint64_t needed = (uint64_t)sequence->token_count + count;
    if (needed <= sequence->token_capacity) {
        return SPIN_OK;
    }
    uint64_t capacity = SPIN_MAX(FIRST_TOKENS, 2 * (uint64_t)sequence->token_capacity);
    capacity = SPIN_MIN(SPIN_MAX(capacity, needed), sequence->config.max_tokens);
    int32_t *tokens = realloc(sequence->tokens, capacity * sizeof *tokens);
    if (tokens == NULL) {
        return SPIN_ERR_NO_MEMORY;
    }
    sequence->tokens = tokens;
    sequence->token_capacity = (uint32_t)capacity;
    return SPIN_OK;
}

spin_status spin_sequence_tokens(struct spin_sequence *sequence, uint32_t attempt,
                                 struct spin_sequence_tokens given, uint64_t now_ns,
                                 uint32_t *out_count)
{
    *out_count = 0;
    if (!is_open(sequence, attempt) || given.count == 0) {
        return SPIN_OK;
    }
    hear(sequence, now_ns);
    /* A worker that sends more than it was asked for: nobody reads that. */
    const uint32_t room = sequence->config.max_tokens - sequence->token_count;
    const uint32_t count = SPIN_MIN(given.count, room);
    SPIN_TRY(grow(sequence, count));
    if (count > 0) {
        memcpy(&sequence->tokens[sequence->token_count], given.tokens, count * sizeof(int32_t));
    }
    sequence->token_count += count;
    *out_count = count;
    return SPIN_OK;
}

struct spin_sequence_range spin_sequence_scores(struct spin_sequence *sequence, uint32_t attempt,
                                                uint32_t count, uint64_t now_ns)
{
    struct spin_sequence_range range = {0, 0};
    if (!is_open(sequence, attempt) || count == 0) {
        return range;
    }
    hear(sequence, now_ns);
    const uint32_t room = sequence->config.prompt_scores - sequence->attempt_scores;
    const uint32_t first = sequence->attempt_scores;
    const uint32_t end = first + SPIN_MIN(count, room);
    sequence->attempt_scores = end;
    if (end > sequence->scores) { /* a worker after the first begins with those that we have */
        range.skip = sequence->scores - first;
        range.count = end - sequence->scores;
        sequence->scores = end;
    }
    return range;
}

void spin_sequence_finished(struct spin_sequence *sequence, uint32_t attempt,
                            const struct spin_sequence_finish *finish)
{
    if (is_open(sequence, attempt)) {
        sequence->attempt_spoke = true;
        sequence->finished = true;
        sequence->finish = *finish;
    }
}

static struct spin_sequence_step end_ok(struct spin_sequence *sequence,
                                        Spin__V1__FinishReason reason, int32_t stop_token)
{
    sequence->phase = SPIN_SEQUENCE_ENDED;
    sequence->end.status = SPIN_OK;
    sequence->end.reason = reason;
    sequence->end.stop_token = stop_token;
    return (struct spin_sequence_step){.next = SPIN_SEQUENCE_END};
}

static struct spin_sequence_step end_error(struct spin_sequence *sequence, spin_status status,
                                           const char *fmt, ...) SPIN_PRINTF(3, 4);
static struct spin_sequence_step end_error(struct spin_sequence *sequence, spin_status status,
                                           const char *fmt, ...)
{
    SPIN_ASSERT_NE(status, SPIN_OK);
    va_list args;
    va_start(args, fmt);
    (void)vsnprintf(sequence->end.text, sizeof sequence->end.text, fmt, args);
    va_end(args);
    sequence->phase = SPIN_SEQUENCE_ENDED;
    sequence->end.status = status;
    return (struct spin_sequence_step){.next = SPIN_SEQUENCE_END};
}

/* The open call is no good any more: on to another worker, or to the end. */
static struct spin_sequence_step move(struct spin_sequence *sequence,
                                      enum spin_sequence_blame blame, const char *text,
                                      uint64_t now_ns)
{
    struct spin_sequence_step step;
    if (is_complete(sequence)) {
        step = end_ok(sequence, SPIN__V1__FINISH_REASON__FINISH_LENGTH, -1);
        step.blame = blame;
        return step;
    }
    if (blame == SPIN_SEQUENCE_FAILED) {
        sequence->failures++;
    }
    if (sequence->failures > sequence->config.failures_max) {
        step = end_error(sequence, SPIN_ERR_PEER_LOST,
                         "%u workers failed it, at most %u may; the last one: %.120s",
                         sequence->failures, sequence->config.failures_max, text);
        step.blame = blame;
        return step;
    }
    sequence->phase = SPIN_SEQUENCE_WAITING;
    sequence->waiting_ns = now_ns;
    step = (struct spin_sequence_step){
        .begun = has_begun(sequence), .blame = blame, .next = SPIN_SEQUENCE_REQUEUE};
    sequence->recoveries += step.begun ? 1 : 0;
    return step;
}

static struct spin_sequence_step closed_without_finish(struct spin_sequence *sequence,
                                                       spin_status status, const char *text,
                                                       uint64_t now_ns)
{
    switch (status) {
    case SPIN_OK:
        return move(sequence, SPIN_SEQUENCE_FAILED, "its stream ended without an end", now_ns);
    case SPIN_ERR_EXHAUSTED:
    case SPIN_ERR_NO_MEMORY:
        /* Refused for want of room; one that had spoken was cut off, which is a failure. */
        return move(sequence, sequence->attempt_spoke ? SPIN_SEQUENCE_FAILED : SPIN_SEQUENCE_FULL,
                    text, now_ns);
    case SPIN_ERR_AGAIN:
    case SPIN_ERR_CANCELLED: /* not by us: our cancels close the attempt first */
    case SPIN_ERR_CORRUPT:
    case SPIN_ERR_DENIED: /* its door does not know this router */
    case SPIN_ERR_IO:
    case SPIN_ERR_PEER_LOST:
    case SPIN_ERR_DEVICE_LOST:
    case SPIN_ERR_SHUTDOWN:
    case SPIN_ERR_INTERNAL:
        return move(sequence, SPIN_SEQUENCE_FAILED, text, now_ns);
    case SPIN_ERR_DEADLINE: /* the one that we gave it */
        return end_error(sequence, SPIN_ERR_DEADLINE, "the deadline passed after %u tokens",
                         sequence->token_count);
    case SPIN_ERR_NOT_FOUND:
    case SPIN_ERR_INVALID:
    case SPIN_ERR_LIMIT:
    case SPIN_ERR_UNSUPPORTED:
    case SPIN_ERR_PEER_MISMATCH:
        return end_error(sequence, status, "%s", text);
    }
    return move(sequence, SPIN_SEQUENCE_FAILED, text, now_ns);
}

struct spin_sequence_step spin_sequence_closed(struct spin_sequence *sequence, uint32_t attempt,
                                               spin_status status, const char *text,
                                               uint64_t now_ns)
{
    if (!is_open(sequence, attempt)) {
        return stay;
    }
    const Spin__V1__FinishReason reason = sequence->finish.reason;
    if (sequence->finished && (reason == SPIN__V1__FINISH_REASON__FINISH_STOP ||
                               reason == SPIN__V1__FINISH_REASON__FINISH_LENGTH)) {
        /* It said so; that its connection broke afterwards takes nothing back. */
        const bool stop = reason == SPIN__V1__FINISH_REASON__FINISH_STOP;
        return end_ok(sequence, reason, stop ? sequence->finish.stop_token : -1);
    }
    return closed_without_finish(sequence, status, text, now_ns);
}

struct spin_sequence_step spin_sequence_lost(struct spin_sequence *sequence, uint32_t attempt,
                                             const char *text, uint64_t now_ns)
{
    if (!is_open(sequence, attempt)) {
        return stay;
    }
    struct spin_sequence_step step =
        spin_sequence_closed(sequence, attempt, SPIN_ERR_PEER_LOST, text, now_ns);
    step.cancel = true;
    return step;
}

struct spin_sequence_step spin_sequence_stopped(struct spin_sequence *sequence)
{
    if (sequence->phase == SPIN_SEQUENCE_ENDED) {
        return stay;
    }
    const bool cancel = sequence->phase == SPIN_SEQUENCE_PLACED;
    struct spin_sequence_step step = end_ok(sequence, SPIN__V1__FINISH_REASON__FINISH_STOP, -1);
    step.cancel = cancel;
    return step;
}

struct spin_sequence_step spin_sequence_fail(struct spin_sequence *sequence, spin_status status,
                                             const char *text)
{
    if (sequence->phase == SPIN_SEQUENCE_ENDED) {
        return stay;
    }
    const bool cancel = sequence->phase == SPIN_SEQUENCE_PLACED;
    struct spin_sequence_step step = end_error(sequence, status, "%s", text);
    step.cancel = cancel;
    return step;
}

static struct spin_sequence_step tick_waiting(struct spin_sequence *sequence,
                                              const struct spin_sequence_times *times)
{
    if (times->no_worker_ns == SPIN_NO_DEADLINE) {
        return stay;
    }
    const uint64_t since_ns = SPIN_MAX(sequence->waiting_ns, times->no_worker_ns);
    if (times->now_ns < spin_deadline_ns(since_ns, sequence->config.queue_timeout_ns)) {
        return stay;
    }
    return end_error(sequence, SPIN_ERR_PEER_LOST,
                     "no worker has taken requests for %" PRIu64 " ms",
                     (times->now_ns - since_ns) / SPIN_NS_PER_MS);
}

static struct spin_sequence_step tick_placed(struct spin_sequence *sequence,
                                             const struct spin_sequence_times *times)
{
    const uint64_t heard_ns = SPIN_MAX(sequence->heard_ns, times->worker_heard_ns);
    if (times->now_ns < spin_deadline_ns(heard_ns, sequence->config.worker_timeout_ns)) {
        return stay;
    }
    char text[64];
    (void)snprintf(text, sizeof text, "not a word for %" PRIu64 " ms",
                   (times->now_ns - heard_ns) / SPIN_NS_PER_MS);
    return spin_sequence_lost(sequence, sequence->attempt, text, times->now_ns);
}

struct spin_sequence_step spin_sequence_tick(struct spin_sequence *sequence,
                                             const struct spin_sequence_times *times)
{
    if (sequence->phase == SPIN_SEQUENCE_ENDED) {
        return stay;
    }
    if (times->now_ns >= sequence->config.deadline_ns) {
        char text[64];
        (void)snprintf(text, sizeof text, "the deadline passed after %u tokens",
                       sequence->token_count);
        return spin_sequence_fail(sequence, SPIN_ERR_DEADLINE, text);
    }
    return sequence->phase == SPIN_SEQUENCE_WAITING ? tick_waiting(sequence, times)
                                                    : tick_placed(sequence, times);
}
