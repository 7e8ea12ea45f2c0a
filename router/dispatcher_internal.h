/* dispatcher_internal: what the files of the dispatcher share: one generation, from asked to ended.
 *
 * Why        dispatcher.c decides when and where; dispatcher_generation.c holds what was asked and
 *            turns what comes from workers into what the sink gets.
 * Ownership  The dispatcher owns its generations.
 * Threading  The loop's thread only.
 * Units      Tokens, nanoseconds.
 * Errors     create: NO_MEMORY, INVALID (a stop string). */
#pragma once

#include "base/arena.h"
#include "base/list.h"
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

SPIN_MUST_USE spin_status spin_generation_create(const struct spin_generation_request *request,
                                                 const struct spin_tokenizer *tokenizer,
                                                 const struct spin_sequence_config *sequence,
                                                 uint64_t now_ns, struct spin_generation **out,
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
