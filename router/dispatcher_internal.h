/* dispatcher_internal: what the files of the dispatcher share.
 *
 * Why        dispatcher.c decides when and where; dispatcher_workers.c knows who is there;
 *            dispatcher_generation.c holds what was asked and turns what comes from workers into
 *            what the sink gets.
 * Ownership  The dispatcher owns its generations.
 * Threading  The loop's thread only.
 * Units      Tokens, nanoseconds.
 * Errors     create: NO_MEMORY, INVALID (a stop string). */
#pragma once

#include "base/arena.h"
#include "base/list.h"
#include "kvstore/block/key.h"
#include "router/dispatcher.h"
#include "router/policy/admission.h"
#include "router/session/sequence.h"
#include "router/session/text_stream.h"
#include "router/session/token_buffer.h"
#include "router/worker_link.h"

SPIN_BEGIN_DECLS

struct spin_generation {
    struct spin_dispatcher *dispatcher;
    struct spin_link open;             /* in the list of all */
    struct spin_link dead;             /* in the list of those to be freed */
    struct spin_admission_entry entry; /* while `queued` */
    bool queued;
    bool over; /* its sink has heard the end, or does not want to */
    struct spin_sequence sequence;
    struct spin_worker_call *call; /* NULL: at no worker */
    uint64_t avoid;                /* serial of the link that failed it last; 0: none */

    struct spin_arena *arena; /* what was asked, copied: */
    char id[SPIN_GENERATION_ID_BYTES];
    const int32_t *prompt;
    uint32_t prompt_count;
    uint32_t tenant;
    Spin__V1__Sampling sampling;
    struct spin_stop_strings stop;
    bool return_tokens;
    struct spin_generation_sink sink;

    struct spin_text_stream *text;
    struct spin_token_buffer held; /* return_tokens: whose text is not out */
    uint32_t read;                 /* tokens that went into the text */
    uint64_t submitted_ns;
    uint64_t sent_ns; /* first sent to a worker; 0: not yet */
    uint64_t call_sent_ns;
    uint32_t call_prompt_tokens; /* sent with it, resumed ones included */
    uint64_t first_token_ns;     /* 0: none yet */
    uint64_t last_token_ns;
    uint64_t worker_queue_ns;
    uint32_t cached_tokens;
    uint32_t preemptions;
};

/* Text of one delta, for all generations of a dispatcher in turn. */
struct spin_delta_text {
    char *bytes;
    uint64_t count;
    uint64_t capacity;
};

/* Entered from outside it runs to the end before anything is freed: sinks may submit and cancel in
 * the middle of every walk, so what is over stays in its lists until `depth` is 0 again. */
struct spin_dispatcher {
    struct spin_dispatcher_config config;
    struct spin_dispatcher_parts parts;
    struct spin_loop_message pump; /* places what waits, on the loop's next turn */
    bool pump_posted;
    bool destroyed; /* with the pump still posted: it frees this */
    uint32_t depth;
    struct spin_timer *timer;
    struct spin_rpc_thread *thread;
    struct spin_members *members;
    struct spin_admission *admission;
    struct spin_salt *salts; /* by tenant; NULL: none */
    struct spin_list links;
    uint64_t links_made;
    struct spin_list open; /* generations, those that are over included until they are freed */
    struct spin_list dead;
    uint32_t running;
    struct spin_delta_text text;
    struct spin_worker_view views[SPIN_MEMBERS_MAX];
    uint64_t ticked_ns;
    uint64_t silence_floor_ns; /* nobody is blamed for not having been heard before */
    uint64_t no_worker_ns;     /* since when none is there; SPIN_NO_DEADLINE: one is */
    double service_ns;         /* of a sequence at its worker, moving average */
    bool draining;
    uint64_t drain_deadline_ns;
    void (*drained)(void *context);
    void *drained_context;
};

/* dispatcher.c: places what waits, on the loop's next turn. */
void spin_dispatcher_schedule(struct spin_dispatcher *dispatcher);

/* dispatcher_workers.c */
bool spin_dispatcher_is_usable(const struct spin_member *member);
/* Since when nobody is there, and how many are. One that fails again and again counts as none. */
void spin_dispatcher_note_workers(struct spin_dispatcher *dispatcher);
void spin_dispatcher_member_changed(void *context, struct spin_member *member);
/* Its row goes; calls on its connection go on. */
void spin_dispatcher_unlink_member(struct spin_member *member);
/* Links without a row and without calls. */
void spin_dispatcher_destroy_idle_links(struct spin_dispatcher *dispatcher);

/* dispatcher_generation.c */
struct spin_generation_setup {
    const struct spin_tokenizer *tokenizer;
    struct spin_sequence_config sequence;
    uint64_t now_ns;
};
SPIN_MUST_USE spin_status spin_generation_create(const struct spin_generation_request *request,
                                                 const struct spin_generation_setup *setup,
                                                 struct spin_generation **out,
                                                 struct spin_error *err);
void spin_generation_destroy(struct spin_generation *generation);
/* The message for a worker; it borrows the generation. */
void spin_generation_fill_message(const struct spin_generation *generation,
                                  Spin__V1__GenerateRequest *message, Spin__V1__Sampling *sampling);

/* What a worker sent, into the sequence and on to the sink, in one delta; the sink may cancel.
 * *out_stopped: a stop string came out. NO_MEMORY, INVALID: a token of another model. */
struct spin_generation_news {
    struct spin_worker_inbox *inbox;
    struct spin_delta_text *text; /* scratch */
    uint64_t now_ns;
    uint32_t accepted; /* out: tokens */
};
SPIN_MUST_USE spin_status spin_generation_read(struct spin_generation *generation,
                                               struct spin_generation_news *news, bool *out_stopped,
                                               struct spin_error *err);
/* The sequence has ended: the rest of the text, then the end. */
void spin_generation_report_end(struct spin_generation *generation);

SPIN_END_DECLS
