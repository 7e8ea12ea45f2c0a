/* sequence: what has become of one sequence, and what to do next: events in, commands out.
 *
 * Why        A stream must survive its worker with nothing twice and nothing missing (D1), in every
 *            order in which calls break, tokens arrive and clients leave. So that order is decided
 *            here, without a clock, a network or a queue, where a test can try all of them.
 *
 *                           placed                    finished + closed, stop string
 *              [WAITING] -----------> [PLACED] ---------------------------------------> [ENDED]
 *                  ^                     | closed, lost, silent: what was drawn          ^
 *                  +---------------------+ is resumed by the next worker                 |
 *                  +--- deadline, no worker in time, too many failures, shutdown --------+
 *
 *            A call to a worker has a number, the attempt. Events of another attempt than the one
 *            that is open change nothing: a cancelled call may go on talking for a while.
 * Ownership  The caller owns the struct; deinit frees the tokens.
 * Threading  One thread at a time; pure.
 * Units      Tokens; nanoseconds, absolute unless a name says timeout.
 * Errors     tokens: NO_MEMORY. How a sequence ended is in `end`. */
#pragma once

#include "base/status.h"
#include "proto/spin/v1/types.pb-c.h"

SPIN_BEGIN_DECLS

struct spin_sequence_config {
    uint32_t max_tokens;    /* 0: only the prompt is scored */
    uint32_t prompt_scores; /* prompt tokens to be scored; 0: not asked for */
    uint32_t failures_max;  /* workers that may fail it before it is given up */
    uint64_t deadline_ns;   /* SPIN_NO_DEADLINE: none */
    uint64_t queue_timeout_ns;
    uint64_t worker_timeout_ns;
};

enum spin_sequence_phase { SPIN_SEQUENCE_WAITING, SPIN_SEQUENCE_PLACED, SPIN_SEQUENCE_ENDED };

/* What to do after an event, in this order: cancel, blame, then go on. */
enum spin_sequence_next {
    SPIN_SEQUENCE_STAY,
    SPIN_SEQUENCE_REQUEUE, /* it is WAITING again, ahead of everybody */
    SPIN_SEQUENCE_END
};
enum spin_sequence_blame { SPIN_SEQUENCE_NOBODY, SPIN_SEQUENCE_FULL, SPIN_SEQUENCE_FAILED };
struct spin_sequence_step {
    bool cancel;                    /* the call that was open: nobody waits for it any more */
    bool begun;                     /* REQUEUE: something of it had been handed on already */
    enum spin_sequence_blame blame; /* the worker of the call that was open */
    enum spin_sequence_next next;
};

struct spin_sequence_finish { /* what a worker says */
    Spin__V1__FinishReason reason;
    int32_t stop_token; /* STOP: by this one */
};

struct spin_sequence_end {
    spin_status status;
    char text[240];
    Spin__V1__FinishReason reason; /* OK: STOP or LENGTH */
    int32_t stop_token;            /* -1: none */
};

struct spin_sequence { /* read it, change it through the functions */
    struct spin_sequence_config config;
    enum spin_sequence_phase phase;
    uint32_t attempt;
    int32_t *tokens; /* drawn so far, handed on */
    uint32_t token_count;
    uint32_t token_capacity;
    uint32_t scores;         /* of the prompt, handed on */
    uint32_t attempt_scores; /* that the open call sent */
    bool attempt_spoke;
    bool finished; /* the open call said how it ends */
    struct spin_sequence_finish finish;
    uint32_t failures;
    uint32_t recoveries; /* moves after it had begun */
    uint64_t waiting_ns; /* since when */
    uint64_t heard_ns;   /* the last word of the open call, its start included */
    struct spin_sequence_end end;
};

void spin_sequence_init(struct spin_sequence *sequence, const struct spin_sequence_config *config,
                        uint64_t now_ns);
void spin_sequence_deinit(struct spin_sequence *sequence);

/* WAITING: a call to a worker starts now, with `tokens` resumed. Returns its number. */
uint32_t spin_sequence_placed(struct spin_sequence *sequence, uint64_t now_ns);
/* Should the next call score the prompt? Not again when all scores have been handed on. */
bool spin_sequence_wants_scores(const struct spin_sequence *sequence);

struct spin_sequence_tokens { /* borrowed */
    const int32_t *tokens;
    uint32_t count;
};
/* *out_count: how many of them, from the first, are to be handed on. */
SPIN_MUST_USE spin_status spin_sequence_tokens(struct spin_sequence *sequence, uint32_t attempt,
                                               struct spin_sequence_tokens given, uint64_t now_ns,
                                               uint32_t *out_count);
/* Scores of prompt tokens: hand on `count` of them after skipping `skip`. */
struct spin_sequence_range {
    uint32_t skip;
    uint32_t count;
};
struct spin_sequence_range spin_sequence_scores(struct spin_sequence *sequence, uint32_t attempt,
                                                uint32_t count, uint64_t now_ns);
/* The worker's last message. */
void spin_sequence_finished(struct spin_sequence *sequence, uint32_t attempt,
                            const struct spin_sequence_finish *finish);
/* The call is over. */
struct spin_sequence_step spin_sequence_closed(struct spin_sequence *sequence, uint32_t attempt,
                                               spin_status status, const char *text,
                                               uint64_t now_ns);
/* Its worker is known to be dead, whatever its call says. */
struct spin_sequence_step spin_sequence_lost(struct spin_sequence *sequence, uint32_t attempt,
                                             const char *text, uint64_t now_ns);
/* A stop string came out. */
struct spin_sequence_step spin_sequence_stopped(struct spin_sequence *sequence);
/* From here: shutdown, a client that left, tokens of another model. */
struct spin_sequence_step spin_sequence_fail(struct spin_sequence *sequence, spin_status status,
                                             const char *text);

struct spin_sequence_times {
    uint64_t now_ns;
    uint64_t worker_heard_ns; /* PLACED: its worker's last word elsewhere */
    uint64_t no_worker_ns;    /* WAITING: since when no worker takes anything; or _NO_DEADLINE */
};
struct spin_sequence_step spin_sequence_tick(struct spin_sequence *sequence,
                                             const struct spin_sequence_times *times);

SPIN_END_DECLS
